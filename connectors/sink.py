"""The Sink contract: where records leave the log, with its twin in memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from schemas.events import Record
from schemas.topics import TOPICS, Topic


class Sink(Protocol):
    """Takes batches of records. Delivery is at least once: ``write`` must be idempotent by ``event_id``."""

    @property
    def name(self) -> str:
        """The consumer group."""
        ...

    @property
    def topics(self) -> tuple[Topic, ...]:
        """What it reads."""
        ...

    def write(self, records: Sequence[Record]) -> None:
        """Store the batch durably. Raises Retry when the system is away: the same batch comes again."""
        ...


class MemorySink:
    """A Sink in memory: one record per event id, the newest delivery wins."""

    name = "memory"
    topics = tuple(topic for topic in TOPICS if not topic.raw)

    def __init__(self) -> None:
        self.records: dict[tuple[str, str], Record] = {}

    def write(self, records: Sequence[Record]) -> None:
        """See Sink."""
        for record in records:
            self.records[type(record).__name__, record.event_id] = record
