"""What Kafka's consumer groups have not read yet: how much, since when, and a clock that waits for it."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from confluent_kafka import (
    Consumer,
    IsolationLevel,
    KafkaError,
    KafkaException,
    Message,
    TopicPartition,
)
from confluent_kafka.admin import (
    AdminClient,
    OffsetSpec,  # pyright: ignore[reportPrivateImportUsage]  # its documented place
)

from connectors.kafka.settings import KafkaSettings, client_options
from connectors.kafka.wire import from_millis
from schemas.errors import Retry
from schemas.events import EPOCH
from schemas.topics import TOPICS

logger = logging.getLogger(__name__)

Place = tuple[str, int]
"""A partition: its topic's name on the cluster, and its number."""
Upstream = Sequence[tuple[str, Sequence[str]]]
"""Consumer groups with the topics that each reads, in the order of the flow; all names as on the cluster.

A group that reads what it puts out itself comes once more with those topics."""

_FEW = 100
_LOOKS = 240
_MOVING = frozenset({
    KafkaError.NOT_COORDINATOR, KafkaError.COORDINATOR_LOAD_IN_PROGRESS, KafkaError.COORDINATOR_NOT_AVAILABLE,
})  # fmt: skip
_TAIL = 20
_PARTITIONS_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class _Ends:
    """Of a partition: its first offset, the end of what is committed, the end of all. The rest is in transactions."""

    low: int
    stable: int
    high: int


@dataclass(frozen=True, slots=True)
class _Look:
    """The ends of all partitions, and the watermarks then: of what is accepted, and after each group in turn."""

    marks: dict[Place, int]
    levels: list[datetime]


class Backlog:
    """Looks at groups and topics. Thread-safe, one look at a time; every method raises Retry when brokers are silent.

    A group that has committed nothing in a partition has all of it before it. ``patience``: seconds for one request.
    """

    def __init__(self, settings: KafkaSettings, patience: float = 5.0) -> None:
        self._patience = patience
        self._options = client_options(settings) | {"log_level": 2, "reconnect.backoff.max.ms": 1000}
        self._admin = AdminClient(self._options)
        self._readers: dict[str, Consumer] = {}
        self._askers: dict[str, Consumer] = {}
        self._reader_group = settings.group("backlog")
        self._lock = threading.Lock()
        self._partitions: dict[str, int] = {}
        self._partitions_until = 0.0
        self._firsts: dict[tuple[str, Place], tuple[int, int, datetime | None]] = {}
        self._tails: dict[Place, int] = {}
        self._others = {settings.topic(topic) for topic in TOPICS if topic.raw}
        self._looks: deque[_Look] = deque(maxlen=_LOOKS)

    def lag_of(self, group: str, topics: Iterable[str]) -> dict[Place, int]:
        """Unread offsets by partition; 0 when only the marks of transactions are left."""
        with self._lock:
            positions = self._positions([(group, tuple(topics))])[0]
            ends = self._ends(positions)
            starts = {place: max(at, ends[place].low) for place, at in positions.items()}
            lags = {
                place: max(0, min(self._end(place, ends[place]), ends[place].stable) - start)
                for place, start in starts.items()
            }
            few = {place: starts[place] for place, lag in lags.items() if 0 < lag <= _FEW}
            for place, first in self._first(group, few, ends).items():
                if first is None:
                    lags[place] = 0
            return lags

    def oldest_unread(self, group: str, topics: Iterable[str]) -> datetime | None:
        """The smallest time among the first unread records of the group's partitions; None: it has read them all."""
        return self.oldest([(group, tuple(topics))])[0]

    def oldest(self, upstream: Upstream) -> list[datetime | None]:
        """``oldest_unread`` of several groups. What moves from one to a later one meanwhile is seen in either.

        A record in a transaction that is still open counts: it is there, and nobody can read it yet.
        """
        with self._lock:
            positions = self._positions(upstream)
            # After the positions: what a group has put out by its position stands before these ends.
            ends = self._ends({place for one in positions for place in one})
            return [self._oldest(group, at, ends) for (group, _), at in zip(upstream, positions, strict=True)]

    def held(self, upstream: Upstream, now: datetime) -> list[datetime]:
        """For each group a time that no entry which has still to come through to its output was accepted before.

        Watermarks, from one look to the next: what the group before had let through by its watermark stands below the
        ends that are looked up afterwards; a group that stands past them has let it through as well. So the times of
        records do not matter, which later stages stamp anew. 1970 until a group has read what the first look found.
        """
        with self._lock:
            positions = self._positions(upstream)
            ends = self._ends({place for one in positions for place in one})
            marks = {place: self._end(place, end) for place, end in ends.items()}
            before = self._looks[-1].marks if self._looks else {}
            look = _Look(marks, [now])
            self._looks.append(look)
            for (group, _), at in zip(upstream, positions, strict=True):
                behind = {p: start for p, n in at.items() if (start := max(n, ends[p].low)) < marks[p]}
                still = {place: start for place, start in behind.items() if before.get(place) == marks[place]}
                firsts = self._first(group, still, ends)
                quiet = {p for p in still if firsts[p] is None and ends[p].stable == ends[p].high}
                look.marks.update({place: behind[place] for place in quiet})  # what is left are marks of transactions
                late = [place for place in behind if place not in quiet]
                look.levels.append(min([look.levels[-1], *(self._level(p, behind[p], look) for p in late)]))
            return look.levels[1:]

    def _level(self, place: Place, at: int, look: _Look) -> datetime:
        """The newest watermark of what comes before whose effects a group that stands ``at`` has read."""
        number = len(look.levels) - 1
        passed = (one.levels[number] for one in reversed(self._looks) if one is not look and at >= one.marks[place])
        return next(passed, EPOCH)

    def _end(self, place: Place, ends: _Ends) -> int:
        """Where a group that has read everything stands at least: the mark of the last transaction is no record.

        Topics that others write to may end with a record.
        """
        marked = place[0] not in self._others and ends.stable == ends.high > ends.low
        return ends.stable - 1 if marked else ends.high

    def newest(self, topics: Iterable[str]) -> datetime | None:
        """The newest time among the last records that came to each partition since the last call."""
        # Not by OffsetSpec.max_timestamp(): that takes in the marks of transactions, which have the brokers' time.
        with self._lock:
            places = self._places(topics)
            ends = self._ends(places)
            starts = {
                place: max(self._tails.get(place, 0), end.stable - _TAIL, end.low)
                for place, end in ends.items()
                if end.stable > self._tails.get(place, 0)
            }
            newest: dict[Place, datetime] = {}

            def look(place: Place, found: datetime | None, offset: int) -> bool:
                if found is not None:
                    newest[place] = max(found, newest.get(place, found))
                return found is None or offset + 1 >= ends[place].stable

            self._read("read_committed", starts, look)
            self._tails |= {place: ends[place].stable for place in starts}
            return max(newest.values(), default=None)

    def close(self) -> None:
        """Let go of the connections."""
        with self._lock:
            for client in (*self._readers.values(), *self._askers.values()):
                client.close()
            self._readers.clear()
            self._askers.clear()

    # What the brokers know.

    def _places(self, topics: Iterable[str]) -> list[Place]:
        wanted = tuple(topics)
        if time.monotonic() > self._partitions_until or any(topic not in self._partitions for topic in wanted):
            try:
                known = self._admin.list_topics(timeout=self._patience).topics
            except KafkaException as error:
                raise _silent(error) from error
            self._partitions = {name: len(topic.partitions) for name, topic in known.items()}
            self._partitions_until = time.monotonic() + _PARTITIONS_SECONDS
        return [(topic, number) for topic in wanted for number in range(self._partitions.get(topic, 0))]

    def _positions(self, upstream: Upstream) -> list[dict[Place, int]]:
        """Where each group goes on, by partition; 0 where it has not begun."""
        return [self._position(group, self._places(topics)) for group, topics in upstream]

    def _position(self, group: str, places: Sequence[Place]) -> dict[Place, int]:
        # Not by AdminClient.list_consumer_group_offsets: in librdkafka 2.16 that ends the process with a segmentation
        # fault when the group's coordinator has just moved or is loading.
        if not places:
            return {}
        for each in (found := self._committed(group, places)):
            if each.error is not None:
                raise _silent(KafkaException(each.error))
        return {(each.topic, each.partition): max(0, each.offset) for each in found}

    def _committed(self, group: str, places: Sequence[Place]) -> list[TopicPartition]:
        """What the group's coordinator says; one that has just moved is asked again for a while."""
        until = time.monotonic() + self._patience
        while True:
            try:
                return self._asker(group).committed(
                    [TopicPartition(*place) for place in places], timeout=self._patience
                )
            except KafkaException as error:
                if error.args[0].code() not in _MOVING or time.monotonic() > until:
                    raise _silent(error) from error
                time.sleep(0.2)

    def _asker(self, group: str) -> Consumer:
        """A client that asks for a group and is no member of it."""
        if group not in self._askers:
            # read_committed would have it wait while a commit is in a transaction that is still open.
            own = {"group.id": group, "enable.auto.commit": False, "isolation.level": "read_uncommitted"}
            self._askers[group] = Consumer(self._options | own)
        return self._askers[group]

    def _ends(self, places: Iterable[Place]) -> dict[Place, _Ends]:
        wanted = sorted(places)
        low = self._asked(wanted, OffsetSpec.earliest(), IsolationLevel.READ_UNCOMMITTED)
        stable = self._asked(wanted, OffsetSpec.latest(), IsolationLevel.READ_COMMITTED)
        high = self._asked(wanted, OffsetSpec.latest(), IsolationLevel.READ_UNCOMMITTED)
        answers = [[self._answer(one).offset for one in each] for each in (low, stable, high)]
        return {place: _Ends(*each) for place, *each in zip(wanted, *answers, strict=True)}

    def _asked(self, places: Sequence[Place], what: Any, isolation: IsolationLevel) -> list[Future[Any]]:
        if not places:
            return []
        asked = {TopicPartition(*place): what for place in places}
        answers = self._admin.list_offsets(asked, isolation_level=isolation, request_timeout=self._patience)
        by_place: dict[Place, Future[Any]] = {(at.topic, at.partition): future for at, future in answers.items()}
        return [by_place[place] for place in places]

    def _answer(self, future: Future[Any]) -> Any:
        try:
            return future.result(2 * self._patience)
        except (KafkaException, TimeoutError) as error:
            raise _silent(error) from error

    # What the partitions hold.

    def _oldest(self, group: str, positions: Mapping[Place, int], ends: Mapping[Place, _Ends]) -> datetime | None:
        starts = {place: max(at, ends[place].low) for place, at in positions.items()}
        firsts = self._first(group, {place: at for place, at in starts.items() if at < ends[place].stable}, ends)
        pending = {
            place: max(at, ends[place].stable)
            for place, at in starts.items()
            if firsts.get(place) is None and max(at, ends[place].stable) < ends[place].high
        }
        opened = self._opened(pending)
        return min((time for time in (*firsts.values(), *opened.values()) if time is not None), default=None)

    def _first(
        self, group: str, starts: Mapping[Place, int], ends: Mapping[Place, _Ends]
    ) -> dict[Place, datetime | None]:
        """The time of the first committed record from each start on; None: there is none. Nothing is read twice."""
        known: dict[Place, datetime | None] = {}
        for place, start in starts.items():
            at, end, found = self._firsts.get((group, place), (-1, -1, None))
            if at == start and (found is not None or end == ends[place].stable):
                known[place] = found
        fetched = self._firsts_from("read_committed", {p: at for p, at in starts.items() if p not in known})
        for place, found in fetched.items():
            self._firsts[group, place] = (starts[place], ends[place].stable, found)
        return known | fetched

    def _opened(self, starts: Mapping[Place, int]) -> dict[Place, datetime | None]:
        """The same of records whose transaction has not ended when it is looked at: rare, and short-lived."""
        return self._firsts_from("read_uncommitted", starts)

    def _firsts_from(self, isolation: str, starts: Mapping[Place, int]) -> dict[Place, datetime | None]:
        firsts: dict[Place, datetime | None] = {}

        def look(place: Place, found: datetime | None, offset: int) -> bool:
            del offset
            firsts.setdefault(place, found)
            return True

        self._read(isolation, starts, look)
        return firsts

    def _read(
        self, isolation: str, starts: Mapping[Place, int], look: Callable[[Place, datetime | None, int], bool]
    ) -> None:
        """Call ``look`` with time and offset of every record, None at the end, until it is content with each place."""
        if not starts:
            return
        reader = self._reader(isolation)
        missing = set(starts)
        until = time.monotonic() + 2 * self._patience
        try:
            reader.assign([TopicPartition(*place, offset) for place, offset in starts.items()])
            while missing:
                if time.monotonic() > until:
                    self._readers.pop(isolation).close()  # after a broker's death one may never fetch again
                    raise Retry(f"Kafka has not sent the records of {len(missing)} partitions")
                message = reader.poll(0.1)
                if message is None:
                    continue
                place = (message.topic() or "", message.partition() or 0)
                if place in missing and look(place, _time_of(message), message.offset() or 0):
                    missing.discard(place)
        except KafkaException as error:
            raise _silent(error) from error
        finally:
            if isolation in self._readers:
                reader.unassign()

    def _reader(self, isolation: str) -> Consumer:
        if isolation not in self._readers:
            options = {
                "group.id": self._reader_group,
                "enable.auto.commit": False,
                "isolation.level": isolation,
                "enable.partition.eof": True,
                "auto.offset.reset": "earliest",
                "queued.min.messages": 1,
                "fetch.message.max.bytes": 65_536,
                "fetch.wait.max.ms": 20,
                "fetch.queue.backoff.ms": 5,
            }
            self._readers[isolation] = Consumer(self._options | options)
        return self._readers[isolation]


def _time_of(message: Message) -> datetime | None:
    """When a record was accepted; None at a partition's end. Raises Retry."""
    error = message.error()
    if error is None:
        return from_millis(message.timestamp()[1])
    if error.code() == KafkaError._PARTITION_EOF:
        return None
    raise Retry(f"Kafka: {error.str()}")


def _silent(error: Exception) -> Retry:
    why = error.args[0].str() if isinstance(error, KafkaException) else "no answer in time"
    return Retry(f"Kafka does not say what has been read: {why}")


class LogClock:
    """The newest time in ``topics``, for replays: time passes as the log says, not as the machine does.

    Calling it gives what the last ``refresh`` saw, 1970 before there is anything; it never goes back. It looks at the
    last records of each partition, so it is exact as long as no newer record lies behind 20 older ones.
    """

    def __init__(self, backlog: Backlog, topics: Iterable[str]) -> None:
        self._backlog, self._topics = backlog, tuple(topics)
        self._newest = EPOCH

    def __call__(self) -> datetime:
        """The newest time so far."""
        return self._newest

    def refresh(self) -> None:
        """Ask the brokers; a HeldClock does it for its clock. Raises Retry."""
        self._newest = max(self._newest, self._backlog.newest(self._topics) or EPOCH)


class HeldClock:
    """A clock held back to the oldest entry that has not come through ``upstream``: backlog goes before timers.

    A thread looks every ``interval`` seconds, from ``start`` to ``close``; ``now`` is what it saw. While the brokers
    are silent time stands still; before the first look it is 1970. What a producer has stamped and not yet appended is
    not seen: timers have to be longer than that takes.
    """

    def __init__(
        self, clock: Callable[[], datetime], backlog: Backlog, upstream: Upstream, interval: float = 1.0
    ) -> None:
        self._clock, self._backlog, self._interval = clock, backlog, interval
        self._upstream = tuple((group, tuple(topics)) for group, topics in upstream)
        self._held = dict.fromkeys((group for group, _ in self._upstream), EPOCH)
        self._latest = EPOCH
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="held-clock", daemon=True)
        self.trouble = ""
        """Why time stands still, or ''."""

    def now(self, group: str | None = None) -> datetime:
        """The clock for what comes after ``group``'s input: it and the groups before it count; None: all do."""
        return self._latest if group is None else self._held[group]

    def refresh(self) -> None:
        """Look once. Raises Retry: nothing has changed then."""
        if isinstance(self._clock, LogClock):
            self._clock.refresh()
        now = self._clock()  # first: what comes in during the look is later than this
        levels = {
            group: level
            for (group, _), level in zip(self._upstream, self._backlog.held(self._upstream, now), strict=True)
        }
        self._held = {group: max(self._held[group], level) for group, level in levels.items()}
        self._latest = min([now, *self._held.values()])

    def start(self) -> None:
        """Begin to look."""
        self._thread.start()

    def close(self) -> None:
        """Stop looking; the clock stands still."""
        self._closing.set()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        while not self._closing.is_set():
            try:
                self.refresh()
            except Retry as error:
                if not self.trouble:
                    logger.warning("%s; timers wait", error)
                self.trouble = str(error)
            else:
                if self.trouble:
                    logger.info("Kafka answers again; timers go on")
                self.trouble = ""
            self._closing.wait(self._interval)
