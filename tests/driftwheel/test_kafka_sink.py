"""The sink against a real broker: everything once in an idempotent store, whatever is killed or away."""

from __future__ import annotations

import logging
import os
import signal
import sqlite3
import threading
import time
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import closing, contextmanager
from itertools import count, islice, product
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from connectors.kafka.settings import KafkaSettings, client_options
from connectors.kafka.wire import Headers, Plain
from connectors.log import Entry, MemoryLog
from connectors.sink import MemorySink
from driftwheel import kafka_sink
from driftwheel.kafka_sink import KafkaSink, KafkaSinkSettings
from schemas import codec
from schemas.errors import Invalid, Reject, Retry, UsageError
from schemas.events import DeadLetter, Erasure, LedgerEntry, Record
from schemas.topics import DEAD_LETTERS, ERASURES, LEDGER
from tests.brokers import Cluster
from tests.driftwheel.engine_kit import T0, tally, until

QUICK = KafkaSinkSettings(batch_seconds=0.05, retry_seconds=0.05, retry_limit=0.2, session_seconds=6.0)


class Store(MemorySink):
    """A store in memory; ``before`` is called with every batch before it is written."""

    name, topics = "store", (LEDGER, ERASURES)

    def __init__(self) -> None:
        super().__init__()
        self.before: Callable[[Sequence[Record]], None] = lambda _: None
        self.written = 0

    def write(self, records: Sequence[Record]) -> None:
        self.before(records)
        super().write(records)
        self.written += len(records)

    @property
    def ids(self) -> set[str]:
        return {event_id for _, event_id in self.records}


class One(Store):
    """With one topic, so that whoever has a partition has something to do."""

    topics = (LEDGER,)


class Topics:
    """The sink's topics on a broker."""

    def __init__(self, settings: KafkaSettings) -> None:
        self.settings = settings
        admin = AdminClient(client_options(settings))
        wanted = [NewTopic(settings.topic(topic), settings.partitions) for topic in Store.topics]
        for made in admin.create_topics(wanted).values():
            made.result(60)
        options = {"enable.idempotence": True, "linger.ms": 1, "log_level": 0}
        self.producer = Producer(client_options(settings) | options)

    def put(self, values: Iterable[bytes | None], topic: str = LEDGER.name) -> None:
        for number, value in enumerate(values):
            self.producer.produce(self.settings.topic(topic), value, f"k{number % 7}")
        assert self.producer.flush(60) == 0

    def tallies(self, numbers: Iterable[int]) -> set[str]:
        """Put records; returns their ids."""
        records = [tally(str(number), "a", number) for number in numbers]
        self.put(codec.encode(record) for record in records)
        return {record.event_id for record in records}

    def left(self) -> int:
        """How many offsets the group has not committed."""
        names, numbers = map(self.settings.topic, Store.topics), range(self.settings.partitions)
        places = [TopicPartition(*place) for place in product(names, numbers)]
        consumer = Consumer(client_options(self.settings) | {"group.id": self.settings.group("store")})
        try:
            committed = {(at.topic, at.partition): max(at.offset, 0) for at in consumer.committed(places, 30)}
            ends = {(at.topic, at.partition): consumer.get_watermark_offsets(at, 30)[1] for at in places}
        finally:
            consumer.close()
        return sum(ends[place] - committed[place] for place in ends)


@pytest.fixture
def topics(kafka_settings: KafkaSettings) -> Topics:
    return Topics(kafka_settings)


@contextmanager
def running(
    topics: Topics, store: Store, dead: MemoryLog | None = None, tuning: KafkaSinkSettings = QUICK
) -> Generator[KafkaSink]:
    sink = KafkaSink(topics.settings, store, Plain(), dead or MemoryLog(), lambda: T0, tuning)
    sink.start()
    try:
        yield sink
    finally:
        sink.stop()


def letters(dead: MemoryLog) -> list[DeadLetter]:
    assert {entry.topic for entry in dead.entries} <= {DEAD_LETTERS.name}
    found = [codec.decode(entry.value, DeadLetter) for entry in dead.entries]
    return [letter for letter in found if isinstance(letter, DeadLetter)]


def test_records_are_written_and_committed(topics: Topics) -> None:
    wanted, store = topics.tallies(range(300)), Store()
    erasure = Erasure(event_id="e", tenant="t", agent="a", event_time=T0, deleted={"turns": 1})
    topics.put([codec.encode(erasure)], ERASURES.name)
    batches: list[tuple[str, int, int]] = []
    sink = KafkaSink(
        topics.settings, store, Plain(), MemoryLog(), lambda: T0, QUICK, lambda *seen: batches.append(seen[:3])
    )
    assert not sink.wait(0)
    sink.start()
    until(lambda: sink.records == 301)
    sink.stop()
    assert store.ids == wanted | {"e"}
    assert store.written == 301
    assert topics.left() == 0
    assert (sink.batches, sink.problems(), sink.failure) == (len(batches), [], None)
    assert {name for name, _, _ in batches} == {"store"}
    assert (sum(n for _, n, _ in batches), sum(n for _, _, n in batches)) == (301, 0)


def test_it_goes_on_where_it_was(topics: Topics) -> None:
    topics.tallies(range(50))
    with running(topics, Store()) as sink:
        until(lambda: sink.records == 50)
    wanted, store = topics.tallies(range(50, 80)), Store()
    with running(topics, store) as sink:
        until(lambda: sink.records == 30)
    assert store.ids == wanted


def test_what_is_not_committed_is_not_read(topics: Topics) -> None:
    store = Store()
    writer = Producer(client_options(topics.settings) | {"transactional.id": f"{topics.settings.prefix}w"})
    writer.init_transactions(30)
    with running(topics, store) as sink:
        writer.begin_transaction()
        writer.produce(topics.settings.topic(LEDGER), codec.encode(tally("taken back", "a", 1)), "k0")
        writer.flush(30)
        writer.abort_transaction(30)
        wanted = topics.tallies(range(20))
        until(lambda: sink.records == 20)
    assert store.ids == wanted


def test_a_store_that_is_away_gets_the_batch_again(topics: Topics, caplog: pytest.LogCaptureFixture) -> None:
    store, failures = Store(), iter(range(4))
    more: list[set[str]] = []

    def away(records: Sequence[Record]) -> None:
        del records
        number = next(failures, None)
        if number == 1:
            more.append(topics.tallies(range(100, 150)))  # it does not read on meanwhile, and loses nothing
        if number is not None:
            raise Retry("the store is away")

    store.before = away
    wanted = topics.tallies(range(100))
    with caplog.at_level(logging.INFO), running(topics, store) as sink:
        until(lambda: bool(sink.retrying))
        assert "the store is away" in " ".join(sink.problems())
        before = sink.last_progress
        until(lambda: sink.last_progress > before)
        until(lambda: len(store.ids) == 150 and not sink.retrying)
    assert store.ids == wanted | more[0]
    assert store.written == 150
    said = [record.getMessage() for record in caplog.records if "driftwheel.kafka_sink" in record.name]
    assert [line for line in said if "away" in line] == ["store: the store is away; nothing is lost, it tries again"]
    assert [line for line in said if "works again" in line] == ["store: it works again"]


def test_a_write_that_never_ends_is_a_standstill(topics: Topics) -> None:
    store, began, go_on = Store(), threading.Event(), threading.Event()

    def hang(records: Sequence[Record]) -> None:
        del records
        began.set()
        assert go_on.wait(60)

    store.before = hang
    topics.tallies(range(10))
    with running(topics, store) as sink:
        assert sink.stalled() == []
        assert began.wait(60)
        sink.last_progress -= QUICK.write_seconds + 1
        (problem,) = sink.stalled()
        assert problem.startswith("store has been at one batch for 30")
        go_on.set()
        until(lambda: sink.records == 10 and not sink.stalled())
    assert sink.stalled() == []


def test_stopped_while_the_store_is_away_it_leaves_the_batch_to_the_next(topics: Topics) -> None:
    wanted, store = topics.tallies(range(40)), Store()

    def away(records: Sequence[Record]) -> None:
        raise Retry("the store is away")

    store.before = away
    with running(topics, store, tuning=KafkaSinkSettings(retry_seconds=60.0, session_seconds=6.0)) as sink:
        until(lambda: bool(sink.retrying))
    assert topics.left() == 40
    with running(topics, other := Store()) as sink:
        until(lambda: sink.records == 40)
    assert other.ids == wanted


def test_what_cannot_be_stored_becomes_a_dead_letter_and_its_neighbours_are_written(topics: Topics) -> None:
    store, dead = Store(), MemoryLog()

    def poisoned(records: Sequence[Record]) -> None:
        for record in records:
            if isinstance(record, LedgerEntry) and record.count % 10 == 3:
                raise Invalid("no_envelope", "count")

    store.before = poisoned
    topics.put([b"no record", codec.encode(Erasure(event_id="e", tenant="t", agent="a", event_time=T0, deleted={}))])
    wanted = topics.tallies(range(100)) - {tally(str(n), "a", n).event_id for n in range(3, 100, 10)}
    topics.put([None] * 5)
    with running(topics, store, dead) as sink:
        until(lambda: sink.records == 90)
        until(lambda: topics.left() == 0)
    assert store.ids == wanted
    reasons = sorted(letter.reason for letter in letters(dead))
    assert reasons == ["no_envelope"] * 10 + ["unknown_schema", "wrong_record"]
    assert {(letter.stage, letter.topic) for letter in letters(dead)} == {("store", LEDGER.name)}
    assert len({(letter.partition, letter.offset) for letter in letters(dead)}) == 12


def test_a_log_that_takes_no_dead_letters_holds_the_batch_back(topics: Topics) -> None:
    class Full(MemoryLog):
        refusals = 3

        def append(self, entries: Sequence[Entry]) -> None:
            self.refusals -= 1
            if self.refusals >= 0:
                raise Reject("the log is full")
            super().append(entries)

    dead = Full()
    topics.put([b"no record"])
    with running(topics, Store(), dead):
        until(lambda: topics.left() == 0)
    assert [letter.reason for letter in letters(dead)] == ["unknown_schema"]


def test_a_registry_that_is_away_holds_the_batch_back(topics: Topics) -> None:
    class Registry(Plain):
        failures = 3

        def unwrap(self, topic: str, value: bytes, headers: Headers) -> bytes:
            self.failures -= 1
            if self.failures >= 0:
                raise Retry("the registry is away")
            assert (topic, headers) == (LEDGER.name, [])
            return value[1:]

    record = tally("1", "a", 1)
    topics.put([b"<" + codec.encode(record)])
    store = Store()
    sink = KafkaSink(topics.settings, store, Registry(), MemoryLog(), lambda: T0, QUICK)
    sink.start()
    until(lambda: sink.records == 1)
    sink.stop()
    assert store.ids == {record.event_id}


def test_a_defect_ends_it_and_commits_nothing(topics: Topics) -> None:
    topics.tallies(range(10))
    store = Store()

    def broken(records: Sequence[Record]) -> None:
        raise ZeroDivisionError("a defect")

    store.before = broken
    with running(topics, store) as sink:
        until(lambda: sink.wait(0.1))
    assert isinstance(sink.failure, ZeroDivisionError)
    assert "a defect" in " ".join(sink.problems())
    assert topics.left() == 10


def test_several_share_the_partitions_and_leave_in_any_order(topics: Topics) -> None:
    store, dead, numbers = One(), MemoryLog(), count()
    wanted: set[str] = set()

    def more() -> None:
        wanted.update(topics.tallies(islice(numbers, 20)))

    def shared(other: KafkaSink) -> bool:
        more()
        return other.records > 0

    with running(topics, store, dead):
        more()
        with running(topics, store, dead) as second:
            until(lambda: shared(second))
            with running(topics, store, dead) as third:
                until(lambda: shared(third))
        more()
        until(lambda: store.ids == wanted)
    assert topics.left() == 0
    assert not letters(dead)


class Away(One):
    """Not there until ``back``."""

    def __init__(self) -> None:
        super().__init__()
        self.back = threading.Event()
        self.before = self.refuse

    def refuse(self, records: Sequence[Record]) -> None:
        if not self.back.is_set():
            raise Retry("the store is away")


def test_a_batch_whose_partitions_went_to_another_is_let_go(topics: Topics) -> None:
    """The first one's store is away; the second joins, takes partitions over, and writes what the first one held."""
    stuck, store = Away(), One()
    wanted = topics.tallies(range(300))
    with running(topics, stuck) as first:
        until(lambda: bool(first.retrying))
        with running(topics, store) as second:
            until(lambda: second.records > 0)
            held = len(first._held)
            assert held < 300, "it still holds what is the other's now"
            stuck.back.set()
            until(lambda: len(stuck.ids | store.ids) == 300)
    assert stuck.ids | store.ids == wanted
    assert stuck.written + store.written == 300, "a record was written twice"
    assert topics.left() == 0


def test_partitions_that_went_while_they_were_paused_are_read_when_they_come_back(topics: Topics) -> None:
    stuck, store = Away(), One()
    wanted = topics.tallies(range(300))
    with running(topics, stuck) as first:
        until(lambda: bool(first.retrying))
        with running(topics, store) as second:
            until(lambda: second.records > 0)
            stuck.back.set()
            until(lambda: stuck.ids | store.ids == wanted and not first.problems(), 30)
        wanted |= topics.tallies(range(300, 600))
        until(lambda: stuck.ids | store.ids == wanted, 30)
    assert topics.left() == 0


class Rows:
    """An idempotent store on disk, for processes that are killed."""

    name, topics = "store", (LEDGER, ERASURES)

    def __init__(self, path: Path) -> None:
        self._path = path

    def write(self, records: Sequence[Record]) -> None:
        with closing(sqlite3.connect(self._path)) as database, database:
            database.execute("CREATE TABLE IF NOT EXISTS rows (id TEXT PRIMARY KEY)")
            database.executemany("INSERT OR IGNORE INTO rows VALUES (?)", [(record.event_id,) for record in records])

    def ids(self) -> set[str]:
        with closing(sqlite3.connect(self._path)) as database:
            return {row[0] for row in database.execute("SELECT id FROM rows")}


class DiesBetween(KafkaSink):
    """Killed after it has written its third batch, and before it has said so."""

    def _commit(self) -> None:
        if self._owed and self.batches == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        super()._commit()


class CommitsFirst(KafkaSink):
    """Wrong on purpose: it says so first, and is killed before it has written its third batch."""

    def _write(self) -> None:
        self._owe(self._held)
        offsets = [TopicPartition(*place, offset) for place, offset in self._owed.items()]
        self._consumer.commit(offsets=offsets, asynchronous=False)
        if self.batches == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        super()._write()


SMALL = KafkaSinkSettings(batch_size=20, batch_seconds=0.05, session_seconds=6.0)


def child(kind: type[KafkaSink], settings: KafkaSettings, path: Path) -> None:
    kind(settings, Rows(path), Plain(), MemoryLog(), lambda: T0, SMALL).run()


@pytest.mark.parametrize(("kind", "loses"), [(DiesBetween, False), (CommitsFirst, True)])
def test_killed_between_store_and_commit(topics: Topics, tmp_path: Path, kind: type[KafkaSink], loses: bool) -> None:
    """Twice; then one that lives does the rest. The control loses what it had said it had: two batches of any size."""
    path, spawn = tmp_path / "rows", get_context("spawn")
    wanted = topics.tallies(range(400))
    for _ in range(2):
        process = spawn.Process(target=child, args=(kind, topics.settings, path))
        process.start()
        process.join()
        assert process.exitcode == -signal.SIGKILL
    store = Rows(path)
    survivor = KafkaSink(topics.settings, store, Plain(), MemoryLog(), lambda: T0, SMALL)
    survivor.start()
    until(lambda: topics.left() == 0)
    survivor.stop()
    assert store.ids() <= wanted
    lost = len(wanted - store.ids())
    assert 2 <= lost <= 2 * SMALL.batch_size if loses else lost == 0


def test_brokers_that_go_and_come_back(kafka_cluster: Callable[..., Cluster], caplog: pytest.LogCaptureFixture) -> None:
    cluster = kafka_cluster()
    topics, store = Topics(KafkaSettings(cluster.bootstrap, partitions=3)), Store()
    wanted = topics.tallies(range(100))
    with caplog.at_level(logging.INFO), running(topics, store) as sink:
        until(lambda: sink.records == 100)
        cluster.kill(1)
        until(lambda: bool(sink.trouble))
        assert sink.problems()
        before = sink.last_progress
        until(lambda: sink.last_progress > before)
        cluster.restart(1)
        wanted |= topics.tallies(range(100, 200))
        until(lambda: store.ids == wanted)
        until(lambda: not sink.problems())
    assert topics.left() == 0
    warned = [one for one in caplog.records if one.name == "driftwheel.kafka_sink" and one.levelno >= logging.WARNING]
    assert 1 <= len(warned) < 10


class LosesItsBroker(KafkaSink):
    """Its first consumer hears of no broker any more, and commits nothing."""

    def __init__(self, *given: Any, **more: Any) -> None:
        super().__init__(*given, **more)
        self.first = self._consumer

    def _look(self) -> None:
        if self._consumer is not self.first:
            super()._look()
        elif self.batches:
            self._worry("planted")

    def _commit(self) -> None:
        if self._consumer is not self.first:
            super()._commit()


def test_another_consumer_takes_over(topics: Topics, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kafka_sink, "RENEW_SECONDS", 1.0)
    store = Store()
    sink = LosesItsBroker(topics.settings, store, Plain(), MemoryLog(), lambda: T0, QUICK)
    wanted = topics.tallies(range(100))
    sink.start()
    try:
        until(lambda: sink._consumer is not sink.first)
        wanted |= topics.tallies(range(100, 200))
        until(lambda: store.ids == wanted and not sink.problems())
    finally:
        sink.stop()
    assert topics.left() == 0


def test_topics_that_are_missing_are_named(kafka_settings: KafkaSettings) -> None:
    sink = KafkaSink(kafka_settings, Store(), Plain(), MemoryLog(), lambda: T0, QUICK)
    sink.start()
    until(lambda: "driftwheel topics apply" in " ".join(sink.problems()))
    sink.stop()
    assert sink.failure is None


def test_settings_that_make_no_client_are_refused() -> None:
    settings = KafkaSettings("127.0.0.1:1", protocol="SSL", ca_file="/nowhere.pem")
    with pytest.raises(UsageError, match="ca_file"):
        KafkaSink(settings, Store(), Plain(), MemoryLog(), lambda: T0)


def test_a_stopped_sink_has_stopped(topics: Topics) -> None:
    with running(topics, Store()) as sink:
        until(lambda: time.monotonic() - sink.last_progress < 5)
    assert sink.wait(0)
    sink.stop()
