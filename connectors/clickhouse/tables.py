"""How records become rows: one table for each record that is stored, columns named like the record's fields.

The nested redaction envelope is flattened (``redaction_policy``, ``redaction_detector``, ``redaction_counts``); every
row gets a ``version`` from the event itself, never from the time of writing, and ``retention_days``, fixed when it is
stored.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from connectors.sink import check_clean
from schemas import events
from schemas.errors import Invalid
from schemas.events import EPOCH, Record

TABLES: dict[type[Record], str] = {
    events.Span: "spans",
    events.Signal: "signals",
    events.Turn: "turns",
    events.Score: "scores",
    events.Outcome: "outcomes",
    events.Failure: "failures",
    events.FailureCluster: "clusters",
    events.Alarm: "alarms",
    events.Sample: "samples",
    events.Label: "labels",
    events.Calibration: "calibrations",
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

CONTROL = frozenset({
    events.Alarm, events.Calibration, events.Trigger, events.DatasetVersion, events.Job, events.Evaluation,
    events.Deployment, events.Erasure,
})  # fmt: skip
"""What the flywheel decided: a retention of its own, so that a model's history outlives the texts behind it."""

EXTRA = ("version", "retention_days")
_ENVELOPE = ("redaction_policy", "redaction_detector", "redaction_counts")


def columns(record: type[Record]) -> list[str]:
    """The columns of a record's table that are written, in order; ``stored_time`` is the table's own."""
    names: list[str] = []
    for name in record.model_fields:
        names += _ENVELOPE if name == "redaction" else (name,)
    return [*names, *EXTRA]


def grouped(records: Sequence[Record]) -> dict[type[Record], list[Record]]:
    """The records by kind. Raises Invalid for one that may not be stored."""
    groups: dict[type[Record], list[Record]] = {}
    for record in records:
        kind = type(record)
        if kind not in TABLES:
            raise Invalid("not_clean", f"{kind.__name__} {record.event_id} belongs to the raw zone: it is never stored")
        check_clean(record)
        groups.setdefault(kind, []).append(record)
    return groups


def row(record: Record, retention_days: int) -> list[Any]:
    """A record as a row of its table."""
    values: list[Any] = []
    held = record.__dict__
    for name in type(record).model_fields:
        value = held[name]
        if name == "redaction":
            values += [value.policy_version, value.detector, value.counts]
        else:
            values.append(_sound(value))
    return [*values, version_of(record), retention_days]


def _sound(value: Any) -> Any:
    """Lone surrogates cannot be stored: they become question marks."""
    if isinstance(value, str):
        return value if value.isascii() else value.encode("utf-8", "replace").decode()
    if isinstance(value, dict):
        return {_sound(key): _sound(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_sound(item) for item in value]
    return value


def version_of(record: Record) -> int:
    """Which of two rows with one key is newer: from the event alone, so that a redelivery meets its twin.

    A turn counts by what it has gathered, an outcome and what follows from it by its revision, a dataset version by
    what was erased of it, all others by event time in milliseconds.
    """
    if isinstance(record, events.Turn):
        return max(0, _millis(record.end_time)) * 10_000 + min(9_999, record.tool_calls)
    if isinstance(record, (events.Outcome, events.Failure, events.FailureCluster)):
        return max(0, record.revision)
    if isinstance(record, events.DatasetVersion):
        return max(0, _millis(record.event_time)) * 100_000 + min(99_999, record.erased)
    return max(0, _millis(record.event_time))


def _millis(time: datetime) -> int:
    return (time - EPOCH) // timedelta(milliseconds=1)
