"""Sealed payloads: a key for each tenant, and nothing that can be moved, renamed or made younger."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from connectors.sealing import LONGEST, Sealer, head_of
from schemas.errors import Refused

NOW = datetime(2026, 1, 5, 9, 0, 0, 123_456, UTC)
MASTER = bytes(range(32))


@given(st.text(min_size=1, max_size=40), st.text(max_size=40), st.binary(max_size=200))
@settings(max_examples=50)
def test_what_is_sealed_comes_back(name: str, tenant: str, payload: bytes) -> None:
    sealed = Sealer(MASTER).seal(name, tenant, payload, NOW)
    head = head_of(sealed[:LONGEST])
    assert head is not None
    assert (head.since, head.tenant, len(sealed) - head.size) == (NOW, tenant, len(payload))
    assert Sealer(MASTER).open(name, sealed) == payload


def test_every_tenant_has_a_key_of_its_own() -> None:
    sealer = Sealer(MASTER)
    acme, other = (sealer.seal("n", tenant, b"mary@example.org", NOW) for tenant in ("acme", "evil"))
    first, second = head_of(acme), head_of(other)
    assert first is not None
    assert second is not None
    assert first.mark != second.mark, "the marks tell the keys apart"
    swapped = acme.replace(b"acme", b"evil")
    with pytest.raises(Refused, match="under another key"):
        sealer.open("n", swapped)
    with pytest.raises(Refused, match="damaged, or is not the payload"):
        sealer.open("n", swapped.replace(first.mark, second.mark))


def test_destroying_the_key_leaves_nothing_to_open() -> None:
    sealed = [Sealer(MASTER).seal("n", tenant, b"mary@example.org", NOW) for tenant in ("acme", "other")]
    for one in sealed:
        assert b"mary" not in one
        with pytest.raises(Refused, match="under another key"):
            Sealer(bytes(32)).open("n", one)


@given(st.data())
@settings(max_examples=200)
def test_no_bit_can_be_changed(data: st.DataObject) -> None:
    sealed = bytearray(Sealer(MASTER).seal("n", "acme", b"mary@example.org", NOW))
    place = data.draw(st.integers(0, len(sealed) - 1))
    sealed[place] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(Refused):
        Sealer(MASTER).open("n", bytes(sealed))


def test_another_name_or_a_later_time() -> None:
    sealer = Sealer(MASTER)
    sealed = sealer.seal("n", "acme", b"x", NOW)
    with pytest.raises(Refused, match="not the payload of this letter"):
        sealer.open("m", sealed)
    later = sealer.seal("n", "acme", b"x", NOW + timedelta(days=20))
    with pytest.raises(Refused, match="damaged"):
        sealer.open("n", sealed[:9] + later[9:17] + sealed[17:])


def test_no_nonce_comes_twice() -> None:
    sealed = {Sealer(MASTER).seal("n", "acme", b"", NOW) for _ in range(100)}
    assert len(sealed) == 100
