"""Canary evidence: how many of the sessions that failed had been given to the candidate.

A session goes to the candidate with chance ``weight``, by a hash. When candidate and live model fail equally often, a
failed session is therefore the candidate's with that same chance, however often sessions fail, drift, or report late:
each failure is one Bernoulli observation. With a ratio r of failure rates the chance is w r / (w r + 1 - w). Two
one-sided e-processes run on it: "worse at all" takes the canary back, "not worse by the margin" makes it live.

Source: Lindon and Malek, "Anytime-valid inference for multinomial count data" (NeurIPS 2022), there for counts of
events in randomised arms. It needs a platform that really splits as asked: checked on the sessions that settled.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from scipy.special import bdtr, bdtrc

from deploy.sequential import evidence
from processors.moments import micros
from schemas.errors import UsageError
from schemas.events import Outcome

_EARLY = 1_000


@dataclass(frozen=True, slots=True)
class CanarySettings:
    """``weight``: the candidate's share of sessions. ``evidence``: the e-value that decides, see ShadowSettings.

    ``margin``: how much higher, relatively, a failure rate would have to be to count as worse. ``sessions``: settled
    sessions of the candidate that going live needs at least. ``most``: settled sessions of both after which a canary
    that decided nothing is stopped. ``split_at``: p below which the platform does not split as it was asked to.
    """

    weight: float = 0.25
    evidence: float = 20.0
    margin: float = 0.25
    sessions: int = 60
    most: int = 4_000
    split_at: float = 0.0001

    def __post_init__(self) -> None:
        if not 0.0 < self.weight < 1.0:
            raise UsageError(f"canary weight {self.weight:g}: must lie between 0 and 1")


def begin() -> dict[str, Any]:
    """The state of a new canary phase. Counts are [sessions, failures]."""
    return {"since": None, "early": [], "candidate": [0, 0], "live": [0, 0]}


def take(data: dict[str, Any], outcome: Outcome, candidate: str) -> None:
    """Count a session that settled.

    Counting starts behind the first turn that the candidate is known to have answered: the platform splits by then.
    """
    arm, time = "candidate" if outcome.model_version == candidate else "live", micros(outcome.event_time)
    if data["since"] is None:
        if outcome.session_value is not None:
            data["early"] = [*data["early"], [time, arm, outcome.session_value]][-_EARLY:]
        if arm == "candidate":
            data["since"] = time
            for one in data.pop("early"):
                _count(data, *one)
    elif outcome.session_value is not None:
        _count(data, time, arm, outcome.session_value)


def _count(data: dict[str, Any], time: int, arm: str, value: int) -> None:
    if time > data["since"]:
        data[arm][0] += 1
        data[arm][1] += value


def evidence_of(data: dict[str, Any], settings: CanarySettings) -> dict[str, float]:
    """The numbers that a decision rests on."""
    (ours, our_failures), (theirs, their_failures) = data["candidate"], data["live"]
    weight, ratio = settings.weight, 1.0 + settings.margin
    at_margin = weight * ratio / (weight * ratio + 1.0 - weight)
    return {
        "sessions": float(ours),
        "failure_rate": round(our_failures / ours, 4) if ours else 0.0,
        "live_sessions": float(theirs),
        "live_failure_rate": round(their_failures / theirs, 4) if theirs else 0.0,
        "e_not_worse": round(evidence(our_failures, their_failures, at_margin, "below"), 4),
        "e_better": round(evidence(our_failures, their_failures, weight, "below"), 4),
        "e_worse": round(evidence(our_failures, their_failures, weight, "above"), 4),
        "p_split": round(_p_split(ours, ours + theirs, weight), 6),
    }


def _p_split(ours: int, total: int, weight: float) -> float:
    """Two-sided exact p of so many sessions of the candidate, when each is its own with chance ``weight``."""
    fewer, more = bdtr(ours, total, weight), bdtrc(ours - 1, total, weight) if ours else 1.0
    return min(1.0, 2.0 * float(min(fewer, more)))


def decide(data: dict[str, Any], settings: CanarySettings) -> tuple[str, str] | None:
    """(state, reason) when the evidence decides: ``live``, ``rolled_back`` or ``stopped``."""
    found = evidence_of(data, settings)
    told = f"{found['failure_rate']:.1%} of {found['sessions']:.0f} canary sessions failed, "
    told += f"{found['live_failure_rate']:.1%} of {found['live_sessions']:.0f} live ones beside them"
    if found["e_worse"] >= settings.evidence:
        return "rolled_back", f"{told} (e-value against it {found['e_worse']:.3g})"
    split = found["p_split"] >= settings.split_at
    if split and found["e_not_worse"] >= settings.evidence and found["sessions"] >= settings.sessions:
        better = "better" if found["e_better"] >= settings.evidence else f"not worse by {settings.margin:.0%}"
        return "live", f"{better}: {told} (e-value {found['e_not_worse']:.3g})"
    if found["sessions"] + found["live_sessions"] >= settings.most:
        return "stopped", told + (": that decides nothing" if split else ": traffic is not split as asked")
    return None
