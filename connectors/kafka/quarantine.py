"""The quarantine on Kafka: payloads of raw dead letters, encrypted, in a topic of their own, under the letter's id.

Sealed under a key of the tenant's own (``connectors.sealing``): nobody without ``redact.key`` reads anything but ids,
tenants, times and sizes. A lane writes a payload in the transaction that makes its letter, so
that there is neither without the other. The topic drops payloads after 30 days; one that is deleted before is replaced
by nothing at once, and off the brokers' disks when the topic is compacted.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from connectors.kafka.failures import meaning
from connectors.kafka.partition import partition_of
from connectors.kafka.reader import Reader
from connectors.kafka.settings import KafkaSettings, client_options
from connectors.kafka.topics import QUARANTINE
from connectors.log import Entry, Stored
from connectors.quarantine import RETENTION, Held
from connectors.sealing import Sealer, head_of
from schemas.errors import Refused, Retry

_DELETE_SECONDS = 30.0


@dataclass(slots=True)
class _Seen:
    """What is known of one partition: up to where it was read, and where each payload that is there lies."""

    upto: int = 0
    places: dict[str, tuple[int, Held]] = field(default_factory=dict[str, tuple[int, Held]])


class KafkaQuarantine:
    """Payloads in the topic ``flywheel.quarantine``; ``key`` is secret bytes. See ``Payloads`` and the module.

    ``clock`` None: payloads are there until the brokers drop them.

    To find a payload its partition is read once up to its end, later on only what is new. Thread-safe. Reads raise
    Retry when the brokers are away.
    """

    def __init__(self, settings: KafkaSettings, key: bytes, clock: Callable[[], datetime] | None = None) -> None:
        self._settings, self._sealer = settings, Sealer(key)
        self._clock = clock or (lambda: datetime.min.replace(tzinfo=UTC))
        self._lock = threading.Lock()
        self._seen: dict[int, _Seen] = {}
        self._reader = Reader(settings)

    def entry(self, name: str, tenant: str, payload: bytes, now: datetime) -> Entry:
        """A payload as an entry, to be appended together with its letter. It is kept from ``now`` on."""
        return Entry(QUARANTINE, name, self._sealer.seal(name, tenant, payload, now), now)

    def read(self, name: str) -> bytes:
        """See Payloads."""
        found = self._find(name)
        if found is None:
            raise Refused(
                f"{name} is not in the quarantine: it was never there, was deleted, or was purged after "
                f"{RETENTION.days} days"
            )
        return self._sealer.open(name, found.value)

    def until(self, name: str) -> datetime | None:
        """See Payloads."""
        with self._lock:
            place = self._place(name)
        return None if place is None else place[1].until

    def held(self) -> Iterator[Held]:
        """See Payloads."""
        for partition in range(self._settings.partitions):
            with self._lock:
                found = [held for _, held in self._look(partition).places.values()]
            yield from (held for held in found if held.until > self._clock())

    def __contains__(self, name: str) -> bool:
        return self.until(name) is not None

    def delete(self, name: str) -> bool:
        """See Payloads."""
        there = name in self
        if there:
            self._produce_deletion(name)
        return there

    def _produce_deletion(self, name: str) -> None:
        options = {"acks": "all", "enable.idempotence": True, "partitioner": "murmur2_random", "log_level": 0}
        producer = Producer(client_options(self._settings) | options)
        told: list[KafkaError | None] = []

        def hear(error: KafkaError | None, message: Message) -> None:
            del message
            told.append(error)

        topic = self._settings.topic(QUARANTINE)
        partition = partition_of(name, self._settings.partitions)
        try:
            producer.produce(topic, None, name.encode(), partition=partition, on_delivery=hear)
            producer.flush(_DELETE_SECONDS)
        except KafkaException as error:
            told = [error.args[0]]
        if not told:
            producer.purge()
            raise Retry(f"the brokers did not take the deletion of {name} in {_DELETE_SECONDS:.0f} s; delete it again")
        if told[0] is not None:
            raise meaning(self._settings, told[0], f"topic {topic}", "WRITE")

    def _find(self, name: str) -> Stored | None:
        with self._lock:
            place = self._place(name)
            if place is None:
                return None
            return self._reader.at(QUARANTINE, partition_of(name, self._settings.partitions), place[0])

    def _place(self, name: str) -> tuple[int, Held] | None:
        place = self._look(partition_of(name, self._settings.partitions)).places.get(name)
        return place if place is not None and place[1].until > self._clock() else None

    def _look(self, partition: int) -> _Seen:
        """Read on to the partition's end."""
        seen = self._seen.setdefault(partition, _Seen())
        for found in self._reader.since(QUARANTINE, partition, seen.upto):
            seen.upto = found.offset + 1
            if found.value:
                seen.places[found.key] = (found.offset, _held(found))
            else:
                seen.places.pop(found.key, None)
        return seen

    def close(self) -> None:
        """Let go of the connections."""
        self._reader.close()


def _held(found: Stored) -> Held:
    """What a record says in the clear; one that nobody can open has no tenant."""
    head = head_of(found.value)
    if head is None:
        return Held(found.key, "", len(found.value), found.time + RETENTION)
    return Held(found.key, head.tenant, len(found.value) - head.size, head.since + RETENTION)
