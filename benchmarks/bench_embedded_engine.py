"""The embedded engine beside a plain SQLite insert loop: one-KB events through a trivial stage, on one core.

Engine: append, read, decode, one stage, encode, write the output and the offset, all durable. Plain: the same bytes
inserted into one table in transactions of the same size, read back by nobody.
"""

from __future__ import annotations

import os
import sqlite3
import sys
import tempfile
import time
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from connectors.log import entry_of
from connectors.sqlite_log import SqliteLog, SqliteLogSettings
from driftwheel.embedded import Engine
from processors.stage import Event, Stage
from processors.state import KeyState
from schemas import codec
from schemas.events import Alarm, LedgerEntry, Record
from schemas.topics import ALARMS, LEDGER

EVENTS, BATCH, ROUNDS = 20_000, 500, 3
NOW = datetime(2026, 1, 5, 8, tzinfo=UTC)


class Copy(Stage):
    """Makes one one-KB record of each."""

    name = "copy"
    sources = (ALARMS,)
    emits = (LEDGER,)
    memo_size = 0
    by = None

    def step(self, event: Event, state: KeyState) -> Iterable[Record]:
        """One record in, one out."""
        del state
        yield LedgerEntry(
            event_id=event.event_id, tenant="t", agent="a", event_time=NOW, entry="accepted", source="x" * 950, count=1
        )


def events() -> list[Alarm]:
    return [
        Alarm(
            event_id=f"e{n}", tenant="t", agent="a", event_time=NOW, cohort="c" * 900, detector="d", signal="s",
            level="warn", statistic=0, threshold=0, baseline=0, current=0, sessions=n,
        )
        for n in range(EVENTS)
    ]  # fmt: skip


def engine_rate(entries: list[Alarm], folder: Path) -> float:
    log = SqliteLog(folder, SqliteLogSettings(key=b"k" * 32, max_lag=10 * EVENTS))
    engine = Engine(log, [Copy()], [], lambda: NOW)
    began = time.perf_counter()
    for first in range(0, EVENTS, BATCH):
        log.append([entry_of(record, NOW) for record in entries[first : first + BATCH]])
    engine.drain()
    seconds = time.perf_counter() - began
    assert len(log.scan(LEDGER)) == EVENTS
    log.close()
    return EVENTS / seconds


def plain_rate(values: list[bytes], folder: Path) -> float:
    connection = sqlite3.connect(folder / "plain.db", isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = NORMAL")
    connection.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, value BLOB)")
    began = time.perf_counter()
    for first in range(0, EVENTS, BATCH):
        connection.execute("BEGIN")
        connection.executemany("INSERT INTO t (value) VALUES (?)", [(v,) for v in values[first : first + BATCH]])
        connection.execute("COMMIT")
    seconds = time.perf_counter() - began
    connection.close()
    return EVENTS / seconds


def main() -> None:
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    records = events()
    values = [codec.encode(record) for record in records]
    print(f"{EVENTS:,} events of {len(values[0]):,} bytes, batches of {BATCH}, one core, {ROUNDS} rounds")
    for _ in range(ROUNDS):
        with tempfile.TemporaryDirectory() as folder:
            engine, plain = engine_rate(records, Path(folder)), plain_rate(values, Path(folder))
        print(f"engine {engine:9,.0f} events/s   plain inserts {plain:9,.0f} rows/s   ratio {engine / plain:.3f}")


if __name__ == "__main__":
    main()
