"""Watch: any number of series, told apart by cohort, each by the detectors that fit it; findings at two levels.

A series of zeros and ones is watched by MixLR (1 is a failure; rises only); any other by ADWIN for its mean and by
Tails for single values and short stretches, with a fifth and four fifths of the budget. A series is binary until it has
another value; both kinds of detectors run for its first thousand values. After an alarm the reference is learnt anew,
so that one change is told once.

Binary cohorts share a roll-up: it lends a young cohort its rate, with the weight that the spread between cohorts
deserves, and what it finds is told of the smallest cohort that has moved itself, if there is one.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any, Literal, NamedTuple

from processors import adwin, mixlr, tails
from processors.adwin import Adwin
from processors.budget import threshold
from processors.mixlr import Mix

ALL = "*"
"""The roll-up of all cohorts."""
Choice = Literal["auto", "mixlr", "adwin", "tails"]
Level = Literal["warn", "alarm"]
_WARN = 10.0
_TAILS = 0.8
"""Of the budget of a series of numbers, the share of Tails; ADWIN has the rest, which costs it little."""
_CALM = 2.0
_FREE, _LONG = 50, 1_000
"""So many cohorts may spend the budget; with more, each learns its reference for longer, as the roll-up does."""
_FIRST = 100
_SILENT = 200
_SURE = 1_000
_FAR = 3.0
_YOUNG, _SIBLINGS, _WEAK = 200, 3, 50


@dataclass(frozen=True, slots=True)
class WatchSettings:
    """``detector``: which; ``auto`` by kind. ``budget``: false alarms per 100,000 events, over all cohorts.

    Warnings have ten times the budget. ``cohorts``: names beyond so many share the cohort ``overflow``.
    """

    detector: Choice = "auto"
    budget: float = 1.0
    cohorts: int = 10_000
    overflow: str = "(other)"
    mix: Mix = field(default_factory=Mix)


class Finding(NamedTuple):
    """Evidence that a cohort changed: ``statistic`` exceeded ``threshold``; the rate or mean before and after."""

    cohort: str
    signal: str
    level: Level
    statistic: float
    threshold: float
    before: float
    after: float


class NotBinary(ValueError):
    """A value that is neither 0 nor 1, for a detector that takes no other."""


class Watch:
    """See the module. ``take`` one event after the other; state grows with the number of cohorts only."""

    def __init__(self, settings: WatchSettings, *, by_cohort: bool) -> None:
        self._settings = settings
        self._by_cohort = by_cohort
        self._series: dict[str, _Series] = {}
        self._mix = replace(settings.mix, nref=max(settings.mix.nref, _LONG))
        self._all = _Rate(mixlr.fresh(self._mix)) if by_cohort else None

    def take(self, value: float, cohort: str = ALL, hour: int | None = None) -> list[Finding]:
        """Everything that this one event raises. Raises NotBinary."""
        name = self._name(cohort)
        if name not in self._series:
            self._series[name] = _Series(name, self._settings, self._parent(), many=len(self._series) >= _FREE)
        series = self._series[name]
        found = list(series.take(value, hour, self._limits()))
        if self._all is not None and any(one.level == "alarm" for one in found):
            self._all.forget(self._mix)
        elif self._all is not None and series.rate is not None:
            found += self._roll_up(self._all, value, hour)
        return found

    @property
    def cohorts(self) -> list[str]:
        """The names that have a state."""
        return list(self._series)

    def _name(self, cohort: str) -> str:
        full = len(self._series) >= self._settings.cohorts and cohort not in self._series
        return self._settings.overflow if full else cohort

    def _limits(self) -> tuple[float, float]:
        """Budgets of a warning and an alarm: more than ``_FREE`` cohorts share what so many may spend."""
        budget = self._settings.budget * min(1.0, _FREE / max(len(self._series), 1))
        return _WARN * budget, budget

    def _parent(self) -> dict[str, Any] | None:
        """The roll-up's detector with the strength that it deserves: cohorts which differ lend each other little."""
        if self._all is None:
            return None
        first = islice(self._series.values(), 4 * _FREE)
        known = (s.rate.data for s in first if s.rate and s.rate.data["n"] >= _YOUNG)
        strength = strength_of([mixlr.counts(one, self._settings.mix) for one in islice(known, _FREE)])
        return mixlr.weakened(self._all.data, strength)

    def _roll_up(self, rate: _Rate, value: float, hour: int | None) -> Iterator[Finding]:
        budgets = self._limits()
        for one in rate.take(int(value), hour, self._mix, ALL, (budgets[0] / 10.0, budgets[1] / 10.0)):
            if one.level == "alarm":
                yield self._smallest() or one

    def _smallest(self) -> Finding | None:
        """The cohort that has moved most, past a warning, told as an alarm; its reference is learnt anew."""
        bar = threshold("mixlr", _WARN * self._settings.budget)
        moved = [s for s in self._series.values() if s.rate is not None and s.rate.statistic > bar]
        if not moved:
            return None
        series = max(moved, key=lambda one: one.rate.statistic if one.rate else 0.0)
        return series.name_it(bar)


class _Rate:
    """MixLR over one cohort."""

    def __init__(self, data: dict[str, Any]) -> None:
        self.data = data
        self.statistic = 0.0
        self.warned = False

    def take(
        self, value: int, hour: int | None, mix: Mix, cohort: str, budgets: tuple[float, float]
    ) -> Iterator[Finding]:
        before = mixlr.expected(self.data, hour)
        self.statistic = mixlr.update(self.data, value, mix, hour)
        level, bar = _level(self.statistic, "mixlr", budgets, warned=self.warned)
        self.warned = (self.warned and self.statistic > _CALM) or level == "warn"
        if level:
            yield Finding(cohort, "rate", level, self.statistic, bar, before, self.data["now"])
        if level == "alarm":
            self.forget(mix)

    def forget(self, mix: Mix) -> None:
        mixlr.relearn(self.data, mix)
        self.warned, self.statistic = False, 0.0


class _Numbers:
    """ADWIN and Tails over one cohort; ADWIN sees values in deviations of the first that vary, cut off far outside."""

    _ADWIN = Adwin(rises=False, batches=True, newest=16)

    def __init__(self, detector: Choice) -> None:
        self._detector = detector
        self._first: list[float] = []
        self._scale: tuple[float, float] | None = None
        self._mean = adwin.fresh()
        self._tails = tails.fresh()
        self._silent = 0

    def take(self, value: float, cohort: str, budgets: tuple[float, float]) -> Iterator[Finding]:
        if self._detector != "adwin":
            yield from self._far(value, cohort, self._share(budgets, _TAILS))
        if self._detector != "tails":
            yield from self._moved(value, cohort, self._share(budgets, 1.0 - _TAILS))

    def _share(self, budgets: tuple[float, float], share: float) -> tuple[float, float]:
        return (budgets[0] * share, budgets[1] * share) if self._detector == "auto" else budgets

    def _far(self, value: float, cohort: str, budgets: tuple[float, float]) -> Iterator[Finding]:
        statistic = tails.update(self._tails, value)
        level, bar = _level(statistic, "tails", budgets)
        if level:
            yield Finding(cohort, "tail", level, statistic, bar, *tails.means(self._tails))

    def _moved(self, value: float, cohort: str, budgets: tuple[float, float]) -> Iterator[Finding]:
        statistic = self._evidence(value)
        self._silent = max(self._silent - 1, 0)
        level, bar = _level(statistic, "adwin", budgets, warned=self._silent > 0)
        if not level:
            return
        self._silent = _SILENT
        centre, scale = self._scale or (0.0, 1.0)
        parts = adwin.cut(self._mean, self._ADWIN) if level == "alarm" else adwin.parts(self._mean, self._ADWIN)
        before, after = (centre + scale * part for part in parts)
        yield Finding(cohort, "mean", level, statistic, bar, before, after)
        if level == "alarm":
            tails.adapt(self._tails)

    def _evidence(self, value: float) -> float:
        if self._scale is not None:
            return self._scaled(value)
        self._first = [*self._first[1 - _FIRST :], value]
        if len(self._first) == _FIRST and max(self._first) > min(self._first):
            self._scale = _scale(self._first)
            return max(self._scaled(one) for one in self._first)
        return 0.0

    def _scaled(self, value: float) -> float:
        centre, scale = self._scale or (0.0, 1.0)
        return adwin.update(self._mean, max(-_FAR, min(_FAR, (value - centre) / scale)), self._ADWIN)


class _Series:
    """One cohort: a rate until a value says otherwise, and numbers unless every value is 0 or 1."""

    def __init__(self, name: str, settings: WatchSettings, parent: dict[str, Any] | None, *, many: bool) -> None:
        self._name, self._settings = name, settings
        self._mix = replace(settings.mix, nref=max(settings.mix.nref, _LONG)) if many else settings.mix
        choice = settings.detector
        self.rate = _Rate(mixlr.fresh(self._mix, parent)) if choice in ("auto", "mixlr") else None
        self._numbers = None if choice == "mixlr" else _Numbers(choice)
        self._seen = 0

    def take(self, value: float, hour: int | None, budgets: tuple[float, float]) -> Iterator[Finding]:
        self._seen += 1
        if self.rate is not None and value not in (0.0, 1.0):
            if self._settings.detector == "mixlr":
                raise NotBinary
            self.rate, self._numbers = None, self._numbers or _Numbers(self._settings.detector)
        elif self.rate is not None and self._seen > _SURE:
            self._numbers = None
        found = [] if self._numbers is None else list(self._numbers.take(value, self._name, budgets))
        if self.rate is None:
            yield from found
        else:
            yield from self.rate.take(int(value), hour, self._mix, self._name, budgets)

    def name_it(self, bar: float) -> Finding | None:
        """The alarm of the cohort itself, at the word of the roll-up."""
        if self.rate is None:
            return None
        rate = self.rate
        found = Finding(self._name, "rate", "alarm", rate.statistic, bar, mixlr.baseline(rate.data), rate.data["now"])
        rate.forget(self._mix)
        return found


def _level(
    statistic: float, detector: str, budgets: tuple[float, float], *, warned: bool = False
) -> tuple[Level | None, float]:
    warn, alarm = (threshold(detector, budget) for budget in budgets)
    if statistic > alarm:
        return "alarm", alarm
    if statistic > warn and not warned:
        return "warn", warn
    return None, alarm


def _scale(values: list[float]) -> tuple[float, float]:
    """The median, and a standard deviation that few far values do not spoil."""
    ordered = sorted(values)
    centre = ordered[len(ordered) // 2]
    spread = (ordered[len(ordered) * 9 // 10] - ordered[len(ordered) // 10]) / 2.56
    mean = sum(values) / len(values)
    deviation = math.sqrt(sum((value - mean) ** 2 for value in values) / len(values))
    return centre, max(spread, deviation / 10.0, abs(centre) * 1e-3, 1e-9)


def strength_of(counts: list[tuple[int, int]]) -> int:
    """How many values the mean rate of these cohorts (failures, values) is worth to a new one.

    The method of moments of a Beta-binomial: cohorts that differ no more than chance makes them are worth a lot.

    >>> strength_of([(50, 1000), (52, 1000), (49, 1000)]) > 1000
    True
    >>> strength_of([(50, 1000), (100, 1000), (20, 1000)]) < 100
    True
    """
    if len(counts) < _SIBLINGS:
        return _WEAK
    failures, total = sum(f for f, _ in counts), sum(n for _, n in counts)
    rate = failures / total
    chance = rate * (1.0 - rate)
    if chance <= 0.0:
        return _WEAK
    beyond = sum((f - n * rate) ** 2 / (n * chance) - 1.0 for f, n in counts) / total
    return 10**6 if beyond <= 1e-6 else max(round(1.0 / beyond), 1)
