"""How far a judge agrees with people beyond chance, how sure that is, and whether it may gate by it.

Cohen's kappa of two verdicts (pass, fail) on the same turns. Its interval is that of Fleiss, Cohen and Everitt (1969)
after one turn has been added to every cell, as Agresti does for shares: without that the interval of few turns with
high agreement is far too narrow (of 50 turns with kappa 0.8 it lies above the truth in 10 to 16 runs of 100 instead of
2.5; see ``benchmarks/judge/agreement.py``), and that of full agreement has no width at all.

A judge has the right to gate while the lower end is above the floor on turns that people judged lately, its probes are
passed, and it does not abstain from what is hard. It has no right before that is shown.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

RATER = "judge:"
"""How the rater of a label begins that a judge gave; the judge's id follows."""
_Z95 = 1.959963984540054


class Pairs(NamedTuple):
    """How often judge and person said what. ``only_judge``: the judge said pass and the person fail."""

    both: int = 0
    only_judge: int = 0
    only_person: int = 0
    neither: int = 0

    @property
    def total(self) -> int:
        """All turns that both judged."""
        return sum(self)


class Kappa(NamedTuple):
    """Agreement beyond chance, -1 to 1, and a two-sided interval of 95 %."""

    value: float
    low: float
    high: float


def pairs_of(verdicts: Iterable[tuple[bool, bool]]) -> Pairs:
    """Counts from pairs of the judge's and the person's verdict, true for pass.

    >>> pairs_of([(True, True), (True, False), (False, False)])
    Pairs(both=1, only_judge=1, only_person=0, neither=1)
    """
    counts = [0, 0, 0, 0]
    for judge, person in verdicts:
        counts[2 * (not judge) + (not person)] += 1
    return Pairs(*counts)


def kappa(pairs: Pairs) -> Kappa:
    """Kappa with its interval. Without any turn nothing is known; where both only ever said one word, it is 0.

    >>> kappa(Pairs(20, 5, 10, 15))
    Kappa(value=0.4, low=0.1269, high=0.6138)
    """
    value, _ = _estimate(pairs)
    middle, variance = _estimate(Pairs(*(count + 1 for count in pairs)))
    width = _Z95 * math.sqrt(variance)
    return Kappa(round(value, 4), round(max(-1.0, middle - width), 4), round(min(1.0, middle + width), 4))


def _estimate(pairs: Pairs) -> tuple[float, float]:
    """Kappa and its variance in large samples (Fleiss, Cohen, Everitt 1969, eq. 13)."""
    n = sum(pairs)
    if not n:
        return 0.0, 1.0
    a, b, c, d = (count / n for count in pairs)
    judge, person = a + b, a + c
    chance = judge * person + (1 - judge) * (1 - person)
    if chance >= 1.0:
        return 0.0, 1.0
    value = (a + d - chance) / (1 - chance)
    rest = 1 - value
    agreed = a * (1 - (judge + person) * rest) ** 2 + d * (1 - (2 - judge - person) * rest) ** 2
    apart = rest**2 * (b * (person + 1 - judge) ** 2 + c * (1 - person + judge) ** 2)
    variance = (agreed + apart - (value - chance * rest) ** 2) / (n * (1 - chance) ** 2)
    return value, max(variance, 0.0)


@dataclass(frozen=True, slots=True)
class Floor:
    """What a judge needs for the right to gate. Shares are at most these; ``days``: how long a person's word counts.

    ``kappa``: the lower end of the interval has to reach it. ``pairs``, ``probes``: the least to know anything by.
    """

    kappa: float = 0.4
    pairs: int = 50
    days: int = 30
    position: float = 0.2
    verbosity: float = 0.1
    probes: int = 20
    abstained: float = 0.2


class Rate(NamedTuple):
    """So many of so many."""

    hits: int = 0
    total: int = 0

    @property
    def share(self) -> float:
        """0 of nothing."""
        return self.hits / self.total if self.total else 0.0


@dataclass(frozen=True, slots=True)
class Tally:
    """What is known of a judge: of the last ``Floor.days`` days, but for ``expired``, older pairs that count no more.

    ``position``, ``verbosity``: probes that failed, of those that told anything.
    """

    judge: str
    pairs: Pairs = field(default_factory=Pairs)
    expired: int = 0
    abstained: Rate = field(default_factory=Rate)
    position: Rate = field(default_factory=Rate)
    verbosity: Rate = field(default_factory=Rate)


@dataclass(frozen=True, slots=True)
class Standing:
    """Whether a judge may gate, and every reason why not."""

    tally: Tally
    kappa: Kappa
    reasons: tuple[str, ...] = ()

    @property
    def may_gate(self) -> bool:
        """Nothing speaks against it."""
        return not self.reasons


def standing(tally: Tally, floor: Floor | None = None) -> Standing:
    """The right to gate. Deterministic."""
    chosen = floor or Floor()
    found = kappa(tally.pairs)
    return Standing(tally, found, (*_agreement(tally, found, chosen), *_probes(tally, chosen)))


def _agreement(tally: Tally, found: Kappa, floor: Floor) -> Iterator[str]:
    if tally.pairs.total < floor.pairs:
        had = f"{tally.pairs.total} turns were judged by people too in the last {floor.days} days"
        older = f" (its agreement has expired: {tally.expired} are older)" if tally.expired else ""
        yield f"{had}{older}; {floor.pairs} are needed"
    elif found.low < floor.kappa:
        between = f"kappa {found.value:.2f} ({found.low:.2f} to {found.high:.2f}, {tally.pairs.total} turns)"
        yield f"its agreement with people is not shown to reach {floor.kappa:g}: {between}"
    if tally.abstained.share > floor.abstained:
        share, most = tally.abstained.share, floor.abstained
        yield f"it abstained from {share:.0%} of what it was asked; at most {most:.0%} passes"


def _probes(tally: Tally, floor: Floor) -> Iterator[str]:
    told = (
        ("position", tally.position, floor.position, "changed its mind with the order of the answers"),
        ("verbosity", tally.verbosity, floor.verbosity, "preferred the same answer with padding"),
    )
    for name, rate, most, what in told:
        if rate.total < floor.probes:
            yield f"{rate.total} {name} probes in the last {floor.days} days; {floor.probes} are needed"
        elif rate.share > most:
            yield f"it {what} in {rate.share:.0%} of {rate.total} probes; at most {most:.0%} passes"
