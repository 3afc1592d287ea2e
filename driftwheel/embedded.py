"""The embedded engine: the same stages as on Kafka, over the local log, in one process.

Exactly once on one machine: what a batch reads, its state and its outputs are one SQLite transaction. Stages that act
on other systems do so outside of it, idempotently, and their result is committed afterwards. Pure stages run side by
side, one thread each; the heavy half of a stage (``prepare``) may run in worker processes, in order.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timedelta
from multiprocessing import get_context
from typing import Any

from connectors.log import Entry, entry_of
from connectors.quarantine import Quarantine
from connectors.sink import Sink
from connectors.sqlite_log import SqliteLog, Stored, Transaction
from processors.stage import Message, Prepared, Stage, dead_letter
from processors.state import KeyState
from schemas import codec
from schemas.errors import Invalid, Retry
from schemas.events import DeadLetter, Record
from schemas.topics import BY_NAME

logger = logging.getLogger(__name__)

OnBatch = Callable[[str, int, int, float], None]


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """``workers`` processes for heavy steps (0: in place); ``poll_seconds`` bounds how late a timer is seen."""

    batch_size: int = 500
    sink_batch: int = 5000
    workers: int = 0
    poll_seconds: float = 0.2
    retry_seconds: float = 1.0
    trim_every: timedelta = timedelta(minutes=10)


class TransactionState:
    """The StateStore of one stage inside one transaction."""

    def __init__(self, transaction: Transaction, stage: str) -> None:
        self._transaction, self._stage = transaction, stage

    def get(self, key: str) -> KeyState | None:
        """See StateStore."""
        text = self._transaction.get_state(self._stage, key)
        return None if text is None else KeyState.load(text)

    def put(self, key: str, state: KeyState) -> None:
        """See StateStore."""
        self._transaction.put_state(self._stage, key, state.dump(), state.due)

    def delete(self, key: str) -> None:
        """See StateStore."""
        self._transaction.delete_state(self._stage, key)

    def due(self, now: datetime) -> list[str]:
        """See StateStore."""
        return self._transaction.due_keys(self._stage, now)


class _Workers:
    """Worker processes that hold the heavy stages, made once each."""

    def __init__(self, stages: Sequence[Stage], count: int) -> None:
        heavy = {stage.name: (type(stage), stage.settings) for stage in stages if stage.heavy}
        self._count = count if heavy else 0
        self._pool = (
            ProcessPoolExecutor(count, get_context("spawn"), _make_stages, (heavy,)) if self._count else None
        )

    def prepare(self, stage: Stage, messages: Sequence[Message]) -> list[Prepared]:
        """The stage's ``prepare``, in the workers when it is heavy and the batch worth splitting."""
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


def _make_stages(heavy: dict[str, tuple[type[Stage], Any]]) -> None:
    for name, (stage, settings) in heavy.items():
        _STAGES[name] = stage(settings)


def _prepare(name: str, messages: Sequence[Message]) -> list[Prepared]:
    return _STAGES[name].prepare(messages)


class Engine:
    """Runs stages and sinks over a log. ``drain`` for lock step, ``start`` and ``stop`` for threads."""

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
        self._on_batch = on_batch or (lambda _stage, _in, _out, _seconds: None)
        self._workers = _Workers(self._stages, self._settings.workers)
        self._news = threading.Condition()
        self._stopping = threading.Event()
        self._threads: list[threading.Thread] = []
        self._failure: BaseException | None = None
        self._trimmed: datetime | None = None
        for stage in self._stages:
            log.join(stage.name, stage.sources)
        for sink in self._sinks:
            log.join(sink.name, sink.topics)

    # One round of one consumer: True when it did something.

    def _run_stage(self, stage: Stage) -> bool:
        entries, nexts = self._log.read(stage.name, stage.sources, self._settings.batch_size)
        if not entries:
            return False
        began = time.perf_counter()
        batch = [Message(e.topic, e.offset, e.key, e.value, e.time, e.headers) for e in entries]
        prepared = self._workers.prepare(stage, batch)
        with self._log.transaction() as transaction:
            records = stage.apply(batch, prepared, TransactionState(transaction, stage.name))
            transaction.append(self._entries(records, entries))
            transaction.advance(stage.name, nexts)
        self._on_batch(stage.name, len(batch), len(records), time.perf_counter() - began)
        self._wake()
        return True

    def _run_timers(self, stage: Stage) -> bool:
        now = self._clock()
        keys = self._log.due_keys(stage.name, now)
        if not keys:
            return False
        if stage.effects:
            return any([self._act(stage, key, now) for key in keys])
        with self._log.transaction() as transaction:
            records = stage.expire(TransactionState(transaction, stage.name), now)
            transaction.append(self._entries(records, ()))
        self._wake()
        return True

    def _act(self, stage: Stage, key: str, now: datetime) -> bool:
        text = self._log.state(stage.name, key)
        if text is None:
            return False
        state = KeyState.load(text)
        try:
            records = list(stage.tick(key, state, now))
        except Retry as error:
            logger.warning("%s: %s; trying again", stage.name, error)
            return False
        with self._log.transaction() as transaction:
            TransactionState(transaction, stage.name).put(key, state)
            transaction.append(self._entries(records, ()))
        self._wake()
        return True

    def _run_sink(self, sink: Sink) -> bool:
        entries, nexts = self._log.read(sink.name, sink.topics, self._settings.sink_batch)
        if not entries:
            return False
        records: list[Record] = []
        dead: list[DeadLetter] = []
        for entry in entries:
            try:
                records.append(codec.decode(entry.value, BY_NAME[entry.topic].record))
            except Invalid as error:
                dead.append(dead_letter(sink.name, _message(entry), error))
        sink.write(records)
        with self._log.transaction() as transaction:
            transaction.append(self._entries(dead, entries))
            transaction.advance(sink.name, nexts)
        return True

    def _entries(self, records: Sequence[Record], inputs: Sequence[Stored]) -> list[Entry]:
        now = self._clock()
        payloads = {(entry.topic, entry.offset): entry.value for entry in inputs}
        out: list[Entry] = []
        for record in records:
            if isinstance(record, DeadLetter) and self._quarantine is not None:
                payload = payloads.get((record.topic, record.offset))
                if payload is not None and BY_NAME[record.topic].raw:
                    place = self._quarantine.put(record.event_id, payload, now)
                    record = record.model_copy(update={"quarantine": place})  # noqa: PLW2901  # the same letter, addressed
            out.append(entry_of(record, now))
        return out

    # Lock step.

    def drain(self, *, wait: bool = False) -> None:
        """Run everything until nothing is left to do at the present clock.

        With ``wait`` it also waits for what other systems still do (a training job that is polled).
        """
        while True:
            worked = False
            for stage in self._stages:
                while self._run_stage(stage):
                    worked = True
                if not stage.effects:
                    worked |= self._run_timers(stage)
            for sink in self._sinks:
                while self._run_sink(sink):
                    worked = True
            if worked:
                continue
            if not self._drain_effects(wait):
                return

    def _drain_effects(self, wait: bool) -> bool:
        acted = False
        for stage in self._stages:
            if stage.effects:
                acted |= self._run_timers(stage)
        if acted:
            return True
        now = self._clock()
        if wait and any(stage.effects and self._log.due_keys(stage.name, now) for stage in self._stages):
            time.sleep(self._settings.poll_seconds)
            return True
        return False

    # Threads.

    def start(self) -> None:
        """Run every stage and sink in a thread of its own until ``stop``."""
        loops: list[tuple[str, Callable[[], bool]]] = []
        for stage in self._stages:
            loops.append((stage.name, lambda s=stage: self._run_stage(s) | self._run_timers(s)))
        loops += [(sink.name, lambda s=sink: self._run_sink(s)) for sink in self._sinks]
        loops.append(("trim", self._trim))
        for name, step in loops:
            thread = threading.Thread(target=self._loop, args=(name, step), name=f"driftwheel-{name}", daemon=True)
            self._threads.append(thread)
            thread.start()

    def _loop(self, name: str, step: Callable[[], bool]) -> None:
        while not self._stopping.is_set():
            try:
                worked = step()
            except Retry as error:
                logger.warning("%s: %s; trying again", name, error)
                self._stopping.wait(self._settings.retry_seconds)
                continue
            except BaseException as error:
                logger.exception("%s failed; the engine stops", name)
                self._failure = error
                self._stopping.set()
                self._wake()
                raise
            if not worked:
                with self._news:
                    self._news.wait(self._settings.poll_seconds)

    def _trim(self) -> bool:
        now = self._clock()
        if self._trimmed is None or now - self._trimmed >= self._settings.trim_every:
            self._trimmed = now
            for topic, lost in self._log.trim(now).items():
                logger.error("%s: %d entries passed their retention before every consumer had read them", topic, lost)
        return False

    def _wake(self) -> None:
        with self._news:
            self._news.notify_all()

    def stop(self) -> None:
        """Finish the batches under way, then end."""
        self._stopping.set()
        self._wake()
        for thread in self._threads:
            thread.join()
        self._workers.close()

    @property
    def failure(self) -> BaseException | None:
        """The defect that ended the engine, or None."""
        return self._failure

    def lags(self) -> dict[str, int]:
        """Unread entries by consumer."""
        return self._log.lags()


def _message(entry: Stored) -> Message:
    return Message(entry.topic, entry.offset, entry.key, entry.value, entry.time, entry.headers)
