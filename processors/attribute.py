"""Attribute: scores and signals become outcomes: how did each turn go, and what was its first fault.

A turn settles when its reaction is seen: a turn after it, a decisive explicit signal that names it, or
silence long enough to close the session. Evidence that comes later and changes the verdict gives a new
revision. Signals that name no turn belong to the last turn that began before them; they wait for that to be
known. A signal for a turn that never comes is kept until the session is forgotten. Where a person said how a
turn went, the end of its session gives a last revision, with all that was seen besides.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, cast

from processors.evidence import Evidence, Judgement, VerdictRules, judge, judges_spread
from processors.moments import micros, moment, seconds
from processors.stage import Event, Stage, forget
from processors.state import KeyState
from schemas.events import Outcome, Record, Score, Signal, identity
from schemas.subjects import Subject
from schemas.topics import OUTCOMES, SCORES, SIGNALS


@dataclass(frozen=True, slots=True)
class AttributeSettings:
    """Durations in seconds.

    ``gap``: silence that closes a session. ``grace``: how much longer to wait for the signals which that
    close itself makes. ``lateness``: how long a closed session can still be revised. ``turns``, ``signals``:
    how many of each a session remembers. ``rules``: thresholds of the verdict.
    """

    gap: float = 1_800.0
    grace: float = 60.0
    lateness: float = 3_600.0
    turns: int = 64
    signals: int = 256
    rules: VerdictRules = field(default_factory=VerdictRules)


class Attribute(Stage):
    """Scores and signals to outcomes, per session."""

    name = "attribute"
    sources = (SCORES, SIGNALS)
    emits = (OUTCOMES,)
    linger = 1.0
    by = "session"

    def __init__(self, settings: AttributeSettings | None = None) -> None:
        self._settings = settings or AttributeSettings()
        super().__init__(self._settings)

    def key(self, record: Record) -> str:
        """One state per session."""
        return f"{record.tenant}/{cast('Score | Signal', record).session_id}"

    def step(self, event: Event, state: KeyState) -> Iterable[Record]:
        """Keep the score or signal; settle what it decides, revise what it changes."""
        data, record = _opened(state), event.record
        if isinstance(record, Score):
            self._heard(data, micros(max(record.event_time, record.end_time)))
            _keep_score(data, record, self._settings.turns)
            data["sketch"] = record.sketch or data.get("sketch", "")
        elif isinstance(record, Signal) and record.source != "shadow" and record.weight > 0:
            if record.name != "abandonment":
                self._heard(data, micros(record.event_time))
            data["signals"].append(list(_evidence(record)))
            del data["signals"][: -self._settings.signals]
        yield from self._settle(data)
        state.due = moment(data["forget"] if data["closed"] else self._closing(data))

    def _heard(self, data: dict[str, Any], time: int) -> None:
        data["last"] = max(data["last"], time)
        data["closed"] = False

    def _closing(self, data: dict[str, Any]) -> int:
        return data["last"] + seconds(self._settings.gap + self._settings.grace)

    def tick(self, key: str, state: KeyState, now: datetime) -> Iterable[Record]:
        """Close a silent session: settle the rest and give its value; later, forget it."""
        del key
        data = _opened(state)
        if data["closed"]:
            forget(state)
            return
        data["closed"] = True
        data["forget"] = micros(now) + seconds(self._settings.lateness)
        state.due = moment(data["forget"])
        yield from self._settle(data)

    def erase(self, name: str, state: KeyState, about: Subject) -> Iterable[Record]:
        """See Stage: their turns go with what was said about them, and the session when nothing else is in it."""
        yield from super().erase(name, state, about)
        data = _opened(state)
        gone = {turn_id for turn_id, turn in data["turns"].items() if turn["subject_hash"] == about.hash}
        data["turns"] = {turn_id: turn for turn_id, turn in data["turns"].items() if turn_id not in gone}
        held = [Evidence(*one) for one in data["signals"]]
        data["signals"] = [
            list(one) for one in held
            if one.turn_id not in gone and not about.has_turn(one.turn_id) and one.trace_id not in about.traces
        ]  # fmt: skip
        if gone:
            data["sketch"] = ""
        if name in about.sessions or not (data["turns"] or data["signals"]):
            forget(state)

    def _settle(self, data: dict[str, Any]) -> Iterator[Record]:
        """Every turn whose reaction is seen, or whose verdict changed, in the order of the session."""
        turns = sorted(data["turns"].values(), key=lambda t: (t["start"], t["turn_id"]))
        about = _about(turns, [Evidence(*e) for e in data["signals"]])
        for place, turn in enumerate(turns):
            found, last = about[turn["turn_id"]], place + 1 == len(turns)
            judgement = judge(turn, found, self._settings.rules)
            told = any(e.decisive and (e.turn_id or e.trace_id) for e in found)
            settled = turn["revision"] >= 0
            grown = data["closed"] and judgement.basis == "said" and len(judgement.evidence) > turn.get("heard", 0)
            news = grown or _differs(turn, judgement) if settled else told or data["closed"] or not last
            value = _session_value(data, news and judgement.verdict == "failure", last)
            if news or value is not None:
                sketch = data.get("sketch", "") if value is not None else ""
                made = _outcome(turn, judgement, value, judges_spread(found))
                yield made.model_copy(update={"sketch": sketch})


def _opened(state: KeyState) -> dict[str, Any]:
    if not state.data:
        state.data.update(turns={}, signals=[], last=0, closed=False, forget=0, valued=False)
    return state.data


def _keep_score(data: dict[str, Any], score: Score, limit: int) -> None:
    known = data["turns"].get(score.turn_id, {"revision": -1, "verdict": "", "expected": "", "heard": 0})
    data["turns"][score.turn_id] = {
        "turn_id": score.turn_id, "trace_id": score.trace_id, "session_id": score.session_id,
        "tenant": score.tenant, "agent": score.agent, "subject_hash": score.subject_hash,
        "start": micros(score.event_time), "model_version": score.model_version, "category": score.category,
        "p_failure": score.p_failure, "uncertainty": score.uncertainty, "features": score.features,
        "retrievals": score.retrievals, "retrieval_score": score.retrieval_score,
        "revision": known["revision"], "verdict": known["verdict"], "expected": known["expected"],
        "heard": known.get("heard", 0),
    } | ({"forces": score.forces} if score.forces else {})  # fmt: skip
    settled = [t for t in data["turns"].values() if t["revision"] >= 0 or t["turn_id"] != score.turn_id]
    for turn in sorted(settled, key=lambda t: t["start"])[: max(len(data["turns"]) - limit, 0)]:
        del data["turns"][turn["turn_id"]]


def _evidence(signal: Signal) -> Evidence:
    text = signal.text if signal.name == "correction" else ""
    return Evidence(
        signal.event_id, signal.name, signal.kind, signal.source, signal.value, signal.weight, text,
        signal.turn_id, signal.trace_id, micros(signal.event_time), signal.span_id, signal.feedback_id,
        micros(signal.received_time), signal.attributes.get("gen_ai.evaluation.name", ""),
    )  # fmt: skip


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


def _differs(turn: dict[str, Any], judgement: Judgement) -> bool:
    return (turn["verdict"], turn["expected"]) != (judgement.verdict, judgement.expected)


def _session_value(data: dict[str, Any], failed: bool, last: bool) -> int | None:
    """1 with the first failure; 0 with the last turn of a closed session that had none; once."""
    if data["valued"] or not (failed or (data["closed"] and last)):
        return None
    data["valued"] = True
    return int(failed)


def _outcome(
    turn: dict[str, Any], judgement: Judgement, session_value: int | None, spread: float | None = None
) -> Outcome:
    turn["revision"] += 1
    turn["verdict"], turn["expected"], turn["heard"] = judgement.verdict, judgement.expected, len(judgement.evidence)
    return Outcome(
        event_id=identity("outcome", turn["tenant"], turn["turn_id"], str(turn["revision"])),
        tenant=turn["tenant"],
        agent=turn["agent"],
        subject_hash=turn["subject_hash"],
        event_time=moment(turn["start"]),
        session_id=turn["session_id"],
        turn_id=turn["turn_id"],
        trace_id=turn["trace_id"],
        model_version=turn["model_version"],
        category=turn["category"],
        revision=turn["revision"],
        verdict=judgement.verdict,
        p_failure=judgement.p_failure,
        uncertainty=turn["uncertainty"],
        cause=judgement.cause,
        cause_confidence=judgement.confidence,
        evidence=judgement.evidence,
        expected=judgement.expected,
        session_value=session_value,
        basis=judgement.basis,
        features=(turn["features"] if judgement.basis == "said" else {})
        | ({} if spread is None else {"judge_spread": round(spread, 4)}),
    )
