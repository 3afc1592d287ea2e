"""Whose a message is that others than the gateway wrote to the raw topics."""

from __future__ import annotations

import json

import pytest

from processors.stage import UNKNOWN, Message
from schemas import codec
from schemas.events import DeadLetter, LedgerEntry, RawSignal, Record, Span
from schemas.topics import OTLP_SPANS, SIGNALS_RAW
from tests.processors.redacting import otlp, redacted
from tests.world import START

SPAN = {"attributes": {"session.id": "s1", "input.value": "hello", "openinference.span.kind": "AGENT"}}
RATING = {"name": "rating", "agent": "desk", "session_id": "s1", "value": 1}


def spans_message(**headers: str) -> Message:
    return Message(OTLP_SPANS.name, 0, "", otlp(SPAN).SerializeToString(), START, headers)


def signal_message(told: str, **headers: str) -> Message:
    payload = json.dumps(RATING)
    raw = RawSignal(event_id="e", tenant=told, agent="desk", event_time=START, payload=payload)
    return Message(SIGNALS_RAW.name, 0, "", codec.encode(raw), START, headers)


def tenants(records: list[Record]) -> set[str]:
    return {record.tenant for record in records}


@pytest.mark.parametrize(
    ("headers", "tenant"),
    [
        ({}, "default"),
        ({"x-driftwheel-tenant": "acme"}, "acme"),
        ({"tenant": "acme", "x-driftwheel-tenant": "other"}, "acme"),
        ({"tenant": "driftwheel-canary.acme"}, "driftwheel-canary.acme"),
    ],
)
def test_spans_are_the_tenants_that_headers_name_else_the_default_ones(headers: dict[str, str], tenant: str) -> None:
    records = redacted(spans_message(**headers))
    assert {type(record) for record in records} == {Span, LedgerEntry}
    assert tenants(records) == {tenant}


def test_a_signal_names_its_tenant_itself_and_a_header_wins() -> None:
    assert tenants(redacted(signal_message("acme"))) == {"acme"}
    assert tenants(redacted(signal_message("acme", tenant="globex"))) == {"globex"}


@pytest.mark.parametrize(
    "name", ["", "Acme", "../acme", "anna@example.com", "a" * 64, "driftwheel-canary.", "driftwheel-canary.Anna"]
)
def test_what_is_no_tenants_name_is_refused_and_not_repeated(name: str) -> None:
    """By the rule of the gateway, whoever wrote it, also in a message that claims to be the gateway's."""
    for message in (
        spans_message(tenant=name),
        spans_message(tenant=name, ledger="gateway"),
        spans_message(**{"x-driftwheel-tenant": name}),
        signal_message("acme", tenant=name),
        signal_message(name),
        signal_message(name, ledger="gateway"),
    ):
        records = redacted(message)
        (letter,) = [record for record in records if isinstance(record, DeadLetter)]
        assert (letter.reason, letter.tenant) == ("invalid_tenant", UNKNOWN)
        assert not [record for record in records if isinstance(record, Span)]
        assert not name or all(name not in record.model_dump_json() for record in records)
