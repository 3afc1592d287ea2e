"""A lane: one stage on one partition of its topics, exactly once.

All that a batch causes (output records, the stage's state, where the inputs go on) is one Kafka transaction, so a crash
at any instant leaves either all of it or nothing. Where a lane goes on is read from its own state, never from the
consumer group: a message that comes again is known by its offset and passed over. A lane that was taken over by another
process is refused by the brokers and stops.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Protocol

from confluent_kafka import KafkaException

from connectors.kafka.settings import KafkaSettings
from connectors.kafka.state import POSITIONS, Table, recover
from connectors.kafka.transactions import Effects, Failed, Fenced, Placed, Transactions
from connectors.kafka.wire import Framing
from connectors.log import Entry, entry_of
from driftwheel.buffered import BufferedState
from driftwheel.orders import carry_out, is_order
from driftwheel.routing import INBOX, arrive, dispatch
from driftwheel.timers import Timers
from processors.stage import Message, Stage, is_routed
from processors.state import due_of
from schemas.errors import Retry
from schemas.events import DeadLetter, Record
from schemas.topics import BY_NAME

logger = logging.getLogger(__name__)

_PAUSE_LIMIT = 15.0

OnBatch = Callable[[str, int, Sequence[Record], float], None]
"""Called after every commit: stage, messages in, records out, seconds."""


class Seal(Protocol):
    """The quarantine: the payload of a dead letter as an entry that only the key's owner can read."""

    def entry(self, name: str, tenant: str, payload: bytes, now: datetime) -> Entry:
        """The entry that keeps a tenant's ``payload`` under ``name``."""
        ...


class LaneLost(Exception):
    """The lane has another owner now."""


@dataclass(frozen=True, slots=True)
class LaneSettings:
    """What all lanes of a process share. ``folder`` holds their tables; without ``seal`` no payload is kept."""

    kafka: KafkaSettings
    folder: Path
    framing: Framing
    clock: Callable[[], datetime]
    seal: Seal | None
    on_batch: OnBatch
    stopping: threading.Event


class Lane:
    """(``stage``, ``partition``). One thread at a time may use it; ``open`` before anything else.

    ``turn`` is shared by the lanes of one stage, which computes for one of them at a time.
    """

    def __init__(self, stage: Stage, partition: int, settings: LaneSettings, turn: threading.Lock) -> None:
        self.stage, self.partition = stage, partition
        self._settings, self._turn = settings, turn
        self._routed = is_routed(stage)
        self._timers = Timers(lambda _: iter(()))
        self.positions: dict[str, int] = {}
        self._table: Table | None = None
        self._transactions: Transactions | None = None

    # Opening.

    def open(self) -> None:
        """Become the owner and bring the table up to date. Pauses and tries again while the brokers are away.

        Raises LaneLost when the process is told to stop meanwhile.
        """
        failures = 0
        while not self._settings.stopping.is_set():
            try:
                self._open()
            except (KafkaException, Retry) as error:
                failures += 1
                logger.warning("%s: cannot be opened, it tries again: %s", self, error)
                self.close()
                self._settings.stopping.wait(min(_PAUSE_LIMIT, 0.5 * 2.0 ** min(failures, 8)))
            else:
                return
        raise LaneLost(f"{self}: told to stop")

    def _open(self) -> None:
        settings, name = self._settings, self.stage.name
        self._transactions = Transactions(settings.kafka, name, self.partition, settings.framing)
        self._table = Table(settings.folder / name / str(self.partition))
        count = recover(settings.kafka, name, self.partition, self._table, due_of, self._check_stop)
        self.positions = self._table.positions
        self._timers = Timers(self._table.timers)
        logger.info("%s: open, %d records of state read", self, count)

    def _check_stop(self) -> None:
        if self._settings.stopping.is_set():
            raise LaneLost(f"{self}: told to stop")

    def close(self) -> None:
        """Let go of table and producer; what is not committed will be worked on again."""
        if self._transactions is not None:
            self._transactions.close()
            self._transactions = None
        if self._table is not None:
            self._table.close()
            self._table = None

    def __str__(self) -> str:
        return f"{self.stage.name}/{self.partition}"

    # Working.

    def process(self, messages: Sequence[Message], now: datetime | None = None) -> None:
        """Work on messages, in order within each topic, and commit all that follows. Raises LaneLost.

        With ``now``, the timers that are due then run after the messages, in the same transaction. What any other
        exception says is a defect: nothing was committed.
        """
        self._again(lambda: self._process(messages, now))

    def tick(self, now: datetime, only: str | None = None) -> bool:
        """Run the timers that are due at ``now`` (``only`` one key's); whether anything changed. Raises LaneLost."""
        return self._again(lambda: self._tick(now, only))

    def due(self, now: datetime) -> list[str]:
        """Keys whose timer has run out, earliest first, some at a time."""
        return self._timers.due(now)

    def count_due(self, now: datetime) -> int:
        """How many timers have run out, as far as is known; from any thread."""
        return self._timers.count(now)

    def wants_tick(self, now: datetime) -> bool:
        """Whether ``tick`` has anything to do."""
        return self._timers.wants(now)

    def _again(self, work: Callable[[], bool]) -> bool:
        while True:
            try:
                return work()
            except Fenced as error:
                self.close()
                raise LaneLost(f"{self}: another process has it") from error
            except Retry as error:
                self._check_stop()
                logger.warning("%s: %s; it tries again", self, error)
                self._settings.stopping.wait(1.0)
            except Failed as error:
                logger.warning("%s: a transaction failed, it is looked up and done again: %s", self, error)
                self.close()
                self.open()

    def _process(self, messages: Sequence[Message], now: datetime | None) -> bool:
        began = time.perf_counter()
        fresh, nexts = self._fresh(messages)
        if not fresh:
            return False
        keys = [] if now is None else self._timers.due(now)
        state = self._state(keys)
        with self._turn:
            records, placed = self._work([message for message in fresh if not _aside(message)], state)
            records += self._erase([message for message in fresh if _orders(message)], state)
            if now is not None and keys:
                records += self.stage.expire(state, now)
        self._commit(state, self._entries(records, fresh), placed, nexts)
        self._settings.on_batch(self.stage.name, len(fresh), records, time.perf_counter() - began)
        return True

    def _fresh(self, messages: Sequence[Message]) -> tuple[list[Message], dict[str, int]]:
        """The messages without those that come again, also within the batch, and where their topics go on."""
        fresh, nexts = list[Message](), dict[str, int]()
        for message in messages:
            if message.offset >= nexts.get(message.topic, self.positions.get(message.topic, 0)):
                fresh.append(message)
                nexts[message.topic] = message.offset + 1
        return fresh, nexts

    def _work(self, messages: list[Message], state: BufferedState) -> tuple[list[Record], list[Placed]]:
        stage = self.stage
        if not self._routed:
            return stage.apply(messages, stage.prepare(messages), state), []
        records, parcels = dispatch(
            stage, [message for message in messages if message.topic != INBOX], self._settings.kafka.partitions
        )
        inbox = self._settings.kafka.inbox(stage.name)
        placed = [Placed(inbox, parcel.partition, b"", parcel.value) for parcel in parcels]
        return records + arrive(stage, [message for message in messages if message.topic == INBOX], state), placed

    def _erase(self, orders: Sequence[Message], state: BufferedState) -> list[Record]:
        """Erasures come after the batch's events: what of those is the person's goes as well."""
        assert self._table is not None  # noqa: S101  # its state was read from it; the type checker cannot know
        return [record for order in orders for record in carry_out(self.stage, order, state, self._table.items())]

    def _tick(self, now: datetime, only: str | None) -> bool:
        began = time.perf_counter()
        keys = self._timers.due(now) if only is None else [only]
        if not keys:
            return False
        state = self._state(keys)
        with self._turn:
            records = self.stage.expire(state, now)
        if not records and not state.changes:
            if self.stage.effects:
                return False
            raise RuntimeError(f"{self}: tick changed nothing of a key that is due, it would be called for ever")
        self._commit(state, self._entries(records, ()), [], {})
        self._settings.on_batch(self.stage.name, 0, records, time.perf_counter() - began)
        return True

    def _state(self, due: Sequence[str] = ()) -> BufferedState:
        table = self._table
        if table is None:
            raise RuntimeError(f"{self} is not open")
        return BufferedState(table.get, lambda _: list(due))

    def _entries(self, records: Sequence[Record], inputs: Sequence[Message]) -> list[Entry]:
        now, seal = self._settings.clock(), self._settings.seal
        raw = {
            (message.topic, message.partition, message.offset): message.value
            for message in inputs
            if message.topic != INBOX and BY_NAME[message.topic].raw
        }
        entries: list[Entry] = []
        for record in records:
            kept = record
            if isinstance(record, DeadLetter) and seal is not None:
                payload = raw.get((record.topic, record.partition, record.offset))
                if payload is not None:
                    entries.append(seal.entry(record.event_id, record.tenant, payload, now))
                    kept = record.model_copy(update={"quarantine": record.event_id})
            entries.append(entry_of(kept, now))
        return entries

    def _commit(
        self, state: BufferedState, entries: Sequence[Entry], placed: Sequence[Placed], nexts: Mapping[str, int]
    ) -> None:
        table, transactions, kafka = self._table, self._transactions, self._settings.kafka
        if table is None or transactions is None:
            raise RuntimeError(f"{self} is not open")
        changes = dict(state.changes)
        positions = {**self.positions, **nexts}
        if nexts:
            changes[POSITIONS] = (json.dumps(positions, sort_keys=True), None)
        offsets = {kafka.inbox(self.stage.name) if t == INBOX else kafka.topic(t): at for t, at in nexts.items()}
        texts = {key: None if put is None else put[0] for key, put in changes.items()}
        end = transactions.commit(Effects(entries, placed, texts, offsets))
        if changes:
            table.write(changes, end)
        self.positions = positions
        for key, put in state.changes.items():
            self._timers.set(key, None if put is None else put[1])


def _aside(message: Message) -> bool:
    return _orders(message) or _deletes(message)


def _orders(message: Message) -> bool:
    return message.topic == INBOX and is_order(message)


def _deletes(message: Message) -> bool:
    """Whether a message takes back what a compacted topic said before."""
    return not message.value and message.topic != INBOX and BY_NAME[message.topic].compacted
