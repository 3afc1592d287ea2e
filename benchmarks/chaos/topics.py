"""What lies in a run's topics, as every consumer has to see it: committed records, by partition and offset."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import fastavro
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec

from connectors.kafka.settings import KafkaSettings, client_options
from connectors.kafka.state import POSITIONS
from connectors.kafka.wire import from_millis
from driftwheel.routing import _SCHEMA as PARCEL
from processors.state import KeyState
from schemas import codec
from schemas.events import Record
from schemas.topics import BY_NAME

SILENCE = 60.0


@dataclass(frozen=True, slots=True)
class Found:
    """One committed message."""

    topic: str
    partition: int
    offset: int
    key: bytes
    value: bytes | None
    time: datetime
    headers: dict[str, str]


class Topics:
    """Reads whole topics of one cluster."""

    def __init__(self, settings: KafkaSettings) -> None:
        self.settings = settings
        self.ends: dict[tuple[str, int], int] = {}
        """Of every topic that was read: the offset after its last committed record."""

    def read(self, name: str, shown: str = "") -> Iterator[Found]:
        """Every committed message of a topic, each partition in its order. ``name`` as on the cluster."""
        consumer = Consumer(
            client_options(self.settings)
            | {
                "group.id": f"{self.settings.prefix}chaos",
                "enable.auto.commit": False,
                "isolation.level": "read_committed",
                "enable.partition.eof": True,
                "auto.offset.reset": "earliest",
            }
        )
        try:
            consumer.assign([TopicPartition(name, partition, 0) for partition in range(self.settings.partitions)])
            yield from self._to_the_end(consumer, shown or name)
        finally:
            consumer.close()

    def _to_the_end(self, consumer: Consumer, shown: str) -> Iterator[Found]:
        heard, left = time.monotonic(), set(range(self.settings.partitions))
        self.ends |= {(shown, partition): 0 for partition in left}
        while left:
            if time.monotonic() - heard > SILENCE:
                raise RuntimeError(f"{shown}: the ends of partitions {left} were not seen")
            for message in consumer.consume(1000, 0.05):
                heard, error = time.monotonic(), message.error()
                if error is None:
                    yield self._found(message, shown)
                elif error.code() == KafkaError._PARTITION_EOF:
                    left.discard(message.partition() or 0)
                else:
                    raise KafkaException(error)

    def _found(self, message: Message, shown: str) -> Found:
        partition, offset = message.partition() or 0, message.offset() or 0
        self.ends[shown, partition] = offset + 1
        headers = {name: (value or b"").decode() for name, value in message.headers() or [] if name}  # type: ignore[union-attr]
        time = from_millis(message.timestamp()[1])
        return Found(shown, partition, offset, message.key() or b"", message.value(), time, headers)

    def records(self, name: str) -> Iterator[tuple[Found, Record]]:
        """The records of one of the product's topics, by its own name; what cannot be read is passed over."""
        for found in self.read(self.settings.topic(name), name):
            if found.value:
                yield found, codec.decode(found.value, BY_NAME[name].record)

    def inbox(self, stage: str) -> Iterator[dict[str, Any]]:
        """The events in a stage's inbox, in the order in which each partition has them."""
        for found in self.read(self.settings.inbox(stage)):
            for item in fastavro.schemaless_reader(io.BytesIO((found.value or b"")[1:]), PARCEL, None):  # type: ignore[union-attr]
                yield {**item, "record": codec.decode(item["record"])}  # type: ignore[dict-item,index]

    def state(self, stage: str) -> tuple[dict[str, KeyState], dict[tuple[str, int], int]]:
        """A stage's state by key, and its input positions by (topic, partition)."""
        texts: dict[str, str | None] = {}
        positions: dict[tuple[str, int], int] = {}
        for found in self.read(self.settings.state_topic(stage)):
            key = found.key.decode()
            if key == POSITIONS:
                for topic, offset in json.loads(found.value or b"{}").items():
                    positions[topic, found.partition] = offset
            else:
                texts[key] = None if found.value is None else found.value.decode()
        return {key: KeyState.load(text) for key, text in texts.items() if text is not None}, positions


def ends_of(settings: KafkaSettings) -> dict[tuple[str, int], int]:
    """The end of every partition with the run's prefix, transactions' marks included."""
    admin = AdminClient(client_options(settings))
    names = [name for name in admin.list_topics(timeout=30).topics if name.startswith(settings.prefix)]
    asked = {TopicPartition(name, n): OffsetSpec.latest() for name in names for n in range(settings.partitions)}
    answers = admin.list_offsets(asked, request_timeout=30)
    return {(place.topic, place.partition): answer.result().offset for place, answer in answers.items()}
