"""What feeds one lane: messages come in from the event loop, are worked on in a thread, and timers are run.

A lane's queue is bounded: when it is full, whoever brings messages waits.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import TypeVar

from connectors.kafka.reader import records_between
from connectors.kafka.wire import Headers
from connectors.log import Stored
from driftwheel.lane import Lane, LaneLost, LaneSettings
from driftwheel.routing import INBOX
from processors.stage import Message
from schemas.errors import Retry
from schemas.topics import BY_NAME

logger = logging.getLogger(__name__)

Answer = TypeVar("Answer")
LOST_SECONDS = 10.0
"""How long a lane that another process has taken waits before it asks for it again: a rebalance tells sooner."""
LEAP_SECONDS = 30.0
"""How long a lane waits for messages that were passed over: whoever brings them goes back at once, or has lost them."""
_BATCH_BYTES = 16 << 20
_SPARE = 20.0
"""A lane begins its next batch after so many times what the last one took, so that load makes batches larger."""
_GATHER_SECONDS = 0.02
"""What comes together is worked on together, also in a lane that has been idle."""


@dataclass(frozen=True, slots=True)
class Feed:
    """What all runners of one stage share.

    ``batch_size`` messages at a time, or what has come when it is time for a batch again: ``linger_seconds`` after the
    last one began, or sooner when that took little. Twice as many are taken in. ``tick_seconds`` bounds how late a
    timer is seen; ``now`` is their clock. ``fail`` is told of a defect.
    """

    lanes: LaneSettings
    batch_size: int
    linger_seconds: float
    tick_seconds: float
    pool: ThreadPoolExecutor
    now: Callable[[], datetime]
    fail: Callable[[], None]


@dataclass(frozen=True, slots=True)
class Arrival:
    """A message on its way to a lane, with its headers as they came.

    ``follows``: from this offset to the message's own the consumer has read and there was no other.
    """

    stored: Stored
    headers: Headers
    follows: int


class Closed(Exception):
    """The lane takes no more messages."""


class LaneRunner:
    """Feeds one lane from the event loop: takes messages in, works on them in a thread, runs the timers."""

    def __init__(self, lane: Lane, feed: Feed) -> None:
        self.lane, self._feed = lane, feed
        self._waiting: deque[Arrival] = deque()
        self._bytes = 0
        self._news, self._space = asyncio.Event(), asyncio.Event()
        self._closed = asyncio.Event()
        self._leaps: dict[str, float] = {}
        self._next_batch = 0.0
        self.open = False
        """Whether the lane is open for work."""
        self._task = asyncio.create_task(self._run(), name=str(lane))

    async def put(self, arrival: Arrival) -> None:
        """Take a message in; waits while the lane has enough, so that its topics pause. Raises Closed."""
        while not self._closed.is_set() and self._full:
            self._space.clear()
            await self._space.wait()
        if self._closed.is_set():
            raise Closed
        self._waiting.append(arrival)
        self._bytes += len(arrival.stored.value)
        self._news.set()

    @property
    def _full(self) -> bool:
        return len(self._waiting) >= 2 * self._feed.batch_size or self._bytes >= _BATCH_BYTES

    async def close(self) -> None:
        """Let go of the lane, once the batch under way is done."""
        self._closed.set()
        self._news.set()
        self._space.set()
        await self._task

    async def _run(self) -> None:
        try:
            while not self._ends:
                try:
                    await self._in_thread(self.lane.open)
                    self.open = True
                    while not self._ends:
                        await self._turn()
                except LaneLost as error:
                    self.open = False
                    if self._ends:
                        break
                    logger.warning("%s", error)
                    with suppress(TimeoutError):
                        await asyncio.wait_for(self._closed.wait(), LOST_SECONDS)
        except Exception:
            logger.exception("%s: a defect; the process ends and what is not committed comes again", self.lane)
            self._feed.fail()
        finally:
            self.open = False
            await self._in_thread(self.lane.close)

    @property
    def _ends(self) -> bool:
        return self._closed.is_set() or self._feed.lanes.stopping.is_set()

    async def _turn(self) -> None:
        if 0 < len(self._waiting) < self._feed.batch_size and not self._full:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._closed.wait(), max(_GATHER_SECONDS, self._next_batch - time.monotonic()))
                return
        self._check_leaps()
        batch = self._take()
        if batch:
            began, now = time.monotonic(), self._feed.now()
            await self._in_thread(lambda: self._work(batch, now))
            took = time.monotonic() - began
            self._next_batch = began + min(self._feed.linger_seconds, _SPARE * took)
            return
        await self._pause(self._feed.tick_seconds)
        now = self._feed.now()
        if not self._waiting and self.lane.wants_tick(now):
            await self._in_thread(lambda: self.lane.tick(now))

    async def _pause(self, seconds: float) -> None:
        """Until there is news, or so long."""
        if not self._waiting and not self._closed.is_set():
            self._news.clear()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._news.wait(), seconds)

    def _take(self) -> list[Arrival]:
        batch = [self._waiting.popleft() for _ in range(min(len(self._waiting), self._feed.batch_size))]
        self._bytes -= sum(len(arrival.stored.value) for arrival in batch)
        self._space.set()
        return batch

    async def _in_thread(self, work: Callable[[], object]) -> None:
        await asyncio.get_running_loop().run_in_executor(self._feed.pool, work)

    # In a thread.

    def _work(self, batch: Sequence[Arrival], now: datetime) -> None:
        messages = [self._message(arrival.stored, arrival.headers) for arrival in self._without_leaps(batch)]
        if messages:
            self.lane.process(messages, now)

    def _without_leaps(self, batch: Sequence[Arrival]) -> list[Arrival]:
        """The batch without messages that came ahead of others, which will come again in their order.

        Around a rebalance a consumer may hand on what it read before and then go back.
        """
        nexts = dict(self.lane.positions)
        kept: list[Arrival] = []
        for arrival in batch:
            topic, offset = arrival.stored.topic, arrival.stored.offset
            expected = nexts.get(topic, 0)
            if arrival.follows > expected and self._records_between(topic, expected, offset):
                if topic not in self._leaps:
                    logger.warning("%s: %s %d came ahead of %d, it will come again", self.lane, topic, offset, expected)
                self._leaps.setdefault(topic, time.monotonic())
                continue
            self._leaps.pop(topic, None)
            nexts[topic] = max(offset + 1, expected)
            kept.append(arrival)
        return kept

    def _check_leaps(self) -> None:
        for topic, since in self._leaps.items():
            if time.monotonic() - since > LEAP_SECONDS:
                at = self.lane.positions.get(topic, 0)
                raise RuntimeError(f"{self.lane}: {topic} has gone on without the records from offset {at} on")

    def _records_between(self, topic: str, first: int, before: int) -> bool:
        kafka = self._feed.lanes.kafka
        name = kafka.inbox(self.lane.stage.name).removeprefix(kafka.prefix) if topic == INBOX else topic
        return self._patiently(lambda: records_between(kafka, name, self.lane.partition, first, before))

    def _message(self, stored: Stored, headers: Headers) -> Message:
        value = stored.value
        if value and stored.topic != INBOX and BY_NAME[stored.topic].record is not None:
            value = self._patiently(lambda: self._feed.lanes.framing.unwrap(stored.topic, stored.value, headers))
        return Message(stored.topic, stored.offset, stored.key, value, stored.time, stored.headers, stored.partition)

    def _patiently(self, ask: Callable[[], Answer]) -> Answer:
        """The answer of a system that may be away for a while. Raises LaneLost when the process stops meanwhile."""
        while not self._feed.lanes.stopping.is_set():
            try:
                return ask()
            except Retry as error:
                logger.warning("%s: %s; it tries again", self.lane, error)
                self._feed.lanes.stopping.wait(1.0)
        raise LaneLost(f"{self.lane}: told to stop")
