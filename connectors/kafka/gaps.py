"""Whether records lie between two offsets.

Offsets of a topic that is written in transactions have holes (the markers of commits), so that a consumer that has
skipped records looks the same as one that has not. This asks the brokers.
"""

from __future__ import annotations

import time

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from connectors.kafka.settings import KafkaSettings, client_options
from schemas.errors import Retry

_PATIENCE = 30.0


def records_between(settings: KafkaSettings, topic: str, partition: int, first: int, before: int) -> bool:
    """Whether ``topic`` (as on the cluster) has a committed record at ``first`` <= offset < ``before``.

    Raises Retry when the brokers do not answer.
    """
    consumer = Consumer(
        client_options(settings)
        | {
            "group.id": settings.group("gaps"),
            "enable.auto.commit": False,
            "isolation.level": "read_committed",
            "enable.partition.eof": True,
            "auto.offset.reset": "earliest",
        }
    )
    try:
        consumer.assign([TopicPartition(topic, partition, first)])
        return _found(consumer, before)
    except KafkaException as error:
        raise Retry(f"{topic}: the brokers do not say what lies at offset {first}: {error.args[0]}") from error
    finally:
        consumer.close()


def _found(consumer: Consumer, before: int) -> bool:
    deadline = time.monotonic() + _PATIENCE
    while time.monotonic() < deadline:
        message = consumer.poll(1.0)
        if message is None:
            continue
        error = message.error()
        if error is None:
            return (message.offset() or 0) < before
        if error.code() == KafkaError._PARTITION_EOF:
            return False
    raise Retry("the brokers did not answer in time")
