"""Erasing a person from the store: rows go for good, dataset versions lose the person, the ledger stays honest.

Every step may be repeated, in this order, after an interruption: what is still to be found is found by what is
deleted last.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from connectors.clickhouse.tables import TABLES
from schemas.errors import UsageError
from schemas.events import LedgerEntry, Record, identity

_SUBJECT = "tenant = {tenant:String} AND subject_hash = {subject:String}"
_LABELS = (
    f"({_SUBJECT}) OR (tenant = {{tenant:String}} AND ("  # noqa: S608  # all of it is ours
    f"sample_id IN (SELECT event_id FROM samples WHERE {_SUBJECT}) OR "
    f"turn_id IN (SELECT turn_id FROM turns WHERE {_SUBJECT})))"
)
"""A reviewer's label is about the person whose answer was labelled."""
_KEPT = frozenset({"erasures", "ledger", "dataset_versions"})
"""Tables that an erasure does not delete from: its proof, counts, and versions, which lose the person's entries."""
_ACCEPTED = ("spans", "signals", "labels")
"""Tables whose rows the ledger counts as stored."""


class Rows(Protocol):
    """What a query found."""

    @property
    def rows(self) -> list[list[Any]]:
        """One list of values a row."""
        ...


class Database(Protocol):
    """What an erasure needs of the store."""

    def select(self, sql: str, parameters: Mapping[str, Any] | None = None) -> Rows:
        """Ask."""
        ...

    def named(self, query: str, **parameters: Any) -> list[dict[str, Any]]:
        """Ask a query file."""
        ...

    def command(self, sql: str, parameters: Mapping[str, Any] | None = None) -> None:
        """Change."""
        ...

    def write(self, records: Sequence[Record]) -> None:
        """Insert."""
        ...


def erase_subject(store: Database, tenant: str, subject: str) -> tuple[dict[str, int], list[str], list[str]]:
    """Delete a person's rows for good: records deleted by table, dataset versions and models that held them.

    Labels of the person's answers go too; dataset versions stay but lose the person and the samples. What the
    ledger had counted as stored becomes dropped. Idempotent; interrupted, it is run again. Raises Retry.
    """
    if not subject:
        raise UsageError("an erasure needs the subject it is about: the empty one stands for nobody")
    values = {"tenant": tenant, "subject": subject}
    reach = store.named("erasure_reach", **values)
    deleted: dict[str, int] = {}
    _count_as_dropped(store, values)
    _strip_versions(store, values, deleted)
    for table in ("labels", *(t for t in TABLES.values() if t not in _KEPT and t != "labels")):
        where = _LABELS if table == "labels" else _SUBJECT
        found = store.select(f"SELECT uniqExact(event_id) FROM {table} WHERE {where}", values).rows  # noqa: S608  # names are ours
        if found[0][0]:
            store.command(f"DELETE FROM {table} WHERE {where}", values)  # noqa: S608  # names are ours
            deleted[table] = int(found[0][0])
    _apply_masks(store)
    models = sorted({model for one in reach for model in one["models"] if model})
    return deleted, sorted({str(one["dataset_id"]) for one in reach}), models


def _apply_masks(store: Database) -> None:
    """A lightweight delete only masks rows: rewrite the parts that hold some, an interrupted erasure's too."""
    masked = store.select(
        "SELECT DISTINCT table FROM system.parts "
        "WHERE database = currentDatabase() AND active AND has_lightweight_delete"
    )
    for (table,) in masked.rows:
        store.command(f"ALTER TABLE {table} APPLY DELETED MASK SETTINGS mutations_sync = 1")


def _count_as_dropped(store: Database, values: Mapping[str, str]) -> None:
    entries: list[LedgerEntry] = []
    for table in _ACCEPTED:
        where = _LABELS if table == "labels" else _SUBJECT
        found = store.select(
            f"SELECT agent, toStartOfMinute(received_time) AS minute, count() FROM {table} FINAL "  # noqa: S608  # names are ours
            f"WHERE ({where}) AND received_time > '1970-01-02' GROUP BY agent, minute",
            values,
        )
        for agent, minute, count in found.rows:
            parts = ("erased", values["tenant"], values["subject"], table, agent, minute.isoformat())
            entries.append(
                LedgerEntry(
                    event_id=identity(*parts),
                    tenant=values["tenant"],
                    agent=agent,
                    event_time=minute,
                    entry="dropped",
                    source="erasure",
                    count=count,
                )
            )
    store.write(entries)


def _strip_versions(store: Database, values: Mapping[str, str], deleted: dict[str, int]) -> None:
    held = "tenant = {tenant:String} AND has(subjects, {subject:String})"
    found = int(store.select(f"SELECT uniqExact(event_id) FROM dataset_versions WHERE {held}", values).rows[0][0])  # noqa: S608  # names are ours
    if not found:
        return
    samples = store.select(f"SELECT DISTINCT event_id FROM samples WHERE {_SUBJECT}", values)  # noqa: S608  # names are ours
    store.command(
        "ALTER TABLE dataset_versions UPDATE subjects = arrayFilter(s -> s != {subject:String}, subjects), "
        f"samples = arrayFilter(s -> NOT has({{samples:Array(String)}}, s), samples) WHERE {held} "
        "SETTINGS mutations_sync = 1",
        {**values, "samples": [one[0] for one in samples.rows]},
    )
    deleted["dataset_versions"] = found
