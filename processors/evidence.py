"""From signals and a score to a verdict and its first cause: the rules of attribution, without state.

What somebody said outweighs what somebody did; what somebody did outweighs what the score expects. Too little
of all three is ``unknown``, which is an answer too.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from processors import cause_model
from processors.causes import SAID, Case, Fired, rules
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
    evaluation was made. ``retracts``: the id of the signal that this one takes back. Without weight it says nothing
    itself, and stands in for those before it.
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
    basis: Basis = ""


def newest(found: Iterable[Evidence]) -> list[Evidence]:
    """One signal of each feedback, or name and source, the newest: who changes their mind is heard once.

    What was taken back, or was sent again without weight, is not heard at all.
    """
    found = list(found)
    if len(found) < 2:
        return [one for one in found if one.weight > 0 and one.retracts != one.id]
    withdrawn = {one.retracts for one in found}
    kept: dict[tuple[str, ...], Evidence] = {}
    for one in sorted(found, key=lambda e: (e.time, e.received, e.id)):
        kept[(one.feedback,) if one.feedback else (one.name, one.source)] = one
    return sorted((e for e in kept.values() if e.weight > 0 and e.id not in withdrawn), key=lambda e: (e.time, e.id))


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
    signals = [_weighed(one, score.get("forces", {})) for one in newest(found)]
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
    basis = _basis(verdict, said, signals)
    if verdict != "failure":
        return Judgement(verdict, p_failure, "unknown", 0.0, heard, expected, basis)
    case = case_of(score, signals, rerouted)
    cause, confidence, why = told_cause(case, learnt or cause_model.fresh(), rules.abstain_under)
    return Judgement(verdict, p_failure, cause, confidence, [*why, *heard], expected, basis)


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
