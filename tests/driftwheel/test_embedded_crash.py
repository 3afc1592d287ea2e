"""The engine is killed with SIGKILL at random moments under load; nothing may be lost, doubled or miscounted.

A child process appends events and runs a pipeline of a counting stage, a passing stage and a sink on one folder. It
writes the ids of what ``append`` has acknowledged to a file. The parent kills it, starts the next child on the same
folder, and in the end compares. Controls: two engines that are wrong on purpose are caught in far fewer kills.
"""

from __future__ import annotations

import os
import random
import threading
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from connectors.log import Entry, entry_of
from connectors.sqlite_log import SqliteLog, SqliteLogSettings
from driftwheel.buffered import BufferedState
from driftwheel.embedded import Engine, EngineSettings
from processors.stage import Event, Stage
from processors.state import KeyState
from schemas import codec
from schemas.errors import Reject
from schemas.events import Erasure, LedgerEntry, RawSignal, Record
from schemas.topics import ERASURES, LEDGER, SIGNALS_RAW

T0 = datetime(2026, 1, 1, tzinfo=UTC)
KILLS = 50
KEYS = 5
LOG = SqliteLogSettings(bytes(range(32)), max_lag=400)
ENGINE = EngineSettings(batch_size=40, sink_batch=60)
READY_SECONDS = 60


class Count(Stage):
    """Numbers the events of its key. One event of memo: too little to hide a batch that comes twice."""

    name, sources, emits, memo_size, memo_emits = "count", (SIGNALS_RAW,), (LEDGER,), 1, False

    def repeat(self, event: Event, state: KeyState, memo: list[object]) -> Iterable[Record]:
        return ()

    def step(self, event: Event, state: KeyState) -> Iterable[Record]:
        assert event.record is not None
        state.data["count"] = state.data.get("count", 0) + 1
        yield LedgerEntry(
            event_id=event.event_id, tenant="t", agent=event.record.agent, event_time=T0, entry="accepted",
            source="count", count=state.data["count"],
        )  # fmt: skip


class Pass(Stage):
    """Passes the numbered events on."""

    name, sources, emits, memo_size = "pass", (LEDGER,), (ERASURES,), 0

    def step(self, event: Event, state: KeyState) -> Iterable[Record]:
        assert isinstance(event.record, LedgerEntry)
        deleted = {"count": event.record.count}
        yield Erasure(event_id=event.event_id, tenant="t", agent=event.record.agent, event_time=T0, deleted=deleted)


class FileSink:
    """Appends the ids that it is given to a file."""

    name, topics = "file", (ERASURES,)

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def write(self, records: Sequence[Record]) -> None:
        os.write(self._file, "".join(f"{record.event_id}\n" for record in records).encode())


class OffsetsFirst(Engine):
    """Wrong on purpose: a crash between its two commits loses a batch."""

    def _commit(
        self, consumer: str, entries: Sequence[Entry], nexts: dict[str, int], state: BufferedState | None = None
    ) -> None:
        super()._commit(consumer, (), nexts)
        super()._commit(consumer, entries, {}, state)


class OffsetsLast(Engine):
    """Wrong on purpose: a crash between its two commits doubles a batch."""

    def _commit(
        self, consumer: str, entries: Sequence[Entry], nexts: dict[str, int], state: BufferedState | None = None
    ) -> None:
        super()._commit(consumer, entries, {}, state)
        super()._commit(consumer, (), nexts)


def clock() -> datetime:
    return T0


def make_engine(kind: type[Engine], log: SqliteLog, folder: Path) -> Engine:
    return kind(log, [Count(), Pass()], [FileSink(folder / "sunk")], clock, ENGINE)


def child(kind: type[Engine], folder: Path, run: int, ready: Connection) -> None:
    """What is killed: a producer and an engine on one folder."""
    log = SqliteLog(folder / "log", LOG)
    make_engine(kind, log, folder).start()
    acknowledged = os.open(folder / "acknowledged", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    draw, number = random.Random(run), 0
    ready.send_bytes(b"ready")
    while True:
        ids = [f"{run}-{number + n}" for n in range(draw.randrange(1, 20))]
        agents = [f"a{draw.randrange(KEYS)}" for _ in ids]
        records = [
            RawSignal(event_id=i, tenant="t", agent=a, event_time=T0, payload=i)
            for i, a in zip(ids, agents, strict=True)
        ]
        try:
            log.append([entry_of(record, T0) for record in records])
        except Reject:
            time.sleep(0.002)
            continue
        os.write(acknowledged, "".join(f"{i}\n" for i in ids).encode())
        number += len(ids)


def torture(kind: type[Engine], folder: Path, kills: range, seed: int) -> None:
    """Start a child on the folder and kill it, once per kill. Children come from a small, warm process."""
    context = get_context("forkserver")
    context.set_forkserver_preload([__name__])
    draw = random.Random(seed)
    for run in kills:
        here, there = context.Pipe(duplex=False)
        process = context.Process(target=child, args=(kind, folder, run, there))
        process.start()
        there.close()
        assert here.poll(READY_SECONDS), "the child did not start"
        assert here.recv_bytes() == b"ready"
        threading.Event().wait(draw.uniform(0.02, 0.3))
        assert process.is_alive(), "the child died by itself"
        process.kill()
        process.join()
        process.close()
        here.close()


def problems(kind: type[Engine], folder: Path) -> dict[str, int]:
    """What is wrong once everything is drained; 'events' says how much was looked at."""
    log = SqliteLog(folder / "log", LOG)
    engine = make_engine(kind, log, folder)
    engine.drain()
    acknowledged = (folder / "acknowledged").read_text().split()
    sunk = set((folder / "sunk").read_text().split())
    outputs = [codec.decode(entry.value, ERASURES.record) for entry in log.scan(ERASURES)]
    seen = Counter(record.event_id for record in outputs)
    appended = Counter(codec.decode(e.value, SIGNALS_RAW.record).event_id for e in log.scan(SIGNALS_RAW))
    numbers = {f"a{n}": list[int]() for n in range(KEYS)}
    for record in outputs:
        assert isinstance(record, Erasure)
        numbers[record.agent].append(record.deleted["count"])
    state = {agent: KeyState.load(log.state("count", f"t/{agent}") or "").data["count"] for agent in numbers}
    log.close()
    return {
        "events": len(acknowledged),
        "lost": len(set(acknowledged) - seen.keys()),
        "doubled": sum(count > 1 for count in seen.values()),
        "appended but not put out, or the reverse": sum((appended - seen).values()) + sum((seen - appended).values()),
        "miscounted keys": sum(sorted(n) != list(range(1, len(n) + 1)) for n in numbers.values()),
        "wrong states": sum(state[agent] != len(n) for agent, n in numbers.items()),
        "not sunk": len(seen.keys() - sunk),
        "sunk from nowhere": len(sunk - seen.keys()),
        "lag": sum(engine.lags().values()),
    }


def test_fifty_kills_lose_nothing_and_double_nothing(tmp_path: Path) -> None:
    torture(Engine, tmp_path, range(KILLS), seed=1)
    found = problems(Engine, tmp_path)
    print(f"{KILLS} kills: {found}")  # noqa: T201  # the measured number, shown with -s
    events = found.pop("events")
    assert events > KILLS * 10, "hardly any load"
    assert set(found.values()) == {0}, found


@pytest.mark.parametrize(("kind", "what"), [(OffsetsFirst, "lost"), (OffsetsLast, "doubled")])
def test_control_a_wrong_engine_is_caught_in_fewer_kills(tmp_path: Path, kind: type[Engine], what: str) -> None:
    for start in range(0, KILLS, 5):
        torture(kind, tmp_path, range(start, start + 5), seed=2 + start)
        found = problems(kind, tmp_path)
        if found[what]:
            print(f"{kind.__name__}, {start + 5} kills: {found}")  # noqa: T201  # the same
            return
    pytest.fail(f"{KILLS} kills did not show that {kind.__name__} is wrong: the test has no teeth")
