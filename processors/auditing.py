"""What a verdict counts, when those who give verdicts are no random sample: inverse propensity, estimated.

Users rate failures several times as often as successes, so that ratings alone make every agent look worse than it is. A
random audit knows better: people judge turns that were drawn by lot. How much likelier a failure is to be rated than a
success is the ratio of the odds of failure among the rated and among the audited turns, of the same days, since an
agent's rate of failures changes: the common odds ratio of Mantel and Haenszel (1959) over days. A rated failure then
counts so much less than a rated success (Horvitz and Thompson 1952), and both count 1 on average. Turns that were
chosen with a known chance and then judged count by the inverse of that chance.

State is JSON: the same verdicts in the same order give the same state everywhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from processors.bounds import shorten

VERSION = 1


@dataclass(frozen=True, slots=True)
class AuditRules:
    """``needed``: audited turns from which the audit is believed, of which ``fewest`` failed, and as many went well.

    ``cap``: the most that one verdict counts. ``unsure``: what a rating counts until then. ``days``: those remembered.
    """

    needed: int = 20
    fewest: int = 5
    cap: float = 3.0
    unsure: float = 0.3
    days: int = 60


@dataclass(slots=True)
class Audit:
    """The state. ``days``: by day, how many turns [went well, failed] by audit and [went well, failed] by rating.

    ``inverse``: the mean of 1 / propensity over judged samples, and over how many.
    """

    days: dict[str, list[int]] = field(default_factory=dict[str, list[int]])
    inverse: list[float] = field(default_factory=lambda: [0.0, 0.0])

    def rated(self, day: int, failed: bool, rules: AuditRules) -> float:
        """Take in what a user said of a turn of that day; returns how much it counts."""
        self._count(day, 2 + failed, rules)
        if not self.believed(rules):
            return rules.unsure
        ratio = self.ratio()
        well, bad = (sum(one[place] for one in self.days.values()) for place in (2, 3))
        norm = (bad / ratio + well) / (bad + well)
        return min((1.0 / ratio if failed else 1.0) / norm, rules.cap)

    def judged(self, day: int, failed: bool, propensity: float, rules: AuditRules, *, by_lot: bool) -> float:
        """Take in what a person said of a sample of that day; returns how much it counts."""
        if by_lot:
            self._count(day, int(failed), rules)
        inverse = 1.0 / min(max(propensity, 1e-6), 1.0)
        mean, count = self.inverse
        count = min(count + 1.0, 200.0)
        self.inverse = [mean + (inverse - mean) / count, count]
        return min(inverse / self.inverse[0], rules.cap)

    def _count(self, day: int, place: int, rules: AuditRules) -> None:
        counts = self.days.setdefault(str(day), [0, 0, 0, 0])
        counts[place] += 1
        if len(self.days) > rules.days:
            self.days = dict(sorted(self.days.items(), key=lambda pair: int(pair[0])))
            shorten(self.days, rules.days)

    @property
    def audited(self) -> tuple[int, int]:
        """How many turns of the remembered days were audited and went well, and failed."""
        well, bad = (sum(one[place] for one in self.days.values()) for place in (0, 1))
        return well, bad

    def believed(self, rules: AuditRules) -> bool:
        """Whether the audit has told enough."""
        return sum(self.audited) >= rules.needed and min(self.audited) >= rules.fewest

    def ratio(self) -> float:
        """How many times likelier a failure is to be rated than a success."""
        above = below = 0.5
        for well, bad, rated_well, rated_bad in self.days.values():
            total = max(well + bad + rated_well + rated_bad, 1)
            above += rated_bad * well / total
            below += rated_well * bad / total
        return min(max(above / below, 0.02), 50.0)

    def dump(self) -> dict[str, Any]:
        """As JSON."""
        return {"v": VERSION, "days": self.days, "inverse": self.inverse}

    @classmethod
    def load(cls, body: Mapping[str, Any]) -> Audit:
        """From what ``dump`` gave. Raises ValueError for a version that is not known."""
        if body.get("v") != VERSION:
            raise ValueError(f"an audit of version {body.get('v')}; this release reads version {VERSION}")
        return cls({day: [*counts] for day, counts in body["days"].items()}, [*body["inverse"]])
