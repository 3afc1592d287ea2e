"""The Sink contract: where records leave the log, with its twin in memory; and what no sink may be given."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Protocol, cast

from schemas.errors import Invalid
from schemas.events import Clean, RawSignal, Record
from schemas.topics import TOPICS, Topic


def check_clean(record: Record) -> None:
    """Raises Invalid for a record of the raw zone, and for text without a whole redaction envelope.

    Engines ask it before any sink, whatever the sink does; the store asks it again.
    """
    raw, clean = _zones(type(record))
    if raw:
        raise Invalid("not_clean", f"{_named(record)} belongs to the raw zone: it is never stored")
    if clean:
        redaction = cast("Clean", record).redaction
        if not (redaction.policy_version and redaction.detector):
            raise Invalid("no_redaction", f"{_named(record)} carries no redaction envelope")


@cache
def _zones(kind: type[Record]) -> tuple[bool, bool]:
    """Whether records of a kind are raw, and whether they carry a redaction: pydantic takes long to say it of each."""
    return issubclass(kind, RawSignal), issubclass(kind, Clean)


def _named(record: Record) -> str:
    return f"{type(record).__name__} {record.event_id}"


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
        """See Sink. Raises Invalid for what is not clean."""
        for record in records:
            check_clean(record)
            self.records[type(record).__name__, record.event_id] = record
