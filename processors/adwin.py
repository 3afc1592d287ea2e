"""ADWIN: finds a change of a mean, online, by comparing the newest values with those before them, at every cut.

The window is an exponential histogram: the newest buckets hold one value each, older ones twice as many as their
successors. A cut of the window into an older and a newer part is evidence for a change when their means differ by
more than chance grants; the statistic is the evidence of the best cut, the logarithm of 1 / delta in the paper's
words (with its bound for normal means), so that its threshold does not depend on the scale. Past the threshold the
caller drops what is older than that cut. Paper: Bifet and Gavalda, "Learning from time-changing data with adaptive
windowing" (SDM 2007).

Unlike river's (which is the oracle of the tests), its state is a few whole numbers as JSON, restored bit for bit; it
may be told to look for rises only; and the variance may be that of batches of values instead of single ones, since
values of most real series resemble their neighbours.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

_UNIT = 1000
"""Values are kept as whole thousandths."""
_PER_LEVEL = 2
_LEVELS = 14
_BATCH, _LONG = 64, 8
"""Values in a batch, and batches in a long one."""
_MEMORY, _FEW = 1000, 2.0


@dataclass(frozen=True, slots=True)
class Adwin:
    """``warm``: values before the first test. ``clock``: values between two tests. ``newest``: fewest after a cut.

    ``rises``: only rises are evidence. ``batches``: values resemble their neighbours,
    or move in cycles of up to some thousand values.
    """

    warm: int = 200
    clock: int = 2
    newest: int = 8
    rises: bool = True
    batches: bool = False


def fresh() -> dict[str, Any]:
    """The state of a new detector; JSON, at most 300 bytes for ever."""
    return {"n": 0, "b": [], "m": 0.0, "v": 0.0, "d": 0.0, "s": 0, "p": 0, "e": 0.0}


def update(data: dict[str, Any], value: float, adwin: Adwin) -> float:
    """Take one value into ``data``, in place; the evidence for a change (0 while warm).

    >>> adwin, data = Adwin(), fresh()
    >>> calm = [update(data, 0.3 + 0.1 * (i % 2), adwin) for i in range(2000)]
    >>> worse = [update(data, 0.6 + 0.1 * (i % 2), adwin) for i in range(100)]
    >>> max(calm) < 1, max(worse) > 10
    (True, True)
    """
    whole = round(value * _UNIT)
    _spread(data, whole, adwin)
    _insert(data["b"], whole)
    if data["n"] >= adwin.warm and data["n"] % adwin.clock == 0:
        data["e"] = round(_best(data, adwin)[0], 4)
    return data["e"]


def parts(data: dict[str, Any], adwin: Adwin) -> tuple[float, float]:
    """The means of the older and the newer part at the best cut."""
    return _best(data, adwin)[2:]


def cut(data: dict[str, Any], adwin: Adwin) -> tuple[float, float]:
    """Drop what is older than the best cut; the means of the older and the newer part."""
    _, place, older, newer = _best(data, adwin)
    buckets, seen = data["b"], 0
    kept: list[list[int]] = []
    for level in buckets:
        kept.append(level[-max(place - seen, 0) :] if place > seen else [])
        seen += len(level)
    while kept and not kept[-1]:
        kept.pop()
    data.update(b=kept, e=0.0)
    data["n"] = sum(len(level) << depth for depth, level in enumerate(kept))
    return older, newer


def _spread(data: dict[str, Any], whole: int, adwin: Adwin) -> None:
    """Moving mean and variance of the values, and of half the squared step from batch to batch."""
    data["n"] += 1
    rate = 1.0 / min(data["n"], _MEMORY)
    off = whole - data["m"]
    data["m"] = round(data["m"] + rate * off, 3)
    data["v"] = round(data["v"] + rate * (off * (whole - data["m"]) - data["v"]), 1)
    data["s"] += whole
    if data["n"] % _BATCH == 0:
        step = data["s"] - data["p"] if data["n"] > _BATCH else 0
        rate = 1.0 / min(data["n"] // _BATCH, _MEMORY // _BATCH)
        data["d"] = round(data["d"] + rate * (step * step / (2 * _BATCH) - data["d"]), 1)
        if adwin.batches:
            _spread_long(data)
        data["p"], data["s"] = data["s"], 0


def _spread_long(data: dict[str, Any]) -> None:
    """The same from one long batch to the next: ``long`` has that variance, how many there were, the last, this one."""
    variance, count, last, now, batches = data.get("long", (0.0, 0, 0, 0, 0))
    now, batches = now + data["s"], batches + 1
    if batches == _LONG:
        step = now - last if count else 0
        count, last, now, batches = count + 1, now, 0, 0
        rate = 1.0 / min(max(count - 1, 1), _LONG)
        variance = round(variance + rate * (step * step / (2 * _BATCH * _LONG) - variance), 1)
    data["long"] = [variance, count, last, now, batches]


def _wandering(data: dict[str, Any]) -> float:
    """The variance of batches; that of long ones, which is known of few, only where it is much larger."""
    return max(data["d"], data["long"][0] / _FEW if "long" in data else 0.0)


def _insert(levels: list[list[int]], whole: int) -> None:
    """The histogram: ``levels[k]`` has the sums of buckets of 2**k values, oldest first."""
    carry: int | None = whole
    for level in levels:
        level.append(carry)
        if len(level) <= _PER_LEVEL:
            return
        carry = level.pop(0) + level.pop(0)
    if len(levels) < _LEVELS:
        levels.append([carry])


def _best(data: dict[str, Any], adwin: Adwin) -> tuple[float, int, float, float]:
    """The best cut: its evidence, buckets in the newer part, the mean of the older and of the newer part."""
    levels = data["b"]
    total = sum(len(level) << depth for depth, level in enumerate(levels))
    whole = sum(map(sum, levels))
    variance = max(data["v"], _wandering(data) if adwin.batches else 0.0, 1.0)
    count = sums = place = 0
    best = (0.0, 0, 0.0, 0.0)
    for depth, level in enumerate(levels):
        for bucket in reversed(level):
            count += 1 << depth
            sums += bucket
            place += 1
            if count < adwin.newest or total - count < adwin.warm // 2:
                continue
            newer, older = sums / count, (whole - sums) / (total - count)
            if adwin.rises and newer <= older:
                continue
            found = (newer - older) ** 2 * count * (total - count) / total / (2.0 * variance)
            if found > best[0]:
                best = (found, place, older / _UNIT, newer / _UNIT)
    grace = math.log(2.0 * math.log(max(total, 3)))
    evidence, newest, before, after = best
    return max(evidence - grace, 0.0), newest, before, after
