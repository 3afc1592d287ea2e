"""Values in the Confluent wire format: both its forms are read, and values without a registry too.

Form ``prefix``: a zero byte, the schema's id (4 bytes, big-endian), the Avro body. Form ``headers``: the value is the
Avro body; the header ``__value_schema_id`` holds a one and the schema's GUID (16 bytes). Single objects are left as
they are, so that a topic may hold all three while producers are switched over.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from uuid import UUID

from fastavro.schema import parse_schema

from connectors.kafka.wire import Headers
from connectors.registry.client import Ref, Registered, RegistryClient, RegistrySettings
from connectors.registry.subjects import register, schema_text, subject_of
from schemas import codec
from schemas.errors import Invalid, Refused
from schemas.events import Record
from schemas.topics import BY_NAME

HEADER = "__value_schema_id"
_ID, _GUID = 0, 1
_ID_LENGTH, _GUID_LENGTH = 5, 17
_FORGET_UNKNOWN = 30.0
_MOST_UNKNOWN = 10_000

Reading = Callable[[bytes], bytes]
"""From an Avro body to a single object; may raise Invalid."""


class RegistryFraming:
    """The Framing (``connectors/kafka/wire.py``) of a cluster with a Schema Registry. Safe for threads.

    Every schema is asked for once. ``wrap`` registers a schema that the registry does not know. Both raise Retry while
    the registry is away and Refused when it does not let us in; nothing was produced or lost then.
    """

    def __init__(
        self,
        settings: RegistrySettings,
        client: RegistryClient | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings = settings
        self._client = client or RegistryClient(settings)
        self._written: dict[tuple[str, type[Record]], Registered] = {}
        self._readings: dict[tuple[Ref, type[Record]], Reading | None] = {}
        self._unknown = _Unknown(clock)
        self._lock = threading.Lock()

    def close(self) -> None:
        """Let go of the connections to the registry."""
        self._client.close()

    def wrap(self, topic: str, value: bytes) -> tuple[bytes, Headers]:
        """See Framing."""
        record = codec.record_of(value)
        if record is None:
            return value, []
        try:
            body = codec.current(value)[codec.HEADER :]
        except Invalid:
            return value, []
        known = self._written.get((topic, record)) or self._find(topic, record)
        if self._settings.header == "prefix":
            return bytes([_ID]) + known.id.to_bytes(4) + body, []
        return body, [(HEADER, bytes([_GUID]) + _guid(known).bytes)]

    def unwrap(self, topic: str, value: bytes, headers: Headers) -> bytes:
        """See Framing."""
        carried = BY_NAME.get(topic)
        if carried is None or carried.record is None or codec.record_of(value) is not None:
            return value
        named = _named(value, headers)
        if named is None:
            return value
        reading = self._reading(named.ref, carried.record)
        try:
            return value if reading is None else reading(named.body)
        except Invalid:
            return value

    def _find(self, topic: str, record: type[Record]) -> Registered:
        subject = subject_of(topic, self._settings.topic_prefix)
        found = self._client.lookup(subject, schema_text(record)) or register(self._client, subject, record)
        with self._lock:
            return self._written.setdefault((topic, record), found)

    def _reading(self, ref: Ref, record: type[Record]) -> Reading | None:
        """How to read a schema's bodies as ``record``; None when they cannot be."""
        if (ref, record) in self._readings:
            return self._readings[ref, record]
        if self._unknown.holds(ref):
            return None
        text = self._client.schema(ref)
        if text is None:
            self._unknown.add(ref)
            return None
        with self._lock:
            return self._readings.setdefault((ref, record), _reading_of(text, record))


class _Unknown:
    """Names that the registry did not know a moment ago, so that damaged records do not ask it one by one."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock, self._until = clock, dict[Ref, float]()

    def holds(self, ref: Ref) -> bool:
        return self._until.get(ref, 0.0) > self._clock()

    def add(self, ref: Ref) -> None:
        if len(self._until) >= _MOST_UNKNOWN:
            self._until = {}
        self._until[ref] = self._clock() + _FORGET_UNKNOWN


@dataclass(frozen=True, slots=True)
class _Named:
    """A value that names its schema."""

    ref: Ref
    body: bytes


def _named(value: bytes, headers: Headers) -> _Named | None:
    """The last header counts, as in Kafka's own clients; without one, the bytes before the value."""
    for name, held in reversed(headers):
        if name == HEADER:
            ref = _ref(held or b"")
            return None if ref is None else _Named(ref, value)
    ref = _ref(value[:_ID_LENGTH])
    return None if ref is None else _Named(ref, value[_ID_LENGTH:])


def _ref(data: bytes) -> Ref | None:
    if len(data) == _ID_LENGTH and data[0] == _ID:
        return int.from_bytes(data[1:])
    return UUID(bytes=data[1:]) if len(data) == _GUID_LENGTH and data[0] == _GUID else None


def _guid(known: Registered) -> UUID:
    if known.guid is None:
        raise Refused("this schema registry gives no GUIDs, which registry.header = headers needs; set it to prefix")
    return known.guid


def _reading_of(text: str, record: type[Record]) -> Reading | None:
    """Forms of ours get their first bytes back and are left to the codec; others are resolved to the current form."""
    try:
        schema = json.loads(text)
        writer = codec.Writer(record, schema)
        prefix = codec.prefix_of(parse_schema(schema))
    except (Invalid, ValueError):
        return None
    return prefix.__add__ if codec.record_of(prefix) is record else writer.current
