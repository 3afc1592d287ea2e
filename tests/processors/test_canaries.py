"""Canaries: invented, the same under one key, unknown without it, and gone after redaction."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from processors.canaries import DAY, SPANS, Canary, canary, look, request, times
from processors.redact import Redact, RedactSettings
from processors.stage import Message
from processors.state import MemoryState
from schemas.events import DeadLetter, LedgerEntry, Record, Span
from schemas.tenants import CANARY, canary_of, is_canary, policy_tenant
from schemas.topics import OTLP_SPANS

T0 = datetime(2026, 1, 5, 9, tzinfo=UTC)
KEY = b"master"
MANY = [canary(KEY, CANARY, T0 + timedelta(hours=n)) for n in range(60)]


def cleaned(canaries: list[Canary], settings: RedactSettings) -> list[Record]:
    messages = [
        Message(OTLP_SPANS.name, n, "", request(one), one.time, {"tenant": one.tenant, "ledger": "gateway"})
        for n, one in enumerate(canaries)
    ]
    return Redact(settings).process(messages, MemoryState())


def rows(records: list[Record]) -> list[tuple[str, str]]:
    return [(getattr(record, "trace_id", ""), record.model_dump_json()) for record in records]


def test_the_same_under_one_key_and_no_other() -> None:
    one = canary(KEY, CANARY, T0)
    assert one == canary(KEY, CANARY, T0)
    others = [canary(b"other", CANARY, T0), canary(KEY, canary_of("acme"), T0), canary(KEY, CANARY, T0 + DAY)]
    for other in others:
        shared = {value.value for value in one.values} & {value.value for value in other.values}
        assert not shared - {value.value for value in one.values if value.entity in {"PERSON", "PHONE_NUMBER"}}
    for planted in MANY:
        iban = next(value.value for value in planted.values if value.entity == "IBAN_CODE")
        assert int("".join(str(int(letter, 36)) for letter in iban[4:] + iban[:4])) % 97 == 1


def test_times_are_the_days_own() -> None:
    found = times(T0 + timedelta(minutes=10), 24)
    assert (len(found), found[-1], found[0]) == (24, T0, T0 - timedelta(hours=23))
    assert times(T0, 24)[-1] == T0, "the same whoever asks, whenever in the hour"
    assert times(T0, 0) == []


def test_the_default_policy_lets_none_through() -> None:
    records = cleaned(MANY, RedactSettings(key=KEY))
    assert len(records) == SPANS * len(MANY)
    assert all(isinstance(record, Span) and not record.consent_train for record in records)
    found = look(MANY, rows(records))
    assert found.checked == {value.entity: len(MANY) for value in MANY[0].values}
    assert not any(found.leaked.values()), found.leaked
    placeholders = "".join(text for _, text in rows(records[:SPANS]))
    for value in MANY[0].values:
        assert f"<{value.entity}_" in placeholders or value.entity == "ACCOUNT", value


@pytest.mark.parametrize(
    ("policy", "leaks"),
    [
        ('remove = ["PERSON", "ORGANIZATION", "LOCATION"]', {"PERSON"}),
        ("[allow]\npatterns = ['[a-z.]+[0-9a-f]{6}@example\\.org']", {"EMAIL_ADDRESS"}),
    ],
)
def test_a_policy_that_allows_a_type_leaks_it(policy: str, leaks: set[str], tmp_path: Path) -> None:
    """The control: the tenant's canary goes by the tenant's policy, and nobody else's does."""
    (tmp_path / "acme.toml").write_text(policy)
    settings = RedactSettings(key=KEY, policies=str(tmp_path))
    theirs = [canary(KEY, canary_of("acme"), T0 + timedelta(hours=n)) for n in range(3)]
    found = look(theirs, rows(cleaned(theirs, settings)))
    assert {entity: n for entity, n in found.leaked.items() if n} == dict.fromkeys(leaks, 3)
    others = look(MANY[:3], rows(cleaned(MANY[:3], settings)))
    assert not any(others.leaked.values())


def test_values_are_known_in_other_shapes() -> None:
    one = MANY[0]
    for value in one.values:
        spaced = " ".join(value.value.upper()) if value.entity != "PERSON" else value.value.upper()
        assert value in one.left_in(f"so {spaced}."), value
    assert one.left_in("nothing of it") == []


def test_what_has_not_come_through_is_not_counted_as_checked() -> None:
    one = MANY[0]
    assert look([one], [(one.trace_id, "half")]).checked == dict.fromkeys(look([one], []).checked, 0)
    letter = look([one], [("", f"field input: {one.values[0].value}")])
    assert letter.leaked["PERSON"] == 1, "a leak into a dead letter counts all the same"


def test_names() -> None:
    assert [is_canary(name) for name in (CANARY, canary_of("acme"), "driftwheel-canaryx", "acme")] == [
        True, True, False, False,
    ]  # fmt: skip
    assert policy_tenant(canary_of("acme")) == "acme"


def test_a_second_planting_is_a_duplicate() -> None:
    message = Message(OTLP_SPANS.name, 0, "", request(MANY[0]), T0, {"tenant": CANARY, "ledger": "gateway"})
    state, stage = MemoryState(), Redact(RedactSettings(key=KEY))
    stage.process([message], state)
    again = stage.process([Message(OTLP_SPANS.name, 1, "", message.value, T0, message.headers)], state)
    assert [(type(one), getattr(one, "entry", "")) for one in again] == [(LedgerEntry, "duplicate")] * SPANS
    assert not any(isinstance(one, DeadLetter) for one in again)
