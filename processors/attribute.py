"""Attribute: scores and signals become outcomes: how did each turn go, and what was its first fault.

A turn settles when its reaction is seen: a turn after it, a decisive explicit signal that names it, or
silence long enough to close the session. Evidence that comes later and changes the verdict or the cause gives a new
revision. Signals that name no turn belong to the last turn that began before them; they wait for that to be
known. A signal for a turn that never comes is kept until the session is forgotten. Where a person said how a
turn went, the end of its session gives a last revision, with all that was seen besides. Turns are read for what their
users asked: with it, each turn that failed is told once more, as a failure.
"""

from __future__ import annotations

import zlib
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, cast

from processors.cause_model import load
from processors.evidence import Evidence, Judgement, VerdictRules, judge, judges_spread, newest
from processors.moments import micros, moment, seconds
from processors.sessions import (
    Held,
    awaited,
    failed,
    failure,
    forget_person,
    heard,
    keep_asked,
    keep_score,
    keep_signal,
    opened,
    outcome,
    pack,
    signals_of,
    told,
    unheard,
    unpack,
)
from processors.stage import Event, Message, Prepared, Stage, forget
from processors.state import KeyState
from schemas.errors import Invalid
from schemas.events import Record, Score, Signal, Turn, identity
from schemas.subjects import Subject
from schemas.topics import FAILURES, OUTCOMES, SCORES, SIGNALS, TURNS


@dataclass(frozen=True, slots=True)
class AttributeSettings:
    """Durations in seconds.

    ``gap``: silence that closes a session. ``grace``: how much longer to wait for the signals which that
    close itself makes. ``lateness``: how long a closed session can still be revised. ``turns``, ``signals``:
    how many of each a session remembers. ``recent``: of how many turns it remembers what they show and what was asked.
    ``rules``: thresholds of verdict and cause.
    """

    gap: float = 1_800.0
    grace: float = 60.0
    lateness: float = 3_600.0
    turns: int = 16
    signals: int = 32
    recent: int = 6
    rules: VerdictRules = field(default_factory=VerdictRules)


class Attribute(Stage):
    """Scores and signals to outcomes, and with turns to failures, per session."""

    name = "attribute"
    sources = (TURNS, SCORES, SIGNALS)
    emits = (OUTCOMES, FAILURES)
    linger = 1.0
    by = "session"
    memo_size = 20
    memo_emits = False

    def __init__(self, settings: AttributeSettings | None = None) -> None:
        self._settings = settings or AttributeSettings()
        super().__init__(self._settings)

    def key(self, record: Record) -> str:
        """One state per session."""
        return f"{record.tenant}/{cast('Turn | Score | Signal', record).session_id}"

    def _prepare_one(self, message: Message) -> Prepared:
        """A signal sent again without weight is another event: it takes the first one back."""
        found = super()._prepare_one(message)
        if isinstance(found, Invalid):
            return found
        return [
            replace(one, event_id=identity("withdrawn", one.event_id))
            if isinstance(one.record, Signal) and one.record.weight <= 0
            else one
            for one in found
        ]

    def step(self, event: Event, state: KeyState) -> Iterable[Record]:
        """Keep the turn, score or signal; settle what it decides, revise what it changes."""
        data, record, settings = opened(state.data), event.record, self._settings
        if isinstance(record, Turn):
            self._heard(data, micros(max(record.event_time, record.end_time)))
            keep_asked(data, record, settings.recent)
        elif isinstance(record, Score):
            load(record.causes)
            self._heard(data, micros(max(record.event_time, record.end_time)))
            keep_score(data, record, settings.turns, settings.recent)
            if record.sketch and not data["valued"]:
                data["sketch"] = record.sketch
        elif isinstance(record, Signal) and record.source != "shadow":
            if record.name != "abandonment" and record.weight > 0:
                self._heard(data, micros(record.event_time))
            keep_signal(data, record, settings.signals)
        news = [] if isinstance(record, Turn) and not awaited(data, record.turn_id) else list(self._settle(data))
        if news:
            data["told"] = {name: data["told"][name] for name in data["told"] if name in state.memo}
            data["told"][event.event_id] = news
        state.due = moment(data["forget"] if data["closed"] else self._closing(data))
        return _records(data, news)

    def repeat(self, event: Event, state: KeyState, memo: list[Any]) -> Iterable[Record]:
        """See Stage: the same records, made again of their short form."""
        del memo
        data = opened(state.data)
        return _records(data, data["told"].get(event.event_id, []))

    def _heard(self, data: dict[str, Any], time: int) -> None:
        data["last"] = max(data["last"], time)
        data["closed"] = False

    def _closing(self, data: dict[str, Any]) -> int:
        return data["last"] + seconds(self._settings.gap + self._settings.grace)

    def tick(self, key: str, state: KeyState, now: datetime) -> Iterable[Record]:
        """Close a silent session: settle the rest and give its value; later, forget it."""
        del key
        data = opened(state.data)
        if data["closed"]:
            forget(state)
            return
        data["closed"] = True
        data["forget"] = micros(now) + seconds(self._settings.lateness)
        state.due = moment(data["forget"])
        yield from _records(data, list(self._settle(data)))

    def erase(self, name: str, state: KeyState, about: Subject) -> Iterable[Record]:
        """See Stage: their turns go with what was said about them, and the session when nothing else is in it."""
        yield from super().erase(name, state, about)
        data = opened(state.data)
        gone = forget_person(data, about.hash)
        data["signals"] = [
            one for one, said in signals_of(data)
            if said.turn_id not in gone and not about.has_turn(said.turn_id) and said.trace_id not in about.traces
        ]  # fmt: skip
        if gone:
            data["sketch"] = ""
        if name in about.sessions or not (data["turns"] or data["signals"] or data["asked"]):
            forget(state)

    def _settle(self, data: dict[str, Any]) -> Iterator[News]:
        """Every turn whose reaction is seen, or whose verdict or cause changed, in the order of the session."""
        turns = unpack(data)
        about = _about(turns, [one for _, one in signals_of(data)])
        judged: dict[str, Judgement] = {}
        for place in reversed(range(len(turns))):
            after = turns[place + 1] if place + 1 < len(turns) else None
            found = self._judged(data, turns[place], after, about[turns[place]["turn_id"]], judged)
            if found is not None:
                judged[turns[place]["turn_id"]] = found
        for turn in turns:
            found = judged.get(turn["turn_id"])
            if found is not None:
                news = _differs(turn, found) or _grown(data, turn, found)
                value = _session_value(data, news and found.verdict == "failure", turn is turns[-1])
                if news or value is not None:
                    yield "outcome", told(turn, found, value, judges_spread(about[turn["turn_id"]]))
            late = unheard(turn) and turn["turn_id"] in data["asked"]
            if late:
                yield "failure", failed(turn)
            if late or found is not None:
                pack(data, [turn])

    def _judged(
        self,
        data: dict[str, Any],
        turn: Held,
        after: Held | None,
        found: list[Evidence],
        judged: dict[str, Judgement],
    ) -> Judgement | None:
        """The judgement on a turn that settles or rests on other evidence than before; None when nothing is new."""
        settled = turn["revision"] >= 0
        seen = settled or data["closed"] or after is not None
        if not (seen or any(e.decisive and (e.turn_id or e.trace_id) for e in found)):
            return None
        rerouted = after is not None and _rerouted(turn, after, judged)
        basis = zlib.crc32(repr(([*map(tuple, found)], rerouted)).encode()) if found or rerouted else 1
        final = data["closed"] and ((after is None and not data["valued"]) or len(newest(found)) > turn["heard"])
        if settled and turn["basis"] == basis and not final:
            return None
        turn["basis"] = basis
        learnt = load(data["causes"])
        return judge(turn | {"forces": data["forces"]}, found, self._settings.rules, rerouted, learnt)


News = tuple[str, list[Any]]
"""``outcome`` or ``failure``, and the record in short."""


def _records(data: dict[str, Any], news: Iterable[Any]) -> list[Record]:
    made = (outcome(data, short) if kind == "outcome" else failure(data, short) for kind, short in news)
    return [one for one in made if one is not None]


def _grown(data: dict[str, Any], turn: Held, judgement: Judgement) -> bool:
    """Whether a closed session has shown more of a turn of which a person said how it went than was told of it."""
    return data["closed"] and judgement.basis == "said" and heard(judgement) > turn["heard"]


def _rerouted(turn: Held, after: Held, judged: dict[str, Judgement]) -> bool:
    """Whether the next turn took another route and went well."""
    if not turn["category"] or not after["category"] or turn["category"] == after["category"]:
        return False
    now = judged.get(after["turn_id"])
    return (now.verdict if now else after["verdict"]) == "success"


def _about(turns: list[dict[str, Any]], signals: list[Evidence]) -> dict[str, list[Evidence]]:
    """Which signals speak of which turn; the turns are given by their start."""
    about: dict[str, list[Evidence]] = {turn["turn_id"]: [] for turn in turns}
    last_of_trace = {turn["trace_id"]: turn["turn_id"] for turn in turns}
    starts = [turn["start"] for turn in turns]
    for one in signals:
        if one.turn_id:
            named = one.turn_id
        elif one.trace_id:
            root = f"{one.trace_id}.{one.span_id}"
            named = root if root in about else last_of_trace.get(one.trace_id)
        else:
            begun = bisect_right(starts, one.time)
            named = turns[begun - 1]["turn_id"] if begun else None
        if named in about:
            about[named].append(one)
    return about


def _differs(turn: Held, judgement: Judgement) -> bool:
    now = (judgement.verdict, judgement.expected, judgement.cause)
    return turn["revision"] < 0 or (turn["verdict"], turn["expected"], turn["cause"]) != now


def _session_value(data: dict[str, Any], failed: bool, last: bool) -> int | None:
    """1 with the first failure; 0 with the last turn of a closed session that had none; once."""
    if data["valued"] or not (failed or (data["closed"] and last)):
        return None
    data["valued"] = True
    return int(failed)
