"""The embedded engine: the same stages as on Kafka, over the local log, in one process.

Exactly once on one machine: the state, the outputs and the offsets of a batch are one SQLite transaction. Stages that
act on other systems do so outside of it, idempotently, and their result is committed afterwards. Every stage and sink
has a thread of its own and is the only writer of its state, so that batches are worked on side by side and only their
commits queue up. The heavy half of a stage (``prepare``) may run in worker processes, in order.
"""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from multiprocessing import get_context
from typing import Any

from connectors.log import Entry, Stored, entry_of
from connectors.quarantine import Quarantine
from connectors.sink import Sink
from connectors.sqlite_log import SqliteLog
from driftwheel.buffered import BufferedState
from driftwheel.delivery import deliver
from processors.stage import Message, Prepared, Stage
from processors.state import KeyState
from schemas.errors import Reject, Retry
from schemas.events import DeadLetter, Record
from schemas.topics import BY_NAME, Topic

logger = logging.getLogger(__name__)

OnBatch = Callable[[str, int, int, float], None]
"""Called after every batch: stage or sink, entries in, records out, seconds."""


def _ignore(name: str, entries: int, records: int, seconds: float) -> None:
    del name, entries, records, seconds


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """Sizes and pauses. ``workers`` processes run the heavy steps (0: in place).

    ``poll_seconds`` between two looks at what another system still does; ``tick_seconds`` bounds how late a timer is
    seen; ``retry_seconds`` is the first pause after a failure, doubled up to ``retry_limit``; ``patience_seconds`` of
    nothing but failures end a waiting ``drain``. ``kept``: topics that keep their entries for another time than theirs.
    """

    batch_size: int = 500
    sink_batch: int = 5000
    workers: int = 0
    poll_seconds: float = 0.2
    tick_seconds: float = 1.0
    retry_seconds: float = 1.0
    retry_limit: float = 30.0
    patience_seconds: float = 120.0
    trim_every: timedelta = timedelta(minutes=10)
    kept: Mapping[str, timedelta] = field(default_factory=dict[str, timedelta])

    def pause(self, failures: int) -> float:
        """Seconds to wait after so many failures in a row."""
        return min(self.retry_limit, self.retry_seconds * 2 ** min(failures - 1, 20))


class _Workers:
    """Worker processes that hold the heavy stages, each made from its class and its settings."""

    def __init__(self, stages: Sequence[Stage], count: int) -> None:
        heavy = {stage.name: (type(stage), stage.settings) for stage in stages if stage.heavy}
        self._count = count if heavy else 0
        self._pool = ProcessPoolExecutor(count, get_context("spawn"), _make, (heavy,)) if self._count else None

    def prepare(self, stage: Stage, messages: Sequence[Message]) -> list[Prepared]:
        """The stage's ``prepare``, in the workers when it is heavy and there is more than one message."""
        if self._pool is None or not stage.heavy or len(messages) < 2:
            return stage.prepare(messages)
        size = -(-len(messages) // self._count)
        parts = [messages[i : i + size] for i in range(0, len(messages), size)]
        futures: list[Future[list[Prepared]]] = [self._pool.submit(_prepare, stage.name, part) for part in parts]
        return [prepared for future in futures for prepared in future.result()]

    def close(self) -> None:
        if self._pool is not None:
            self._pool.shutdown()


_STAGES: dict[str, Stage] = {}
"""The heavy stages of a worker process."""


def _make(heavy: dict[str, tuple[type[Stage], Any]]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the engine ends its workers
    for name, (stage, settings) in heavy.items():
        _STAGES[name] = stage(settings)


def _prepare(name: str, messages: Sequence[Message]) -> list[Prepared]:
    return _STAGES[name].prepare(messages)


@dataclass(slots=True)
class _Rest:
    """An effect key that waits before its next tick: it polls another system, or that system was away."""

    until: float
    failures: int = 0
    moved: bool = False
    """Its last tick got on with its work: the next one need not wait."""


class Engine:
    """Runs stages and sinks over a log. ``drain`` for lock step, ``start`` and ``stop`` for threads.

    Raises ValueError when two of them have the same name. Without ``quarantine`` the payloads of dead letters are
    not kept.
    """

    def __init__(
        self,
        log: SqliteLog,
        stages: Sequence[Stage],
        sinks: Sequence[Sink],
        clock: Callable[[], datetime],
        settings: EngineSettings | None = None,
        *,
        quarantine: Quarantine | None = None,
        on_batch: OnBatch | None = None,
    ) -> None:
        self._log, self._stages, self._sinks, self._clock = log, tuple(stages), tuple(sinks), clock
        self._settings = settings or EngineSettings()
        self._quarantine = quarantine
        self._on_batch = on_batch or _ignore
        self._workers = _Workers(self._stages, self._settings.workers)
        self._sources: dict[str, tuple[Topic, ...]] = {stage.name: stage.sources for stage in self._stages}
        self._sources |= {sink.name: sink.topics for sink in self._sinks}
        if len(self._sources) != len(self._stages) + len(self._sinks):
            raise ValueError("two stages or sinks have the same name: each is a consumer group of its own")
        self._turns = {name: threading.RLock() for name in self._sources}
        self._rests: dict[tuple[str, str], _Rest] = {}
        self._trouble: dict[str, Exception] = {}
        self._threads: list[threading.Thread] = []
        self._stopping = threading.Event()
        self._failure: BaseException | None = None
        for name, topics in self._sources.items():
            log.join(name, topics)

    # One round of one consumer; each says whether there was anything to do.

    def _run_stage(self, stage: Stage) -> bool:
        with self._turns[stage.name]:
            began = time.perf_counter()
            entries, nexts = self._log.read(stage.name, stage.sources, self._settings.batch_size)
            if not entries:
                return False
            batch = [_message(entry) for entry in entries]
            prepared = self._workers.prepare(stage, batch)
            state = self._state(stage)
            records = stage.apply(batch, prepared, state)
            self._commit(stage.name, self._entries(records, entries), nexts, state)
        self._on_batch(stage.name, len(batch), len(records), time.perf_counter() - began)
        return True

    def _run_timers(self, stage: Stage) -> bool:
        """Tick the keys of a stage that are due. An effect key that is still due afterwards rests."""
        with self._turns[stage.name]:
            now = self._time_at(stage)
            if not stage.effects:
                return bool(self._log.due_keys(stage.name, now, 1)) and self._expire(stage, now)
            keys = [key for key in self._log.due_keys(stage.name, now) if self._rested(stage.name, key)]
            for key in keys:
                self._act(stage, key, now)
            return bool(keys)

    def _time_at(self, stage: Stage) -> datetime:
        """The clock, held back to the oldest entry that has not come through to the stage: backlog goes first."""
        now = self._clock()
        for earlier in self._stages:
            oldest = self._log.oldest_unread(earlier.name, earlier.sources)
            now = now if oldest is None else min(now, oldest)
            if earlier is stage:
                break
        return now

    def _expire(self, stage: Stage, now: datetime, only: str | None = None) -> bool:
        began = time.perf_counter()
        state = self._state(stage, only)
        records = stage.expire(state, now)
        if not records and not state.changes and not stage.effects:
            raise RuntimeError(f"{stage.name}: tick changed nothing of a key that is due, it would be called for ever")
        moved = bool(records or state.changes)
        if moved:
            self._commit(stage.name, self._entries(records, ()), {}, state)
        self._on_batch(stage.name, 0, len(records), time.perf_counter() - began)
        return moved

    def _act(self, stage: Stage, key: str, now: datetime) -> None:
        place = (stage.name, key)
        rest = self._rests.pop(place, _Rest(0.0))
        try:
            moved = self._expire(stage, now, key)
        except Retry as error:
            self._note(stage.name, error)
            failures = rest.failures + 1
            self._rests[place] = _Rest(time.monotonic() + self._settings.pause(failures), failures)
            return
        self._trouble.pop(stage.name, None)
        text = self._log.state(stage.name, key)
        due = None if text is None else KeyState.load(text).due
        if due is not None and due <= now:
            self._rests[place] = _Rest(time.monotonic() + (0 if moved else self._settings.poll_seconds), moved=moved)

    def _rested(self, stage: str, key: str) -> bool:
        rest = self._rests.get((stage, key))
        return rest is None or time.monotonic() >= rest.until

    def _run_sink(self, sink: Sink) -> bool:
        with self._turns[sink.name]:
            began = time.perf_counter()
            entries, nexts = self._log.read(sink.name, sink.topics, self._settings.sink_batch)
            if not entries:
                return False
            dead = deliver(sink, [_message(entry) for entry in entries])
            self._commit(sink.name, self._entries(dead, entries), nexts)
        self._on_batch(sink.name, len(entries), len(dead), time.perf_counter() - began)
        return True

    def _state(self, stage: Stage, only: str | None = None) -> BufferedState:
        """The stage's state; ``only`` narrows what is due to one key."""

        def due(now: datetime) -> list[str]:
            return self._log.due_keys(stage.name, now) if only is None else [only]

        return BufferedState(lambda key: self._log.state(stage.name, key), due)

    def _commit(
        self, consumer: str, entries: Sequence[Entry], nexts: dict[str, int], state: BufferedState | None = None
    ) -> None:
        with self._log.transaction() as transaction:
            for key, put in state.changes.items() if state is not None else ():
                if put is None:
                    transaction.delete_state(consumer, key)
                else:
                    transaction.put_state(consumer, key, *put)
            transaction.append(entries)
            transaction.advance(consumer, nexts)

    def _entries(self, records: Sequence[Record], inputs: Sequence[Stored]) -> list[Entry]:
        now = self._clock()
        payloads = {(entry.topic, entry.offset): entry.value for entry in inputs if BY_NAME[entry.topic].raw}
        return [entry_of(self._quarantined(record, payloads, now), now) for record in records]

    def _quarantined(self, record: Record, payloads: dict[tuple[str, int], bytes], now: datetime) -> Record:
        """A raw entry's dead letter with the address of its payload, which is safe before the letter is."""
        if not isinstance(record, DeadLetter) or self._quarantine is None or record.quarantine:
            return record
        payload = payloads.get((record.topic, record.offset))
        if payload is not None:
            place = self._quarantine.put(record.event_id, record.tenant, payload, now)
        else:  # a letter that is repeated for a later copy of its message
            place = record.event_id if record.event_id in self._quarantine else ""
        return record.model_copy(update={"quarantine": place})

    # Lock step.

    def drain(self, *, wait: bool = False) -> None:
        """Run everything until nothing is left to do at the present clock: the same log gives the same run.

        An effect key that is still due after its tick is not ticked again, nor is a system that is away asked again
        (it is logged, and stands in ``status``), unless ``wait``: then it pauses and goes on until all is done.
        Raises the last Retry after ``patience_seconds`` without any progress but failures.
        """
        self._rests.clear()
        away: set[str] = set()
        failing_since: float | None = None
        while True:
            if self._round(away):
                failing_since = None
                continue
            if not wait or not (self._rests or away):
                return
            if self._trouble:
                failing_since = failing_since or time.monotonic()
                if time.monotonic() - failing_since > self._settings.patience_seconds:
                    raise next(iter(self._trouble.values()))
            if not any(rest.moved for rest in self._rests.values()):
                time.sleep(self._settings.poll_seconds)
            self._rests.clear()
            away.clear()

    def settle(self) -> None:
        """``drain``, with what other systems still do."""
        self.drain(wait=True)

    def _round(self, away: set[str]) -> bool:
        worked = False
        for stage in self._stages:
            while self._run_stage(stage):
                worked = True
            if not stage.effects:
                worked |= self._run_timers(stage)
        for sink in self._sinks:
            worked |= sink.name not in away and self._drain_sink(sink, away)
        if not worked:
            for stage in self._stages:
                worked |= stage.effects and self._drain_effects(stage)
        return worked

    def _drain_sink(self, sink: Sink, away: set[str]) -> bool:
        worked = False
        try:
            while self._run_sink(sink):
                worked = True
        except Retry as error:
            self._note(sink.name, error)
            away.add(sink.name)
        else:
            self._trouble.pop(sink.name, None)
        return worked

    def _drain_effects(self, stage: Stage) -> bool:
        with self._turns[stage.name]:
            now = self._clock()
            places = [(stage.name, key) for key in self._log.due_keys(stage.name, now)]
            places = [place for place in places if place not in self._rests]
            for _, key in places:
                self._act(stage, key, now)
            return any(place not in self._rests or not self._rests[place].failures for place in places)

    # Threads.

    def start(self) -> None:
        """Run every stage and sink in a thread of its own until ``stop``, or until one of them fails."""
        for stage in self._stages:
            self._spawn(stage.name, lambda s=stage: self._turn(s), lambda s=stage: self._until_timer(s))
        for sink in self._sinks:
            self._spawn(sink.name, lambda s=sink: self._run_sink(s), lambda: None)
        self._spawn("trim", self._trim_now_and_then, lambda: None)
        for thread in self._threads:
            thread.start()

    def _spawn(self, name: str, work: Callable[[], bool], patience: Callable[[], float | None]) -> None:
        target = threading.Thread(target=self._loop, args=(name, work, patience), name=f"driftwheel-{name}")
        target.daemon = True
        self._threads.append(target)

    def _turn(self, stage: Stage) -> bool:
        worked = self._run_stage(stage)
        timed = self._run_timers(stage)
        return worked or timed

    def _until_timer(self, stage: Stage) -> float | None:
        due = self._log.next_due(stage.name)
        if due is None:
            return None
        seconds = (due - self._clock()).total_seconds()
        return min(seconds, self._settings.tick_seconds) if seconds > 0 else self._settings.poll_seconds

    def _loop(self, name: str, work: Callable[[], bool], patience: Callable[[], float | None]) -> None:
        failures = 0
        try:
            while not self._stopping.is_set():
                seen = self._log.generation
                try:
                    worked = work()
                except (Retry, Reject) as error:
                    failures += 1
                    self._note(name, error)
                    self._stopping.wait(self._settings.pause(failures))
                    continue
                if failures:
                    failures = 0
                    self._trouble.pop(name, None)
                if not worked and not self._stopping.is_set():
                    self._log.wait(seen, patience())
        except BaseException as error:
            logger.exception("%s failed; the engine stops", name)
            self._failure = self._failure or error
            self._halt()

    def _note(self, name: str, error: Exception) -> None:
        self._trouble[name] = error
        logger.warning("%s: %s; nothing is lost, it tries again", name, error)

    def trim(self) -> None:
        """Drop what is past its retention from log and quarantine; the threads do so by themselves."""
        now = self._clock()
        for topic, lost in self._log.trim(now, self._settings.kept).items():
            logger.error("%s: %d entries passed their retention before every consumer had read them", topic, lost)
        if self._quarantine is not None:
            self._quarantine.purge(now)

    def _trim_now_and_then(self) -> bool:
        self.trim()
        self._stopping.wait(self._settings.trim_every.total_seconds())
        return True

    def _halt(self) -> None:
        self._stopping.set()
        self._log.wake()

    def wait(self, timeout: float | None = None) -> bool:
        """Block until the engine stops or fails, or ``timeout`` seconds passed; whether it has stopped."""
        return self._stopping.wait(timeout)

    def stop(self) -> None:
        """Finish the batches under way, then end. An engine that was stopped is not started again."""
        self._halt()
        for thread in self._threads:
            thread.join()
        self._workers.close()

    @contextmanager
    def paused(self) -> Generator[None]:
        """Nothing is in the middle of a batch while inside: for changes to log, state or quarantine (erasure)."""
        with ExitStack() as stack:
            for turn in self._turns.values():
                stack.enter_context(turn)
            yield

    @property
    def failure(self) -> BaseException | None:
        """The defect that stopped the engine, or None."""
        return self._failure

    def lags(self) -> dict[str, int]:
        """Unread entries by consumer."""
        return self._log.lags()

    def status(self) -> dict[str, Any]:
        """``running``, ``failed`` (text or None), ``lags`` by consumer, ``retrying``: what is away, by consumer."""
        return {
            "running": bool(self._threads) and not self._stopping.is_set(),
            "failed": None if self._failure is None else f"{type(self._failure).__name__}: {self._failure}",
            "lags": self.lags(),
            "retrying": {name: str(error) for name, error in list(self._trouble.items())},
        }


def _message(entry: Stored) -> Message:
    return Message(entry.topic, entry.offset, entry.key, entry.value, entry.time, entry.headers)
