"""Assemble: clean spans, in any order, late or doubled, become turns and implicit signals.

A trace waits a moment after its root for late spans, then its turn is emitted. A span that comes later still
and changes the turn emits it again under the same ``event_id``: readers keep the newest. Turns count up in
the order in which they are emitted, by start within one tick; one that comes very late gets a later index
than its place. A session closes after a gap without spans, on the clock of their acceptance, so that a
producer's wrong clock neither closes nor holds it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from operator import itemgetter
from typing import Any, cast

from processors.moments import micros, moment, seconds
from processors.reactions import ABANDONMENT, Reaction, is_closing, reactions
from processors.stage import Event, Stage, forget
from processors.state import KeyState
from processors.traces import Node, members, node_of, roots, turn_of
from schemas.events import EPOCH, Record, Redaction, Signal, Span, Turn, identity
from schemas.topics import SIGNALS, SPANS, TURNS

_LOOSE_TRACES = 16
_GONE_TRACES = 256
_RECALLED = {
    "turn_id",
    "trace_id",
    "session_id",
    "agent",
    "subject_hash",
    "input",
    "redaction",
    "consent_train",
}


@dataclass(frozen=True, slots=True)
class AssembleSettings:
    """Durations in seconds.

    ``settle``: how long a root waits for late spans. ``orphan_settle``: the same for a root that names a
    parent nobody has seen (it may be a sub-agent whose parent is still at work). ``gap``: silence that closes
    a session. ``lateness``: how long a closed session is remembered. ``rephrase_at``: likeness of two
    messages (0 to 1) from which the second rephrases the first, when at most ``rephrase_gap`` apart.
    ``recent_turns``: turns of a session that can still change. ``trace_spans``: spans of a trace that are
    kept; more are not counted.
    """

    settle: float = 1.0
    orphan_settle: float = 30.0
    gap: float = 1_800.0
    lateness: float = 300.0
    rephrase_at: float = 0.5
    rephrase_gap: float = 300.0
    recent_turns: int = 4
    trace_spans: int = 1_000


class Assemble(Stage):
    """Spans to turns and implicit signals, per session."""

    name = "assemble"
    sources = (SPANS,)
    emits = (TURNS, SIGNALS)
    by = "session"

    def __init__(self, settings: AssembleSettings | None = None) -> None:
        self._settings = settings or AssembleSettings()
        super().__init__(self._settings)

    def key(self, record: Record) -> str:
        """One state per session."""
        return f"{record.tenant}/{cast('Span', record).session_id}"

    def step(self, event: Event, state: KeyState) -> Iterable[Record]:
        """Keep the span; emit again a turn that it changes."""
        span, data = cast("Span", event.record), _opened(state)
        data.update(tenant=span.tenant, closed=False)
        heard = span.received_time if span.received_time > EPOCH else span.event_time
        data["last"] = max(data["last"], micros(heard))
        if span.trace_id not in data["gone"]:
            yield from self._keep(data, span)
        state.due = self._next_due(data)

    def _keep(self, data: dict[str, Any], span: Span) -> Iterator[Record]:
        trace = data["traces"].setdefault(span.trace_id, {"nodes": {}, "turns": {}, "due": None})
        if span.kind != "agent" and len(trace["nodes"]) >= self._settings.trace_spans:
            return
        trace["nodes"][span.span_id] = node_of(span)
        fresh = _fresh(trace)
        trace["due"] = max((self._ready_at(root, trace) for root in fresh), default=None)
        yield from _changed(data, trace)
        _bound(data)

    def _ready_at(self, root: Node, trace: dict[str, Any]) -> int:
        orphan = root["parent_span_id"] and root["parent_span_id"] not in trace["nodes"]
        wait = self._settings.orphan_settle if orphan else self._settings.settle
        return root["received"] + seconds(wait)

    def tick(self, key: str, state: KeyState, now: datetime) -> Iterable[Record]:
        """Emit turns that have waited long enough; close, then forget, a silent session."""
        del key
        data, instant = _opened(state), micros(now)
        due = [t for t in data["traces"].values() if t["due"] is not None and t["due"] <= instant]
        for root, trace in sorted(_roots_of(due), key=lambda pair: pair[0]["start"]):
            yield from self._emit(data, root, trace)
        for trace in due:
            trace["due"] = None
        _bound(data, self._settings.recent_turns)
        if all(t["due"] is None for t in data["traces"].values()):
            yield from self._close(data, instant, state)
        state.due = self._next_due(data) if data else None

    def _close(self, data: dict[str, Any], instant: int, state: KeyState) -> Iterator[Record]:
        if data["closed"]:
            if instant >= data["forget"]:
                forget(state)
        elif instant >= data["last"] + seconds(self._settings.gap):
            data.update(closed=True, forget=instant + seconds(self._settings.lateness))
            if data["turns"] and not is_closing(data["turns"][-1]["input"]):
                left = data["turns"][-1]
                yield _signal(data, left, ABANDONMENT, left["end"] + seconds(self._settings.gap))

    def _next_due(self, data: dict[str, Any]) -> datetime:
        waits = [t["due"] for t in data["traces"].values() if t["due"] is not None]
        end = data["forget"] if data["closed"] else data["last"] + seconds(self._settings.gap)
        return moment(min(waits, default=end))

    def _emit(self, data: dict[str, Any], root: Node, trace: dict[str, Any]) -> Iterator[Record]:
        turn = _built(data, trace, root, data["next"])
        if turn is None:
            return
        data["next"] += 1
        trace["turns"][turn.turn_id] = {"index": turn.turn_index, "digest": _digest(turn)}
        yield turn
        before = [t for t in data["turns"] if t["start"] < root["start"]]
        if before:
            yield from self._reactions(data, before[-1], turn)
        data["turns"].append(turn.model_dump(include=_RECALLED) | {"start": root["start"], "end": root["end"]})
        data["turns"].sort(key=itemgetter("start"))

    def _reactions(self, data: dict[str, Any], before: dict[str, Any], turn: Turn) -> Iterator[Record]:
        start, limits = micros(turn.event_time), (self._settings.rephrase_at, self._settings.rephrase_gap)
        gap = (start - before["end"]) / 1_000_000
        for reaction in reactions(before["input"], turn.input, gap, *limits):
            yield _signal(data, before, reaction, start, turn)


def _opened(state: KeyState) -> dict[str, Any]:
    if not state.data:
        state.data.update(traces={}, turns=[], next=0, last=0, closed=False, forget=0, gone=[])
    return state.data


def _fresh(trace: dict[str, Any]) -> list[Node]:
    """Roots without a turn. A turn that stands is not doubled when an agent span above it comes late."""
    done = {turn_id.rpartition(".")[2] for turn_id in trace["turns"]}
    tops = roots(trace["nodes"])
    if done and not done & {top["span_id"] for top in tops}:
        return []
    return [top for top in tops if top["span_id"] not in done]


def _roots_of(traces: Iterable[dict[str, Any]]) -> Iterator[tuple[Node, dict[str, Any]]]:
    for trace in traces:
        for root in _fresh(trace):
            yield root, trace


def _built(data: dict[str, Any], trace: dict[str, Any], root: Node, index: int) -> Turn | None:
    nodes = trace["nodes"]
    tops = roots(nodes)
    if root not in tops:
        tops = [root]
    return turn_of(root, members(root, tops, nodes), index, data["tenant"])


def _changed(data: dict[str, Any], trace: dict[str, Any]) -> Iterator[Record]:
    for turn_id, kept in trace["turns"].items():
        root = trace["nodes"][turn_id.rpartition(".")[2]]
        turn = _built(data, trace, root, kept["index"])
        if turn is not None and _digest(turn) != kept["digest"]:
            kept["digest"] = _digest(turn)
            yield turn


def _digest(turn: Turn) -> str:
    return identity(turn.model_dump_json())


def _bound(data: dict[str, Any], recent: int | None = None) -> None:
    """Let go of old turns, of their traces, and of all but the newest traces that have no root yet."""
    if recent is not None:
        del data["turns"][:-recent]
    kept = {turn["trace_id"] for turn in data["turns"]}
    traces = data["traces"]
    loose = [name for name, trace in traces.items() if name not in kept and trace["due"] is None]
    answered = [name for name in loose if traces[name]["turns"]]
    for name in (*answered, *[n for n in loose if n not in answered][:-_LOOSE_TRACES]):
        del traces[name]
    data["gone"] = [*data["gone"], *answered][-_GONE_TRACES:]


def _signal(
    data: dict[str, Any], about: dict[str, Any], reaction: Reaction, time: int, turn: Turn | None = None
) -> Signal:
    """An implicit signal about a turn; the text is the message that made it, when it is a complaint."""
    complaint = turn is not None and reaction.value < 0
    shown = turn if complaint else None
    return Signal(
        event_id=identity(
            "implicit", data["tenant"], reaction.name, about["turn_id"], turn.turn_id if turn else "close"
        ),
        tenant=data["tenant"],
        agent=about["agent"],
        subject_hash=about["subject_hash"],
        event_time=moment(time),
        redaction=shown.redaction if shown else Redaction.model_validate(about["redaction"]),
        consent_train=about["consent_train"] and (turn is None or turn.consent_train),
        session_id=about["session_id"],
        turn_id=about["turn_id"],
        trace_id=about["trace_id"],
        name=reaction.name,
        kind="implicit",
        source="assemble",
        value=reaction.value,
        weight=reaction.weight,
        text=shown.input if shown else "",
    )
