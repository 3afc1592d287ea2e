"""Assemble: clean spans, in any order, late or doubled, become turns and implicit signals.

A trace waits a moment after its root for late spans, then its turn is emitted. A span that comes later still
and changes the turn emits it again under the same ``event_id``: readers keep the newest. Turns count up in
the order in which they are emitted, by start within one tick; one that comes very late gets a later index
than its place. What follows what is decided by the turns' own times: signals that a late turn contradicts are
taken back (see ``processors.listening``). Timers run on the clock of acceptance, so that a producer's wrong
clock neither closes nor holds a session.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, cast

from processors.likeness import LETTERS, Likeness
from processors.listening import Listener, act, forget_old, forget_person, remember, trace_of, unheard
from processors.mmd import sketch
from processors.moments import micros, moment, seconds
from processors.phrases import CANCELLED, flat
from processors.reactions import ReactionRules
from processors.stage import Event, Stage, forget
from processors.state import KeyState
from processors.text import normal
from processors.traces import (
    FORM,
    Node,
    is_leaf,
    members,
    node_of,
    outline,
    put,
    renewed,
    roots,
    slim,
    turn_of,
    weight_of,
    whole,
)
from processors.vectors import SPELLING, Vectors
from schemas.events import EPOCH, Record, Span, Turn, identity
from schemas.subjects import Subject
from schemas.topics import SIGNALS, SPANS, TURNS

_LOOSE_TRACES = 16
_GONE_TRACES = 256
_TOOLS = 16


@dataclass(frozen=True, slots=True)
class AssembleSettings:
    """Durations in seconds.

    ``settle``: how long a root waits for late spans. ``orphan_settle``: the same for a root that names a
    parent nobody has seen (it may be a sub-agent whose parent is still at work). ``gap``: silence that closes
    a session, by the turns' own times and by the clock of acceptance. ``early``: silence after which a session
    counts as abandoned unless the user returns within the gap. ``lateness``: how long a closed session is
    remembered. ``recent_turns``: turns of a session that can still change. ``trace_spans``: spans of a trace
    that are kept; more are not counted. ``trace_bytes``: about how much of the spans of turns that were emitted
    is kept; beyond it only the newest of them can change. ``vectors``: whether to compare by meaning where the
    model is there. ``rules``: thresholds of the signals.
    """

    settle: float = 1.0
    orphan_settle: float = 30.0
    gap: float = 1_800.0
    early: float = 600.0
    lateness: float = 300.0
    recent_turns: int = 4
    trace_spans: int = 1_000
    trace_bytes: int = 2_000
    vectors: bool = True
    rules: ReactionRules = field(default_factory=ReactionRules)


class Assemble(Stage):
    """Spans to turns and implicit signals, per session."""

    name = "assemble"
    sources = (SPANS,)
    emits = (TURNS, SIGNALS)
    memo_size = 48
    by = "session"

    def __init__(
        self, settings: AssembleSettings | None = None, alike: Likeness = LETTERS, vectors: Vectors = SPELLING
    ) -> None:
        chosen = self._settings = settings or AssembleSettings()
        super().__init__(chosen)
        self._vectors = vectors
        self._listener = Listener(chosen.rules, chosen.gap, chosen.early, alike)

    def key(self, record: Record) -> str:
        """One state per session."""
        return f"{record.tenant}/{cast('Span', record).session_id}"

    def step(self, event: Event, state: KeyState) -> Iterable[Record]:
        """Keep the span; emit again a turn that it changes."""
        span, data = cast("Span", event.record), _opened(state)
        data.update(tenant=span.tenant, closed=False, quiet=False)
        heard = span.received_time if span.received_time > EPOCH else span.event_time
        data["last"] = max(data["last"], micros(heard))
        if not (data["gone"] and _short(span.trace_id) in data["gone"]):
            yield from self._keep(data, span)
        state.due = self._next_due(data)

    def _keep(self, data: dict[str, Any], span: Span) -> Iterator[Record]:
        trace = data["traces"].setdefault(span.trace_id, {"nodes": {}, "turns": {}, "due": None, "form": FORM})
        if span.kind != "agent" and len(trace["nodes"]) >= self._settings.trace_spans:
            return
        leaf = span.kind in ("tool", "retrieval") and is_leaf(span.span_id, trace)
        put(trace, node_of(span))
        acted = span.kind == "tool" and not span.parent_span_id
        if acted:
            act(data, span)
        if not leaf:
            trace["due"] = max((self._ready_at(root, trace) for root in _fresh(trace)), default=None)
        changed = list(self._changed(data, trace)) if trace["turns"] else []
        yield from changed
        if changed or acted:
            yield from self._listener.changed(data)
        if changed or trace["due"] is None:
            _bound(data, self._settings)

    def _changed(self, data: dict[str, Any], trace: dict[str, Any]) -> Iterator[Record]:
        """Emit again the turns that a late span changes."""
        for turn_id, kept in trace["turns"].items():
            nodes = whole(trace)
            root = nodes[turn_id.rpartition(".")[2]]
            tops = roots(nodes)
            spans = members(tops if root in tops else [root], nodes)[root["span_id"]]
            turn = self._built(data, root, spans, kept["index"])
            if turn is not None and _digest(turn) != kept["digest"]:
                kept["digest"] = _digest(turn)
                yield turn
                slim(root, trace)
                remember(data, turn, _stopped(spans), _tools(spans))

    def _built(self, data: dict[str, Any], root: Node, spans: list[Node], index: int) -> Turn | None:
        """The turn of a root as it is now; the session's first with its sketch."""
        earlier = [one["input"] for one in data["turns"] if one["start"] < root["start"]]
        turn = turn_of(root, spans, index, data["tenant"], earlier)
        if turn is not None and index == 0 and self._vectors.meaning and normal(turn.input):
            turn = turn.model_copy(update={"sketch": sketch(self._vectors(turn.input))})
        return turn

    def _ready_at(self, root: Node, trace: dict[str, Any]) -> int:
        orphan = root["parent_span_id"] and root["parent_span_id"] not in trace["nodes"]
        wait = self._settings.orphan_settle if orphan else self._settings.settle
        return root["received"] + seconds(wait)

    def tick(self, key: str, state: KeyState, now: datetime) -> Iterable[Record]:
        """Emit turns that have waited long enough; close, then forget, a silent session."""
        del key
        data, instant = _opened(state), micros(now)
        due = [t for t in data["traces"].values() if t["due"] is not None and t["due"] <= instant]
        for spans, root, trace in sorted(_roots_of(due), key=lambda found: found[1]["start"]):
            yield from self._emit(data, spans, root, trace)
        for trace in due:
            trace["due"] = None
        if due:
            yield from self._listener.changed(data)
        _bound(data, self._settings)
        if all(t["due"] is None for t in data["traces"].values()):
            yield from self._close(data, instant, state)
        state.due = self._next_due(data) if data else None

    def _close(self, data: dict[str, Any], instant: int, state: KeyState) -> Iterator[Record]:
        if data["closed"]:
            if instant >= data["forget"]:
                forget(state)
            return
        if not data["quiet"] and instant >= data["last"] + seconds(self._early):
            data["quiet"] = True
            yield from self._listener.silent(data)
        if instant >= data["last"] + seconds(self._settings.gap):
            data.update(closed=True, forget=instant + seconds(self._settings.lateness))
            yield from self._listener.closed(data)

    @property
    def _early(self) -> float:
        return min(self._settings.early, self._settings.gap)

    def _next_due(self, data: dict[str, Any]) -> datetime:
        waits = [t["due"] for t in data["traces"].values() if t["due"] is not None]
        silence = self._settings.gap if data["quiet"] else self._early
        end = data["forget"] if data["closed"] else data["last"] + seconds(silence)
        return moment(min(waits, default=end))

    def erase(self, name: str, state: KeyState, about: Subject) -> Iterable[Record]:
        """See Stage: their traces and turns go, and the session when nothing else is in it."""
        yield from super().erase(name, state, about)
        data = _opened(state)
        data["traces"] = {trace: held for trace, held in data["traces"].items() if not _theirs(trace, held, about)}
        forget_person(data, about.hash)
        if data["traces"] or data["turns"]:
            state.due = self._next_due(data)
        else:
            forget(state)

    def _emit(self, data: dict[str, Any], spans: list[Node], root: Node, trace: dict[str, Any]) -> Iterator[Record]:
        turn = self._built(data, root, spans, data["next"])
        if turn is None:
            return
        data["next"] += 1
        trace["turns"][turn.turn_id] = {"index": turn.turn_index, "digest": _digest(turn)}
        yield turn
        slim(root, trace)
        remember(data, turn, _stopped(spans), _tools(spans))


def _opened(state: KeyState) -> dict[str, Any]:
    if not state.data:
        state.data.update(traces={}, next=0, last=0, closed=False, quiet=False, forget=0, gone=[], **unheard())
    elif "acts" not in state.data:  # an earlier release kept its turns in another form
        state.data.update(quiet=False, **unheard())
    for trace in state.data["traces"].values():
        if trace.get("form") != FORM:
            renewed(trace)
    return state.data


def _theirs(name: str, trace: dict[str, Any], about: Subject) -> bool:
    return name in about.traces or any(node["subject_hash"] == about.hash for node in whole(trace).values())


def _fresh(trace: dict[str, Any]) -> list[Node]:
    """Roots without a turn, in outline. A turn that stands is not doubled when an agent span above it comes late."""
    return _without_turn(roots(outline(trace)), trace)


def _without_turn(tops: list[Node], trace: dict[str, Any]) -> list[Node]:
    done = {turn_id.rpartition(".")[2] for turn_id in trace["turns"]}
    if done and not done & {top["span_id"] for top in tops}:
        return []
    return [top for top in tops if top["span_id"] not in done]


def _roots_of(traces: Iterable[dict[str, Any]]) -> Iterator[tuple[list[Node], Node, dict[str, Any]]]:
    """The spans of every turn that is to be emitted, its root and its trace."""
    for trace in traces:
        nodes = whole(trace)
        tops = roots(nodes)
        parts = members(tops, nodes) if tops else {}
        for root in _without_turn(tops, trace):
            yield parts[root["span_id"]], root, trace


def _stopped(spans: Iterable[Node]) -> str:
    """The kind of the operation that somebody stopped, the last one; '' when nobody did."""
    kinds = [n["kind"] for n in spans if n["status"] == "error" and CANCELLED.search(flat(n["status_message"]))]
    return kinds[-1] if kinds else ""


def _tools(spans: Iterable[Node]) -> list[str]:
    return sorted({n["tool_name"] for n in spans if n["kind"] == "tool" and n["tool_name"]})[:_TOOLS]


def _digest(turn: Turn) -> str:
    return identity(turn.model_dump_json())


def _bound(data: dict[str, Any], settings: AssembleSettings) -> None:
    """Let go of old turns, of their traces, and of all but the newest traces that have no root yet."""
    forget_old(data)
    traces, kept, room = data["traces"], set[str](), settings.trace_bytes
    for turn in reversed(data["turns"][-settings.recent_turns :]):
        name = trace_of(turn)
        trace = traces.get(name)
        room -= weight_of(trace) if trace and name not in kept else 0
        if room >= 0 or not kept:
            kept.add(name)
    loose = [name for name, trace in traces.items() if name not in kept and trace["due"] is None]
    answered = [name for name in loose if traces[name]["turns"]]
    for name in (*answered, *[n for n in loose if n not in answered][:-_LOOSE_TRACES]):
        del traces[name]
    data["gone"] = [*data["gone"], *map(_short, answered)][-_GONE_TRACES:]


def _short(trace_id: str) -> str:
    return identity(trace_id)[:10]
