"""From signals and a score to a verdict and its first cause: the rules of attribution, without state.

What somebody said outweighs what somebody did; what somebody did outweighs what the score expects. Too little
of all three is ``unknown``, which is an answer too.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from processors.text import normal
from schemas.events import Basis, Cause, Outcome, Verdict

_POLARITY = {
    "correction": -1.0, "rejection": -1.0, "missing_knowledge": -1.0, "rephrase": -1.0, "repeat": -1.0,
    "explicit_correction": -1.0, "escalation": -1.0, "abandonment": -1.0, "regenerate": -1.0, "stopped": -1.0,
    "manual_takeover": -1.0, "forgetfulness": -1.0, "divergence": -1.0, "edited": -0.5, "adoption": 1.0,
    "copy": 1.0, "accepted": 1.0, "task_complete": 1.0, "proceeded": 1.0,
}  # fmt: skip
"""What a signal means when its producer gave no value."""
REACTIONS = "assemble"
"""The source of signals that our own rules made of what users do."""


class Evidence(NamedTuple):
    """One signal about a turn, as state keeps it. ``time`` in microseconds. ``feedback``: what its revisions share.

    ``received``: when it came, in microseconds: of two at the same time the later one counts. ``rubric``: by which an
    evaluation was made.
    """

    id: str
    name: str
    kind: str
    source: str
    value: float
    weight: float
    text: str
    turn_id: str
    trace_id: str
    time: int
    span_id: str = ""
    feedback: str = ""
    received: int = 0
    rubric: str = ""

    @property
    def force(self) -> float:
        """Value times weight: below 0 speaks of failure."""
        value = self.value or _POLARITY.get(self.name, 0.0)
        return max(-1.0, min(1.0, value)) * max(0.0, min(1.0, self.weight))

    @property
    def decisive(self) -> bool:
        """Whether somebody said outright how the turn went."""
        return self.kind == "explicit" and abs(self.force) >= 0.5


@dataclass(frozen=True, slots=True)
class VerdictRules:
    """``failure_at``, ``success_at``: summed force from which a verdict is given.

    ``prior_weight``: the force of a score that is certain. ``steepness``: log-odds per unit of force.
    ``retrieval_at``: the retrieval score under which documents were poor.
    """

    failure_at: float = -0.3
    success_at: float = 0.3
    prior_weight: float = 0.6
    steepness: float = 3.0
    retrieval_at: float = 0.35


class Judgement(NamedTuple):
    """A verdict and what it rests on."""

    verdict: Verdict
    p_failure: float
    cause: Cause
    confidence: float
    evidence: list[str]
    expected: str
    basis: Basis = ""


def newest(found: Iterable[Evidence]) -> list[Evidence]:
    """One signal of each feedback, or name and source, the newest: who changes their mind is heard once."""
    kept: dict[tuple[str, ...], Evidence] = {}
    for one in sorted(found, key=lambda e: (e.time, e.received, e.id)):
        kept[(one.feedback,) if one.feedback else (one.name, one.source)] = one
    return sorted(kept.values(), key=lambda e: (e.time, e.id))


def judges_spread(found: Iterable[Evidence]) -> float | None:
    """How far evaluators that are no people disagree by one rubric, 0 to 1; None where no two of them judged."""
    values: dict[str, list[float]] = {}
    for one in newest(found):
        if one.name == "evaluation" and one.source != "human" and one.rubric:
            values.setdefault(one.rubric, []).append(max(-1.0, min(1.0, one.value)))
    return max(((max(some) - min(some)) / 2 for some in values.values() if len(some) > 1), default=None)


def signals_of(outcome: Outcome) -> list[str]:
    """The names of the signals that an outcome rests on."""
    return [one.split(":")[1] for one in outcome.evidence if one.startswith("signal:")]


def judge(score: dict[str, Any], found: Iterable[Evidence], rules: VerdictRules) -> Judgement:
    """The verdict on a turn, given its score and the signals about it."""
    signals = [_weighed(one, score.get("forces", {})) for one in newest(found)]
    said = [s for s in signals if s.decisive]
    prior = (0.5 - score["p_failure"]) * rules.prior_weight
    force = sum(s.force for s in said) if said else prior + sum(s.force for s in signals)
    verdict: Verdict = "unknown"
    if force <= rules.failure_at:
        verdict = "failure"
    elif force >= rules.success_at:
        verdict = "success"
    told = sum(s.force for s in said or signals)
    cause, confidence, rule = _cause(score, signals, rules) if verdict == "failure" else ("unknown", 0.0, "")
    evidence = [rule] * bool(rule) + [f"signal:{s.name}:{s.id}" for s in signals]
    expected = next((s.text for s in reversed(signals) if s.name == "correction" and s.text), "")
    p_failure = _shifted(score["p_failure"], -rules.steepness * told)
    return Judgement(verdict, p_failure, cause, confidence, evidence, expected, _basis(verdict, said, signals))


def _weighed(one: Evidence, forces: Mapping[str, float]) -> Evidence:
    """A reaction that our rules saw, with the force that was learnt for its name."""
    learnt = forces.get(one.name) if one.kind == "implicit" and one.source == REACTIONS else None
    return one if learnt is None else one._replace(value=math.copysign(1.0, learnt), weight=abs(learnt))


def _basis(verdict: Verdict, said: Sequence[Evidence], signals: Sequence[Evidence]) -> Basis:
    """What a verdict rests on."""
    if verdict == "unknown":
        return ""
    if said:
        return "said" if any(one.name != "evaluation" or one.source == "human" for one in said) else "judged"
    return "done" if signals else "expected"


def _shifted(probability: float, log_odds: float) -> float:
    bounded = min(max(probability, 0.01), 0.99)
    shifted = math.log(bounded / (1.0 - bounded)) + log_odds
    return round(min(max(1.0 / (1.0 + math.exp(-shifted)), 0.001), 0.999), 6)


def _cause(score: dict[str, Any], signals: Sequence[Evidence], rules: VerdictRules) -> tuple[Cause, float, str]:
    """The first fault: the earliest rule that fires, in the order in which an agent works."""
    names = {s.name for s in signals}
    named = next((s.text for s in signals if s.name == "correction" and s.text), "")
    poor = score["retrieval_score"] is not None and score["retrieval_score"] < rules.retrieval_at
    unsure = any(score["features"].get(name) for name in ("hedges", "refusal", "empty", "error"))
    router = bool(score["features"].get("router"))
    elsewhere = bool(named and score["category"]) and normal(named) != normal(score["category"])
    table: tuple[tuple[bool, Cause, float, str], ...] = (
        (bool(score["features"].get("tool_unresolved")), "tool", 0.9, "rule:tool_unresolved"),
        (router and elsewhere, "routing", 0.9, "rule:corrected_route"),
        (router, "routing", 0.7, "rule:answer_is_route"),
        ("missing_knowledge" in names, "knowledge_gap", 0.8, "rule:missing_knowledge"),
        (score["retrievals"] > 0 and poor, "retrieval", 0.7, "rule:poor_retrieval"),
        (bool(names & {"rephrase", "repeat"}), "rephrasal", 0.4, "rule:asked_again"),
        (unsure, "generation", 0.6, "rule:unsure_answer"),
        (score["retrievals"] > 0 and not poor, "generation", 0.5, "rule:good_retrieval"),
    )
    for fires, cause, confidence, rule in table:
        if fires:
            return cause, confidence, rule
    return "unknown", 0.0, ""
