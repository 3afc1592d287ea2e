"""How events reach the partition of their state key: through a stage's inbox.

A lane that reads source topics prepares their messages (for redaction: everything heavy, so that nothing raw goes on)
and puts what has to meet state into the inbox, one message for each partition and batch. What needs no state leaves at
once. The lane that reads the inbox applies the events, as if it had read the sources itself: messages keep their place
of origin.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import fastavro
from fastavro.schema import parse_schema

from connectors.kafka.partition import partition_of
from connectors.kafka.wire import from_millis, millis
from processors.stage import Event, Message, Stage, dead_letter
from processors.state import StateStore
from schemas import codec
from schemas.errors import Invalid
from schemas.events import Record

INBOX = "inbox"
"""The topic of a message that comes from a stage's inbox."""
_VERSION = b"\x01"
_PARCEL_BYTES = 4 << 20
_SCHEMA: Any = parse_schema({
    "type": "array",
    "items": {
        "type": "record",
        "name": "driftwheel.Parcel",
        "fields": [
            {"name": "topic", "type": "string"},
            {"name": "partition", "type": "int"},
            {"name": "offset", "type": "long"},
            {"name": "time", "type": "long"},
            {"name": "headers", "type": {"type": "map", "values": "string"}},
            {"name": "key", "type": "string"},
            {"name": "event_id", "type": "string"},
            {"name": "origin", "type": "string"},
            {"name": "record", "type": "bytes"},
        ],
    },
})  # fmt: skip


@dataclass(frozen=True, slots=True)
class Parcel:
    """Events for one partition of the inbox."""

    partition: int
    value: bytes


def dispatch(stage: Stage, messages: Sequence[Message], partitions: int) -> tuple[list[Record], list[Parcel]]:
    """Prepare messages of the source topics: records that need no state, and parcels of events that do."""
    out: list[Record] = []
    waiting: dict[int, list[dict[str, Any]]] = {}
    for message, events in zip(messages, stage.prepare(messages), strict=True):
        if isinstance(events, Invalid):
            out.append(dead_letter(stage.name, message, events))
            continue
        for event in events:
            if event.record is None:
                out.extend(event.emits)
            else:
                waiting.setdefault(partition_of(event.key, partitions), []).append(_packed(message, event))
    parcels = [Parcel(n, value) for n, items in waiting.items() for value in _values(items)]
    return out, parcels


def _packed(message: Message, event: Event) -> dict[str, Any]:
    assert event.record is not None  # noqa: S101  # the caller looked; the type checker cannot
    return {
        "topic": message.topic,
        "partition": message.partition,
        "offset": message.offset,
        "time": millis(message.time),
        "headers": message.headers,
        "key": event.key,
        "event_id": event.event_id,
        "origin": event.origin,
        "record": event.wire or codec.encode(event.record),
    }


def _values(items: Sequence[dict[str, Any]]) -> Iterator[bytes]:
    """The items in as few messages as their size allows."""
    some: list[dict[str, Any]] = []
    size = 0
    for item in items:
        if some and size + len(item["record"]) > _PARCEL_BYTES:
            yield _encoded(some)
            some, size = [], 0
        some.append(item)
        size += len(item["record"])
    yield _encoded(some)


def _encoded(items: Sequence[dict[str, Any]]) -> bytes:
    out = io.BytesIO()
    out.write(_VERSION)
    fastavro.schemaless_writer(out, _SCHEMA, items)
    return out.getvalue()


def arrive(stage: Stage, messages: Sequence[Message], state: StateStore) -> list[Record]:
    """Apply the events of inbox messages. Raises ValueError for one that no Driftwheel wrote: a defect."""
    pairs = [pair for message in messages for pair in _unpacked(message)]
    return stage.apply([message for message, _ in pairs], [[event] for _, event in pairs], state)


def _unpacked(parcel: Message) -> Iterator[tuple[Message, Event]]:
    if parcel.value[:1] != _VERSION:
        raise ValueError(f"{parcel.origin}: not an inbox message of this version")
    items: Any = fastavro.schemaless_reader(io.BytesIO(parcel.value[1:]), _SCHEMA, None)
    for item in items:
        time, headers = from_millis(item["time"]), item["headers"]
        message = Message(item["topic"], item["offset"], "", b"", time, headers, item["partition"])
        yield message, Event(item["key"], item["event_id"], item["origin"], codec.decode(item["record"]))
