"""The Log contract: where producers append, with its twin in memory."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

from schemas import codec
from schemas.errors import Reject
from schemas.events import Record
from schemas.topics import topic_of


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry to append. ``time`` is when it was accepted (UTC).

    ``identity``: in a compacted topic, what a newer entry replaces it by; '' elsewhere.
    """

    topic: str
    key: str
    value: bytes
    time: datetime
    headers: dict[str, str] = field(default_factory=dict[str, str])
    identity: str = ""


@dataclass(frozen=True, slots=True)
class Stored:
    """One entry as it is read back. ``offset`` counts within ``partition``."""

    topic: str
    offset: int
    key: str
    value: bytes
    time: datetime
    headers: dict[str, str]
    partition: int = 0


def entry_of(record: Record, time: datetime) -> Entry:
    """A record as an entry of its topic."""
    topic = topic_of(record)
    replaces = topic.identity(record) if topic.compacted else ""
    return Entry(topic.name, topic.key(record), codec.encode(record), time, identity=replaces)


class Log(Protocol):
    """An append-only log of topics."""

    def append(self, entries: Sequence[Entry]) -> None:
        """Append all entries or none; on return they are durable.

        Raises Reject when consumers are too far behind: nothing was appended, the caller keeps its data.
        """
        ...


class MemoryLog:
    """A Log in memory. ``capacity`` entries, then Reject."""

    def __init__(self, capacity: int = 1_000_000) -> None:
        self.entries: list[Entry] = []
        self._capacity = capacity
        self._lock = threading.Lock()

    def append(self, entries: Sequence[Entry]) -> None:
        """See Log."""
        with self._lock:
            if len(self.entries) + len(entries) > self._capacity:
                raise Reject(f"the log holds {len(self.entries)} of {self._capacity} entries")
            self.entries.extend(entries)
