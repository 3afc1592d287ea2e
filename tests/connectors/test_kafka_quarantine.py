"""Encrypted payloads in a topic, and reading a partition by offset, against a real broker."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from threading import Thread

import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewTopic

from connectors.kafka.log import KafkaLog, KafkaLogSettings
from connectors.kafka.partition import partition_of
from connectors.kafka.quarantine import KafkaQuarantine
from connectors.kafka.reader import Reader, records_between
from connectors.kafka.settings import KafkaSettings, client_options
from connectors.kafka.topics import QUARANTINE
from connectors.kafka.wire import Headers
from connectors.log import Entry
from connectors.quarantine import RETENTION, Held
from schemas.errors import Refused, Retry
from schemas.topics import OTLP_SPANS, SPANS
from tests.brokers import free_ports
from tests.driftwheel.engine_kit import until
from tests.driftwheel.kafka_kit import stored

KEY = bytes(range(32))
NOW = datetime(2026, 1, 5, 9, 0, 0, 123_000, UTC)


@pytest.fixture
def settings(kafka_settings: KafkaSettings) -> KafkaSettings:
    admin = AdminClient(client_options(kafka_settings))
    config = {"max.message.bytes": "20000000", "retention.ms": "-1"}
    names = [kafka_settings.topic(topic) for topic in (QUARANTINE, OTLP_SPANS, SPANS)]
    wanted = [NewTopic(name, kafka_settings.partitions, 1, config=config) for name in names]
    for made in admin.create_topics(wanted).values():
        made.result(60)
    return kafka_settings


@pytest.fixture
def log(settings: KafkaSettings) -> Iterator[KafkaLog]:
    tuning = KafkaLogSettings(name="test", queue_seconds=30.0, topics=(QUARANTINE,))
    with closing(KafkaLog(settings, tuning=tuning)) as made:
        until(lambda: made.ready() == [])
        yield made


@pytest.fixture
def quarantine(settings: KafkaSettings) -> Iterator[KafkaQuarantine]:
    with closing(KafkaQuarantine(settings, KEY)) as made:
        yield made


def test_a_payload_comes_back_and_the_topic_shows_nothing(
    settings: KafkaSettings, log: KafkaLog, quarantine: KafkaQuarantine
) -> None:
    names = [f"letter-{n}" for n in range(10)]
    log.append([quarantine.entry(name, "acme", f"mary@example.org {name}".encode(), NOW) for name in names])
    for name in names:
        assert quarantine.read(name) == f"mary@example.org {name}".encode()
    assert (names[0] in quarantine, "other" in quarantine) == (True, False)
    assert quarantine.until(names[0]) == NOW + RETENTION
    kept = stored(settings, settings.topic(QUARANTINE))
    assert sorted(one.key for one in kept) == sorted(names)
    assert {one.partition for one in kept} == {partition_of(name, settings.partitions) for name in names}
    assert not any(b"mary" in one.value for one in kept)
    assert sorted(quarantine.held()) == sorted(Held(name, "acme", 17 + len(name), NOW + RETENTION) for name in names)


def test_what_comes_after_the_first_look_is_found_and_the_newest_counts(
    log: KafkaLog, quarantine: KafkaQuarantine
) -> None:
    assert "a" not in quarantine
    log.append([quarantine.entry("a", "acme", b"one", NOW)])
    assert quarantine.read("a") == b"one"
    log.append([quarantine.entry("a", "acme", b"two", NOW + timedelta(days=1))])
    assert quarantine.read("a") == b"two"
    assert quarantine.until("a") == NOW + timedelta(days=1) + RETENTION


def test_a_deleted_payload_is_gone_for_everyone(
    settings: KafkaSettings, log: KafkaLog, quarantine: KafkaQuarantine
) -> None:
    log.append([quarantine.entry("a", "acme", b"one", NOW), quarantine.entry("b", "acme", b"two", NOW)])
    assert quarantine.delete("a")
    assert not quarantine.delete("a")
    with closing(KafkaQuarantine(settings, KEY)) as another:
        for one in (quarantine, another):
            assert one.until("a") is None
            with pytest.raises(Refused, match=r"a is not in the quarantine: .* purged after 30 days"):
                one.read("a")
            assert one.read("b") == b"two"
    log.append([quarantine.entry("a", "acme", b"three", NOW)])
    assert quarantine.read("a") == b"three"


def test_what_is_past_its_time_is_gone_though_the_topic_has_it(
    settings: KafkaSettings, log: KafkaLog, quarantine: KafkaQuarantine
) -> None:
    log.append([quarantine.entry("a", "acme", b"one", NOW)])
    for clock, there in ((lambda: NOW, True), (lambda: NOW + RETENTION, False)):
        with closing(KafkaQuarantine(settings, KEY, clock)) as one:
            assert ("a" in one, [held.name for held in one.held()]) == (there, ["a"] * there)
            if not there:
                with pytest.raises(Refused, match="purged after 30 days"):
                    one.read("a")


def test_the_largest_payload(log: KafkaLog, quarantine: KafkaQuarantine) -> None:
    payload = os.urandom(16 << 20)
    log.append([quarantine.entry("large", "acme", payload, NOW), quarantine.entry("empty", "acme", b"", NOW)])
    assert quarantine.read("large") == payload
    assert quarantine.read("empty") == b""


def test_another_key_and_a_payload_that_is_not_the_letters(
    settings: KafkaSettings, log: KafkaLog, quarantine: KafkaQuarantine
) -> None:
    log.append([quarantine.entry("a", "acme", b"one", NOW)])
    with (
        closing(KafkaQuarantine(settings, bytes(32))) as another,
        pytest.raises(Refused, match=r"sealed under another key: set redact.key to the one before"),
    ):
        another.read("a")
    right = quarantine.entry("b", "acme", b"one", NOW)
    damaged = right.value[:-1] + bytes([right.value[-1] ^ 1])
    wrong = [("moved", right.value), ("b", damaged), ("newer", b"\x03" + right.value[1:]), ("short", b"\x02")]
    log.append([Entry(QUARANTINE, name, value, NOW, right.headers) for name, value in wrong])
    for name, problem in (
        ("moved", "not the payload"),
        ("b", "damaged"),
        ("newer", "another version"),
        ("short", "damaged"),
    ):
        with pytest.raises(Refused, match=problem):
            quarantine.read(name)


def test_what_was_not_committed_is_not_there(settings: KafkaSettings, quarantine: KafkaQuarantine) -> None:
    options = {"transactional.id": settings.prefix + "x", "partitioner": "murmur2_random"}
    producer = Producer(client_options(settings) | options)
    producer.init_transactions(30)
    entry = quarantine.entry("a", "acme", b"one", NOW)
    for end in (producer.abort_transaction, producer.commit_transaction):
        producer.begin_transaction()
        producer.produce(settings.topic(QUARANTINE), entry.value, entry.key, headers=dict(entry.headers))
        producer.flush(30)
        assert "a" not in quarantine
        end()
    assert quarantine.read("a") == b"one"


def test_threads_may_share_it(log: KafkaLog, quarantine: KafkaQuarantine) -> None:
    names = [f"letter-{n}" for n in range(20)]
    log.append([quarantine.entry(name, "acme", name.encode(), NOW) for name in names])
    found: dict[str, bytes] = {}
    threads = [Thread(target=lambda n=name: found.update({n: quarantine.read(n)})) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {name: name.encode() for name in names}


def test_away_and_missing_topics(kafka_settings: KafkaSettings) -> None:
    [port] = free_ports(1)
    gone = KafkaSettings(brokers=f"127.0.0.1:{port}")
    with closing(Reader(gone, silence=1.0)) as reader, pytest.raises(Retry, match=r"no Kafka broker at 127.0.0.1"):
        reader.at(SPANS.name, 0, 0)
    with pytest.raises(Refused, match=r"Kafka has no topic t.*agent.spans, .*: run `driftwheel topics apply`"):
        records_between(kafka_settings, SPANS.name, 0, 0, 1)


# Reading by offset.


class Shouting:
    """Values travel in capitals."""

    def wrap(self, topic: str, value: bytes) -> tuple[bytes, Headers]:
        """See Framing."""
        return value.upper(), [("loud", topic.encode())]

    def unwrap(self, topic: str, value: bytes, headers: Headers) -> bytes:
        """See Framing."""
        assert dict(headers)["loud"] == topic.encode()
        return value.lower()


def test_an_offset_is_read_as_it_was_appended(settings: KafkaSettings) -> None:
    tuning = KafkaLogSettings(name="test", queue_seconds=30.0, topics=(SPANS.name,))
    with closing(KafkaLog(settings, Shouting(), tuning)) as log:
        until(lambda: log.ready() == [])
        for n in range(3):
            log.append([Entry(SPANS.name, "k", f"v{n}".encode(), NOW, {"tenant": "t"})])
        log.append([Entry(OTLP_SPANS.name, "k", b"raw Bytes", NOW)])
    partition = partition_of("k", settings.partitions)
    with closing(Reader(settings, Shouting())) as reader:
        every = list(reader.since(SPANS.name, partition, 0))
        assert [(one.value, one.key, one.time, one.headers["tenant"]) for one in every] == [
            (f"v{n}".encode(), "k", NOW, "t") for n in range(3)
        ]
        for one in every:
            assert reader.at(SPANS.name, partition, one.offset) == one
        markers = set(range(every[-1].offset + 5)) - {one.offset for one in every}
        assert markers >= {1, 3, 5}
        assert [reader.at(SPANS.name, partition, n) for n in sorted(markers)] == [None] * len(markers)
        assert [one.value for one in reader.since(OTLP_SPANS.name, partition, 0)] == [b"raw Bytes"]
        assert list(reader.since(SPANS.name, (partition + 1) % 3, 0)) == []
    first, second, _ = (one.offset for one in every)
    assert records_between(settings, SPANS.name, partition, first, second)
    assert not records_between(settings, SPANS.name, partition, first + 1, second), "a mark of a commit"
    assert not records_between(settings, SPANS.name, partition, every[-1].offset + 1, every[-1].offset + 9)
