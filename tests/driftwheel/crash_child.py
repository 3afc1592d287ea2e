"""The process that the crash test kills: a producer and the engine over a two-stage pipeline, until it is killed.

``python -m tests.driftwheel.crash_child FOLDER [--broken]``. ``--broken`` commits offsets apart from outputs: the
control that must lose or double. Run with ``--drain`` it finishes what is there and exits.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

from connectors.log import entry_of
from connectors.sqlite_log import SqliteLog, SqliteLogSettings
from driftwheel.embedded import Engine, TransactionState
from processors.stage import Event, Message, Stage
from processors.state import KeyState
from schemas.events import Alarm, LedgerEntry, Record, Trigger
from schemas.topics import ALARMS, LEDGER, TRIGGERS

NOW = datetime(2026, 1, 5, 8, tzinfo=UTC)
KEYS = 7


def event(number: int) -> Alarm:
    """The producer's event number ``number``."""
    return Alarm(
        event_id=f"e{number}", tenant="t", agent=f"a{number % KEYS}", event_time=NOW, cohort=f"c{number % KEYS}",
        detector="d", signal="s", level="warn", statistic=0, threshold=0, baseline=0, current=0, sessions=number,
    )  # fmt: skip


class Count(Stage):
    """Counts events per key; every output carries the count so far."""

    name = "count"
    sources = (ALARMS,)
    emits = (LEDGER,)

    def step(self, event: Event, state: KeyState) -> Iterable[Record]:
        state.data["n"] = state.data.get("n", 0) + 1
        assert event.record is not None
        yield LedgerEntry(
            event_id=f"{event.event_id}/counted", tenant="t", agent=event.record.agent, event_time=NOW,
            entry="accepted", source="count", count=state.data["n"],
        )  # fmt: skip


class Sum(Stage):
    """Second in line: remembers the highest count of a key and passes on."""

    name = "sum"
    sources = (LEDGER,)
    emits = (TRIGGERS,)

    def step(self, event: Event, state: KeyState) -> Iterable[Record]:
        record = event.record
        assert isinstance(record, LedgerEntry)
        state.data["n"] = state.data.get("n", 0) + 1
        yield Trigger(
            event_id=f"{event.event_id}/summed", tenant="t", agent=record.agent, event_time=NOW, trigger_id="t",
            model_version="", cohort="", labels=record.count, expected_gain=0, cost=0, reason="",
        )  # fmt: skip


class BrokenEngine(Engine):
    """Commits offsets first and outputs afterwards, in a transaction of their own."""

    def _run_stage(self, stage: Stage) -> bool:
        entries, nexts = self._log.read(stage.name, stage.sources, 20)
        if not entries:
            return False
        with self._log.transaction() as transaction:
            transaction.advance(stage.name, nexts)
        for entry in entries:
            batch = [Message(entry.topic, entry.offset, entry.key, entry.value, entry.time, entry.headers)]
            with self._log.transaction() as transaction:
                records = stage.process(batch, TransactionState(transaction, stage.name))
                transaction.append(self._entries(records, entries))
        return True


def main() -> None:
    folder = Path(sys.argv[1])
    log = SqliteLog(folder, SqliteLogSettings(key=b"k" * 32))
    engine = (BrokenEngine if "--broken" in sys.argv else Engine)(log, [Count(), Sum()], [], lambda: NOW)
    if "--drain" in sys.argv:
        engine.drain()
        log.close()
        return
    acknowledged = os.open(folder / "acknowledged", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    path = folder / "acknowledged"
    start = max([int(line) for line in path.read_text().split()], default=-1) + 1000
    threading.Thread(target=produce, args=(log, acknowledged, start), daemon=True).start()
    engine.start()
    print("ready", flush=True)  # noqa: T201  # the parent waits for it
    threading.Event().wait()


def produce(log: SqliteLog, acknowledged: int, start: int) -> None:
    number = start
    while True:
        batch = range(number, number + 5)
        log.append([entry_of(event(n), NOW) for n in batch])
        os.write(acknowledged, "".join(f"{n}\n" for n in batch).encode())
        number += 5


if __name__ == "__main__":
    main()
