"""No sink of either engine is given text that does not say how it was cleaned."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from confluent_kafka.admin import AdminClient, NewTopic

from connectors.clickhouse.sink import ClickHouseSink
from connectors.clickhouse.store import Store
from connectors.kafka.settings import KafkaSettings, client_options
from connectors.log import Entry, MemoryLog
from connectors.sink import MemorySink, Sink, check_clean
from connectors.sqlite_log import SqliteLog, SqliteLogSettings
from driftwheel.delivery import deliver
from driftwheel.embedded import Engine
from processors.stage import Message
from schemas import codec
from schemas.errors import Invalid
from schemas.events import RECORDS, Clean, DeadLetter, RawSignal, Record, Redaction
from schemas.topics import BY_RECORD, DEAD_LETTERS, TOPICS, topic_of
from tests.driftwheel.engine_kit import until
from tests.driftwheel.test_kafka_sink import Topics, letters, running
from tests.schemas.test_contract import NOW, example
from tests.store import temporary_store

CLEAN = [record for record in RECORDS if issubclass(record, Clean)]
TEXTS = {"input", "output", "text", "text_before", "status_message", "attributes"}
NAKED = [
    Redaction(policy_version="", detector=""),
    Redaction(policy_version="1", detector=""),
    Redaction(policy_version="", detector="d"),
]


class Greedy:
    """A sink that looks at nothing: what others may write."""

    name = "greedy"
    topics = tuple(topic for topic in TOPICS if not topic.raw)

    def __init__(self) -> None:
        self.given: list[Record] = []

    def write(self, records: Sequence[Record]) -> None:
        self.given += records


def naked(kind: type[Record], envelope: Redaction) -> Record:
    return example(kind).model_copy(update={"redaction": envelope, "event_id": "naked"})


def message(record: Record, offset: int) -> Message:
    topic = topic_of(record)
    return Message(topic.name, offset, topic.key(record), codec.encode(record), NOW)


def test_whatever_holds_text_has_an_envelope() -> None:
    for record in RECORDS:
        if TEXTS & set(record.model_fields):
            assert issubclass(record, Clean), record.__name__
    assert "payload" in RawSignal.model_fields


@pytest.fixture(scope="module")
def store() -> Iterator[Store]:
    with temporary_store() as made:
        yield made


@pytest.fixture(params=[ClickHouseSink, MemorySink, Greedy], ids=lambda kind: kind.__name__)
def sink(request: pytest.FixtureRequest, store: Store) -> Sink:
    return request.param(store) if request.param is ClickHouseSink else request.param()


@pytest.mark.parametrize("kind", CLEAN, ids=lambda kind: kind.__name__)
def test_every_sink_is_spared_and_the_neighbours_are_written(kind: type[Clean], sink: Sink) -> None:
    batch = [message(example(kind), 0), *(message(naked(kind, one), n) for n, one in enumerate(NAKED, 1))]
    dead = deliver(sink, batch)
    assert [(letter.reason, letter.offset, letter.stage) for letter in dead] == [
        ("no_redaction", n, sink.name) for n in (1, 2, 3)
    ]
    if isinstance(sink, Greedy):
        assert sink.given == [example(kind)]


@pytest.mark.parametrize("kind", CLEAN, ids=lambda kind: kind.__name__)
def test_sinks_of_ours_refuse_by_themselves(kind: type[Clean], store: Store) -> None:
    for sink in (ClickHouseSink(store), MemorySink()):
        for one in NAKED:
            with pytest.raises(Invalid, match="carries no redaction envelope"):
                sink.write([naked(kind, one)])


def test_raw_records_go_nowhere() -> None:
    with pytest.raises(Invalid, match="belongs to the raw zone"):
        check_clean(example(RawSignal))


def test_a_record_cannot_be_made_without_one() -> None:
    for kind in CLEAN:
        with pytest.raises(ValueError, match="redaction"):
            kind.model_validate(example(kind).model_dump(exclude={"redaction"}))


def test_without_the_check_a_greedy_sink_gets_it_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """The control."""
    monkeypatch.setattr("driftwheel.delivery.check_clean", lambda _: None)
    greedy = Greedy()
    assert deliver(greedy, [message(naked(CLEAN[0], one), n) for n, one in enumerate(NAKED)]) == []
    assert len(greedy.given) == len(NAKED)


def test_on_the_embedded_engine(tmp_path: Path, store: Store) -> None:
    log, greedy = SqliteLog(tmp_path, SqliteLogSettings(key=bytes(32))), Greedy()
    engine = Engine(log, [], [ClickHouseSink(store), greedy], lambda: NOW)
    for kind in CLEAN:
        records = [example(kind), naked(kind, NAKED[0])]
        log.append([Entry(topic_of(one).name, topic_of(one).key(one), codec.encode(one), NOW) for one in records])
    engine.drain()
    engine.stop()
    dead = [codec.decode(entry.value, DeadLetter) for entry in log.scan(DEAD_LETTERS)]
    log.close()
    assert sorted((letter.stage, letter.topic) for letter in dead if isinstance(letter, DeadLetter)) == sorted(
        (name, BY_RECORD[kind].name) for name in ("clickhouse", "greedy") for kind in CLEAN
    )
    assert not [record for record in greedy.given if record.event_id == "naked"]
    assert len([record for record in greedy.given if isinstance(record, Clean)]) == len(CLEAN)


def test_on_kafka(kafka_settings: KafkaSettings) -> None:
    topics, greedy, dead = Topics(kafka_settings), Greedy(), MemoryLog()
    greedy.topics = tuple(BY_RECORD[kind] for kind in CLEAN)
    names = [NewTopic(kafka_settings.topic(topic), kafka_settings.partitions) for topic in greedy.topics]
    admin = AdminClient(client_options(kafka_settings))
    for made in admin.create_topics(names).values():
        made.result(60)
    for kind in CLEAN:
        records = [example(kind), naked(kind, NAKED[0])]
        topics.put([codec.encode(one) for one in records], BY_RECORD[kind].name)
    with running(topics, greedy, dead):
        until(lambda: len(letters(dead)) == len(CLEAN) and len(greedy.given) >= len(CLEAN))
    assert {letter.reason for letter in letters(dead)} == {"no_redaction"}
    assert not [record for record in greedy.given if record.event_id == "naked"]
