"""From signals and a score to a verdict and its first cause: the rules of attribution, without state.

What somebody said outweighs what somebody did; what somebody did outweighs what the score expects. Too little
of all three is ``unknown``, which is an answer too.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from processors import cause_model
from processors.causes import SAID, Case, Fired, rules
from processors.text import normal
from schemas.events import Cause, Verdict

_POLARITY = {
    "correction": -1.0, "rejection": -1.0, "missing_knowledge": -1.0, "rephrase": -1.0, "repeat": -1.0,
    "explicit_correction": -1.0, "escalation": -1.0, "abandonment": -1.0, "regenerate": -1.0, "stopped": -1.0,
    "manual_takeover": -1.0, "forgetfulness": -1.0, "divergence": -1.0, "edited": -0.5, "adoption": 1.0,
    "copy": 1.0, "accepted": 1.0, "task_complete": 1.0, "proceeded": 1.0,
}  # fmt: skip
"""What a signal means when its producer gave no value."""


class Evidence(NamedTuple):
    """One signal about a turn, as state keeps it. ``time`` in microseconds. ``feedback``: what its revisions share.

    ``received``: when it came, in microseconds: of two at the same time the later one counts. ``retracts``: the id of
    the signal that this one takes back. Without weight it says nothing itself, and stands in for those before it.
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
    retracts: str = ""

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
    ``abstain_under``: the probability under which no cause is told.
    """

    failure_at: float = -0.3
    success_at: float = 0.3
    prior_weight: float = 0.6
    steepness: float = 3.0
    abstain_under: float = cause_model.ABSTAIN


class Judgement(NamedTuple):
    """A verdict and what it rests on."""

    verdict: Verdict
    p_failure: float
    cause: Cause
    confidence: float
    evidence: list[str]
    expected: str


def newest(found: Iterable[Evidence]) -> list[Evidence]:
    """One signal of each feedback, or name and source, the newest: who changes their mind is heard once.

    What was taken back, or was sent again without weight, is not heard at all.
    """
    found = list(found)
    withdrawn = {one.retracts for one in found}
    kept: dict[tuple[str, ...], Evidence] = {}
    for one in sorted(found, key=lambda e: (e.time, e.received, e.id)):
        kept[(one.feedback,) if one.feedback else (one.name, one.source)] = one
    return sorted((e for e in kept.values() if e.weight > 0 and e.id not in withdrawn), key=lambda e: (e.time, e.id))


def judge(
    score: dict[str, Any],
    found: Iterable[Evidence],
    rules: VerdictRules,
    rerouted: bool = False,
    learnt: cause_model.State | None = None,
) -> Judgement:
    """The verdict on a turn, given its score and the signals about it.

    ``rerouted``: another route answered the same question later. ``learnt``: what labels taught about causes.
    """
    signals = newest(found)
    said = [s for s in signals if s.decisive]
    prior = (0.5 - score["p_failure"]) * rules.prior_weight
    force = sum(s.force for s in said) if said else prior + sum(s.force for s in signals)
    verdict: Verdict = "unknown"
    if force <= rules.failure_at:
        verdict = "failure"
    elif force >= rules.success_at:
        verdict = "success"
    heard = [f"signal:{s.name}:{s.id}" for s in signals]
    expected = next((s.text for s in reversed(signals) if s.name == "correction" and s.text), "")
    p_failure = _shifted(score["p_failure"], -rules.steepness * sum(s.force for s in said or signals))
    if verdict != "failure":
        return Judgement(verdict, p_failure, "unknown", 0.0, heard, expected)
    case = case_of(score, signals, rerouted)
    cause, confidence, why = told_cause(case, learnt or cause_model.fresh(), rules.abstain_under)
    return Judgement(verdict, p_failure, cause, confidence, [*why, *heard], expected)


def case_of(score: dict[str, Any], signals: Sequence[Evidence], rerouted: bool = False) -> Case:
    """A failed turn as the rules of causes see it: its features, and what the signals against it hint at."""
    facts = {SAID[s.name] for s in signals if s.name in SAID and s.force < 0} | ({"rerouted"} if rerouted else set())
    named = next((s.text for s in signals if s.name == "correction" and s.text), "")
    routes = bool(score["features"].get("router")) and bool(named and score["category"])
    if routes and normal(named) != normal(score["category"]):
        facts.add("corrected_route")
    return Case(
        score["features"], score["retrievals"], score["retrieval_score"], score.get("shown", {}), frozenset(facts)
    )


def told_cause(case: Case, learnt: cause_model.State, abstain_under: float) -> tuple[Cause, float, list[str]]:
    """The likeliest cause with its probability, or ``unknown`` under ``abstain_under``; every rule that fired."""
    fired = rules(case, cause_model.low_of(learnt))
    chances = cause_model.predict(case, fired, learnt)
    cause = max(chances, key=lambda name: chances[name])
    why, chance = [_named(one, case) for one in fired], round(chances[cause], 4)
    if chance >= abstain_under:
        return cause, chance, why
    return "unknown", 0.0, [f"abstained:{cause}:{chance:.2f}", *why]


def _named(one: Fired, case: Case) -> str:
    span_id = case.spans.get(one.feature, "")
    return f"rule:{one.rule}:{span_id}" if span_id else f"rule:{one.rule}"


def _shifted(probability: float, log_odds: float) -> float:
    bounded = min(max(probability, 0.01), 0.99)
    shifted = math.log(bounded / (1.0 - bounded)) + log_odds
    return round(min(max(1.0 / (1.0 + math.exp(-shifted)), 0.001), 0.999), 6)
