"""What a session's turns say about each other: signals are given, and taken back when they no longer hold.

The signals of a session are a function of the turns that are remembered, in the order of their start. Whenever
that changes (a turn, late or in its place; a text that a late span corrects; a silence, or the end of one) the
function is asked again for the turns concerned, and the difference is emitted: a new signal, or a retraction. A
retraction is a signal of the same name about the same turn with weight 0; its attribute ``retracts`` says of which.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

from processors.likeness import Likeness
from processors.moments import micros, moment, seconds
from processors.reactions import (
    ABANDONED,
    STOPPED,
    TAKEN_OVER,
    Reaction,
    ReactionRules,
    Said,
    abandoned,
    diverged,
    pace,
    reactions,
    said,
)
from schemas.events import Redaction, Signal, Span, Turn, identity

Brief = dict[str, Any]
"""A turn as it is remembered, JSON only."""

TEXT = 400
"""Characters of a message that are remembered."""
MEMORY = 6
"""Turns that are remembered: four before the pair in question."""
_CONTEXT = 4
_PACES = 16
_ACTS = 8
TAKE_OVER = 600.0
"""Seconds after an answer within which a user who does the agent's work takes over."""
_KEPT = ("turn_id", "trace_id", "session_id", "agent", "subject_hash", "consent_train", "consent_evaluate")
_COMMON = ("session_id", "agent", "subject_hash", "consent_train", "consent_evaluate", "redaction")
"""What a turn does not write down where it is as in the session's ``common``."""
Wanted = dict[str, tuple[Brief, Reaction]]


def unheard() -> dict[str, Any]:
    """The part of a session's state that listening needs."""
    return {"turns": [], "paces": [], "acts": [], "first": None, "dropped": False, "common": {}}


def remember(data: dict[str, Any], turn: Turn, stopped: str, tools: list[str]) -> None:
    """Keep what a turn says, or says now. ``stopped``: the kind of operation that was stopped, '' when none was."""
    turns: list[Brief] = data["turns"]
    known = next((one for one in turns if one["turn_id"] == turn.turn_id), None)
    brief = {name: getattr(turn, name) for name in _KEPT} | {
        "input": turn.input[:TEXT],
        "whole": identity(turn.input)[:10] if len(turn.input) > TEXT else "",
        "redaction": dict(vars(turn.redaction)),
        "asks": "?" in turn.output,
        "length": said("", turn.output).length,
        "start": micros(turn.event_time),
        "end": micros(turn.end_time),
        "stopped": stopped,
        "tools": tools,
    }
    common = data.setdefault("common", {})
    if not common:
        common.update({name: brief[name] for name in _COMMON})
    own = {name: value for name, value in brief.items() if name not in common or common[name] != value}
    if turn.turn_id.startswith(f"{turn.trace_id}."):
        del own["trace_id"]
    if known is not None:
        for name in _COMMON:
            known.pop(name, None)
        known.update(own)
        return
    turns.append(own | {"pair": None, "pace": None, "made": {}, "left": 0})
    turns.sort(key=_order)
    if data["first"] is None or brief["start"] < data["first"][0]:
        data["first"] = [brief["start"], brief["input"], brief["subject_hash"]]


def trace_of(brief: Brief) -> str:
    """The trace of a turn, which is written down only where the turn's id does not begin with it."""
    return brief.get("trace_id") or brief["turn_id"].rpartition(".")[0]


def forget_old(data: dict[str, Any]) -> None:
    """Let go of all but the newest turns."""
    gone = data["turns"][:-MEMORY]
    if gone:
        data["paces"] = [*data["paces"], *[one["pace"] for one in gone if one["pace"] is not None]][-_PACES:]
        data["dropped"] = True
        del data["turns"][:-MEMORY]


def forget_person(data: dict[str, Any], subject_hash: str) -> None:
    """Let go of all that a person said and did."""
    data["turns"], data["common"] = [data.get("common", {}) | one for one in data["turns"]], {}
    for name in ("turns", "acts"):
        data[name] = [one for one in data[name] if one["subject_hash"] != subject_hash]
    if data["first"] is not None and data["first"][2] == subject_hash:
        data["first"] = None


def act(data: dict[str, Any], span: Span) -> None:
    """Keep that the user did something with a tool, without the agent."""
    if span.tool_name and all(one["span_id"] != span.span_id for one in data["acts"]):
        made = {"span_id": span.span_id, "tool": span.tool_name, "subject_hash": span.subject_hash, "made": {}}
        data["acts"] = [*data["acts"], made | {"start": micros(span.event_time)}][-_ACTS:]


class Listener:
    """Emits what changed about a session. ``gap``: seconds of silence that end it; ``early``: that look so."""

    def __init__(self, rules: ReactionRules, gap: float, early: float, alike: Likeness) -> None:
        self._rules, self._gap, self._early, self._alike = rules, gap, min(early, gap), alike

    def changed(self, data: dict[str, Any]) -> Iterator[Signal]:
        """Signals and retractions after a turn or an act was remembered."""
        turns: list[Brief] = data["turns"]
        gap = seconds(self._gap)
        for place, now in enumerate(turns):
            before = turns[place - 1] if place else None
            if before is None and data["dropped"]:
                continue
            linked = before is not None and now["start"] - before["end"] <= gap
            pair = _pair(before if linked else None, now)
            if now["pair"] != pair:
                now["pair"] = pair
                wanted = self._wanted(data, place) if linked else {}
                yield from _settle(data, now, wanted | _stopped(now), now["start"])
        for before, now in pairwise(turns):
            silent = now["start"] - before["end"]
            yield from self._leave(data, before, silent > gap, now["start"])
        for one in data["acts"]:
            yield from _settle(data, one, _taken_over(turns, one), one["start"])

    def _wanted(self, data: dict[str, Any], place: int) -> Wanted:
        turns: list[Brief] = data["turns"]
        before, now = turns[place - 1], turns[place]
        earlier = [_said(one) for one in turns[max(place - _CONTEXT, 0) : place]]
        paces = [*data["paces"], *[one["pace"] for one in turns[:place] if one["pace"] is not None]]
        current = _said(now, tuple(paces[-_PACES:]))
        now["pace"] = pace(earlier[-1], current)
        found = reactions(earlier, current, self._rules, self._alike)
        return {f"{one.name} {before['turn_id']}": (before, one) for one in found}

    def silent(self, data: dict[str, Any]) -> Iterator[Signal]:
        """Signals when nobody has spoken for ``early`` seconds; taken back when the user returns within ``gap``."""
        if data["turns"]:
            last = data["turns"][-1]
            yield from self._leave(data, last, True, last["end"] + seconds(self._early))

    def _leave(self, data: dict[str, Any], turn: Brief, gone: bool, cause: int) -> Iterator[Signal]:
        reaction = abandoned(_said(turn), self._early) if gone else None
        if (turn["left"] % 2 == 1) == (reaction is not None):
            return
        turn["left"] += 1
        time = turn["end"] + seconds(self._early)
        if reaction is None:
            time = max(time, cause)
        yield _signal(data, turn, reaction or ABANDONED, "close", turn["left"], time)

    def closed(self, data: dict[str, Any]) -> Iterator[Signal]:
        """Signals of a session that is over."""
        turns: list[Brief] = data["turns"]
        done = any(name.startswith("task_complete ") for one in turns for name in one["made"])
        if len(turns) < _CONTEXT or done or data["first"] is None:
            return
        found = diverged(data["first"][1], [one["input"] for one in turns[-2:]], self._rules, self._alike)
        if found is not None:
            yield _signal(data, turns[-1], found, "close", 1, turns[-1]["end"] + seconds(self._gap))


def _order(brief: Brief) -> tuple[int, str]:
    return brief["start"], brief["turn_id"]


def _said(brief: Brief, paces: tuple[float, ...] = ()) -> Said:
    start, end = brief["start"] / 1e6, brief["end"] / 1e6
    return Said(brief["input"], brief["asks"], brief["length"], start, end, brief["turn_id"], paces, brief["whole"])


def _pair(before: Brief | None, now: Brief) -> list[str]:
    """What the signals of a message depend on, for short."""
    facts = [before[name] for name in ("turn_id", "input", "whole", "asks", "end")] if before else []
    return [identity(*map(str, (*facts, now["input"], now["whole"], now["start"], now["stopped"])))[:12]]


def _stopped(turn: Brief) -> Wanted:
    if not turn["stopped"]:
        return {}
    return {f"stopped {turn['turn_id']}": (turn, STOPPED.by("cancelled_operation", operation=turn["stopped"]))}


def _taken_over(turns: list[Brief], one: dict[str, Any]) -> Wanted:
    """The agent's turn whose tool the user works with soon afterwards."""
    before = [turn for turn in turns if turn["end"] <= one["start"]]
    if not before or one["start"] - before[-1]["end"] > seconds(TAKE_OVER) or one["tool"] not in before[-1]["tools"]:
        return {}
    seen = TAKEN_OVER.by("same_tool", tool=one["tool"], span=one["span_id"])
    return {f"manual_takeover {before[-1]['turn_id']}": (before[-1], seen)}


def _settle(data: dict[str, Any], by: dict[str, Any], wanted: Wanted, time: int) -> Iterator[Signal]:
    """Emit what ``by`` says now and did not before, and take back what it no longer says."""
    name_of = by.get("turn_id") or by["span_id"]
    made: dict[str, int] = by["made"]
    for key, (about, reaction) in wanted.items():
        revision = made.get(key, 0)
        if revision % 2 == 0:
            made[key] = revision + 1
            shown = by if "input" in by and about is not by else None
            yield _signal(data, about, reaction, name_of, revision + 1, time, shown)
    for key, revision in made.items():
        name, _, about_id = key.partition(" ")
        about = next((one for one in data["turns"] if one["turn_id"] == about_id), None)
        if key not in wanted and revision % 2 == 1 and about is not None:
            made[key] = revision + 1
            yield _signal(data, about, Reaction(name, 0.0, 0.0), name_of, revision + 1, time)


def _signal(
    data: dict[str, Any],
    about: Brief,
    reaction: Reaction,
    by: str,
    revision: int,
    time: int,
    shown: Brief | None = None,
) -> Signal:
    """A signal about a turn (odd ``revision``), or the retraction of the one before it; a complaint shows its text."""
    common = data.get("common", {})
    about, shown = common | about, None if shown is None else common | shown
    base = ("implicit", data["tenant"], reaction.name, about["turn_id"], by)
    ids = [identity(*base, *([str(n)] if n > 1 else [])) for n in (revision - 1, revision)]
    stands = revision % 2 == 1
    evidence = reaction.evidence if stands else {"rule": "retracted", "retracts": ids[0]}
    text = shown if shown is not None and stands and reaction.value < 0 else None
    return Signal(
        event_id=ids[1],
        tenant=data["tenant"],
        agent=about["agent"],
        subject_hash=about["subject_hash"],
        event_time=moment(time + revision - 1),
        redaction=Redaction.model_validate((text or about)["redaction"]),
        consent_train=about["consent_train"] and (shown is None or shown["consent_train"]),
        consent_evaluate=about["consent_evaluate"] and (shown is None or shown["consent_evaluate"]),
        session_id=about["session_id"],
        turn_id=about["turn_id"],
        trace_id=trace_of(about),
        name=reaction.name,
        kind="implicit",
        source="assemble",
        value=reaction.value if stands else 0.0,
        weight=reaction.weight if stands else 0.0,
        text=text["input"] if text else "",
        attributes={**evidence, "turns": _turns(about, by)},
    )


def _turns(about: Brief, by: str) -> str:
    """The ids of what the evidence lies in."""
    return about["turn_id"] if by in (about["turn_id"], "close") else f"{about['turn_id']} {by}"
