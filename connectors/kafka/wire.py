"""Entries and messages on Kafka's wire: keys and headers are UTF-8, the time is the record's timestamp.

A timestamp has milliseconds. ``Framing`` is how values travel: as they are, or in the Confluent wire format.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Protocol

from connectors.log import Entry, Stored
from schemas.events import EPOCH

MILLISECOND = timedelta(milliseconds=1)
Headers = list[tuple[str, bytes]]


class Framing(Protocol):
    """How the value of a record travels.

    Topics without a record are never framed. Driftwheel writes raw topics as they are; it understands framed signals
    of other producers.
    """

    def wrap(self, topic: str, value: bytes) -> tuple[bytes, Headers]:
        """Single-object Avro bytes to what is produced, with headers to add. Raises Retry when it cannot know."""
        ...

    def unwrap(self, topic: str, value: bytes, headers: Headers) -> bytes:
        """What was consumed to single-object Avro bytes. Raises Retry when it cannot know now.

        Bytes that cannot be understood come back as they are: the stage's codec makes a dead letter of them.
        """
        ...


class Plain:
    """No framing: single-object Avro as it is."""

    def wrap(self, topic: str, value: bytes) -> tuple[bytes, Headers]:
        """See Framing."""
        del topic
        return value, []

    def unwrap(self, topic: str, value: bytes, headers: Headers) -> bytes:
        """See Framing."""
        del topic, headers
        return value


def millis(time: datetime) -> int:
    """Milliseconds since 1970."""
    return (time - EPOCH) // MILLISECOND


def from_millis(value: int) -> datetime:
    """The instant of so many milliseconds since 1970."""
    return EPOCH + max(value, 0) * MILLISECOND


def headers_of(entry: Entry) -> Headers:
    """An entry's headers on the wire."""
    return [(name, value.encode("utf-8", "replace")) for name, value in entry.headers.items()]


def texts_of(headers: Headers | None) -> dict[str, str]:
    """Consumed headers as texts."""
    return {name: (held or b"").decode("utf-8", "replace") for name, held in headers} if headers else {}


def key_of(key: bytes | None) -> str:
    """A consumed key as a text."""
    return key.decode("utf-8", "replace") if key else ""


def stored_of(
    topic: str, partition: int, offset: int, key: bytes | None, value: bytes | None, time: int, headers: Headers | None
) -> Stored:
    """A consumed record. ``topic`` is ours, without the prefix; ``time`` in milliseconds since 1970."""
    return Stored(topic, offset, key_of(key), value or b"", from_millis(time), texts_of(headers), partition)
