"""What a run must come to, from the load and the poison alone, and what the raw topics say was accepted."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from functools import cached_property

from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from benchmarks.chaos.load import TOO_LONG, Load
from benchmarks.chaos.topics import Topics
from schemas import codec
from schemas.errors import Invalid
from schemas.events import RawSignal
from schemas.topics import OTLP_SPANS, SIGNALS_RAW

Place = tuple[str, str, int, int, str]
"""Of a dead letter: stage, topic, partition, offset, and which item of the message."""


@dataclass(frozen=True)
class Truth:
    """``refused``: turns that scoring refuses. ``extra``: spans beside poison, each of them the root of a turn."""

    load: Load
    refused: frozenset[str]
    extra: tuple[dict[str, str], ...]

    @cached_property
    def spans(self) -> set[str]:
        """Event ids of the spans that must be stored."""
        good = {
            event_id
            for turn in self.load.turns
            for name, event_id in turn.span_ids().items()
            if not (turn.poisoned and name == "tool")
        }
        return good | {one["event_id"] for one in self.extra}

    @cached_property
    def signals(self) -> set[str]:
        """Event ids of the explicit signals."""
        return {turn.signal_id for turn in self.load.turns if turn.rating is not None}

    @cached_property
    def turns(self) -> dict[str, str]:
        """The session of every turn."""
        return {turn.turn_id: turn.session for turn in self.load.turns} | {
            one["turn_id"]: one["session"] for one in self.extra
        }

    @cached_property
    def settled(self) -> set[str]:
        """The turns that must have a score and an outcome."""
        return set(self.turns) - self.refused

    @cached_property
    def sessions(self) -> Counter[str]:
        """How many turns each session has."""
        return Counter(self.turns.values())


@dataclass
class Accepted:
    """What the raw topics hold: items by minute and tenant, how many of them are copies, which cannot pass."""

    items: Counter[tuple[str, str]] = field(default_factory=Counter[tuple[str, str]])
    ids: Counter[str] = field(default_factory=Counter[str])
    dead: set[Place] = field(default_factory=set[Place])

    @property
    def copies(self) -> int:
        """Items that a client sent again, because the answer had been lost."""
        return sum(count - 1 for count in self.ids.values())


def accepted(topics: Topics) -> Accepted:
    """Read the raw topics."""
    out = Accepted()
    for found in topics.read(topics.settings.topic(OTLP_SPANS), OTLP_SPANS.name):
        place = ("redact", found.topic, found.partition, found.offset)
        minute = (found.headers["tenant"], found.time.strftime("%Y-%m-%d %H:%M"))
        try:
            request = ExportTraceServiceRequest.FromString(found.value or b"")
        except DecodeError:
            out.dead.add((*place, "0"))
            out.items[minute] += 1
            continue
        spans = [s for r in request.resource_spans for scope in r.scope_spans for s in scope.spans]
        out.items[minute] += len(spans)
        for item, span in enumerate(spans):
            out.ids[f"{span.trace_id.hex()}.{span.span_id.hex()}" if span.trace_id else str(place)] += 1
            if not span.trace_id or any(len(a.value.string_value) > TOO_LONG for a in span.attributes):
                out.dead.add((*place, str(item)))
    for found in topics.read(topics.settings.topic(SIGNALS_RAW), SIGNALS_RAW.name):
        out.items[found.headers["tenant"], found.time.strftime("%Y-%m-%d %H:%M")] += 1
        if "ledger" not in found.headers:
            out.dead.add(("redact", found.topic, found.partition, found.offset, "0"))
        else:
            out.ids[_body(found.value or b"")] += 1
    return out


def _body(value: bytes) -> str:
    try:
        record = codec.decode(value, RawSignal)
    except Invalid:
        return ""
    return record.payload if isinstance(record, RawSignal) else ""
