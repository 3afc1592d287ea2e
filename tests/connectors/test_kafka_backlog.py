"""What groups have not read yet, and the clock that waits for it, against a real broker."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest
from confluent_kafka import Consumer, IsolationLevel, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic, OffsetSpec

from connectors.kafka.backlog import Backlog, HeldClock, LogClock, _Ends
from connectors.kafka.settings import KafkaSettings, client_options
from connectors.kafka.wire import millis
from schemas.errors import Retry
from schemas.events import EPOCH
from schemas.topics import OTLP_SPANS
from tests.brokers import Cluster, free_ports

T0 = datetime(2026, 1, 5, 8, tzinfo=UTC)
SECOND = timedelta(seconds=1)


class Topics:
    """A broker with topics ``a``, ``b``, ``raw`` and that of raw spans; writes and commits what a test says."""

    def __init__(self, settings: KafkaSettings) -> None:
        self.settings = settings
        self.admin = AdminClient(client_options(settings))
        names = ("a", "b", "raw", OTLP_SPANS.name)
        kept = {"retention.ms": "-1"}  # whatever their age
        wanted = [NewTopic(self.name(topic), settings.partitions, config=kept) for topic in names]
        for made in self.admin.create_topics(wanted).values():
            made.result(60)
        until(self.led)
        self.producer = self.make()

    def led(self) -> bool:
        """Whether every partition has been told that it has a leader."""
        try:
            self.ends(IsolationLevel.READ_COMMITTED)
        except KafkaException:
            return False
        return True

    def ends(self, isolation: IsolationLevel) -> list[int]:
        places = [
            TopicPartition(self.name(t), n)
            for t in ("a", "b", "raw", OTLP_SPANS.name)
            for n in range(self.settings.partitions)
        ]
        found = self.admin.list_offsets(dict.fromkeys(places, OffsetSpec.latest()), isolation_level=isolation)
        return [found[place].result(30).offset for place in places]

    def name(self, topic: str) -> str:
        return self.settings.topic(topic)

    def make(self) -> Producer:
        made = Producer(
            client_options(self.settings)
            | {"transactional.id": f"{self.settings.prefix}test.{uuid4().hex}", "retry.backoff.ms": 20, "log_level": 0}
        )
        made.init_transactions(30)
        return made

    def put(self, topic: str, *records: tuple[int, datetime]) -> None:
        """Records as (partition, time), in one transaction."""
        self.producer.begin_transaction()
        self.produce(topic, records)
        self.producer.commit_transaction(30)
        until(self.settled)

    def settled(self) -> bool:
        """Whether every transaction has its mark: a commit returns a moment before."""
        return self.ends(IsolationLevel.READ_COMMITTED) == self.ends(IsolationLevel.READ_UNCOMMITTED)

    def produce(self, topic: str, records: Iterable[tuple[int, datetime]]) -> None:
        for partition, at in records:
            self.producer.produce(self.name(topic), b"x", b"k", partition=partition, timestamp=millis(at))
        self.producer.flush(30)

    def read(self, group: str, topic: str, partition: int, offset: int) -> None:
        """The group has come so far."""
        consumer = Consumer(client_options(self.settings) | {"group.id": self.settings.group(group)})
        consumer.commit(offsets=[TopicPartition(self.name(topic), partition, offset)], asynchronous=False)
        consumer.close()


@pytest.fixture
def topics(kafka_settings: KafkaSettings) -> Topics:
    return Topics(kafka_settings)


@pytest.fixture
def backlog(kafka_settings: KafkaSettings) -> Iterator[Backlog]:
    made = Backlog(kafka_settings)
    yield made
    made.close()


def lag(topics: Topics, backlog: Backlog, topic: str = "a", group: str = "g") -> list[int]:
    found = backlog.lag_of(topics.settings.group(group), [topics.name(topic)])
    return [found[topics.name(topic), n] for n in range(topics.settings.partitions)]


def test_a_group_that_has_not_begun_has_all_before_it(topics: Topics, backlog: Backlog) -> None:
    assert lag(topics, backlog) == [0, 0, 0]
    topics.put("a", (0, T0), (0, T0), (1, T0))
    assert lag(topics, backlog) == [2, 1, 0], "records, without the mark of their transaction"


def test_what_is_read_is_no_longer_counted(topics: Topics, backlog: Backlog) -> None:
    topics.put("a", (0, T0), (0, T0), (1, T0))
    topics.read("g", "a", 1, 1)
    assert lag(topics, backlog) == [2, 0, 0]
    topics.read("g", "a", 0, 2)
    assert lag(topics, backlog) == [0, 0, 0], "what is left is the marks of transactions"
    assert lag(topics, backlog, group="other") == [2, 1, 0]
    at = backlog.state_of(topics.settings.group("g"), [topics.name("a")])[1]
    assert [at[topics.name("a"), n] for n in range(3)] == [2, 1, 0]


def test_what_retention_took_away_is_not_backlog(topics: Topics, backlog: Backlog) -> None:
    topics.put("a", (0, T0), (0, T0 + SECOND))
    for done in topics.admin.delete_records([TopicPartition(topics.name("a"), 0, 1)]).values():
        done.result(30)
    assert lag(topics, backlog) == [1, 0, 0]


def test_an_open_transaction_holds_back_and_an_aborted_one_does_not(topics: Topics, backlog: Backlog) -> None:
    upstream = [(topics.settings.group("g"), [topics.name("a")])]
    assert backlog.held(upstream, T0) == [T0]
    topics.producer.begin_transaction()
    topics.produce("a", [(0, T0)])
    for seconds in (1, 2):
        assert backlog.held(upstream, T0 + seconds * SECOND) == [T0], "it is there, and nobody can read it yet"
    topics.producer.abort_transaction(30)
    until(topics.settled)
    assert backlog.held(upstream, T0 + 3 * SECOND) == [T0 + 3 * SECOND]
    assert lag(topics, backlog) == [0, 0, 0]


def test_nothing_is_read_twice(topics: Topics, backlog: Backlog, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[Mapping[tuple[str, int], int]] = []
    real = backlog._read

    def spy(starts: Mapping[tuple[str, int], int], look: Callable[..., bool]) -> None:
        if starts:
            read.append(dict(starts))
        real(starts, look)

    monkeypatch.setattr(backlog, "_read", spy)
    topics.put("a", (0, T0), (0, T0 + SECOND), (1, T0))
    for _ in range(3):
        assert lag(topics, backlog) == [2, 1, 0]
    topics.read("g", "a", 0, 1)
    topics.read("g", "a", 1, 1)
    for _ in range(3):
        assert lag(topics, backlog) == [1, 0, 0]
    name = topics.name("a")
    assert read == [{(name, 0): 0, (name, 1): 0}, {(name, 0): 1}]


def test_the_newest_time_is_that_of_records(topics: Topics, backlog: Backlog) -> None:
    clock = LogClock(backlog, [topics.name("raw")])
    assert clock() == EPOCH
    topics.put("raw", (0, T0), (1, T0 + SECOND), (1, T0))
    assert clock() == T0 + SECOND, "as long as there was nothing, it looks"
    topics.put("raw", (2, T0 - SECOND))
    clock.refresh()
    assert clock() == T0 + SECOND, "it never goes back"
    topics.put("raw", (2, T0 + 5 * SECOND))
    assert clock() == T0 + SECOND, "before it looks"
    clock.refresh()
    assert clock() == T0 + 5 * SECOND


def test_control_the_brokers_own_newest_time_is_that_of_a_mark(topics: Topics) -> None:
    topics.put("raw", (0, T0))
    place = TopicPartition(topics.name("raw"), 0)
    newest = topics.admin.list_offsets({place: OffsetSpec.max_timestamp()})[place].result(30)
    assert newest.offset == 1
    assert newest.timestamp > millis(T0)


def held(topics: Topics, backlog: Backlog, clock: Callable[[], datetime]) -> HeldClock:
    group = topics.settings.group
    return HeldClock(clock, backlog, [(group("first"), [topics.name("a")]), (group("second"), [topics.name("b")])])


def test_the_clock_waits_for_backlog(topics: Topics, backlog: Backlog) -> None:
    now = [T0]
    clock = held(topics, backlog, lambda: now[0])
    first, second = topics.settings.group("first"), topics.settings.group("second")
    assert clock.now() == clock.now(first) == EPOCH, "nothing is known yet"
    clock.refresh()
    assert clock.now() == T0
    topics.put("a", (0, T0 + SECOND))
    topics.put("b", (0, T0 + SECOND))
    now[0] = T0 + 100 * SECOND
    for _ in range(3):
        clock.refresh()
    assert (clock.now(first), clock.now(second)) == (T0, T0)
    topics.read("second", "b", 0, 1)
    clock.refresh()
    assert clock.now(second) == clock.now() == T0, "an earlier stage holds back the later ones"
    topics.read("first", "a", 0, 1)
    clock.refresh()
    assert clock.now() == T0 + 100 * SECOND


def test_what_a_stage_has_just_let_through_holds_the_next_one_back(topics: Topics, backlog: Backlog) -> None:
    """The record in "b" says that it is new; what it is about was accepted before the outage."""
    now = [T0]
    clock = held(topics, backlog, lambda: now[0])
    clock.refresh()
    topics.put("a", (0, T0))
    now[0] = T0 + 100 * SECOND
    clock.refresh()
    topics.put("b", (0, T0 + 100 * SECOND))
    topics.read("first", "a", 0, 1)
    now[0] = T0 + 101 * SECOND
    for _ in range(3):
        clock.refresh()
    group = topics.settings.group
    assert (clock.now(group("first")), clock.now(group("second"))) == (now[0], T0)
    topics.read("second", "b", 0, 1)
    clock.refresh()
    assert clock.now(group("second")) == now[0]


@pytest.mark.parametrize("split", [True, False])
def test_a_group_with_an_inbox_reads_twice(topics: Topics, backlog: Backlog, split: bool) -> None:
    """What it dispatched after a look is no younger for it. The control, one hop, takes it for passed."""
    group, a, b = topics.settings.group("first"), topics.name("a"), topics.name("b")
    clock = [T0]
    held_clock = HeldClock(lambda: clock[0], backlog, [(group, [a]), (group, [b])] if split else [(group, [a, b])])
    held_clock.refresh()
    topics.put("a", (0, T0))
    for seconds in (1, 2):
        clock[0] = T0 + seconds * SECOND
        held_clock.refresh()
    assert held_clock.now(group) == T0
    topics.put("b", (0, T0))
    topics.read("first", "a", 0, 1)
    clock[0] = T0 + 3 * SECOND
    held_clock.refresh()
    assert held_clock.now(group) == (T0 if split else T0 + 2 * SECOND)


def test_brokers_that_fall_silent_in_a_look_spoil_no_later_one(
    topics: Topics, backlog: Backlog, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [T0]
    clock = held(topics, backlog, lambda: now[0])
    clock.refresh()
    topics.put("a", (0, T0))
    clock.refresh()  # from now on the record in "a" is looked at
    with monkeypatch.context() as patch:

        def silent(*_: object) -> None:
            raise Retry("planted")

        patch.setattr(backlog, "_read", silent)
        with pytest.raises(Retry, match="planted"):
            clock.refresh()
    topics.put("b", (0, T0))
    now[0] = T0 + SECOND
    clock.refresh()
    assert clock.now() == T0
    topics.read("first", "a", 0, 1)
    topics.read("second", "b", 0, 1)
    clock.refresh()
    assert clock.now() == T0 + SECOND


class Unknown:
    """A partition's end as librdkafka 2.16 gives it while a broker comes back."""

    offset = -1001


@pytest.mark.parametrize("nth", [1, 2, 3])
def test_an_answer_without_offsets_moves_no_clock(
    topics: Topics, backlog: Backlog, monkeypatch: pytest.MonkeyPatch, nth: int
) -> None:
    """First offset, end of what is decided, end: whichever lacks, nothing would seem to be left to read."""
    now, group = [T0], topics.settings.group("first")
    clock = held(topics, backlog, lambda: now[0])
    clock.refresh()
    topics.put("a", (0, T0))
    now[0] = T0 + SECOND
    with monkeypatch.context() as patch:
        asked, ask = list[Any](), backlog._asked

        def answer(places: Sequence[tuple[str, int]], *what: Any) -> list[Any]:
            asked.append(what)
            given = ask(places, *what)
            if len(asked) == nth:
                unknown: Future[Any] = Future()
                unknown.set_result(Unknown())
                return [unknown, *given[1:]]
            return given

        patch.setattr(backlog, "_asked", answer)
        with pytest.raises(Retry, match="no offsets in its answer"):
            clock.refresh()
    assert (clock.now(), clock.now(group)) == (T0, T0)
    clock.refresh()
    assert clock.now() == T0, "there is a record to read"


def test_a_clock_that_stops_says_so(topics: Topics, backlog: Backlog, caplog: pytest.LogCaptureFixture) -> None:
    def broken() -> datetime:
        raise ValueError("planted")

    told = threading.Event()
    clock = HeldClock(broken, backlog, [], interval=0.05, on_defect=told.set)
    clock.start()
    assert told.wait(30)
    clock.close()
    assert "planted" in caplog.text


def test_backlog_from_before_the_first_look_stops_the_clock(topics: Topics, backlog: Backlog) -> None:
    topics.put("b", (0, T0), (0, T0))
    clock = held(topics, backlog, lambda: T0 + SECOND)
    for _ in range(3):
        clock.refresh()
    assert clock.now(topics.settings.group("second")) == EPOCH
    topics.read("second", "b", 0, 2)
    clock.refresh()
    assert clock.now() == T0 + SECOND


def test_the_clock_goes_on_under_steady_load(topics: Topics, backlog: Backlog) -> None:
    """One record is always unread, never the same: the clock is one look behind, and no record is looked at."""
    now = [T0]
    clock = held(topics, backlog, lambda: now[0])
    clock.refresh()
    for count in range(1, 5):
        topics.put("a", (0, now[0]))
        topics.read("first", "a", 0, 2 * (count - 1))
        now[0] += SECOND
        clock.refresh()
        assert clock.now() == now[0] - SECOND


def test_marks_at_the_end_of_a_raw_topic_hold_nothing_back(topics: Topics, backlog: Backlog) -> None:
    """A raw topic may end with a record; once it is known that it does not, the look before counts as passed."""
    upstream = [(topics.settings.group("first"), [topics.name(OTLP_SPANS.name)])]
    assert backlog.held(upstream, T0) == [T0]
    topics.put(OTLP_SPANS.name, (0, T0))
    assert backlog.held(upstream, T0 + SECOND) == [T0]
    topics.read("first", OTLP_SPANS.name, 0, 1)
    assert backlog.held(upstream, T0 + 2 * SECOND) == [T0 + 2 * SECOND]
    topics.put(OTLP_SPANS.name, (0, T0))
    assert backlog.held(upstream, T0 + 3 * SECOND) == [T0 + 2 * SECOND]


def test_the_clock_of_a_replay_is_its_log(topics: Topics, backlog: Backlog) -> None:
    clock = held(topics, backlog, LogClock(backlog, [topics.name("raw")]))
    topics.put("raw", (0, T0))
    clock.refresh()
    assert clock.now() == T0
    topics.put("raw", (0, T0 + 9 * SECOND))
    topics.put("a", (1, T0))
    clock.refresh()
    assert clock.now() == T0
    topics.read("first", "a", 1, 1)
    clock.refresh()
    assert clock.now() == T0 + 9 * SECOND


class Between(Backlog):
    """Something happens between its two questions."""

    then: Callable[[], None] = staticmethod(lambda: None)

    def _positions(self, upstream: Sequence[tuple[str, Sequence[str]]]) -> list[dict[tuple[str, int], int]]:
        found = super()._positions(upstream)
        self.then()
        return found


class EndsFirst(Between):
    """Wrong on purpose: it asks for the ends before the positions, so what moves on in between is in neither."""

    def _positions(self, upstream: Sequence[tuple[str, Sequence[str]]]) -> list[dict[tuple[str, int], int]]:
        self.early = super()._ends({place for _, names in upstream for place in self._places(names)})
        self.then()
        return Backlog._positions(self, upstream)

    def _ends(self, places: Iterable[tuple[str, int]]) -> dict[tuple[str, int], Any]:
        return {place: self.early[place] for place in places}


@pytest.mark.parametrize(("kind", "passed"), [(Between, 0), (EndsFirst, 1)])
def test_what_moves_on_during_a_look_is_seen(topics: Topics, kind: type[Between], passed: int) -> None:
    group = topics.settings.group
    upstream = [(group("first"), [topics.name("a")]), (group("second"), [topics.name("b")])]
    backlog = kind(topics.settings)
    assert backlog.held(upstream, T0) == [T0, T0]
    topics.put("a", (0, T0))

    def hand_over() -> None:
        """As a lane does: the output and the position in one transaction."""
        topics.producer.begin_transaction()
        topics.produce("b", [(0, T0)])
        done = [TopicPartition(topics.name("a"), 0, 1)]
        owner = Consumer(client_options(topics.settings) | {"group.id": group("first")})
        topics.producer.send_offsets_to_transaction(done, owner.consumer_group_metadata(), 30)
        topics.producer.commit_transaction(30)
        until(lambda: owner.committed(done)[0].offset == 1)
        owner.close()

    backlog.then = hand_over
    assert backlog.held(upstream, T0 + SECOND)[1] == T0 + passed * SECOND
    backlog.close()


class EndLast(Backlog):
    """Something happens before it asks for the very ends."""

    then: Callable[[], None] = staticmethod(lambda: None)
    questions, before = 0, 3

    def _asked(self, places: Sequence[tuple[str, int]], what: Any, isolation: IsolationLevel) -> list[Any]:
        self.questions += 1
        if self.questions == self.before:
            self.then()
        return super()._asked(places, what, isolation)


class EndFirst(EndLast):
    """Wrong on purpose: it asks for the end of what is decided after the very end."""

    before = 2

    def _ends(self, places: Iterable[tuple[str, int]]) -> dict[tuple[str, int], Any]:
        wanted = sorted(places)
        high = self._offsets(self._asked(wanted, OffsetSpec.latest(), IsolationLevel.READ_UNCOMMITTED))
        low = self._offsets(self._asked(wanted, OffsetSpec.earliest(), IsolationLevel.READ_UNCOMMITTED))
        stable = self._offsets(self._asked(wanted, OffsetSpec.latest(), IsolationLevel.READ_COMMITTED))
        return {place: _Ends(*each) for place, *each in zip(wanted, low, stable, high, strict=True)}


@pytest.mark.parametrize(("kind", "passed"), [(EndLast, False), (EndFirst, True)])
def test_transactions_that_overlap_during_a_look_hide_no_record(
    topics: Topics, kind: type[EndLast], passed: bool
) -> None:
    """One whose record is unread commits, and another one has begun behind it: what is decided ends at that record."""
    backlog, other = kind(topics.settings), topics.make()
    topics.producer.begin_transaction()
    topics.produce("a", [(0, T0)])

    def overlap() -> None:
        other.begin_transaction()
        other.produce(topics.name("a"), b"x", b"k", partition=0, timestamp=millis(T0))
        other.flush(30)
        topics.producer.commit_transaction(30)
        until(lambda: topics.ends(IsolationLevel.READ_COMMITTED)[0] == 1)

    backlog.then = overlap
    level = backlog.held([(topics.settings.group("g"), [topics.name("a")])], T0 + SECOND)[0]
    assert level == (T0 + SECOND if passed else EPOCH)
    other.abort_transaction(30)
    backlog.close()


def test_topics_that_are_not_there_hold_nothing_back(kafka_settings: KafkaSettings, backlog: Backlog) -> None:
    assert backlog.held([("g", [kafka_settings.topic("absent")])], T0) == [T0]
    assert backlog.lag_of("g", [kafka_settings.topic("absent")]) == {}
    assert backlog.newest([kafka_settings.topic("absent")]) is None


def test_without_brokers_it_says_so() -> None:
    backlog = Backlog(KafkaSettings(f"127.0.0.1:{free_ports(1)[0]}"), patience=0.5)
    with pytest.raises(Retry, match="does not say"):
        backlog.lag_of("g", ["a"])
    backlog.close()


def test_clients_that_hear_nothing_are_made_anew(
    topics: Topics, backlog: Backlog, monkeypatch: pytest.MonkeyPatch
) -> None:
    topics.put("a", (0, T0))
    monkeypatch.setattr("connectors.kafka.backlog.RENEW_SECONDS", 0.2)
    [deaf] = free_ports(1)
    lost = AdminClient(client_options(KafkaSettings(f"127.0.0.1:{deaf}")) | {"log_level": 0})
    backlog._admin, backlog._patience = lost, 0.3
    for _ in range(2):
        with pytest.raises(Retry):
            lag(topics, backlog)
    time.sleep(0.3)
    backlog._patience = 5.0
    assert lag(topics, backlog) == [1, 0, 0]
    assert backlog._admin is not lost


def test_time_stands_still_while_brokers_are_away(kafka_cluster: Callable[..., Cluster]) -> None:
    cluster = kafka_cluster()
    topics = Topics(KafkaSettings(cluster.bootstrap, partitions=3))
    topics.put("a", (0, T0))
    backlog = Backlog(topics.settings, patience=1.0)
    group, now = topics.settings.group("g"), [T0 + SECOND]
    clock = HeldClock(lambda: now[0], backlog, [(group, [topics.name("a")])], interval=0.05)
    clock.start()
    try:
        until(lambda: any(number for number in backlog.lag_of(group, [topics.name("a")]).values()))
        assert clock.now() < T0
        topics.read("g", "a", 0, 1)
        until(lambda: clock.now() == T0 + SECOND)
        cluster.kill(1)
        until(lambda: bool(clock.trouble))
        now[0] = T0 + 2 * SECOND
        with pytest.raises(Retry):
            clock.refresh()
        assert clock.now() == T0 + SECOND
        cluster.restart(1)
        until(lambda: clock.now() == T0 + 2 * SECOND)
        assert not clock.trouble
    finally:
        clock.close()
        backlog.close()


def until(true: Callable[[], bool], seconds: float = 90.0) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not come to that"
        threading.Event().wait(0.02)
