"""Erasing a person from the store: rows go for good, dataset versions lose the person, the ledger stays honest.

Tables are discovered from the database's own schema, so that a new one is reached the moment it is there. What belongs
to the person without naming them (see ``schemas.subjects``) is noted in ``erasure_keys`` before anything is deleted;
every step may be repeated after an interruption.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from connectors.clickhouse.tables import columns
from schemas.errors import Refused, UsageError
from schemas.events import LedgerEntry, Record
from schemas.subjects import KINDS, Subject

_SUBJECT = "tenant = {tenant:String} AND subject_hash = {subject:String}"
KEPT = {
    "erasures": "the proof that somebody was erased, under their hash",
    "ledger": "counts alone",
    "dataset_versions": "the history of models; they lose the person and the samples",
    "erasure_keys": "ids, for as long as an erasure runs",
    "schema_migrations": "the store's own",
}
"""Tables that an erasure does not delete from, and why."""
_ACCEPTED = ("spans", "signals", "labels")
"""Tables whose rows the ledger counts as stored."""
_COUNTED = "received_time > '1970-01-02'"


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


@dataclass(frozen=True, slots=True)
class Found:
    """What there is of a person: records by table, the dataset versions that hold them, the models of those."""

    rows: dict[str, int]
    datasets: list[str]
    models: list[str]


class StoreErasure:
    """One erasure in one store. Raises UsageError for the empty subject, which stands for nobody; all else Retry."""

    def __init__(self, store: Database, tenant: str, subject: str, erasure_id: str = "") -> None:
        if not subject:
            raise UsageError("an erasure needs the subject it is about: the empty one stands for nobody")
        self._store = store
        self._values = {"tenant": tenant, "subject": subject, "erasure": erasure_id}
        self._tables = tables(store)

    def note_keys(self) -> None:
        """Write down what is the person's without naming them; later calls add what is new."""
        for kind in KINDS:
            self._store.command(
                f"INSERT INTO erasure_keys SELECT {{erasure:String}}, '{kind}', id FROM ({self._source(kind)})",  # noqa: S608  # names are ours
                self._values,
            )

    def subject(self, noted: bool = True) -> Subject:
        """The person with the ids that were noted, or as they are now."""
        keys = self._noted if noted else self._source
        found = {kind: self._store.select(keys(kind), self._values).rows for kind in KINDS}
        held = {f"{kind}s": frozenset(str(one[0]) for one in some) for kind, some in found.items()}
        return Subject(self._values["tenant"], self._values["subject"], **held)

    def found(self, noted: bool = True) -> Found:
        """What is there now; ``noted`` False: without the noted keys, and without writing anything."""
        keys = self._noted if noted else self._source
        rows = {table: self._count(table, self._where(table, keys)) for table in self._erased}
        rows["dataset_versions"] = self._count("dataset_versions", self._holding(keys))
        reach = self._store.named("erasure_reach", tenant=self._values["tenant"], subject=self._values["subject"])
        also = self._store.select(
            f"SELECT DISTINCT dataset_id FROM dataset_versions WHERE {self._holding(keys)}",  # noqa: S608  # names are ours
            self._values,
        )
        datasets = {str(one["dataset_id"]) for one in reach} | {str(one[0]) for one in also.rows}
        return Found({name: count for name, count in rows.items() if count}, sorted(datasets), self._models(datasets))

    def _models(self, datasets: set[str]) -> list[str]:
        query = (
            "SELECT DISTINCT candidate FROM jobs WHERE tenant = {tenant:String} AND candidate != '' "
            "AND has({datasets:Array(String)}, dataset_id) ORDER BY candidate"
        )
        found = self._store.select(query, {**self._values, "datasets": sorted(datasets)}).rows if datasets else []
        return [str(one[0]) for one in found]

    def texts(self) -> frozenset[str]:
        """What the person said in samples: by that they are found where no ids are kept."""
        query = f"SELECT DISTINCT input FROM samples WHERE {self._where('samples', self._noted)}"  # noqa: S608  # all of it is ours
        return frozenset(str(one[0]) for one in self._store.select(query, self._values).rows)

    def labels(self) -> list[tuple[str, str]]:
        """Agents and ids of the labels about the person."""
        query = f"SELECT DISTINCT agent, event_id FROM labels WHERE {self._where('labels', self._noted)}"  # noqa: S608  # all of it is ours
        return [(str(agent), str(label)) for agent, label in self._store.select(query, self._values).rows]

    def erase(self) -> None:
        """Delete the noted rows, count them as dropped, and strip dataset versions. Idempotent."""
        for table in _ACCEPTED:
            self._count_as_dropped(table)
        self._strip_versions()
        for table in self._erased:
            where = self._where(table, self._noted)
            if table in _ACCEPTED:
                where = f"{where} AND (NOT ({_COUNTED}) OR {_entry_of('event_id')} IN ({_ENTRIES}))"
            if self._count(table, where):
                self._store.command(f"DELETE FROM {table} WHERE {where}", self._values)  # noqa: S608  # names are ours
        _apply_masks(self._store)

    def forget_keys(self) -> None:
        """The erasure is done: what was noted goes, too."""
        self._store.command(
            "ALTER TABLE erasure_keys DELETE WHERE erasure_id = {erasure:String} SETTINGS mutations_sync = 1",
            self._values,
        )

    # What is whose.

    @property
    def _erased(self) -> list[str]:
        return [name for name, held in self._tables.items() if name not in KEPT and "subject_hash" in held]

    def _source(self, kind: str) -> str:
        """The ids of one kind that are the person's, from all tables that name them."""
        if kind == "sample":
            return f"SELECT DISTINCT event_id AS id FROM samples WHERE {_SUBJECT}"  # noqa: S608  # all of it is ours
        field = KINDS[kind]
        held = [name for name in self._erased if field in self._tables[name] and name != "labels"]
        mine = " UNION DISTINCT ".join(
            f"SELECT {field} AS id FROM {name} WHERE {_SUBJECT} AND {field} != ''"  # noqa: S608  # names are ours
            for name in held
        )
        if kind != "session":
            return mine
        others = "tenant = {tenant:String} AND subject_hash NOT IN ('', {subject:String})"
        shared = " UNION DISTINCT ".join(f"SELECT session_id FROM {name} WHERE {others}" for name in held)  # noqa: S608  # names are ours
        return f"SELECT id FROM ({mine}) WHERE id NOT IN ({shared})"  # noqa: S608  # all of it is ours

    def _noted(self, kind: str) -> str:
        return f"SELECT id FROM erasure_keys WHERE erasure_id = {{erasure:String}} AND kind = '{kind}'"  # noqa: S608  # all of it is ours

    def _where(self, table: str, keys: Callable[[str], str]) -> str:
        about = [f"{KINDS[kind]} IN ({keys(kind)})" for kind in KINDS if KINDS[kind] in self._tables[table]]
        nobody = "" if table == "labels" else "subject_hash = '' AND "
        theirs = f" OR ({nobody}({' OR '.join(about)}))" if about else ""
        return f"tenant = {{tenant:String}} AND (subject_hash = {{subject:String}}{theirs})"

    def _holding(self, keys: Callable[[str], str]) -> str:
        mine = f"hasAny(samples, (SELECT groupArray(id) FROM ({keys('sample')})))"  # noqa: S608  # all of it is ours
        return f"tenant = {{tenant:String}} AND (has(subjects, {{subject:String}}) OR {mine})"

    def _count(self, table: str, where: str) -> int:
        found = self._store.select(f"SELECT uniqExact(event_id) FROM {table} WHERE {where}", self._values)  # noqa: S608  # names are ours
        return int(found.rows[0][0])

    # Steps.

    def _count_as_dropped(self, table: str) -> None:
        """One entry a record, named after it: counted once, however often this is repeated."""
        names = columns(LedgerEntry)
        values = {
            "schema_version": "1", "event_id": _entry_of("event_id"), "tenant": "tenant", "agent": "agent",
            "subject_hash": "''", "event_time": "toStartOfMinute(received_time)", "entry": "'dropped'",
            "source": "'erasure'", "count": "1", "reason": "''", "retention_days": "retention_days",
            "version": "toUnixTimestamp64Milli(toDateTime64(event_time, 3, 'UTC'))",
        }  # fmt: skip
        where = f"{self._where(table, self._noted)} AND {_COUNTED} AND {_entry_of('event_id')} NOT IN ({_ENTRIES})"
        if self._count(table, where):
            self._store.command(
                f"INSERT INTO ledger ({', '.join(names)}) SELECT {', '.join(values[name] for name in names)} "  # noqa: S608  # names are ours
                f"FROM {table} FINAL WHERE {where}",
                self._values,
            )

    def _strip_versions(self) -> None:
        held = self._holding(self._noted)
        if self._count("dataset_versions", held):
            samples = self._store.select(self._noted("sample"), self._values).rows
            self._store.command(
                "ALTER TABLE dataset_versions UPDATE subjects = arrayFilter(s -> s != {subject:String}, subjects), "
                "samples = arrayFilter(s -> NOT has({samples:Array(String)}, s), samples) "
                "WHERE tenant = {tenant:String} AND (has(subjects, {subject:String}) "
                "OR hasAny(samples, {samples:Array(String)})) SETTINGS mutations_sync = 1",
                {**self._values, "samples": [one[0] for one in samples]},
            )


def _entry_of(column: str) -> str:
    return f"concat('erased/', {{erasure:String}}, '/', {column})"


_ENTRIES = "SELECT event_id FROM ledger WHERE tenant = {tenant:String} AND source = 'erasure'"


def tables(store: Database) -> dict[str, set[str]]:
    """The database's tables and their columns. Raises Refused when one holds texts that no erasure can tell apart."""
    found = store.select(
        "SELECT t.name, groupArray(c.name) FROM system.tables AS t "
        "INNER JOIN system.columns AS c ON c.database = t.database AND c.table = t.name "
        "WHERE t.database = currentDatabase() AND t.engine LIKE '%MergeTree' GROUP BY t.name ORDER BY t.name"
    )
    held = {str(name): {str(one) for one in some} for name, some in found.rows}
    for name, some in held.items():
        if name not in KEPT and not {"tenant", "subject_hash", "event_id"} <= some:
            raise Refused(
                f"the table {name} has no columns tenant, subject_hash and event_id: nobody could be erased from it. "
                "Add them, or name it among connectors.clickhouse.erasure.KEPT with the reason"
            )
    return held


def _apply_masks(store: Database) -> None:
    """A lightweight delete only masks rows: rewrite the parts that hold some, an interrupted erasure's too."""
    masked = store.select(
        "SELECT DISTINCT table FROM system.parts "
        "WHERE database = currentDatabase() AND active AND has_lightweight_delete"
    )
    for (table,) in masked.rows:
        store.command(f"ALTER TABLE {table} APPLY DELETED MASK SETTINGS mutations_sync = 1")
