"""How well failures were foretold, each before it was learnt from: the last verdicts, and three numbers about them.

AUROC: the chance that a failure was thought likelier than a success. ECE: how far probabilities are from shares of
failures, over 15 bins of equal mass (Naeini et al. 2015). PRR: of what rejecting the turns with the highest probability
first can save, the share that is saved, against rejecting by lot: 0, and by an oracle: 1 (Malinin and Gales 2021).
Verdicts count by their weight, since those who give them are no random sample.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

_WEIGHTS = 1_000


class Foretold(NamedTuple):
    """One verdict: what was expected, what it was, what it counts."""

    p: float
    failed: bool
    weight: float = 1.0


def pack(one: Foretold) -> int:
    """As a whole number: the probability to 4 digits, the weight to 2 and under 10.

    >>> unpack(pack(Foretold(0.1234, True, 2.5)))
    Foretold(p=0.1234, failed=True, weight=2.5)
    """
    weight = min(max(round(one.weight * 100), 1), _WEIGHTS - 1)
    return (round(one.p * 10_000) * _WEIGHTS + weight) * 2 + one.failed


def unpack(value: int) -> Foretold:
    """See ``pack``."""
    rest, failed = divmod(value, 2)
    p, weight = divmod(rest, _WEIGHTS)
    return Foretold(p / 10_000, bool(failed), weight / 100)


def metrics(some: Sequence[Foretold]) -> dict[str, float]:
    """``count`` and ``failures``, to which ``auroc``, ``ece`` and ``prr`` come where there are both kinds."""
    failures = sum(one.failed for one in some)
    found = {"count": float(len(some)), "failures": float(failures)}
    if 0 < failures < len(some):
        found |= {"auroc": auroc(some), "ece": ece(some), "prr": prr(some)}
    return {name: round(value, 4) for name, value in found.items()}


def auroc(some: Sequence[Foretold]) -> float:
    """Of verdicts of both kinds; ties count half.

    >>> auroc([Foretold(0.9, True), Foretold(0.2, False), Foretold(0.2, True)])
    0.75
    """
    below = pairs = 0.0
    for tied in _by_probability(some):
        well = sum(one.weight for one in tied if not one.failed)
        pairs += sum(one.weight for one in tied if one.failed) * (below + well / 2)
        below += well
    return pairs / (below * sum(one.weight for one in some if one.failed))


def ece(some: Sequence[Foretold], bins: int = 15) -> float:
    """The mean distance of probability and share of failures over bins of equal mass.

    >>> ece([Foretold(0.25, n % 4 == 0) for n in range(300)]), ece([Foretold(0.75, n % 4 == 0) for n in range(300)])
    (0.0, 0.5)
    """
    total = sum(one.weight for one in some)
    held = [[0.0, 0.0] for _ in range(bins)]
    mass = 0.0
    for one in sorted(some, key=lambda one: one.p):
        place = min(int(bins * (mass + one.weight / 2) / total), bins - 1)
        held[place][0] += one.weight * one.p
        held[place][1] += one.weight * one.failed
        mass += one.weight
    return sum(abs(expected - found) for expected, found in held) / total


def prr(some: Sequence[Foretold]) -> float:
    """Prediction rejection ratio of verdicts of both kinds.

    >>> prr([Foretold(0.9, True), Foretold(0.2, False)])
    1.0
    """
    total = sum(one.weight for one in some)
    share = sum(one.weight for one in some if one.failed) / total
    area = kept = 0.0
    for tied in _by_probability(some):
        width = sum(one.weight for one in tied) / total
        failed = sum(one.weight for one in tied if one.failed) / total
        area += width * (kept + failed / 2)
        kept += failed
    return (share / 2 - area) / (share / 2 - share * share / 2)


def _by_probability(some: Sequence[Foretold]) -> list[list[Foretold]]:
    groups: dict[float, list[Foretold]] = {}
    for one in some:
        groups.setdefault(one.p, []).append(one)
    return [groups[p] for p in sorted(groups)]
