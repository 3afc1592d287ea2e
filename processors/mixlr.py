"""MixLR e-CUSUM: finds a rise of a failure rate, online, in a few numbers per cohort.

Each of a few likelihood ratios bets that the rate has become ``r`` times the baseline, and restarts whenever
it has lost its stake (a CUSUM); the statistic is the logarithm of their mean. The baseline is a Beta
posterior over the first ``nref`` values, and later takes in only stretches that ended with every bet lost, so
that a rise does not become its own baseline. The bets are laid against its upper bound, ``margin`` standard
deviations above the mean: against the mean, a baseline learnt too low from few values alarms again and again
on a stable stream. Idea: Shin, Ramdas and Rinaldo, "E-detectors" (arXiv 2203.03532); ratios are held as
logarithms, since products overflow.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

_LOWEST, _HIGHEST, _CEILING = 1e-4, 0.5, 0.95
_RECENT = 1 / 50


@dataclass(frozen=True, slots=True)
class Mix:
    """``rises``: multiples of the baseline that are bet on. ``nref``: values that only teach the baseline.

    ``failures``, ``successes``: the prior, as so many values already seen. ``cap``: the baseline stops
    learning here. ``margin``: standard deviations of the baseline's own uncertainty that are granted to it.
    """

    rises: tuple[float, ...] = (1.5, 3.0)
    nref: int = 200
    failures: int = 1
    successes: int = 9
    cap: int = 20_000
    margin: float = 2.0


def fresh(mix: Mix) -> dict[str, Any]:
    """The state of a new detector; JSON, at most 300 bytes for ever."""
    rate = mix.failures / (mix.failures + mix.successes)
    return {
        "f": mix.failures,
        "s": mix.successes,
        "n": 0,
        "l": [0.0] * len(mix.rises),
        "pf": 0,
        "ps": 0,
        "now": rate,
    }


def baseline(data: dict[str, Any]) -> float:
    """The rate that the detector believes in."""
    return data["f"] / (data["f"] + data["s"])


def update(data: dict[str, Any], value: int, mix: Mix) -> float:
    """Take one value (1 = failure) into ``data``, in place; the statistic, 0 while the baseline is learnt.

    >>> mix, data = Mix(), fresh(Mix())
    >>> calm = [update(data, int(i % 20 == 0), mix) for i in range(2000)]
    >>> worse = [update(data, int(i % 4 == 0), mix) for i in range(100)]
    >>> max(calm) < 5.6, max(worse) > 8.6
    (True, True)
    """
    data["n"] += 1
    data["now"] = round(data["now"] + _RECENT * (value - data["now"]), 6)
    if data["n"] <= mix.nref:
        data["f"] += value
        data["s"] += 1 - value
        return 0.0
    rate = _granted(data, mix.margin)
    logs = [max(log, 0.0) + _ratio(value, rate, rise) for log, rise in zip(data["l"], mix.rises, strict=True)]
    data["l"] = logs
    _learn(data, value, max(logs), mix.cap)
    return _statistic(logs)


def reset(data: dict[str, Any]) -> None:
    """Start the bets anew; the baseline stays."""
    data["l"] = [0.0] * len(data["l"])
    data["pf"] = data["ps"] = 0


def _granted(data: dict[str, Any], margin: float) -> float:
    rate = baseline(data)
    bound = rate + margin * math.sqrt(rate * (1.0 - rate) / (data["f"] + data["s"]))
    return min(max(bound, _LOWEST), _HIGHEST)


def _ratio(value: int, rate: float, rise: float) -> float:
    raised = min(rise * rate, _CEILING)
    return math.log(raised / rate if value else (1.0 - raised) / (1.0 - rate))


def _learn(data: dict[str, Any], value: int, highest: float, cap: int) -> None:
    """What happens is set aside, and learnt once every bet is lost."""
    if data["f"] + data["s"] >= cap:
        return
    data["pf"] += value
    data["ps"] += 1 - value
    if highest <= 0.0:
        data["f"] += data["pf"]
        data["s"] += data["ps"]
        data["pf"] = data["ps"] = 0


def _statistic(logs: list[float]) -> float:
    """The logarithm of the mean of the ratios, without leaving the logarithms."""
    top = max(logs)
    return top + math.log(sum(math.exp(log - top) for log in logs) / len(logs))
