"""The quarantine on Kafka: payloads of raw dead letters, encrypted, in a topic of their own, under the letter's id.

AES-256-GCM with a random nonce, bound to the letter's id, so that no payload can be passed off as another's. Nobody
without the key reads anything but sizes and ids. A lane writes a payload in the transaction that makes its letter, so
that there is neither without the other. The topic drops payloads after 30 days; one that is deleted before is replaced
by nothing at once, and off the brokers' disks when the topic is compacted.
"""

from __future__ import annotations

import hashlib
import os
import threading
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from confluent_kafka import KafkaError, KafkaException, Message, Producer
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from connectors.kafka.failures import meaning
from connectors.kafka.partition import partition_of
from connectors.kafka.reader import Reader
from connectors.kafka.settings import KafkaSettings, client_options
from connectors.kafka.topics import QUARANTINE
from connectors.log import Entry, Stored
from schemas.errors import Refused, Retry

RETENTION = timedelta(days=30)
VERSION = b"\x01"
NONCE = 12
_DELETE_SECONDS = 30.0


@dataclass(slots=True)
class _Seen:
    """What is known of one partition: up to where it was read, and where each payload that is there lies."""

    upto: int = 0
    places: dict[str, tuple[int, datetime]] = field(default_factory=dict[str, tuple[int, datetime]])


class KafkaQuarantine:
    """Payloads in the topic ``flywheel.quarantine``; ``key`` is 32 secret bytes. See ``Payloads`` and the module.

    To find a payload its partition is read once up to its end, later on only what is new. Thread-safe. Reads raise
    Retry when the brokers are away.
    """

    def __init__(self, settings: KafkaSettings, key: bytes) -> None:
        self._settings, self._cipher = settings, AESGCM(key)
        self._mark = hashlib.sha256(b"driftwheel quarantine\0" + key).hexdigest()[:16]
        self._lock = threading.Lock()
        self._seen: dict[int, _Seen] = {}
        self._reader = Reader(settings)

    def seal(self, name: str, payload: bytes, now: datetime) -> tuple[str, bytes, dict[str, str]]:
        """A payload as key, value and headers of a record. It is kept from ``now`` on."""
        del now  # the record's own time
        nonce = os.urandom(NONCE)
        return name, VERSION + nonce + self._cipher.encrypt(nonce, payload, name.encode()), {"sealed": self._mark}

    def entry(self, name: str, payload: bytes, now: datetime) -> Entry:
        """A payload as an entry, to be appended together with its letter."""
        key, value, headers = self.seal(name, payload, now)
        return Entry(QUARANTINE, key, value, now, headers)

    def read(self, name: str) -> bytes:
        """See Payloads."""
        found = self._find(name)
        if found is None:
            raise Refused(
                f"{name} is not in the quarantine: it was never there, was deleted, or was purged after "
                f"{RETENTION.days} days"
            )
        return self._opened(name, found)

    def _opened(self, name: str, found: Stored) -> bytes:
        sealed = found.headers.get("sealed", self._mark)
        if sealed != self._mark:
            raise Refused(f"{name} in the quarantine was sealed under another key: set redact.key to the one before")
        try:
            if found.value[:1] != VERSION:
                raise Refused(f"{name} in the quarantine was sealed by a newer Driftwheel: upgrade this one")
            nonce, sealed_value = found.value[1 : 1 + NONCE], found.value[1 + NONCE :]
            return self._cipher.decrypt(nonce, sealed_value, name.encode())
        except (InvalidTag, ValueError) as error:
            raise Refused(f"{name} in the quarantine is damaged, or is not the payload of this letter") from error

    def until(self, name: str) -> datetime | None:
        """See Payloads."""
        with self._lock:
            place = self._look(name).places.get(name)
        return None if place is None else place[1] + RETENTION

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
            place = self._look(name).places.get(name)
            if place is None:
                return None
            return self._reader.at(QUARANTINE, partition_of(name, self._settings.partitions), place[0])

    def _look(self, name: str) -> _Seen:
        """Read on to the end of the name's partition."""
        partition = partition_of(name, self._settings.partitions)
        seen = self._seen.setdefault(partition, _Seen())
        for found in self._reader.since(QUARANTINE, partition, seen.upto):
            seen.upto = found.offset + 1
            if found.value:
                seen.places[found.key] = (found.offset, found.time)
            else:
                seen.places.pop(found.key, None)
        return seen

    def close(self) -> None:
        """Let go of the connections."""
        self._reader.close()
