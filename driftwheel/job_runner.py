"""The job-runner: stages that act on other systems, over Kafka, on confluent-kafka alone.

``step`` is a transaction like any lane's: a trigger is consumed and its job event produced together. ``tick`` acts on
the other system (idempotently, with what was made noted in the state) and its result is committed afterwards. A system
that is away is asked again later; nothing is trained twice, whoever dies when.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, cast

from confluent_kafka import Consumer, KafkaError, TopicPartition
from confluent_kafka import Message as Record

from connectors.kafka.settings import client_options
from connectors.kafka.wire import Headers, stored_of
from driftwheel.lane import Lane, LaneLost, LaneSettings
from driftwheel.routing import INBOX
from processors.stage import Message, Stage, has_inbox
from schemas.errors import Retry
from schemas.topics import BY_NAME

logger = logging.getLogger(__name__)

_PAUSE_LIMIT = 30.0


@dataclass(slots=True)
class _Rest:
    """A key that waits before its next tick."""

    until: float
    failures: int = 0


class StageLoop:
    """One stage in one thread: a consumer, its lanes, and their timers.

    ``poll_seconds`` between two looks at what another system still does. A stage without effects works as well: this is
    also the plain engine that others are measured against.
    """

    def __init__(
        self,
        stage: Stage,
        lanes: LaneSettings,
        now: Callable[[], datetime],
        *,
        batch: int = 500,
        poll_seconds: float = 0.2,
    ) -> None:
        self.stage = stage
        self.lanes: dict[int, Lane] = {}
        self.retrying = ""
        self.failure: BaseException | None = None
        self._settings, self._now, self._batch, self._poll_seconds = lanes, now, batch, poll_seconds
        self._names = {lanes.kafka.topic(topic): topic.name for topic in stage.sources}
        if has_inbox(stage):
            self._names[lanes.kafka.inbox(stage.name)] = INBOX
        self._rests: dict[tuple[int, str], _Rest] = {}
        self._turn = threading.Lock()
        self._consumer = Consumer(
            client_options(lanes.kafka)
            | {
                "group.id": lanes.kafka.group(stage.name),
                "enable.auto.commit": False,
                "auto.offset.reset": "earliest",
                "isolation.level": "read_committed",
                "partition.assignment.strategy": "range",
                "session.timeout.ms": 10_000,
                "max.poll.interval.ms": 900_000,
                "queued.max.messages.kbytes": 65_536,
                "log_level": 3,
            }
        )
        self._thread = threading.Thread(target=self._run, name=f"driftwheel-{stage.name}", daemon=True)

    def start(self) -> None:
        """Join the group and work, in a thread of its own, until the settings' ``stopping`` is set."""
        self._thread.start()

    def join(self) -> None:
        """Wait for the end; lanes are closed then."""
        self._thread.join()

    def positions(self) -> dict[int, dict[str, int]]:
        """Where its lanes stand, by partition and topic on the cluster; from any thread."""
        names = {ours: there for there, ours in self._names.items()}
        return {n: {names[t]: at for t, at in lane.positions.items()} for n, lane in list(self.lanes.items())}

    def due(self, now: datetime) -> int:
        """How many timers have run out; from any thread."""
        return sum(lane.count_due(now) for lane in list(self.lanes.values()))

    def _run(self) -> None:
        try:
            self._consumer.subscribe(list(self._names), on_assign=self._assigned, on_revoke=self._revoked)
            while not self._settings.stopping.is_set():
                self._round()
        except LaneLost as error:
            if not self._settings.stopping.is_set():
                logger.warning("%s; the process ends", error)
                self.failure = error
        except BaseException as error:
            logger.exception("%s failed; what is not committed comes again", self.stage.name)
            self.failure = error
        finally:
            self._close(list(self.lanes))
            self._consumer.close()

    def _assigned(self, consumer: Consumer, places: list[TopicPartition]) -> None:
        del consumer
        for partition in sorted({place.partition for place in places} - set(self.lanes)):
            lane = Lane(self.stage, partition, self._settings, self._turn)
            lane.open()
            self.lanes[partition] = lane

    def _revoked(self, consumer: Consumer, places: list[TopicPartition]) -> None:
        del consumer
        self._close(sorted({place.partition for place in places}))

    def _close(self, partitions: Sequence[int]) -> None:
        for partition in partitions:
            lane = self.lanes.pop(partition, None)
            if lane is not None:
                lane.close()

    def _round(self) -> None:
        waiting = any(rest.until <= time.monotonic() for rest in self._rests.values())
        records = self._consumer.consume(self._batch, 0.0 if waiting else self._poll_seconds)
        by_lane: dict[int, list[Message]] = {}
        for record in records:
            if record.error() is None:
                by_lane.setdefault(record.partition() or 0, []).append(self._message(record))
            else:
                self._note(record.error())
        for partition, lane in list(self.lanes.items()):
            if partition in by_lane:
                lane.process(by_lane[partition])
            self._timers(lane)

    @staticmethod
    def _note(error: Any) -> None:
        if error.code() != KafkaError._PARTITION_EOF:
            logger.warning("%s", error.str())

    def _message(self, record: Record) -> Message:
        topic = self._names[record.topic() or ""]
        headers = cast("Headers", record.headers() or [])
        time_ms = record.timestamp()[1]
        stored = stored_of(
            topic, record.partition() or 0, record.offset() or 0, record.key(), record.value(), time_ms, headers
        )
        value = stored.value
        if value and topic != INBOX and BY_NAME[topic].record is not None:
            value = self._unframed(topic, value, headers)
        return Message(topic, stored.offset, stored.key, value, stored.time, stored.headers, stored.partition)

    def _unframed(self, topic: str, value: bytes, headers: Headers) -> bytes:
        while not self._settings.stopping.is_set():
            try:
                return self._settings.framing.unwrap(topic, value, headers)
            except Retry as error:
                logger.warning("%s: %s; it tries again", self.stage.name, error)
                self._settings.stopping.wait(1.0)
        raise LaneLost(f"{self.stage.name}: told to stop")

    def _timers(self, lane: Lane) -> None:
        now = self._now()
        if not self.stage.effects:
            lane.tick(now)
            return
        for key in lane.due(now):
            rest = self._rests.get((lane.partition, key))
            if rest is None or rest.until <= time.monotonic():
                self._act(lane, key, now)

    def _act(self, lane: Lane, key: str, now: datetime) -> None:
        """One step on the other system. A key that is due again at once rests, longer when the system was away."""
        place = (lane.partition, key)
        rest = self._rests.pop(place, _Rest(0.0))
        try:
            moved = lane.tick(now, key)
        except Retry as error:
            failures = rest.failures + 1
            pause = min(_PAUSE_LIMIT, 2.0 ** min(failures - 1, 10))
            self._rests[place] = _Rest(time.monotonic() + pause, failures)
            if str(error) != self.retrying:
                logger.warning("%s: %s; it tries again", self.stage.name, error)
            self.retrying = str(error)
        else:
            self.retrying = ""
            self._rests[place] = _Rest(time.monotonic() + (0.0 if moved else self._poll_seconds))
        if key not in lane.due(now):
            self._rests.pop(place, None)
