"""Streams with a known truth, and how long a detector takes; shared by the benchmarks of drift. All seeds are given."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from processors import mixlr
from processors.mixlr import Mix

Floats = NDArray[np.float64]
Detect = Callable[[Sequence[float]], list[int]]
"""Values to the places at which there was an alarm, with whatever the detector does after one."""


def constant(rate: float, length: int) -> Floats:
    return np.full(length, rate)


def step(before: float, after: float, at: int, length: int, ramp: int = 0) -> Floats:
    """A rate that changes after ``at`` values, at once or over ``ramp`` values."""
    place = np.arange(length) - at
    share = np.clip(place / ramp, 0.0, 1.0) if ramp else (place >= 0).astype(float)
    return before + (after - before) * share


def daily(rate: float, swing: float, length: int, day: int = 2_000) -> Floats:
    return rate + swing * np.sin(2 * np.pi * np.arange(length) / day)


def hours(length: int, day: int = 2_000) -> list[int]:
    return [int(hour) for hour in (np.arange(length) % day) * 24 // day]


def flips(rates: Floats, seed: int) -> list[int]:
    """Failures (1) with these chances."""
    return [int(one) for one in np.random.default_rng(seed).random(len(rates)) < rates]


def mix_alarms(values: Iterable[int], mix: Mix, limit: float, hour: Sequence[int] | None = None) -> list[int]:
    """Where MixLR alarms, with its reference learnt anew after each."""
    data, found = mixlr.fresh(mix), list[int]()
    for place, value in enumerate(values):
        if mixlr.update(data, value, mix, None if hour is None else hour[place]) > limit:
            found.append(place)
            mixlr.relearn(data, mix)
    return found


def river_alarms(values: Iterable[float], detector: Any, *, rises: bool = False) -> list[int]:
    """Where a detector of river's alarms; ``rises``: only where its estimate went up."""
    found, before = list[int](), 0.0
    for place, value in enumerate(values):
        detector.update(value)
        if detector.drift_detected and (not rises or detector.estimation > before):
            found.append(place)
        before = detector.estimation
    return found


def delay(found: Sequence[int], at: int) -> float | None:
    """Values from the change to the first alarm; infinite when there is none, None when one came before the change."""
    if any(place < at for place in found):
        return None
    return min((place - at + 1 for place in found), default=math.inf)


def told(delays: Sequence[float | None], horizon: int) -> dict[str, Any]:
    """Runs without an alarm before the change, how many of them missed it, mean, median and 90% of the delays."""
    kept = [one for one in delays if one is not None]
    cut = np.minimum(kept, horizon)
    return {
        "runs": len(kept),
        "missed": sum(math.isinf(one) for one in kept),
        "mean": round(float(cut.mean()), 1),
        "median": float(np.median(cut)),
        "p90": round(float(np.quantile(cut, 0.9)), 1),
    }
