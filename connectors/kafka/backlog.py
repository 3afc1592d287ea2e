"""What Kafka's consumer groups have not read yet: how much, since when, and a clock that waits for it."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
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

from connectors.kafka.admin import committed
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

RENEW_SECONDS = 15.0
_FEW = 100
_LOOKS = 240
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
        self._options = client_options(settings) | {"log_level": 2}
        self._admin = AdminClient(self._options)
        self._silent_since = 0.0
        self._reader: Consumer | None = None
        self._askers: dict[str, Consumer] = {}
        self._reader_group = settings.group("backlog")
        self._lock = threading.Lock()
        self._partitions: dict[str, int] = {}
        self._partitions_until = 0.0
        self._known: dict[tuple[str, Place], tuple[int, int, bool]] = {}
        self._tails: dict[Place, int] = {}
        self._others = {settings.topic(topic) for topic in TOPICS if topic.raw}
        self._looks: deque[_Look] = deque(maxlen=_LOOKS)

    def lag_of(self, group: str, topics: Iterable[str]) -> dict[Place, int]:
        """Unread offsets by partition; 0 when only the marks of transactions are left."""
        return self.state_of(group, topics)[0]

    def state_of(self, group: str, topics: Iterable[str]) -> tuple[dict[Place, int], dict[Place, int]]:
        """``lag_of``, and where the group goes on."""
        with self._asking():
            positions = self._positions([(group, tuple(topics))])[0]
            ends = self._ends(positions)
            starts = {place: max(at, ends[place].low) for place, at in positions.items()}
            lags = {
                place: max(0, min(self._end(place, ends[place]), ends[place].stable) - start)
                for place, start in starts.items()
            }
            few = {place: starts[place] for place, lag in lags.items() if 0 < lag <= _FEW}
            return lags | {place: 0 for place, more in self._more(group, few, ends).items() if not more}, positions

    def held(self, upstream: Upstream, now: datetime) -> list[datetime]:
        """For each group a time that no entry which has still to come through to its output was accepted before.

        Watermarks, from one look to the next: what the group before had let through by its watermark stands below the
        ends that are looked up afterwards; a group that stands past them has let it through as well. So the times of
        records do not matter, which later stages stamp anew. 1970 until a group has read what the first look found.
        """
        with self._asking():
            positions = self._positions(upstream)
            ends = self._ends({place for one in positions for place in one})
            marks = {place: self._end(place, end) for place, end in ends.items()}
            before = self._looks[-1].marks if self._looks else {}
            look = _Look(marks, [now])
            for (group, _), at in zip(upstream, positions, strict=True):
                behind = {p: start for p, n in at.items() if (start := max(n, ends[p].low)) < marks[p]}
                still = {place: start for place, start in behind.items() if before.get(place) == marks[place]}
                more = self._more(group, still, ends)
                quiet = {p for p in still if not more[p] and ends[p].stable == ends[p].high}
                look.marks.update({place: behind[place] for place in quiet})  # what is left are marks of transactions
                late = [place for place in behind if place not in quiet]
                look.levels.append(min([look.levels[-1], *(self._level(p, behind[p], look) for p in late)]))
            self._looks.append(look)  # a whole one: brokers may fall silent in the middle
            return look.levels[1:]

    def _level(self, place: Place, at: int, look: _Look) -> datetime:
        """The newest watermark of what comes before whose effects a group that stands ``at`` has read."""
        number = len(look.levels) - 1
        passed = (one.levels[number] for one in reversed(self._looks) if place in one.marks and at >= one.marks[place])
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
        with self._asking():
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

            self._read(starts, look)
            self._tails |= {place: ends[place].stable for place in starts}
            return max(newest.values(), default=None)

    def close(self) -> None:
        """Let go of the connections."""
        with self._lock:
            self._let_go()

    def _let_go(self) -> None:
        for client in (*([self._reader] if self._reader else []), *self._askers.values()):
            client.close()
        self._reader = None
        self._askers.clear()

    @contextmanager
    def _asking(self) -> Generator[None]:
        """One look at a time. Clients that hear nothing for long are made anew.

        librdkafka 2.16 may lose its last broker for good.
        """
        with self._lock:
            if self._silent_since and time.monotonic() - self._silent_since > RENEW_SECONDS:
                self._let_go()
                self._admin, self._silent_since = AdminClient(self._options), 0.0
            try:
                yield
            except Retry:
                self._silent_since = self._silent_since or time.monotonic()
                raise
            self._silent_since = 0.0

    # What the brokers know.

    def _places(self, topics: Iterable[str]) -> list[Place]:
        wanted = tuple(topics)
        if time.monotonic() > self._partitions_until or any(topic not in self._partitions for topic in wanted):
            try:
                known = self._admin.list_topics(timeout=self._patience).topics
            except KafkaException as error:
                raise _silent(error) from error
            self._partitions |= {name: len(topic.partitions) for name, topic in known.items()}
            self._partitions_until = time.monotonic() + _PARTITIONS_SECONDS
        return [(topic, number) for topic in wanted for number in range(self._partitions.get(topic, 0))]

    def _positions(self, upstream: Upstream) -> list[dict[Place, int]]:
        """Where each group goes on, by partition; 0 where it has not begun."""
        return [self._position(group, self._places(topics)) for group, topics in upstream]

    def _position(self, group: str, places: Sequence[Place]) -> dict[Place, int]:
        if not places:
            return {}
        try:
            found = committed(self._asker(group), [TopicPartition(*place) for place in places], self._patience)
        except KafkaException as error:
            raise _silent(error) from error
        return {(each.topic, each.partition): max(0, each.offset) for each in found}

    def _asker(self, group: str) -> Consumer:
        """A client that asks for a group and is no member of it."""
        if group not in self._askers:
            # read_committed would have it wait while a commit is in a transaction that is still open.
            own = {"group.id": group, "enable.auto.commit": False, "isolation.level": "read_uncommitted"}
            self._askers[group] = Consumer(self._options | own)
        return self._askers[group]

    def _ends(self, places: Iterable[Place]) -> dict[Place, _Ends]:
        wanted = sorted(places)
        first = self._asked(wanted, OffsetSpec.earliest(), IsolationLevel.READ_UNCOMMITTED)
        decided = self._asked(wanted, OffsetSpec.latest(), IsolationLevel.READ_COMMITTED)
        low, stable = self._offsets(first), self._offsets(decided)
        # Only now: an end that stands where what was decided ended earlier has not moved in between.
        high = self._offsets(self._asked(wanted, OffsetSpec.latest(), IsolationLevel.READ_UNCOMMITTED))
        return {place: _Ends(*each) for place, *each in zip(wanted, low, stable, high, strict=True)}

    def _asked(self, places: Sequence[Place], what: Any, isolation: IsolationLevel) -> list[Future[Any]]:
        if not places:
            return []
        asked = {TopicPartition(*place): what for place in places}
        answers = self._admin.list_offsets(asked, isolation_level=isolation, request_timeout=self._patience)
        by_place: dict[Place, Future[Any]] = {(at.topic, at.partition): future for at, future in answers.items()}
        return [by_place[place] for place in places]

    def _offsets(self, answers: Iterable[Future[Any]]) -> list[int]:
        """What the brokers said. Raises Retry when they did not say it, also of one partition."""
        try:
            offsets = [answer.result(2 * self._patience).offset for answer in answers]
        except (KafkaException, TimeoutError) as error:
            raise _silent(error) from error
        if any(offset < 0 for offset in offsets):
            # Seen of librdkafka 2.16 while a broker comes back: no error, and -1001 for every partition.
            raise Retry("Kafka does not say what has been read: no offsets in its answer")
        return offsets

    # What the partitions hold.

    def _more(self, group: str, starts: Mapping[Place, int], ends: Mapping[Place, _Ends]) -> dict[Place, bool]:
        """Whether there is a committed record from each start on. Nothing is read twice."""
        known: dict[Place, bool] = {}
        for place, start in starts.items():
            at, end, more = self._known.get((group, place), (-1, -1, False))
            if at == start and (more or end == ends[place].stable):
                known[place] = more
        found: dict[Place, bool] = {}

        def look(place: Place, time: datetime | None, offset: int) -> bool:
            del offset
            found.setdefault(place, time is not None)
            return True

        self._read({place: at for place, at in starts.items() if place not in known}, look)
        for place, more in found.items():
            self._known[group, place] = (starts[place], ends[place].stable, more)
        return known | found

    def _read(self, starts: Mapping[Place, int], look: Callable[[Place, datetime | None, int], bool]) -> None:
        """Call ``look`` with time and offset of every record, None at the end, until it is content with each place."""
        if not starts:
            return
        reader = self._reader = self._reader or self._new_reader()
        missing = set(starts)
        until = time.monotonic() + 2 * self._patience
        try:
            reader.assign([TopicPartition(*place, offset) for place, offset in starts.items()])
            while missing:
                if time.monotonic() > until:
                    self._reader = None  # it may never fetch again
                    reader.close()
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
            if self._reader is reader:
                reader.unassign()

    def _new_reader(self) -> Consumer:
        options = {
            "group.id": self._reader_group,
            "enable.auto.commit": False,
            "isolation.level": "read_committed",
            "enable.partition.eof": True,
            "auto.offset.reset": "earliest",
            "queued.min.messages": 1,
            "fetch.message.max.bytes": 65_536,
            "fetch.wait.max.ms": 20,
            "fetch.queue.backoff.ms": 5,
        }
        return Consumer(self._options | options)


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

    Calling it gives what the last ``refresh`` saw; as long as there was nothing (1970) it looks again, and raises Retry
    when the brokers are silent, so that nobody stamps with a time from before the log. It never goes back. It looks at
    the last records of each partition, so it is exact as long as no newer record lies behind 20 older ones.
    """

    def __init__(self, backlog: Backlog, topics: Iterable[str]) -> None:
        self._backlog, self._topics = backlog, tuple(topics)
        self._newest = EPOCH

    def __call__(self) -> datetime:
        """The newest time so far."""
        if self._newest == EPOCH:
            self.refresh()
        return self._newest

    def refresh(self) -> None:
        """Ask the brokers; a HeldClock does it for its clock. Raises Retry."""
        self._newest = max(self._newest, self._backlog.newest(self._topics) or EPOCH)


class HeldClock:
    """A clock held back to the oldest entry that has not come through ``upstream``: backlog goes before timers.

    A thread looks every ``interval`` seconds, from ``start`` to ``close``; ``now`` is what it saw. While the brokers
    are silent time stands still; before the first look it is 1970. What a producer has stamped and not yet appended is
    not seen: timers have to be longer than that takes. ``on_defect`` is told when it can look no more.
    """

    def __init__(
        self,
        clock: Callable[[], datetime],
        backlog: Backlog,
        upstream: Upstream,
        interval: float = 1.0,
        on_defect: Callable[[], None] = lambda: None,
    ) -> None:
        self._clock, self._backlog, self._interval, self._on_defect = clock, backlog, interval, on_defect
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
        levels = {  # of a group that comes twice, the later hop counts
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
            except Exception:
                logger.exception("the timers' clock: a defect")
                self._on_defect()
                return
            else:
                if self.trouble:
                    logger.info("Kafka answers again; timers go on")
                self.trouble = ""
            self._closing.wait(self._interval)
