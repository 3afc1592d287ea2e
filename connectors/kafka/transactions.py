"""The producer of one lane: what a batch causes becomes visible as a whole, once, and only from the lane's owner.

Whoever opens a lane last is its owner: opening ends the transactions of the owner before and refuses it every further
one (Kafka's fencing, KIP-98). Readers have to read committed records only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition

from connectors.kafka.partition import copies, partition_of
from connectors.kafka.settings import KafkaSettings, client_options
from connectors.kafka.wire import Framing, Headers, headers_of, millis
from connectors.log import Entry
from schemas.topics import BY_NAME

MAX_MESSAGE = 20_000_000
OPEN_SECONDS = 30.0
COMMIT_SECONDS = 30.0
_BY_KEY = -1
FENCED = frozenset({
    KafkaError._FENCED, KafkaError.INVALID_PRODUCER_EPOCH, KafkaError.PRODUCER_FENCED,
})  # fmt: skip


class Fenced(Exception):
    """Another process has opened this lane since; nothing of this batch is visible."""


class Failed(Exception):
    """The transaction did not come through, or nobody knows: open the lane anew and look where it stands."""


@dataclass(frozen=True, slots=True)
class Placed:
    """A record for a given partition of one of the engine's own topics; ``value`` None deletes the key."""

    topic: str
    partition: int
    key: bytes
    value: bytes | None


@dataclass(frozen=True, slots=True)
class Effects:
    """All that one batch causes: records, the lane's state, and where its inputs go on, by topic on the cluster."""

    entries: Sequence[Entry] = ()
    placed: Sequence[Placed] = ()
    state: Mapping[str, str | None] = field(default_factory=dict[str, "str | None"])
    offsets: Mapping[str, int] = field(default_factory=dict[str, int])


class Transactions:
    """The transactional producer of (``stage``, ``partition``). Raises KafkaException when it cannot be opened.

    When no broker is left librdkafka 2.16 forgets them all and begins anew ("re-bootstrap"); a transaction under way
    then waits for a coordinator without an address until its time is up. This producer remembers its brokers instead.
    Should the last of them have told it to go (a cluster of one that is stopped), its transaction fails and the lane
    makes a new one.
    """

    def __init__(self, settings: KafkaSettings, stage: str, partition: int, framing: Framing) -> None:
        self._settings, self._stage, self._partition, self._framing = settings, stage, partition, framing
        group = settings.group(stage)
        self._producer = Producer(
            client_options(settings)
            | {
                "transactional.id": f"{group}.{partition}",
                "transaction.timeout.ms": 60_000,
                "partitioner": "murmur2_random",
                "linger.ms": 2,
                "compression.type": "lz4",
                "message.max.bytes": MAX_MESSAGE,
                "queue.buffering.max.kbytes": 262_144,
                "retry.backoff.ms": 5,
                "metadata.recovery.strategy": "none",
                "log_level": 3,
            }
        )
        self._group = _group(settings, group)
        self._failure: KafkaError | None = None
        self._end = 0
        try:
            self._producer.init_transactions(OPEN_SECONDS)
        except BaseException:
            self.close()
            raise

    def commit(self, effects: Effects) -> int:
        """Make it all visible at once; returns the offset in the state topic after what was written (0: nothing was).

        Raises Fenced or Failed; Retry, before anything was produced, while the registry of schemas is away.
        """
        self._failure, self._end = None, 0
        partitions = self._settings.partitions
        records = [one for entry in effects.entries for one in copies(entry.topic, self._record(entry), partitions)]
        try:
            self._producer.begin_transaction()
            for record in records:
                self._enqueue(**record)
            self._produce(effects)
            if effects.offsets:
                places = [TopicPartition(topic, self._partition, offset) for topic, offset in effects.offsets.items()]
                self._producer.send_offsets_to_transaction(places, self._group, COMMIT_SECONDS)
            self._producer.commit_transaction(COMMIT_SECONDS)
        except KafkaException as error:
            raise _meaning(error.args[0]) from error
        except BufferError as error:
            raise Failed("the producer's queue is full") from error
        if self._failure is not None:
            raise _meaning(self._failure)
        return self._end

    def _produce(self, effects: Effects) -> None:
        for one in effects.placed:
            self._enqueue(one.topic, one.key, one.value, one.partition)
        topic = self._settings.state_topic(self._stage)
        for key, text in effects.state.items():
            value = None if text is None else text.encode()
            self._enqueue(topic, key.encode("utf-8", "replace"), value, self._partition, state=True)

    def _record(self, entry: Entry) -> dict[str, Any]:
        value, headers = entry.value, headers_of(entry)
        topic = BY_NAME.get(entry.topic)
        if topic is not None and topic.record is not None:
            value, more = self._framing.wrap(entry.topic, value)
            headers += more
        return {
            "topic": self._settings.topic(entry.topic),
            "key": (entry.identity or entry.key).encode("utf-8", "replace"),
            "value": value,
            "partition": partition_of(entry.key, self._settings.partitions) if entry.identity else _BY_KEY,
            "headers": headers,
            "timestamp": millis(entry.time),
        }

    def _enqueue(
        self,
        topic: str,
        key: bytes,
        value: bytes | None,
        partition: int,
        *,
        headers: Headers | None = None,
        timestamp: int = 0,
        state: bool = False,
    ) -> None:
        report = self._state_delivered if state else self._delivered
        more: Any = {"headers": headers or [], "timestamp": timestamp, "partition": partition, "on_delivery": report}
        while True:
            try:
                self._producer.produce(topic, value, key, **more)
            except BufferError:
                self._producer.poll(0.1)
            else:
                break

    def _delivered(self, error: KafkaError | None, message: Message) -> None:
        del message
        self._failure = self._failure or error

    def _state_delivered(self, error: KafkaError | None, message: Message) -> None:
        self._delivered(error, message)
        if error is None:
            self._end = max(self._end, (message.offset() or 0) + 1)

    def close(self) -> None:
        """Let go of the connections; a transaction under way is given up."""
        self._producer.purge()  # and no flush: what is purged has nobody to report to


@lru_cache(64)
def _group(settings: KafkaSettings, group: str) -> object:
    """Who commits: the group alone. That this is the lane's owner is known by the transactional id."""
    consumer = Consumer(client_options(settings) | {"group.id": group})
    try:
        return consumer.consumer_group_metadata()
    finally:
        consumer.close()


def _meaning(error: KafkaError) -> Exception:
    return Fenced(str(error)) if error.code() in FENCED else Failed(str(error))
