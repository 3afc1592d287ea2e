"""How records become rows: one table for each record that is stored, columns named like the record's fields.

The nested redaction envelope is flattened (``redaction_policy``, ``redaction_detector``, ``redaction_counts``); every
row gets a ``version`` from the event itself, never from the time of writing, and ``retention_days``, fixed when it is
stored.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from functools import cache
from typing import Any, Literal, get_origin

from pydantic import AwareDatetime

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


@cache
def columns(record: type[Record]) -> tuple[str, ...]:
    """The columns of a record's table that are written, in order; ``stored_time`` is the table's own."""
    names: list[str] = []
    for name in record.model_fields:
        names += _ENVELOPE if name == "redaction" else (name,)
    return (*names, *EXTRA)


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


def block(kind: type[Record], records: Sequence[Record], retention_days: Mapping[str, int]) -> list[Sequence[Any]]:
    """Records of a kind as the ``columns`` of its table. ``retention_days``: by tenant."""
    held = [record.__dict__ for record in records]
    values: list[Sequence[Any]] = []
    for name, info in kind.model_fields.items():
        column = [each[name] for each in held]
        if name == "redaction":
            values.append([each.policy_version for each in column])
            values.append([each.detector for each in column])
            values.append([each.counts for each in column])
        else:
            values.append(column if info.annotation in _NO_TEXT else _sound_column(info.annotation, column))
    version = version_by(kind)
    return [*values, [version(record) for record in records], [retention_days[record.tenant] for record in records]]


_NO_TEXT: tuple[Any, ...] = (int, float, bool, AwareDatetime, int | None, float | None, list[float | None])


def _sound_column(kind: Any, values: list[Any]) -> list[Any]:
    is_text = kind is str or get_origin(kind) is Literal
    if all(map(str.isascii, values)) if is_text else not any(values):
        return values  # most are
    return [_sound(value) for value in values]


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
    return version_by(type(record))(record)


def version_by(kind: type[Record]) -> Callable[[Any], int]:
    """``version_of`` for records of a kind."""
    return _VERSIONS.get(kind, _version)


def _version(record: Record) -> int:
    return max(0, _millis(record.event_time))


def _turn_version(turn: events.Turn) -> int:
    return max(0, _millis(turn.end_time)) * 10_000 + min(9_999, turn.tool_calls)


def _dataset_version(version: events.DatasetVersion) -> int:
    return _version(version) * 100_000 + min(99_999, version.erased)


def _revision(record: events.Outcome | events.Failure | events.FailureCluster) -> int:
    return max(0, record.revision)


_VERSIONS: dict[type[Record], Callable[[Any], int]] = {
    events.Turn: _turn_version, events.Outcome: _revision, events.Failure: _revision,
    events.FailureCluster: _revision, events.DatasetVersion: _dataset_version,
}  # fmt: skip


def _millis(time: datetime) -> int:
    return (time - EPOCH) // timedelta(milliseconds=1)
