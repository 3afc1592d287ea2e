"""The watch after a release: whether sessions fail more often now than they did before it.

Failures are known at once, successes when a session closes; so sessions are counted when both would be known, by the
minute in which they began. The rate before is taken at the upper end of its confidence interval (Clopper and Pearson
1934), the rate now is tested against it with an e-process; each may err with half of the chance.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from scipy.special import betaincinv

from deploy.sequential import evidence
from processors.moments import micros, seconds
from schemas.events import Outcome

_MINUTE = seconds(60)


@dataclass(frozen=True, slots=True)
class WatchSettings:
    """``settle``: seconds after which a session's value is known, at least the gap that closes one.

    ``evidence``: the e-value that takes a release back; a wrong return has at most the chance 2 / evidence.
    ``reference``: sessions before the release that a comparison needs. ``sessions``: how many are watched.
    """

    settle: float = 2_400.0
    evidence: float = 40.0
    reference: int = 30
    sessions: int = 500


def begin() -> dict[str, Any]:
    """The state of a new release. Counts are [sessions, failures]; ``before`` and ``after`` by minute of begin."""
    return {"latest": 0, "since": None, "before": {}, "after": {}, "reference": [0, 0], "watched": [0, 0]}


def take(data: dict[str, Any], outcome: Outcome, candidate: str, settings: WatchSettings) -> None:
    """Count a session: of the incumbent before the release, of the candidate after it."""
    time, ours = micros(outcome.event_time), outcome.model_version == candidate
    data["latest"] = max(data["latest"], time)
    if outcome.session_value is not None:
        if not ours and data["since"] is None:
            _add(data["before"], time, outcome.session_value)
        elif ours and data["since"] is not None and time > data["since"]:
            _add(data["after"], time, outcome.session_value)
    ripe = data["latest"] - seconds(settings.settle)
    _ripen(data["before"], data["reference"], ripe)
    _ripen(data["after"], data["watched"], ripe)


def released(data: dict[str, Any], time: datetime) -> None:
    """From now on the candidate is live."""
    data.update(since=micros(time), before={})


def _add(minutes: dict[str, list[int]], time: int, value: int) -> None:
    count = minutes.setdefault(str(time // _MINUTE), [0, 0])
    count[0] += 1
    count[1] += value


def _ripen(minutes: dict[str, list[int]], total: list[int], ripe: int) -> None:
    for minute in [minute for minute in minutes if int(minute) * _MINUTE < ripe]:
        sessions, failures = minutes.pop(minute)
        total[0] += sessions
        total[1] += failures


def evidence_of(data: dict[str, Any], settings: WatchSettings) -> dict[str, float]:
    """The numbers that a decision rests on."""
    (before, failed_before), (after, failed) = data["reference"], data["watched"]
    bound = 1.0
    if before >= settings.reference and failed_before < before:
        bound = float(betaincinv(failed_before + 1, before - failed_before, 1.0 - 1.0 / settings.evidence))
    return {
        "sessions": float(after),
        "failure_rate": round(failed / after, 4) if after else 0.0,
        "before_sessions": float(before),
        "before_failure_rate": round(failed_before / before, 4) if before else 0.0,
        "before_at_most": round(bound, 4),
        "e_worse": round(evidence(failed, after - failed, bound, "above"), 4) if bound < 1.0 else 0.0,
    }


def decide(data: dict[str, Any], settings: WatchSettings) -> tuple[str, str] | None:
    """(state, reason): ``rolled_back`` when sessions fail more often than before; ``kept`` when all was watched."""
    found = evidence_of(data, settings)
    if found["e_worse"] >= settings.evidence:
        told = f"{found['failure_rate']:.1%} of {found['sessions']:.0f} sessions failed since the release"
        before = f"{found['before_failure_rate']:.1%} of {found['before_sessions']:.0f} before it"
        return "rolled_back", f"{told}, {before} (e-value {found['e_worse']:.3g})"
    return ("kept", "") if found["sessions"] >= settings.sessions else None
