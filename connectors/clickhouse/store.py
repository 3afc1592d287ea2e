"""The store: domain verbs over one ClickHouse client, embedded or a server.

``open_client`` is the only place that knows which engine it is. The embedded engine (chDB) has one owner process for
a path and one client for each thread; a lock keeps this store's writes in line, reads open clients of their own.
"""

from __future__ import annotations

import hashlib
import json
import re
import tempfile
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import clickhouse_connect
from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import ClickHouseError

from connectors.clickhouse.migrate import migrate
from connectors.clickhouse.tables import TABLES, columns, rows
from schemas.errors import Refused, Retry, UsageError
from schemas.events import Record

QUERIES = Path(__file__).parent / "queries"
_LITERALS = re.compile(r"'(?:[^'\\\\]|\\\\.|'')*'|\"[^\"]*\"|`[^`]*`|--[^\n]*|/\\*.*?\\*/", re.DOTALL)
ANALYST = {
    "max_execution_time": 60,
    "max_result_rows": 100_000,
    "result_overflow_mode": "throw",
    "max_memory_usage": 4_000_000_000,
}
"""Bounds of an analyst's query; ``readonly`` comes last, since nothing can be set after it."""


@dataclass(frozen=True, slots=True)
class StoreSettings:
    """Either ``path`` (embedded) or ``url`` (``http(s)://user:password@host:port``)."""

    path: Path | None = None
    url: str = ""
    database: str = "driftwheel"
    retention_days: int = 365


@dataclass(frozen=True, slots=True)
class Result:
    """Columns and rows."""

    columns: list[str]
    rows: list[list[Any]]


def open_client(settings: StoreSettings, database: str = "", options: Mapping[str, Any] | None = None) -> Client:
    """A client. Raises Refused when the folder is another process's, Retry when the server is away."""
    given = dict(options or {})
    try:
        if settings.url:
            return clickhouse_connect.get_client(dsn=settings.url, database=database or None, settings=given)
        path = str((settings.path or Path()).absolute())
        return clickhouse_connect.get_client(interface="chdb", path=path, database=database or None, settings=given)
    except (ClickHouseError, RuntimeError) as error:
        raise _meaning(error, settings) from error


def _meaning(error: Exception, settings: StoreSettings) -> Exception:
    text = str(error)
    if "Cannot lock file" in text or "code: 76" in text.lower():
        return Refused(f"another process has the store in {settings.path} open: stop it, or name another data folder")
    where = "the embedded store" if not settings.url else "the ClickHouse server"
    return Retry(f"{where} does not answer: {text.splitlines()[0][:300]}")


class Store:
    """Opens, migrates and serves one database. Thread-safe."""

    def __init__(self, settings: StoreSettings) -> None:
        self.settings = settings
        if settings.path is not None and not settings.url:
            settings.path.mkdir(parents=True, exist_ok=True)
            scratch = settings.path.parent / "tmp"
            scratch.mkdir(exist_ok=True, mode=0o700)
            tempfile.tempdir = str(scratch)  # inserts pass through temporary files: keep them in the data folder
        first = open_client(settings)
        first.command(f"CREATE DATABASE IF NOT EXISTS {_name(settings.database)} ENGINE = Atomic")
        first.close()
        self._client = open_client(settings, settings.database)
        self._lock = threading.Lock()
        migrate(self._client)

    def write(self, kind: type[Record], records: Sequence[Record]) -> None:
        """Insert records of one kind. Idempotent; raises Invalid (nothing written) or Retry."""
        made = rows(records, self.settings.retention_days)
        token = hashlib.sha256("".join(sorted(record.event_id for record in records)).encode()).hexdigest()
        with self._lock:
            try:
                self._client.insert(
                    TABLES[kind],
                    made,
                    column_names=columns(kind),
                    settings={"insert_deduplication_token": token, "async_insert": 0},
                )
            except (ClickHouseError, OSError) as error:
                raise Retry(
                    f"the store did not take {len(records)} rows for {TABLES[kind]}: {_first(error)}"
                ) from error

    def select(self, sql: str, parameters: Mapping[str, Any] | None = None) -> Result:
        """A query of the product's own."""
        with self._lock:
            try:
                found = self._client.query(sql, parameters=dict(parameters or {}))
            except ClickHouseError as error:
                raise Retry(f"the store did not answer: {_first(error)}") from error
        return Result(list(found.column_names), [list(row) for row in found.result_rows])

    def query(self, sql: str) -> Result:
        """An analyst's query: one read-only statement within bounds. UsageError says what is wrong with it."""
        text = sql.strip().rstrip(";").strip()
        if not text or ";" in _LITERALS.sub("", text):
            raise UsageError("one statement is expected, e.g. SELECT count() FROM turns_current")
        client = open_client(self.settings, self.settings.database, ANALYST | {"readonly": 1})
        try:
            found = client.query(text)
        except ClickHouseError as error:
            raise UsageError(_first(error)) from error
        finally:
            client.close()
        return Result(list(found.column_names), [list(row) for row in found.result_rows])

    def named(self, query: str, **parameters: Any) -> list[dict[str, Any]]:
        """The rows of ``queries/<query>.sql``."""
        result = self.select(_query(query), parameters)
        return [dict(zip(result.columns, row, strict=True)) for row in result.rows]

    def labelled(self, tenant: str, agent: str) -> list[dict[str, Any]]:
        """Samples with their newest label that may be trained on."""
        return self.named("labelled_samples", tenant=tenant, agent=agent)

    def ledger(self) -> Result:
        """The ledger by minute and tenant."""
        return self.select(
            "SELECT tenant, minute, accepted, stored, quarantined, dropped, difference FROM ledger_current "
            "ORDER BY minute, tenant"
        )

    def counts(self) -> dict[str, int]:
        """Current rows by table."""
        return {t: int(self.select(f"SELECT count() FROM {t}_current").rows[0][0]) for t in TABLES.values()}  # noqa: S608  # names are ours

    def erase_subject(self, tenant: str, subject: str) -> tuple[dict[str, int], list[str], list[str]]:
        """Delete a subject's rows for good; returns rows by table, dataset versions and models that learnt from them."""
        reach = self.named("erasure_reach", tenant=tenant, subject=subject)
        deleted: dict[str, int] = {}
        where = "tenant = {tenant:String} AND subject_hash = {subject:String}"
        values = {"tenant": tenant, "subject": subject}
        for kind, table in TABLES.items():
            if table in ("erasures", "ledger"):
                continue
            found = int(self.select(f"SELECT count() FROM {table} WHERE {where}", values).rows[0][0])  # noqa: S608  # names are ours
            if found:
                self._delete(table, where, values)
                deleted[TABLES[kind]] = found
        models = sorted({model for row in reach for model in row["models"] if model})
        return deleted, [row["dataset_id"] for row in reach], models

    def _delete(self, table: str, where: str, values: dict[str, str]) -> None:
        with self._lock:
            self._client.command(f"DELETE FROM {table} WHERE {where}", parameters=values)  # noqa: S608  # names are ours
            self._client.command(f"ALTER TABLE {table} APPLY DELETED MASK SETTINGS mutations_sync = 1")

    def materialise_retention(self) -> None:
        """Drop rows past their retention now; the embedded engine deletes only while it runs."""
        for table in TABLES.values():
            with self._lock:
                self._client.command(f"OPTIMIZE TABLE {table} FINAL")

    def close(self) -> None:
        """Let go of the database."""
        self._client.close()


@cache
def _query(name: str) -> str:
    return (QUERIES / f"{name}.sql").read_text()


def _name(database: str) -> str:
    if not database.replace("_", "").isalnum():
        raise UsageError(f"store.database: {json.dumps(database)} is not a database name (letters, digits, _)")
    return database


def _first(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:500] if str(error).strip() else type(error).__name__
