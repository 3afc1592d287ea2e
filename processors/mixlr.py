"""MixLR e-CUSUM: finds a rise of a failure rate, online, in a few numbers per cohort.

Each of a few likelihood ratios bets that the rate has become ``r`` times the baseline, and restarts whenever
it has lost its stake (a CUSUM); the statistic is the logarithm of their mean. The baseline is a Beta
posterior over the first values, and later takes in only stretches that ended with every bet lost, so that a rise
does not become its own baseline. The bets are laid against its upper bound, ``margin`` standard deviations above the
mean while it is young: against the mean, a baseline learnt too low from few values alarms again and again on a stable
stream. A clear fall makes the detector learn anew, so that a rise from the better rate is found. Idea: Shin, Ramdas and
Rinaldo, "E-detectors" (arXiv 2203.03532); ratios are held as logarithms, since products overflow.

Given the hour of each value, the baseline follows the day (``processors.hours``).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from processors import hours

VERSION = 2
_LOWEST, _HIGHEST, _CEILING = 1e-4, 0.9999, 0.95
_RECENT = 1 / 50
_DIGITS = 6
_FALL, _FALLEN = 0.6, 12.0
_LASTS = 2.0


@dataclass(frozen=True, slots=True)
class Mix:
    """``rises``: multiples of the baseline that are bet on. ``nref``: values that only teach the baseline.

    ``failures``, ``successes``: the prior, as so many values already seen. ``cap``: the baseline stops
    learning here. ``margin``: standard deviations of the baseline's own uncertainty that are granted to it at
    first, and less and less past ``nref`` values. ``warm``: a parent's rate counts as at most so many values seen, and
    ``warm_nref`` is ``nref`` then.
    """

    rises: tuple[float, ...] = (1.4, 1.8, 3.0)
    nref: int = 400
    failures: int = 1
    successes: int = 19
    cap: int = 20_000
    margin: float = 1.0
    warm: int = 1_000
    warm_nref: int = 200


def fresh(mix: Mix, parent: dict[str, Any] | None = None) -> dict[str, Any]:
    """The state of a new detector: JSON, at most 300 bytes for ever. ``parent`` lends its baseline, once it has one."""
    failures, successes, first = float(mix.failures), float(mix.successes), mix.nref
    if parent is not None and parent["n"] >= parent["r"]:
        strength = min(float(mix.warm), parent["f"] + parent["s"])
        failures = round(baseline(parent) * strength, 3)
        successes = round(strength - failures, 3)
        first = mix.warm_nref if strength >= mix.nref else mix.nref
    return {
        "v": VERSION,
        "f": failures,
        "s": successes,
        "n": 0,
        "r": first,
        "l": [0.0] * len(mix.rises),
        "d": 0.0,
        "pf": 0,
        "ps": 0,
        "q": 0,
        "now": round(failures / (failures + successes), _DIGITS),
    }


def baseline(data: dict[str, Any]) -> float:
    """The rate that the detector believes in."""
    return data["f"] / (data["f"] + data["s"])


def expected(data: dict[str, Any], hour: int | None = None) -> float:
    """The rate that is believed to hold at this hour of the day."""
    rate = baseline(data)
    return rate if hour is None or "h" not in data else rate * hours.ratio(data, hour)


def counts(data: dict[str, Any], mix: Mix) -> tuple[int, int]:
    """Failures, and values, that the baseline has learnt, without a prior."""
    return max(data["f"] - mix.failures, 0), max(data["f"] + data["s"] - mix.failures - mix.successes, 1)


def weakened(data: dict[str, Any], strength: int) -> dict[str, Any]:
    """A baseline to lend, worth at most ``strength`` values."""
    known = data["f"] + data["s"]
    keep = min(1.0, strength / known)
    return {**data, "f": max(data["f"] * keep, 0.5), "s": max(data["s"] * keep, 0.5)}


def update(data: dict[str, Any], value: int, mix: Mix, hour: int | None = None) -> float:
    """Take one value (1 = failure) into ``data``, in place; the statistic, 0 while the baseline is learnt.

    >>> mix, data = Mix(), fresh(Mix())
    >>> calm = [update(data, int(i % 20 == 0), mix) for i in range(2000)]
    >>> worse = [update(data, int(i % 4 == 0), mix) for i in range(100)]
    >>> max(calm) < 5, max(worse) > 8
    (True, True)
    """
    data["n"] += 1
    data["now"] = round(data["now"] + _RECENT * (value - data["now"]), _DIGITS)
    if data["q"]:
        return _wait(data, value, mix)
    rate = _granted(data, mix, hour)
    if hour is not None and max(data["l"]) <= hours.CALM:
        hours.learn(data, value, hour)
    if data["n"] <= data["r"]:
        _refer(data, value, mix)
        return 0.0
    logs = [_bet(log, value, rate, rise) for log, rise in zip(data["l"], mix.rises, strict=True)]
    data["l"] = logs
    data["d"] = _bet(data["d"], value, rate, _FALL)
    if data["d"] > _FALLEN:
        relearn(data, mix)
        return 0.0
    _learn(data, value, max(logs), mix.cap)
    return _statistic(logs)


def hush(data: dict[str, Any], quiet: int) -> None:
    """After an alarm: start the bets anew after ``quiet`` values, which show whether the rise lasts.

    If it does, the baseline stays, and the rise will alarm again; else the baseline takes them in.
    """
    data["l"] = [0.0] * len(data["l"])
    data.update(pf=0, ps=0, d=0.0, q=quiet)


def relearn(data: dict[str, Any], mix: Mix) -> None:
    """Forget the baseline: the coming values teach a new one. What is known of the hours stays."""
    data.update(fresh(mix), now=data["now"])


def _wait(data: dict[str, Any], value: int, mix: Mix) -> float:
    data["pf"] += value
    data["ps"] += 1 - value
    data["q"] -= 1
    if data["q"]:
        return 0.0
    rate, seen, known = baseline(data), data["pf"] + data["ps"], data["f"] + data["s"]
    deviation = math.sqrt(max(rate, _LOWEST) * (1.0 - rate) * (1.0 / seen + 1.0 / known))
    if data["pf"] / seen < rate + _LASTS * deviation:
        keep = min(1.0, mix.nref / known)
        data["f"] = max(round(data["f"] * keep), 1) + data["pf"]
        data["s"] = max(round(data["s"] * keep), 1) + data["ps"]
    data["pf"] = data["ps"] = 0
    return 0.0


def _refer(data: dict[str, Any], value: int, mix: Mix) -> None:
    """Learn a value of the reference; the prior expects few failures, and is turned round where most values are."""
    data["f"] += value
    data["s"] += 1 - value
    turn = mix.successes - mix.failures
    if data["n"] == data["r"] and data["f"] > data["s"] > turn:
        data["f"] += turn
        data["s"] -= turn


def _granted(data: dict[str, Any], mix: Mix, hour: int | None) -> float:
    rate, known = expected(data, hour), data["f"] + data["s"]
    margin = mix.margin * min(mix.nref / known, 1.0)
    bound = rate + margin * math.sqrt(rate * max(1.0 - rate, 0.0) / known)
    return min(max(bound, _LOWEST), _HIGHEST)


def _bet(log: float, value: int, rate: float, rise: float) -> float:
    raised = min(rise * rate, max(_CEILING, (1.0 + rate) / 2.0))
    return round(max(log, 0.0) + math.log(raised / rate if value else (1.0 - raised) / (1.0 - rate)), _DIGITS)


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
