"""What tests of the Kafka engine share: topics, a worker in a thread, and what topics hold."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from confluent_kafka import Consumer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from connectors.kafka.settings import KafkaSettings, client_options
from connectors.kafka.wire import Plain, stored_of
from connectors.log import Stored
from driftwheel.lane import LaneSettings, OnBatch, Seal
from driftwheel.worker import Worker, WorkerSettings
from processors.stage import Stage, has_inbox
from schemas import codec
from schemas.events import Record
from schemas.topics import TOPICS, Topic
from tests.driftwheel.engine_kit import until


def make_topics(settings: KafkaSettings, stages: Sequence[Stage | type[Stage]]) -> None:
    """Every topic that the stages need, and all of the product's; records stay whatever their age."""
    names = {settings.topic(topic): {} for topic in TOPICS} | {settings.topic("flywheel.quarantine"): {}}
    for stage in stages:
        names[settings.state_topic(stage.name)] = {"cleanup.policy": "compact"}
        if has_inbox(stage):
            names[settings.inbox(stage.name)] = {}
    admin = AdminClient(client_options(settings))
    made = admin.create_topics([
        NewTopic(name, settings.partitions, 1, config={"max.message.bytes": "20000000", "retention.ms": "-1"} | config)
        for name, config in names.items()
    ])  # fmt: skip
    for future in made.values():
        future.result(60)


def stored(settings: KafkaSettings, topic: str, *, committed: bool = True) -> list[Stored]:
    """All that a topic holds now, by partition and offset. ``topic`` as on the cluster."""
    consumer = Consumer(
        client_options(settings)
        | {
            "group.id": settings.group("test"),
            "enable.auto.commit": False,
            "isolation.level": "read_committed" if committed else "read_uncommitted",
            "enable.partition.eof": True,
            "auto.offset.reset": "earliest",
        }
    )
    found: list[Stored] = []
    try:
        consumer.assign([TopicPartition(topic, n, 0) for n in range(settings.partitions)])
        ended = 0
        while ended < settings.partitions:
            for message in consumer.consume(1000, 1.0):
                if message.error():
                    ended += 1
                    continue
                place = (topic, message.partition() or 0, message.offset() or 0)
                found.append(stored_of(*place, message.key(), message.value(), message.timestamp()[1], None))
    finally:
        consumer.close()
    return sorted(found, key=lambda one: (one.partition, one.offset))


def records(settings: KafkaSettings, topic: Topic, *, committed: bool = True) -> list[Record]:
    """The records that a topic holds."""
    return [codec.decode(one.value) for one in stored(settings, settings.topic(topic), committed=committed)]


def lane_settings(
    settings: KafkaSettings,
    folder: Path,
    clock: Callable[[], datetime],
    *,
    seal: Seal | None = None,
    on_batch: OnBatch = lambda *_: None,
) -> LaneSettings:
    """Lanes without framing."""
    return LaneSettings(settings, folder, Plain(), clock, seal, on_batch, threading.Event())


@contextmanager
def working(stages: Sequence[Stage], lanes: LaneSettings, *, batch: int = 500) -> Generator[Worker]:
    """A worker in a thread, ready, and stopped at the end."""
    worker = Worker(stages, lanes, WorkerSettings(batch_size=batch, tick_seconds=0.05), lambda _: lanes.clock())
    thread = threading.Thread(target=lambda: asyncio.run(worker.run()), name="worker")
    thread.start()
    try:
        until(lambda: worker.ready or worker.failed)
        yield worker
    finally:
        worker.stop()
        thread.join()
