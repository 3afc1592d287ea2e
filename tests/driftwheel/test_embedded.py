from __future__ import annotations

import os
import random
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from connectors.log import Entry, entry_of
from connectors.quarantine import Quarantine
from connectors.sink import MemorySink
from connectors.sqlite_log import SqliteLog, SqliteLogSettings
from driftwheel.embedded import Engine, EngineSettings
from processors.stage import Event, Message, Prepared, Stage, forget
from processors.state import KeyState, MemoryState
from schemas import codec
from schemas.errors import Invalid, Reject, Retry
from schemas.events import DeadLetter, Erasure, LedgerEntry, RawSignal, Record, identity
from schemas.topics import DEAD_LETTERS, ERASURES, LEDGER, SIGNALS_RAW, Topic

T0 = datetime(2026, 1, 1, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
KEY = bytes(range(32))
QUICK = EngineSettings(poll_seconds=0.01, tick_seconds=0.02, retry_seconds=0.01, trim_every=timedelta(hours=1))
LIMIT = 20


def raw(number: int, agent: str = "a", payload: str | None = None) -> RawSignal:
    text = payload or str(number)
    return RawSignal(event_id=identity("raw", str(number)), tenant="t", agent=agent, event_time=T0, payload=text)


def tally(event_id: str, agent: str, count: int) -> LedgerEntry:
    return LedgerEntry(
        event_id=identity("tally", event_id), tenant="t", agent=agent, event_time=T0, entry="accepted", source="x",
        count=count,
    )  # fmt: skip


class Clock:
    def __init__(self) -> None:
        self.now = T0

    def __call__(self) -> datetime:
        return self.now


@dataclass(frozen=True, slots=True)
class TallySettings:
    step: int = 1
    idle: timedelta = MINUTE


class Tally(Stage):
    """Counts per agent; closes an agent that was idle. Its heavy half says in which process it ran."""

    name, sources, emits, heavy = "tally", (SIGNALS_RAW,), (LEDGER,), True

    def __init__(self, settings: TallySettings | None = None) -> None:
        super().__init__(settings or TallySettings())
        self.seen_in: set[str] = set()

    def prepare(self, messages: Sequence[Message]) -> list[Prepared]:
        made = super().prepare(messages)
        for prepared in made:
            if isinstance(prepared, list) and "where" in str(prepared[0].record):
                prepared[0] = Event(prepared[0].key, f"pid {os.getpid()}", prepared[0].origin, prepared[0].record)
        return made

    def step(self, event: Event, state: KeyState) -> Iterable[Record]:
        assert isinstance(event.record, RawSignal)
        if event.record.payload == "poison":
            raise Invalid("poisoned", "it says so", items=2)
        self.seen_in.add(event.event_id)
        state.data["count"] = state.data.get("count", 0) + self.settings.step
        state.due = T0 + self.settings.idle
        yield tally(event.event_id, event.record.agent, state.data["count"])

    def tick(self, key: str, state: KeyState, now: datetime) -> Iterable[Record]:
        yield tally(f"closed {key}", key.partition("/")[2], -state.data["count"])
        forget(state)


class Echo(Stage):
    """Passes tallies on."""

    name, sources, emits, memo_size = "echo", (LEDGER,), (ERASURES,), 0

    def step(self, event: Event, state: KeyState) -> Iterable[Record]:
        assert isinstance(event.record, LedgerEntry)
        yield Erasure(
            event_id=event.event_id, tenant="t", agent=event.record.agent, event_time=T0,
            deleted={"n": event.record.count},
        )  # fmt: skip


class Act(Stage):
    """Asks the world about every erasure until it says yes."""

    name, sources, emits, effects, memo_emits = "act", (ERASURES,), (DEAD_LETTERS,), True, False

    def __init__(self, world: Callable[[str], bool]) -> None:
        super().__init__()
        self.world = world

    def key(self, record: Record) -> str:
        return record.event_id

    def repeat(self, event: Event, state: KeyState, memo: list[Any]) -> Iterable[Record]:
        return ()

    def step(self, event: Event, state: KeyState) -> Iterable[Record]:
        state.data["open"] = True
        state.due = T0
        return ()

    def tick(self, key: str, state: KeyState, now: datetime) -> Iterable[Record]:
        if self.world(key):
            forget(state)
            yield DeadLetter(
                event_id=key, tenant="t", agent="a", event_time=T0, stage="act", topic="x", offset=0, reason="done"
            )


class AwaySink(MemorySink):
    """A sink that is away for its first calls."""

    def __init__(self, away: int = 0, refuses: Callable[[Record], bool] = lambda _: False) -> None:
        super().__init__()
        self.away, self.refuses = away, refuses
        self.topics = (LEDGER, ERASURES)
        self.delivered: list[str] = []

    def write(self, records: Sequence[Record]) -> None:
        if self.away:
            self.away -= 1
            raise Retry("the store is away")
        for record in records:
            if self.refuses(record):
                raise Invalid("refused", "by the sink")
        super().write(records)
        self.delivered += [record.event_id for record in records]


@pytest.fixture
def log(tmp_path: Path) -> Iterator[SqliteLog]:
    made = SqliteLog(tmp_path / "log", SqliteLogSettings(KEY))
    yield made
    made.close()


def feed(log: SqliteLog, records: Iterable[Record], time: datetime = T0) -> None:
    log.append([entry_of(record, time) for record in records])


def found(log: SqliteLog, topic: Topic) -> list[Any]:
    return [codec.decode(entry.value, topic.record) for entry in log.scan(topic)]


def test_a_pipeline_drains_into_its_sink(log: SqliteLog) -> None:
    sink, batches = AwaySink(), list[tuple[str, int, int]]()
    engine = Engine(log, [Tally(), Echo()], [sink], Clock(), on_batch=lambda n, i, o, _: batches.append((n, i, o)))
    feed(log, [raw(n, "ab"[n % 2]) for n in range(10)])
    engine.drain()
    assert sorted((r.agent, r.deleted["n"]) for r in found(log, ERASURES)) == [
        (a, n) for a in "ab" for n in range(1, 6)
    ]
    assert len(sink.records) == 20
    assert batches == [("tally", 10, 10), ("echo", 10, 10), ("memory", 20, 0)]
    assert engine.status() == {
        "running": False, "failed": None, "lags": {"tally": 0, "echo": 0, "memory": 0}, "retrying": {},
    }  # fmt: skip


@pytest.mark.parametrize("sizes", [[1], [7], [500], [1, 50, 3]])
def test_any_batches_give_what_memory_gives_one_by_one(log: SqliteLog, sizes: list[int]) -> None:
    draw = random.Random(7)
    numbers = [draw.randrange(60) for _ in range(100)]  # every second one is a duplicate
    records = [raw(n, "abc"[n % 3], "poison" if n % 11 == 0 else None) for n in numbers]
    stage, store, expected = Tally(), MemoryState(), list[Record]()
    for offset, record in enumerate(records):
        message = Message("agent.signals.raw", offset, "", codec.encode(record), T0)
        expected += stage.process([message], store)
    feed(log, records)
    for size in sizes * 200:
        Engine(log, [Tally()], [], Clock(), EngineSettings(batch_size=size))._run_stage(Tally())
    letters = [r for r in expected if isinstance(r, DeadLetter)]
    assert found(log, LEDGER) == [r for r in expected if isinstance(r, LedgerEntry)]
    assert found(log, DEAD_LETTERS) == letters
    assert letters
    assert {key: log.state("tally", key) for key, _ in store} == {key: state.dump() for key, state in store}


def test_workers_give_what_inline_gives_in_order_and_other_processes_do_it(tmp_path: Path) -> None:
    outputs: list[list[Any]] = []
    for workers in (0, 2):
        log = SqliteLog(tmp_path / str(workers), SqliteLogSettings(KEY))
        stage = Tally(TallySettings(step=3))
        engine = Engine(log, [stage], [], Clock(), EngineSettings(batch_size=20, workers=workers))
        feed(log, [raw(n, "ab"[n % 2], "poison" if n == 5 else None) for n in range(50)])
        engine.drain()
        outputs.append(found(log, LEDGER) + found(log, DEAD_LETTERS))
        feed(log, [raw(n, payload="where") for n in range(50, 60)])
        engine.drain()
        where = {event_id for event_id in stage.seen_in if event_id.startswith("pid")}
        assert (where == {f"pid {os.getpid()}"}) == (workers == 0)
        engine.stop()
        log.close()
    assert outputs[0] == outputs[1]
    assert outputs[0][0].count == 3, "the workers' stage has the settings of ours"


def test_timers_tick_at_the_clock_and_forgotten_keys_leave_nothing(log: SqliteLog) -> None:
    clock = Clock()
    engine = Engine(log, [Tally()], [], clock)
    feed(log, [raw(n, "ab"[n % 2]) for n in range(5)])
    engine.drain()
    assert len(found(log, LEDGER)) == 5
    clock.now = T0 + MINUTE
    engine.drain()
    assert [(r.agent, r.count) for r in found(log, LEDGER)[5:]] == [("a", -3), ("b", -2)]
    assert log.scan(LEDGER)[-1].time == clock.now
    assert "keys.tally" not in log.stats()


def test_timers_wait_for_the_backlog(log: SqliteLog) -> None:
    clock, stage = Clock(), Tally()
    engine = Engine(log, [stage], [], clock)
    feed(log, [raw(0)])
    engine.drain()
    feed(log, [raw(1)], T0 + MINUTE / 2)
    clock.now = T0 + 2 * MINUTE
    assert not engine._run_timers(stage), "what was accepted half a minute in comes first"
    engine.drain()
    assert [r.count for r in found(log, LEDGER)] == [1, 2, -2]


class Stuck(Tally):
    name = "stuck"

    def tick(self, key: str, state: KeyState, now: datetime) -> Iterable[Record]:
        return ()


def test_a_timer_that_never_moves_is_a_defect_and_no_endless_loop(log: SqliteLog) -> None:
    clock = Clock()
    engine = Engine(log, [Stuck()], [], clock)
    feed(log, [raw(0)])
    engine.drain()
    clock.now = T0 + MINUTE
    with pytest.raises(RuntimeError, match="stuck: tick changed nothing"):
        engine.drain()


def test_a_dead_letter_from_a_raw_topic_keeps_its_payload(log: SqliteLog, tmp_path: Path) -> None:
    quarantine = Quarantine(tmp_path / "q", KEY)
    engine = Engine(log, [Tally()], [], Clock(), quarantine=quarantine)
    log.append([Entry("agent.signals.raw", "k", b"no record", T0, {"tenant": "acme"})])
    feed(log, [raw(1, payload="poison"), raw(2)])
    engine.drain()
    first, second = found(log, DEAD_LETTERS)
    assert (first.tenant, first.reason, first.offset, second.items) == ("acme", "unknown_schema", 0, 2)
    assert quarantine.read(first.quarantine) == b"no record"
    assert quarantine.read(second.quarantine) == codec.encode(raw(1, payload="poison"))
    assert len(found(log, LEDGER)) == 1, "their neighbour passed"
    feed(log, [raw(1, payload="poison")])
    engine.drain()
    assert found(log, DEAD_LETTERS)[2] == second, "a repeated letter names the payload too"


def test_a_batch_whose_payload_cannot_be_kept_is_not_committed(log: SqliteLog, tmp_path: Path) -> None:
    quarantine = Quarantine(tmp_path / "q", KEY)
    engine = Engine(log, [Tally()], [], Clock(), quarantine=quarantine)
    (tmp_path / "q").rmdir()
    feed(log, [raw(0), raw(1, payload="poison")])
    with pytest.raises(Retry, match="cannot be written"):
        engine.drain()
    assert (engine.lags(), log.scan(LEDGER), log.state("tally", "t/a")) == ({"tally": 2}, [], None)
    (tmp_path / "q").mkdir()
    engine.drain()
    assert (len(log.scan(LEDGER)), len(log.scan(DEAD_LETTERS))) == (1, 1)


def test_a_defect_leaves_the_batch_uncommitted(log: SqliteLog) -> None:
    engine = Engine(log, [Tally(), Broken()], [], Clock())
    feed(log, [raw(n) for n in range(3)])
    with pytest.raises(ZeroDivisionError):
        engine.drain()
    assert engine.lags() == {"tally": 0, "broken": 3}
    assert (log.scan(ERASURES), log.state("broken", "t/a")) == ([], None)


class Broken(Stage):
    name, sources, emits = "broken", (LEDGER,), (ERASURES,)

    def step(self, event: Event, state: KeyState) -> Iterable[Record]:
        state.data["seen"] = state.data.get("seen", 0) + 1
        if state.data["seen"] == 3:
            raise ZeroDivisionError
        yield Erasure(event_id=event.event_id, tenant="t", agent="a", event_time=T0)


def test_a_sink_that_is_away_gets_everything_later(log: SqliteLog) -> None:
    sink = AwaySink(away=2)
    engine = Engine(log, [Tally()], [sink], Clock(), QUICK)
    feed(log, [raw(n) for n in range(3)])
    engine.drain()
    assert engine.status()["retrying"] == {"memory": "the store is away"}
    assert engine.lags() == {"tally": 0, "memory": 3}
    engine.drain(wait=True)
    assert (len(sink.records), engine.lags()["memory"], engine.status()["retrying"]) == (3, 0, {})


def test_a_waiting_drain_gives_up_when_there_is_nothing_but_failure(log: SqliteLog) -> None:
    sink = AwaySink(away=10**9)
    engine = Engine(log, [Tally()], [sink], Clock(), EngineSettings(poll_seconds=0.001, patience_seconds=0.02))
    feed(log, [raw(0)])
    with pytest.raises(Retry, match="the store is away"):
        engine.drain(wait=True)
    assert engine.lags()["memory"] == 1


def test_a_sink_that_refuses_records_still_gets_their_neighbours(log: SqliteLog) -> None:
    sink = AwaySink(refuses=lambda record: isinstance(record, LedgerEntry) and record.count in {3, 7})
    engine = Engine(log, [Tally()], [sink], Clock())
    feed(log, [raw(n) for n in range(10)])
    log.append([Entry("flywheel.ledger", "k", b"garbage", T0)])
    engine.drain()
    assert len(sink.records) == 8
    assert sorted((letter.reason, letter.stage) for letter in found(log, DEAD_LETTERS)) == [
        ("refused", "memory"), ("refused", "memory"), ("unknown_schema", "memory"),
    ]  # fmt: skip
    assert engine.lags()["memory"] == 0


def answers(*given: bool | Exception) -> Callable[[str], bool]:
    """A world that gives these answers in turn."""
    left = list(given)

    def world(key: str) -> bool:
        answer = left.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    return world


def test_effects_act_outside_of_the_transaction_and_poll_until_done(log: SqliteLog) -> None:
    asked: list[str] = []

    def world(key: str) -> bool:
        with log.transaction():  # would wait for ever inside of one
            asked.append(key)
        return len(asked) == 3

    engine = Engine(log, [Tally(), Echo(), Act(world)], [], Clock(), QUICK)
    feed(log, [raw(0)])
    engine.drain()
    engine.drain()
    assert (len(asked), log.scan(DEAD_LETTERS)) == (2, []), "one look per drain, then it returns"
    engine.drain(wait=True)
    assert (len(asked), len(log.scan(DEAD_LETTERS))) == (3, 1)
    assert "keys.act" not in log.stats(), "a finished key is forgotten"


class Steps(Act):
    """Work in three steps, each kept before the next."""

    def tick(self, key: str, state: KeyState, now: datetime) -> Iterable[Record]:
        state.data["done"] = state.data.get("done", 0) + 1
        if state.data["done"] == 3:
            forget(state)
        return ()


def test_an_effect_that_gets_on_is_not_kept_waiting(log: SqliteLog, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Engine(log, [Tally(), Echo(), Steps(answers())], [], Clock(), QUICK)
    monkeypatch.setattr("driftwheel.embedded.time.sleep", lambda _: pytest.fail("it waited"))
    feed(log, [raw(0)])
    engine.drain()
    assert KeyState.load(log.state("act", log.due_keys("act", T0)[0]) or "").data["done"] == 1
    engine.drain(wait=True)
    assert "keys.act" not in log.stats()


def test_an_effect_whose_system_is_away_keeps_its_state_and_tries_again(log: SqliteLog) -> None:
    engine = Engine(log, [Tally(), Echo(), Act(answers(Retry("nemo is away"), False, True))], [], Clock(), QUICK)
    feed(log, [raw(0)])
    engine.drain()
    assert engine.status()["retrying"] == {"act": "nemo is away"}
    assert log.due_keys("act", T0)
    engine.drain(wait=True)
    assert (len(log.scan(DEAD_LETTERS)), engine.status()["retrying"]) == (1, {})


def test_threads_do_the_same_work(log: SqliteLog) -> None:
    clock, sink = Clock(), AwaySink(away=1)
    world = answers(*([Retry("away"), False] + [True] * 41))
    engine = Engine(log, [Tally(), Echo(), Act(world)], [sink], clock, QUICK)
    engine.start()
    for n in range(40):
        feed(log, [raw(n)])
    until(lambda: len(log.scan(DEAD_LETTERS)) == 40)
    clock.now = T0 + MINUTE
    until(lambda: len(sink.records) == 82 and set(engine.lags().values()) == {0})
    assert engine.status()["running"]
    engine.stop()
    assert (engine.failure, engine.status()["running"]) == (None, False)
    assert [r.count for r in found(log, LEDGER)] == [*range(1, 41), -40]


def test_a_defect_in_a_thread_stops_the_engine_and_shows(log: SqliteLog, caplog: pytest.LogCaptureFixture) -> None:
    engine = Engine(log, [Tally(), Broken()], [], Clock(), QUICK)
    engine.start()
    feed(log, [raw(n) for n in range(3)])
    assert engine.wait(LIMIT)
    engine.stop()
    assert isinstance(engine.failure, ZeroDivisionError)
    assert engine.status()["failed"] == "ZeroDivisionError: "
    assert "broken failed; the engine stops" in caplog.text


def test_a_full_disk_stops_nothing_and_work_goes_on_when_there_is_space(tmp_path: Path) -> None:
    log = SqliteLog(tmp_path, SqliteLogSettings(KEY, max_pages=60))
    engine = Engine(log, [Tally()], [], Clock(), QUICK)
    full = False
    for n in range(1000):
        try:
            feed(log, [raw(n, payload="x" * 2000)])
        except Reject:
            full = True
            break
    assert full
    engine.start()
    until(lambda: "full" in engine.status()["retrying"].get("tally", ""))
    log._writer.execute("PRAGMA max_page_count = 100000")
    until(lambda: engine.lags()["tally"] == 0)
    engine.stop()
    assert engine.failure is None
    assert [r.count for r in found(log, LEDGER)] == list(range(1, n + 1))
    log.close()


def test_while_paused_nothing_moves(log: SqliteLog) -> None:
    engine = Engine(log, [Tally()], [], Clock(), QUICK)
    engine.start()
    with engine.paused():
        feed(log, [raw(0)])
        threading.Event().wait(0.1)
        assert log.scan(LEDGER) == []
        log.delete(SIGNALS_RAW, [0])
        feed(log, [raw(1)])
    until(lambda: len(log.scan(LEDGER)) == 1)
    engine.stop()
    assert found(log, LEDGER)[0].event_id == tally(raw(1).event_id, "a", 1).event_id


def test_names_are_unique(log: SqliteLog) -> None:
    with pytest.raises(ValueError, match="the same name"):
        Engine(log, [Tally(), Tally()], [], Clock())


def test_trim_drops_what_is_old(log: SqliteLog, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    quarantine, clock = Quarantine(tmp_path / "q", KEY), Clock()
    engine = Engine(log, [Tally()], [], clock, quarantine=quarantine)
    feed(log, [raw(0, payload="poison")])
    engine.drain()
    feed(log, [raw(1)])
    clock.now += timedelta(days=31)
    engine.trim()
    assert (log.scan(SIGNALS_RAW), list((tmp_path / "q").iterdir())) == ([], [])
    assert "agent.signals.raw: 1 entries passed their retention before every consumer had read them" in caplog.text


def until(true: Callable[[], bool]) -> None:
    """Wait for something that happens in another thread."""
    pause = threading.Event()
    for _ in range(LIMIT * 200):
        if true():
            return
        pause.wait(0.005)
    raise AssertionError("it did not happen in time")
