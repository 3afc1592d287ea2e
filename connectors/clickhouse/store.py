"""The store: domain verbs over one ClickHouse database, embedded or a server.

One client, one lock: what the product writes and asks is in line. An analyst's query has a client of its own that
can only read. Delivery into the store is at least once; the ``*_current`` views show each record once.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import orjson
from clickhouse_connect.datatypes.base import ClickHouseType
from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import ClickHouseError, DataError, OperationalError

from connectors.clickhouse import analyst
from connectors.clickhouse.client import StoreSettings, first_line, meaning, open_client
from connectors.clickhouse.erasure import StoreErasure
from connectors.clickhouse.migrate import migrate
from connectors.clickhouse.scratch import scratch_of, temporary_files_in
from connectors.clickhouse.tables import CONTROL, TABLES, block, columns, grouped
from schemas.errors import Invalid, Refused, Retry, UsageError
from schemas.events import Record

QUERIES = Path(__file__).parent / "queries"


@dataclass(frozen=True, slots=True)
class Result:
    """Columns and rows; times are aware, in UTC."""

    columns: list[str]
    rows: list[list[Any]]


class Store:
    """Opens, migrates and serves one database. Thread-safe.

    Raises Refused when the place says no (another owner, wrong credentials, a newer schema), Retry when it is away,
    UsageError when the settings name nothing that can be opened.
    """

    def __init__(self, settings: StoreSettings) -> None:
        self.settings = settings
        self._lock = threading.Lock()
        self._types: dict[type[Record], Sequence[ClickHouseType]] = {}
        _make_folder(settings)
        self._client = _open(settings)
        try:
            self._scratch = scratch_of(settings)
            migrate(self._client)
        except BaseException:
            self.close()
            raise

    def write(self, records: Sequence[Record]) -> None:
        """Insert records of any kind, one insert a table. Idempotent: what was written before a failure may come again.

        Raises Invalid, before anything is written, for what may not be stored or does not fit its column; Retry when
        the store is away or at its limits.
        """
        for kind, group in grouped(records).items():
            days = {tenant: self._days(kind, tenant) for tenant in {record.tenant for record in group}}
            self._insert(kind, block(kind, group, days))

    def _days(self, kind: type[Record], tenant: str) -> int:
        if kind in CONTROL:
            return self.settings.control_days
        return self.settings.tenants(tenant).get(TABLES[kind], self.settings.retention_days)

    def _insert(self, kind: type[Record], values: Sequence[Sequence[Any]]) -> None:
        settings = {
            "insert_deduplication_token": _digest(values),
            "async_insert": 0,
            "max_partitions_per_insert_block": 0,
            "max_threads": 1,  # a batch is small: to share it out costs more than it saves
        }
        try:
            with self._lock, temporary_files_in(self._scratch):
                self._client.insert(
                    TABLES[kind],
                    values,
                    column_names=columns(kind),
                    column_types=self._types_of(kind),
                    column_oriented=True,
                    settings=settings,
                )
        except DataError as error:
            raise Invalid("unstorable", f"{TABLES[kind]}: {first_line(error)}") from error
        except (ClickHouseError, OSError) as error:
            self._types.pop(kind, None)  # another process may have migrated the table
            raise Retry(
                f"{self.settings.place} did not take {len(values[0])} rows for {TABLES[kind]}: {first_line(error)}"
            ) from error

    def _types_of(self, kind: type[Record]) -> Sequence[ClickHouseType]:
        """The types of a table's columns: asked for once, where the client would ask with every insert."""
        if kind not in self._types:
            context = self._client.create_insert_context(TABLES[kind], columns(kind))
            self._types[kind] = context.column_types
        return self._types[kind]

    def select(self, sql: str, parameters: Mapping[str, Any] | None = None) -> Result:
        """A query of the product's own. Raises Retry when the store is away."""
        try:
            with self._lock:
                found = self._client.query(sql, parameters=dict(parameters or {}))
        except (ClickHouseError, OSError) as error:
            raise Retry(f"{self.settings.place} did not answer: {first_line(error)}") from error
        return Result(list(found.column_names), [list(one) for one in found.result_rows])

    def query(self, sql: str, parameters: Mapping[str, Any] | None = None) -> Result:
        """An analyst's query: one statement that reads, within bounds (see ``analyst``).

        Raises UsageError that says what is wrong with it, Retry when the store is away.
        """
        text = analyst.check(sql, self._table_functions())
        client = open_client(self.settings, self.settings.database, analyst.BOUNDS)
        try:
            found = client.query(text, parameters=dict(parameters or {}))
        except (ClickHouseError, OSError) as error:
            if isinstance(error, OSError) or type(error) is OperationalError:
                raise Retry(f"{self.settings.place} did not answer: {first_line(error)}") from error
            raise UsageError(first_line(error)) from error
        finally:
            client.close()
        return Result(list(found.column_names), [list(one) for one in found.result_rows])

    def _table_functions(self) -> list[str]:
        return [str(one[0]) for one in self.select("SELECT name FROM system.table_functions").rows]

    def named(self, query: str, **parameters: Any) -> list[dict[str, Any]]:
        """The rows of ``queries/<query>.sql``."""
        result = self.select(_query(query), parameters)
        return [dict(zip(result.columns, one, strict=True)) for one in result.rows]

    def labelled(self, tenant: str, agent: str) -> list[dict[str, Any]]:
        """Samples with their newest label that may be trained on."""
        return self.named("labelled_samples", tenant=tenant, agent=agent)

    def ledger(self) -> Result:
        """By minute and tenant: accepted = stored + quarantined + dropped, and the difference."""
        return self.select(
            "SELECT tenant, minute, accepted, stored, quarantined, dropped, difference FROM ledger_current "
            "ORDER BY minute, tenant"
        )

    def counts(self) -> dict[str, int]:
        """Current rows by table."""
        parts = (f"SELECT '{t}' AS name, count() AS rows FROM {t}_current" for t in TABLES.values() if t != "ledger")  # noqa: S608  # names are ours
        every = " UNION ALL ".join([*parts, "SELECT 'ledger', count() FROM ledger FINAL"])
        return {str(name): int(count) for name, count in self.select(every).rows}

    def erasure(self, tenant: str, subject: str, erasure_id: str = "") -> StoreErasure:
        """The erasure of a person from this store. Raises UsageError for the empty subject."""
        return StoreErasure(self, tenant, subject, erasure_id)

    def command(self, sql: str, parameters: Mapping[str, Any] | None = None) -> None:
        """A change of the product's own. Raises Retry when the store is away."""
        try:
            with self._lock:
                self._client.command(sql, parameters=dict(parameters or {}))
        except (ClickHouseError, OSError) as error:
            raise Retry(f"{self.settings.place} did not do it: {first_line(error)}") from error

    def materialise_retention(self) -> None:
        """Drop rows past their retention now: the embedded engine's merges delete only while a process runs it.

        Rows of tenants whose days are others now get those first.
        """
        self._retain_anew()
        past = "stored_time + toIntervalDay(retention_days) <= now()"
        for table in TABLES.values():
            if self.select(f"SELECT 1 FROM {table} WHERE {past} LIMIT 1").rows:  # noqa: S608  # names are ours
                self.command(f"ALTER TABLE {table} DELETE WHERE {past} SETTINGS mutations_sync = 1")

    def _retain_anew(self) -> None:
        tables = [table for kind, table in TABLES.items() if kind not in CONTROL]
        for table in tables:
            held = self.select(f"SELECT tenant, groupUniqArray(retention_days) FROM {table} GROUP BY tenant").rows  # noqa: S608  # names are ours
            for tenant, found in held:
                days = self.settings.tenants(tenant).get(table)
                if days is not None and set(found) != {days}:
                    self.command(
                        f"ALTER TABLE {table} UPDATE retention_days = {{days:UInt16}} "
                        "WHERE tenant = {tenant:String} AND retention_days != {days:UInt16} "
                        "SETTINGS mutations_sync = 1",
                        {"days": days, "tenant": tenant},
                    )

    def close(self) -> None:
        """Let go of the database."""
        self._client.close()


def _open(settings: StoreSettings) -> Client:
    """A client of the database, which is made when it is not there: Atomic, also where the default is another."""
    first = open_client(settings)
    try:
        first.command(f"CREATE DATABASE IF NOT EXISTS {_name(settings.database)} ENGINE = Atomic")
    except (ClickHouseError, OSError) as error:
        raise meaning(error, settings) from error
    finally:
        first.close()
    return open_client(settings, settings.database)


def _make_folder(settings: StoreSettings) -> None:
    if settings.path is None or settings.url:
        return
    try:
        settings.path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise Refused(f"{settings.path}: {error.strerror}: name a data folder that can be written") from error


def _digest(values: Sequence[Sequence[Any]]) -> str:
    """The same for the same rows: the store passes over what it has just taken."""
    try:
        text = orjson.dumps(values)
    except TypeError:  # a number of more than 64 bits, which its column will refuse
        text = repr(values).encode()
    return hashlib.sha256(text).hexdigest()


@cache
def _query(name: str) -> str:
    return (QUERIES / f"{name}.sql").read_text()


def _name(database: str) -> str:
    if not (database.isascii() and database.isidentifier()):
        raise UsageError(f"store.database: {json.dumps(database)} is not a database name (letters, digits, _)")
    return database
