"""Tails: finds values, and means of the last 4, 16 and 64 values, that lie far outside of what a series is used to.

For any continuous series, on any scale: heavy tails, neighbours that resemble each other, bursts. Each moving mean is
compared with its own history, in its own standard deviations, so that a series which wanders by nature has to wander
further. How far outside is far, the series says itself: the excess over two deviations is held against the peaks of
earlier excursions (peaks over threshold, a generalised Pareto tail), and how often there are excursions is counted.
The statistic is the logarithm of the return period: of how many values one waits, at a guess, for an excursion so
far, so that a threshold means the same for a short mean and a long one, for normal values and heavy tails. Few peaks
make a heavy tail (that of the predictive distribution), so that a young series has to go further. It is news only when
it exceeds what was seen lately (``_LULL`` values), so that one excursion is told once. Idea: Siffer et al., "Anomaly
detection in streams with extreme value theory" (KDD 2017).
"""

from __future__ import annotations

import math
from typing import Any

_SPANS = (1, 4, 16, 64)
_TWO, _PRIOR = 2.0, 0.4
_WARM = 100
_SLOW, _CHAIN, _LULL = 5_000, 20.0, 150
_ADAPT, _MORE = 200, 1.2
_PEAKS, _KNOWN, _SPARSE = 300, 30, 40
"""Peaks that are remembered; peaks that the prior is worth; values and spans between two excursions, by the prior."""
_HUGE, _EXPONENTIAL, _HEAVIER = 30.0, 0.01, 1.5
_CLIP, _FLOOR, _TINY = 10.0, 1e-3, 1e-12
_MEAN, _CENTRE, _SPREAD, _EXCESS, _SQUARE, _PEAK, _COUNT = range(7)


def fresh() -> dict[str, Any]:
    """The state of a new detector: JSON, ``n`` values seen, seven numbers for each span, the latest peak and when."""
    return {"n": 0, "k": [], "top": 0.0, "at": 0}


def update(data: dict[str, Any], value: float) -> float:
    """Take one value into ``data``, in place; the logarithm of the return period, 0 where that is no news.

    >>> data = fresh()
    >>> calm = [update(data, 20.0 + i % 7) for i in range(1000)]
    >>> max(calm) < 5, update(data, 90.0) > 10
    (True, True)
    """
    if not data["k"]:
        data["k"] = [[value, value, 0.0, _PRIOR, 2.0 * _PRIOR**2, 0.0, 0] for _ in _SPANS]
    data["n"] += 1
    statistic = below = 0.0
    for place, span in enumerate(_SPANS):
        one = data["k"][place]
        one[_MEAN] += (value - one[_MEAN]) / min(span, data["n"])
        variance = one[_SPREAD]
        if place:
            variance = _shrunk(variance, below, data["n"] / (2 * span), place)
        below = variance
        statistic = max(statistic, _excursion(one, variance, data["n"], span))
    return _news(data, statistic)


def _shrunk(variance: float, below: float, independent: float, place: int) -> float:
    """Until a long mean has a history of its own, what the next shorter one would make of it without memory."""
    implied = below * (2 * _SPANS[place - 1] - 1) / (2 * _SPANS[place] - 1)
    return (independent * variance + _CHAIN * implied) / (independent + _CHAIN)


def _excursion(one: list[float], variance: float, count: int, span: int) -> float:
    """The statistic of one span; its history learns."""
    deviation = math.sqrt(variance) + _FLOOR * abs(one[_CENTRE]) + _TINY
    off = one[_MEAN] - one[_CENTRE]
    excess, rarity = abs(off) / deviation - _TWO, 0.0
    if count > _WARM:
        if excess > 0.0:
            rarity = _rarity(excess, one) + _seldom(one[_COUNT], count, span)
            one[_PEAK] = max(one[_PEAK], excess)
        elif one[_PEAK]:
            _learn(one)
        off = max(-_CLIP * deviation, min(_CLIP * deviation, off))
    rate = max(1.0 / max(count - 2 * span, 1), 1.0 / _SLOW)
    one[_CENTRE] += rate * off
    one[_SPREAD] = (1.0 - rate) * (one[_SPREAD] + rate * off * off)
    return rarity


def _seldom(peaks: float, count: int, span: int) -> float:
    """The logarithm of the values from one excursion to the next."""
    return math.log((max(count - _WARM, 0) + _SPARSE * span) / (peaks + 1))


def _learn(one: list[float]) -> None:
    """An excursion is over: take in its peak, cut off where it is out of all proportion."""
    peak = min(one[_PEAK], _HUGE * one[_EXCESS])
    one[_COUNT] += 1
    rate = 1.0 / min(one[_COUNT] + _KNOWN, _PEAKS)
    one[_EXCESS] += rate * (peak - one[_EXCESS])
    one[_SQUARE] += rate * (peak * peak - one[_SQUARE])
    one[_PEAK] = 0.0


def _rarity(excess: float, one: list[float]) -> float:
    """The logarithm of how rare such a peak is among excursions: a generalised Pareto tail by the method of moments.

    Peaks whose squares are larger than those of an exponential tail mean a heavier one, the more so the more peaks
    there were (moments underrate a heavy tail); a lighter one is not believed. That the mean is only estimated makes
    the tail heavier still.
    """
    mean, square, peaks = one[_EXCESS], one[_SQUARE], min(one[_COUNT], _PEAKS)
    shape = 0.5 * (1.0 - mean * mean / max(square - mean * mean, _TINY))
    shape = _HEAVIER * max(shape, 0.0) * peaks / (peaks + _KNOWN)
    shape = max(shape, _EXPONENTIAL) + 1.0 / (peaks + _KNOWN)
    return math.log1p(shape * excess / mean) / shape


def _news(data: dict[str, Any], statistic: float) -> float:
    """The statistic where it clearly exceeds the highest of the last ``_LULL`` values or so."""
    if statistic > _MORE * data["top"]:
        data.update(top=statistic, at=data["n"])
        return statistic
    if data["n"] - data["at"] > _LULL:
        data.update(top=statistic, at=data["n"])
    return 0.0


def adapt(data: dict[str, Any]) -> None:
    """The level is known to have changed: learn the new one as if few values had been seen."""
    if data["n"] > _ADAPT:
        for one in data["k"]:
            one[_COUNT] = one[_COUNT] * _ADAPT // data["n"]
        data["at"] -= data["n"] - _ADAPT
        data["n"] = _ADAPT


def means(data: dict[str, Any]) -> tuple[float, float]:
    """What the series was used to, and the moving mean that lies farthest from that, in its own deviations."""
    far = max(data["k"], key=lambda one: abs(one[_MEAN] - one[_CENTRE]) / (math.sqrt(one[_SPREAD]) + _TINY))
    return far[_CENTRE], far[_MEAN]
