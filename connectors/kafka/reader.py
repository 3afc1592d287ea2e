"""Reading a partition by offset, outside of every consumer group: what has come through, up to where it ends now."""

from __future__ import annotations

import threading
import time
from collections.abc import Generator, Iterator
from contextlib import closing
from typing import cast

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from connectors.kafka.failures import AWAY, away, is_final, meaning, shut_out, unusable
from connectors.kafka.settings import KafkaSettings, client_options
from connectors.kafka.wire import Framing, Headers, Plain, stored_of
from connectors.log import Stored
from schemas.errors import Refused
from schemas.topics import BY_NAME

SILENCE = 30.0
"""Seconds without a word from the brokers before a read is given up."""
_FETCH_KBYTES = 32_768
_SLICE = 0.05
_UNDECIDED_SECONDS = 3.0
"""How long the end is waited for while records before it belong to transactions that are not decided yet."""
_NO_TOPIC = frozenset({
    KafkaError._UNKNOWN_TOPIC, KafkaError._UNKNOWN_PARTITION, KafkaError.UNKNOWN_TOPIC_OR_PART,
})  # fmt: skip


class Reader:
    """One connection for many reads, which take turns. Values are unwrapped by ``framing``; deletions have none.

    Reads raise Retry when the brokers are away, Refused when they say no or have no such topic, UsageError when the
    settings make no client.
    """

    def __init__(self, settings: KafkaSettings, framing: Framing | None = None, silence: float = SILENCE) -> None:
        self._settings, self._framing, self._silence = settings, framing or Plain(), silence
        self._lock = threading.Lock()
        self._last: KafkaError | None = None
        self._consumer: Consumer | None = None

    def _open(self) -> Consumer:
        try:
            return Consumer(
                client_options(self._settings)
                | {
                    "group.id": self._settings.group("reader"),
                    "enable.auto.commit": False,
                    "enable.auto.offset.store": False,
                    "isolation.level": "read_committed",
                    "enable.partition.eof": True,
                    "auto.offset.reset": "earliest",
                    "queued.max.messages.kbytes": _FETCH_KBYTES,
                    "fetch.wait.max.ms": 20,
                    "topic.metadata.propagation.max.ms": 3000,
                    "error_cb": self._note,
                    "log_level": 0,
                }
            )
        except KafkaException as error:
            raise unusable(error.args[0]) from error

    def _note(self, error: KafkaError) -> None:
        self._last = error

    def at(self, topic: str, partition: int, offset: int) -> Stored | None:
        """The committed record at an offset; None when there is none, or none any more. ``topic`` as we name it."""
        with closing(self.since(topic, partition, offset)) as records:
            found = next(records, None)
        return found if found is not None and found.offset == offset else None

    def since(self, topic: str, partition: int, offset: int) -> Generator[Stored]:
        """Every committed record from an offset to the present end. To be read to its end, or closed.

        What is being committed just now is waited for, some seconds at most.
        """
        with self._lock:
            self._last = None
            consumer = self._consumer = self._consumer or self._open()
            try:
                consumer.assign([TopicPartition(self._settings.topic(topic), partition, offset)])
                for message in self._messages(consumer, topic):
                    yield self._stored(topic, message)
            except KafkaException as error:
                raise self._meaning(topic, error.args[0]) from error
            finally:
                consumer.unassign()

    def _messages(self, consumer: Consumer, topic: str) -> Iterator[Message]:
        heard, undecided = time.monotonic(), 0.0
        while time.monotonic() - heard < self._silence:
            message = consumer.poll(_SLICE if undecided else 1.0)
            self._check(topic)
            error = None if message is None else message.error()
            if message is not None and error is None:
                heard, undecided = time.monotonic(), 0.0
                yield message
            elif error is not None and error.code() == KafkaError._PARTITION_EOF and message is not None:
                if not _has_more(consumer, message):
                    return
                undecided = undecided or time.monotonic()
            elif error is not None and error.code() not in AWAY and not error.retriable():
                raise self._meaning(topic, error)
            if undecided and time.monotonic() - undecided > _UNDECIDED_SECONDS:
                return
        raise away(self._settings, self._last, self._silence)

    def _check(self, topic: str) -> None:
        """What the callback was told, and will not pass."""
        if self._last is not None and is_final(self._last):
            raise shut_out(self._settings, self._last)
        if self._last is not None and self._last.code() in _NO_TOPIC:
            raise self._meaning(topic, self._last)

    def _meaning(self, topic: str, error: KafkaError) -> Exception:
        name = self._settings.topic(topic)
        if error.code() in _NO_TOPIC:
            return Refused(f"Kafka has no topic {name}, or not this partition of it: run `driftwheel topics apply`")
        return meaning(self._settings, error, f"topic {name}", "READ")

    def _stored(self, topic: str, message: Message) -> Stored:
        given = cast("Headers | None", message.headers())
        headers = [(name, value or b"") for name, value in given or ()]
        value = message.value()
        if value and topic in BY_NAME and not BY_NAME[topic].raw:
            value = self._framing.unwrap(topic, value, headers)
        place = (topic, message.partition() or 0, message.offset() or 0)
        return stored_of(*place, message.key(), value, message.timestamp()[1], headers)

    def close(self) -> None:
        """Let go of the connections."""
        with self._lock:
            if self._consumer is not None:
                self._consumer.close()
                self._consumer = None


def _has_more(consumer: Consumer, end: Message) -> bool:
    """Whether there are records behind the end of what is decided."""
    place = TopicPartition(end.topic() or "", end.partition() or 0)
    _, high = consumer.get_watermark_offsets(place, cached=True)
    return high > (end.offset() or 0)


def records_between(settings: KafkaSettings, topic: str, partition: int, first: int, before: int) -> bool:
    """Whether a committed record lies at ``first`` <= offset < ``before``. Raises as a ``Reader`` does.

    Offsets of a topic that is written in transactions have holes (the marks of commits), so that a consumer that has
    skipped records looks the same as one that has not.
    """
    with closing(Reader(settings)) as reader, closing(reader.since(topic, partition, first)) as records:
        found = next(records, None)
    return found is not None and found.offset < before
