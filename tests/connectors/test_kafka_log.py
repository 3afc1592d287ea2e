"""The log on Kafka, against a real broker: all of a call or none, and durable when it returns."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import count
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
from confluent_kafka import Consumer, IsolationLevel, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic, OffsetSpec

from connectors.kafka.log import MAX_MESSAGE, KafkaLog, KafkaLogSettings
from connectors.kafka.partition import partition_of
from connectors.kafka.settings import KafkaSettings, client_options
from connectors.kafka.wire import Headers, millis
from connectors.log import Entry, entry_of
from schemas.errors import Invalid, Reject, Retry, UsageError
from schemas.events import Label
from schemas.topics import LABELS, LEDGER, OTLP_LOGS, OTLP_SPANS, SIGNALS_RAW
from tests.brokers import Cluster, free_ports
from tests.driftwheel.kafka_kit import stored
from tests.world import REDACTION

NOW = datetime(2026, 1, 5, 8, 0, 0, 123_456, UTC)
TUNING = KafkaLogSettings(queue_seconds=20.0)
SMALL = 20_000


def create(settings: KafkaSettings, **config: str) -> None:
    """The gateway's topics; those of the ledger take small messages alone. Records stay whatever their age."""
    config = {"retention.ms": "-1"} | config
    large = {"max.message.bytes": "20000000"} | config
    wanted = [
        NewTopic(settings.topic(topic), settings.partitions, config=large) for topic in (OTLP_SPANS, OTLP_LOGS, LABELS)
    ]
    wanted += [NewTopic(settings.topic(SIGNALS_RAW), settings.partitions, config=large)]
    small = {"max.message.bytes": str(SMALL)} | config
    wanted += [NewTopic(settings.topic(LEDGER), settings.partitions, config=small)]
    admin = AdminClient(client_options(settings))
    for made in admin.create_topics(wanted).values():
        made.result(60)


@pytest.fixture
def settings(kafka_settings: KafkaSettings) -> KafkaSettings:
    create(kafka_settings)
    return kafka_settings


@pytest.fixture
def log(settings: KafkaSettings) -> Iterator[KafkaLog]:
    made = KafkaLog(settings, tuning=TUNING)
    yield made
    made.close()


def pair(number: int | str, more: int = 0) -> list[Entry]:
    """A request: its payload and its ledger entry, with so many bytes more that cannot be compressed."""
    value = str(number).encode()
    ledger = value + b" " + os.urandom(more)
    return [Entry(OTLP_SPANS.name, f"k{number}", value, NOW), Entry(LEDGER.name, "k", ledger, NOW)]


def values(settings: KafkaSettings, topic: str, *, committed: bool = True) -> Counter[str]:
    name = settings.topic(topic)
    return Counter(one.value.split(b" ")[0].decode() for one in stored(settings, name, committed=committed))


def test_entries_arrive_whole(settings: KafkaSettings, log: KafkaLog) -> None:
    headers = {"tenant": "acme", "agent": "süd", "ledger": "gateway"}
    log.append([Entry(OTLP_SPANS.name, "acme/süd", b"\x00\xff", NOW, headers)])
    place = TopicPartition(settings.topic(OTLP_SPANS), partition_of("acme/süd", settings.partitions), 0)
    consumer = Consumer(client_options(settings) | {"group.id": "x", "isolation.level": "read_committed"})
    consumer.assign([place])
    message = consumer.poll(30)
    consumer.close()
    assert message is not None
    assert not message.error()
    assert (message.key(), message.value()) == ("acme/süd".encode(), b"\x00\xff")
    assert message.timestamp()[1] == millis(NOW)
    assert dict(message.headers() or ()) == {name: value.encode() for name, value in headers.items()}


def test_a_newer_entry_of_a_compacted_topic_replaces_by_identity(settings: KafkaSettings, log: KafkaLog) -> None:
    labels = [
        Label(
            event_id=f"l{n}", tenant="t", agent="a", event_time=NOW, sample_id="s", turn_id="u", rater="r",
            rubric_version="1", value="good", redaction=REDACTION,
        )
        for n in range(20)
    ]  # fmt: skip
    log.append([entry_of(label, NOW) for label in labels])
    found = stored(settings, settings.topic(LABELS))
    assert {one.key for one in found} == {f"l{n}" for n in range(20)}
    assert {one.partition for one in found} == {partition_of("t/a", settings.partitions)}
    deletion = Entry(LABELS.name, "t/a", b"", NOW, identity="l3")
    log.append([deletion])
    [last] = [one for one in stored(settings, settings.topic(LABELS)) if not one.value]
    assert (last.key, last.partition) == ("l3", found[0].partition)
    assert log._message(deletion)["value"] is None, "to brokers no value is another thing than an empty one"


class Marked:
    """A framing that shows, and that can be away."""

    def __init__(self) -> None:
        self.away = False

    def wrap(self, topic: str, value: bytes) -> tuple[bytes, Headers]:
        if self.away:
            raise Retry("the registry is away")
        return b"<" + value, [("topic", topic.encode())]

    def unwrap(self, topic: str, value: bytes, headers: Headers) -> bytes:
        raise NotImplementedError


def test_raw_topics_are_not_framed_and_the_others_are(settings: KafkaSettings) -> None:
    framing = Marked()
    log = KafkaLog(settings, framing, TUNING)
    raw = [Entry(topic.name, "k", b"1", NOW) for topic in (OTLP_SPANS, SIGNALS_RAW)]
    log.append([*raw, Entry(LEDGER.name, "k", b"1", NOW)])
    framing.away = True
    with pytest.raises(Reject, match="registry"):
        log.append(pair(2))
    log.close()
    found = {topic: [*values(settings, topic.name)] for topic in (OTLP_SPANS, SIGNALS_RAW, LEDGER)}
    assert found == {OTLP_SPANS: ["1"], SIGNALS_RAW: ["1"], LEDGER: ["<1"]}


def test_many_threads_share_transactions(settings: KafkaSettings, log: KafkaLog) -> None:
    with ThreadPoolExecutor(16) as threads:
        list(threads.map(lambda number: log.append(pair(number)), range(400)))
    wanted = Counter(str(number) for number in range(400))
    assert values(settings, OTLP_SPANS.name) == values(settings, LEDGER.name) == wanted


def test_nothing_of_a_call_is_there_when_one_entry_is_refused(settings: KafkaSettings, log: KafkaLog) -> None:
    with pytest.raises(Invalid, match=r"max\.message\.bytes") as raised:
        log.append(pair("half", SMALL))
    assert raised.value.reason == "too_large"
    log.append(pair("next"))
    assert values(settings, OTLP_SPANS.name) == values(settings, LEDGER.name) == Counter(["next"])


def test_control_without_a_transaction_half_of_a_call_stays(settings: KafkaSettings) -> None:
    producer = Producer(client_options(settings) | {"enable.idempotence": True, "log_level": 0})
    for entry in pair("half", SMALL):
        producer.produce(settings.topic(entry.topic), entry.value, entry.key)
    producer.flush(30)
    assert values(settings, OTLP_SPANS.name) == Counter(["half"])
    assert not values(settings, LEDGER.name)


def test_a_refused_call_does_not_harm_its_neighbours(settings: KafkaSettings, log: KafkaLog) -> None:
    together = threading.Barrier(32)

    def send(number: int) -> str:
        together.wait()
        try:
            log.append(pair(number, 0 if number % 8 else SMALL))
        except Invalid as error:
            return error.reason
        return "taken"

    with ThreadPoolExecutor(32) as threads:
        answers = list(threads.map(send, range(32)))
    assert answers == ["taken" if number % 8 else "too_large" for number in range(32)]
    wanted = Counter(str(number) for number in range(32) if number % 8)
    assert values(settings, OTLP_SPANS.name) == values(settings, LEDGER.name) == wanted


def test_what_is_larger_than_any_message_is_invalid_at_once(settings: KafkaSettings, log: KafkaLog) -> None:
    with pytest.raises(Invalid, match=str(MAX_MESSAGE)):
        log.append([*pair(1), Entry(OTLP_SPANS.name, "k", b"x" * MAX_MESSAGE, NOW)])
    assert not values(settings, OTLP_SPANS.name, committed=False)
    log.append([Entry(OTLP_SPANS.name, "k", os.urandom(16 << 20), NOW)])
    [large] = stored(settings, settings.topic(OTLP_SPANS))
    assert len(large.value) == 16 << 20


def test_ready_names_what_is_missing(kafka_settings: KafkaSettings) -> None:
    log = KafkaLog(kafka_settings, tuning=TUNING)
    try:
        until(lambda: "not answered" not in " ".join(log.ready()))
        [problem] = log.ready()
        assert kafka_settings.topic(OTLP_SPANS) in problem
        assert "driftwheel topics apply" in problem
        with pytest.raises(Reject):
            log.append(pair(1))
        create(kafka_settings)
        until(lambda: taken(lambda: log.append(pair(2))))
        assert log.ready() == []
    finally:
        log.close()


def until(true: Callable[[], bool], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not come to that"
        threading.Event().wait(0.02)


def taken(append: Callable[[], None]) -> bool:
    try:
        append()
    except Reject:
        return False
    return True


def test_without_brokers_callers_are_asked_to_come_again() -> None:
    settings = KafkaSettings(f"127.0.0.1:{free_ports(1)[0]}")
    log = KafkaLog(settings, tuning=KafkaLogSettings(queue_seconds=0.2, queue_bytes=10_000))
    try:
        with pytest.raises(Reject):
            log.append(pair(1))
        until(lambda: "is it up" in " ".join(log.ready()))
        with pytest.raises(Reject, match="is it up") as raised:
            log.append(pair(2))
        assert raised.value.retry_after > 1
    finally:
        log.close()
    with pytest.raises(Reject, match="closing"):
        log.append(pair(3))


def test_what_waits_is_bounded() -> None:
    settings = KafkaSettings(f"127.0.0.1:{free_ports(1)[0]}")
    log = KafkaLog(settings, tuning=KafkaLogSettings(queue_seconds=3.0, queue_bytes=3_000))
    try:
        with ThreadPoolExecutor(4) as threads:
            answers = threads.map(lambda number: rejection(log, number), range(4))
            reasons = Counter("bytes wait" in answer for answer in answers)
        assert reasons == {False: 2, True: 2}
    finally:
        log.close()


def rejection(log: KafkaLog, number: int) -> str:
    with pytest.raises(Reject) as raised:
        log.append(pair(number))
    return str(raised.value)


def test_settings_that_make_no_client_are_refused() -> None:
    with pytest.raises(UsageError, match="ca_file"):
        KafkaLog(KafkaSettings("127.0.0.1:1", protocol="SSL", ca_file="/nowhere.pem"))


def test_a_fenced_producer_is_replaced(settings: KafkaSettings, log: KafkaLog) -> None:
    log.append(pair(1))
    thief = Producer(client_options(settings) | {"transactional.id": log._id})
    thief.init_transactions(30)
    until(lambda: taken(lambda: log.append(pair(2))))
    with pytest.raises(KafkaException):
        commit(thief, settings)
    log.append(pair(3))
    assert values(settings, OTLP_SPANS.name) == values(settings, LEDGER.name) == Counter(["1", "2", "3"])


def commit(producer: Producer, settings: KafkaSettings) -> None:
    producer.begin_transaction()
    producer.produce(settings.topic(OTLP_SPANS), b"stolen")
    producer.commit_transaction(10)


def test_brokers_that_go_and_come_back_lose_nothing(kafka_cluster: Callable[..., Cluster]) -> None:
    cluster = kafka_cluster()
    settings = KafkaSettings(cluster.bootstrap, partitions=3)
    create(settings)
    log = KafkaLog(settings, tuning=KafkaLogSettings(queue_seconds=2.0, transaction_seconds=4.0))
    acknowledged: list[str] = []
    numbers, ended = count(), threading.Event()

    def send() -> None:
        while not ended.is_set():
            entries = pair(next(numbers))
            if taken(partial(log.append, entries)):
                acknowledged.append(entries[0].value.decode())
            else:
                ended.wait(0.05)

    with ThreadPoolExecutor(4) as threads:
        sending = [threads.submit(send) for _ in range(4)]
        until(lambda: len(acknowledged) > 50)
        cluster.kill(1)
        until(lambda: bool(log.ready()))
        before = len(acknowledged)
        cluster.restart(1)
        until(lambda: len(acknowledged) > before + 50)
        ended.set()
        for one in sending:
            one.result()
    assert log.ready() == []
    log.close()
    raw, ledger = values(settings, OTLP_SPANS.name), values(settings, LEDGER.name)
    assert raw == ledger, "half of a call"
    assert not Counter(acknowledged) - raw, "acknowledged and lost"
    assert max(raw.values()) == 1


def child(settings: KafkaSettings, path: Path, ready: Connection) -> None:
    """What is killed: a gateway under load, which notes down what was acknowledged."""
    log = KafkaLog(settings, tuning=KafkaLogSettings(transaction_seconds=2.0))
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    numbers = count()

    def send() -> None:
        while True:
            number = f"{os.getpid()}-{next(numbers)}"
            log.append(pair(number))
            os.write(file, f"{number}\n".encode())

    for _ in range(8):
        threading.Thread(target=send, daemon=True).start()
    ready.send_bytes(b"ready")
    threading.Event().wait()


def test_a_killed_gateway_leaves_no_half_calls(settings: KafkaSettings, tmp_path: Path) -> None:
    path = tmp_path / "acknowledged"
    path.touch()
    spawn = get_context("spawn")
    for lines in (100, 300, 600):
        ours, theirs = spawn.Pipe()
        process = spawn.Process(target=child, args=(settings, path, theirs))
        process.start()
        try:
            assert ours.recv_bytes() == b"ready"
            until(partial(has_lines, path, lines))
        finally:
            assert process.pid is not None
            os.kill(process.pid, signal.SIGKILL)
            process.join()
    settle(settings, (OTLP_SPANS.name, LEDGER.name))
    acknowledged = path.read_text().split()
    raw, ledger = values(settings, OTLP_SPANS.name), values(settings, LEDGER.name)
    assert raw == ledger, "half of a call"
    assert not Counter(acknowledged) - raw, "acknowledged and lost"


def has_lines(path: Path, number: int) -> bool:
    return len(path.read_text().split()) > number


def settle(settings: KafkaSettings, topics: Sequence[str]) -> None:
    """Until the brokers have given up what killed producers left open."""
    admin = AdminClient(client_options(settings))
    places = [TopicPartition(settings.topic(topic), n) for topic in topics for n in range(settings.partitions)]

    def ends(isolation: IsolationLevel) -> list[int]:
        found = admin.list_offsets(dict.fromkeys(places, OffsetSpec.latest()), isolation_level=isolation)
        return [found[place].result(30).offset for place in places]

    until(lambda: ends(IsolationLevel.READ_COMMITTED) == ends(IsolationLevel.READ_UNCOMMITTED))


def test_the_time_of_an_entry_has_milliseconds() -> None:
    assert millis(NOW) == millis(NOW - timedelta(microseconds=456))
