"""Records for the store's tests, and what a table holds of them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from connectors.clickhouse.store import Store
from schemas import events
from schemas.events import Redaction
from tests.schemas.test_contract import example

NOW = datetime(2026, 1, 5, 8, 0, 30, tzinfo=UTC)
MINUTE = NOW.replace(second=0)
CLEAN = Redaction(policy_version="1", detector="d", counts={"EMAIL": 2})


def span(number: int, **fields: Any) -> events.Span:
    values = {"trace_id": "t", "span_id": f"s{number}", "session_id": "x", "received_time": NOW, "tenant": "t"}
    base = {"event_id": f"span{number}", "agent": "a", "event_time": NOW, "redaction": CLEAN}
    return events.Span(**(base | values | fields))


def turn(number: int, **fields: Any) -> events.Turn:
    values = {"turn_id": f"turn{number}", "turn_index": number, "trace_id": "t", "session_id": "x", "tenant": "t"}
    base = {"event_id": f"t{number}", "agent": "a", "event_time": NOW, "end_time": NOW, "redaction": CLEAN}
    return events.Turn(**(base | values | {"input": "in", "output": "out"} | fields))


def count(store: Store, table: str, tenant: str = "t") -> int:
    return int(store.select(f"SELECT count() FROM {table} WHERE tenant = '{tenant}'").rows[0][0])


def ledger_entry(tenant: str, entry: str, number: int, **fields: object) -> events.LedgerEntry:
    made = example(events.LedgerEntry)
    values = {"event_id": f"{tenant} {entry} {number}", "tenant": tenant, "event_time": MINUTE, "entry": entry}
    return made.model_copy(update=values | {"source": "traces", "count": number} | fields)


def sums(store: Store, tenant: str) -> list[list[int]]:
    """Accepted, stored, quarantined, dropped, difference."""
    return [row[2:] for row in store.ledger().rows if row[0] == tenant]


def label(number: int, tenant: str, **fields: object) -> events.Label:
    values = {"event_id": f"l{number}", "tenant": tenant, "agent": "a", "sample_id": "s1", "redaction": CLEAN}
    return example(events.Label).model_copy(update=values | fields)


def sample(number: int, tenant: str, **fields: object) -> events.Sample:
    values = {"event_id": f"s{number}", "tenant": tenant, "agent": "a", "turn_id": f"turn{number}"}
    return example(events.Sample).model_copy(update=values | fields)
