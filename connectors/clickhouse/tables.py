"""How records become rows: one table for each record that is stored, columns named like the record's fields.

The nested redaction envelope is flattened (``redaction_policy``, ``redaction_detector``, ``redaction_counts``); every
row gets a ``version`` from the event itself, never from the time of writing, so that a redelivery meets its twin, and
``retention_days``, fixed when it is written.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from schemas import events
from schemas.errors import Invalid
from schemas.events import EPOCH, Clean, Record

TABLES: dict[type[Record], str] = {
    events.Span: "spans",
    events.Signal: "signals",
    events.Turn: "turns",
    events.Score: "scores",
    events.Outcome: "outcomes",
    events.Alarm: "alarms",
    events.Sample: "samples",
    events.Label: "labels",
    events.Trigger: "triggers",
    events.DatasetVersion: "dataset_versions",
    events.Job: "jobs",
    events.Evaluation: "evaluations",
    events.Deployment: "deployments",
    events.Erasure: "erasures",
    events.DeadLetter: "dead_letters",
    events.LedgerEntry: "ledger",
}
"""Every stored record and its table."""

EXTRA = ("version", "retention_days")


def columns(record: type[Record]) -> list[str]:
    """The column names of a record's table, in order."""
    names: list[str] = []
    for name in record.model_fields:
        if name == "redaction":
            names += ["redaction_policy", "redaction_detector", "redaction_counts"]
        else:
            names.append(name)
    return [*names, *EXTRA]


def rows(records: Sequence[Record], retention_days: int) -> list[list[Any]]:
    """The records, all of one kind, as rows. Raises Invalid for text without a redaction envelope."""
    return [_row(record, retention_days) for record in records]


def _row(record: Record, retention_days: int) -> list[Any]:
    values: list[Any] = []
    for name, value in record.__dict__.items():
        if name == "redaction":
            values += [value.policy_version, value.detector, value.counts]
        else:
            values.append(_sound(value))
    if isinstance(record, Clean) and not record.redaction.policy_version:
        raise Invalid("no_redaction", f"{type(record).__name__} {record.event_id} carries no redaction envelope")
    return [*values, version_of(record), retention_days]


def _sound(value: Any) -> Any:
    """Lone surrogates cannot be stored."""
    if isinstance(value, str):
        return value if value.isascii() else value.encode("utf-8", "replace").decode()
    if isinstance(value, dict):
        return {_sound(key): _sound(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_sound(item) for item in value]
    return value


def version_of(record: Record) -> int:
    """Which of two rows with one key is newer: a turn by what it has gathered, all others by event time."""
    if isinstance(record, events.Turn):
        return int((record.end_time - EPOCH).total_seconds() * 1000) * 10_000 + min(9_999, record.tool_calls)
    if isinstance(record, events.Outcome):
        return record.revision
    return int((record.event_time - EPOCH).total_seconds() * 1000)
