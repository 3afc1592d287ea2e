"""Differentially private counts by group, where the groups themselves are private: OpenDP's thresholded Laplace.

Whether one person is in the data changes the probability of any result by a factor of e^epsilon at most, but for a
probability of delta. Noise is OpenDP's exact discrete Laplace noise from the operating system's secure source; groups
whose noisy count is below the threshold are left out, so that nobody is seen by a group of their own (Rogers 2023,
arXiv:2309.09170; Canonne, Kamath, Steinke 2020, arXiv:2004.00010).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import Any

from schemas.errors import Refused, UsageError

_HIGHEST = 1 << 40


@dataclass(frozen=True, slots=True)
class Privacy:
    """``epsilon`` and ``delta`` of the whole release; one person is in ``bound`` counted items at most."""

    epsilon: float
    delta: float
    bound: int

    def __post_init__(self) -> None:
        """UsageError names what is out of its range."""
        if not (math.isfinite(self.epsilon) and self.epsilon > 0):
            raise UsageError("--epsilon: must be a number above 0; 0.1 to 2 are usual")
        if not 0 < self.delta < 0.01:
            raise UsageError("--delta: must be above 0 and below 0.01; less than one in the number of people")
        if self.bound < 1:
            raise UsageError("--max-turns: at least 1")

    @property
    def scale(self) -> float:
        """Of the noise of each of the two counts, which share epsilon."""
        return 2 * self.bound / self.epsilon


@dataclass(frozen=True, slots=True)
class Counted:
    """One group's noisy numbers: how many items, and how many of them are marked (failures)."""

    items: int
    marked: int


def private_counts(counts: Mapping[str, tuple[int, int]], privacy: Privacy) -> dict[str, Counted]:
    """Noisy counts of the groups that may be shown, from true ones: (items, marked) by group.

    Half of epsilon and all of delta go into which groups there are and how many items they have, the other half into
    the marked ones of the groups that are shown. Raises Refused when OpenDP is not installed.
    """
    shown: dict[str, int] = _first(privacy)({name: items for name, (items, _) in counts.items()})
    if not shown:
        return {}
    names = sorted(shown)
    noisy: list[int] = _second(privacy)([counts[name][1] for name in names])
    return {
        name: Counted(shown[name], min(max(0, marked), shown[name])) for name, marked in zip(names, noisy, strict=True)
    }


@cache
def threshold(privacy: Privacy) -> int:
    """The noisy count from which a group is shown.

    One more than the least one for which OpenDP says that delta suffices: what it says holds for counts above its
    threshold, but it shows those that equal it, too (opendp issue 2922, seen in 0.16).
    """
    low, high = privacy.bound, _HIGHEST
    while low < high:
        middle = (low + high) // 2
        if _delta(privacy, middle) <= privacy.delta:
            high = middle
        else:
            low = middle + 1
    return low + 1


@cache
def _first(privacy: Privacy) -> Any:
    least = threshold(privacy)
    made = with_threshold(privacy, least)
    _check(made.map((privacy.bound, privacy.bound, privacy.bound))[0], privacy.epsilon / 2)
    _check(_delta(privacy, least - 1), privacy.delta)
    return made


@cache
def _second(privacy: Privacy) -> Any:
    dp = _opendp()
    space = dp.vector_domain(dp.atom_domain(T="i64")), dp.l1_distance(T="i64")
    made = dp.m.make_laplace(*space, scale=_rounded_up(privacy.scale))
    _check(made.map(privacy.bound), privacy.epsilon / 2)
    return made


def with_threshold(privacy: Privacy, least: int) -> Any:
    """OpenDP's mechanism: noisy counts by group, of those that are ``least`` or more."""
    dp = _opendp()
    domain = dp.map_domain(dp.atom_domain(T=str), dp.atom_domain(T="i64"))
    metric = dp.l01inf_distance(dp.absolute_distance(T="i64"))
    return dp.m.make_laplace_threshold(domain, metric, scale=_rounded_up(privacy.scale), threshold=least)


def _delta(privacy: Privacy, above: int) -> float:
    """The odds that a group of one person alone is above this count."""
    return float(with_threshold(privacy, above).map((privacy.bound, privacy.bound, privacy.bound))[1])


def _rounded_up(scale: float) -> float:
    """A little more noise, so that rounding never takes more of epsilon than was given."""
    return scale * (1 + 1e-9)


def _check(spent: float, given: float) -> None:
    if spent > given:
        raise AssertionError(f"a mechanism spends {spent} of {given}")


@cache
def _opendp() -> Any:
    try:
        dp: Any = import_module("opendp.prelude")  # 47 MB that only who exports statistics needs
    except ImportError as error:
        raise Refused("private statistics need the package opendp: pip install 'driftwheel[dp]'") from error
    dp.enable_features("contrib")
    return dp
