"""Thresholds from false alarms: how many per 100,000 events each detector raises on stable streams, by threshold.

``python benchmarks/drift/calibrate.py --streams 20`` prints one row for each detector and stream, and the line
``threshold = a - b ln(alarms)`` through it; ``processors/budget.py`` has the lines.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent.parent))

import numpy as np

from benchmarks.drift.streams import Floats, constant, flips, mix_alarms
from processors import adwin, tails
from processors.adwin import Adwin
from processors.mixlr import Mix

LENGTH = 50_000
SEED = 7_000
NUMBERS = Adwin(rises=False, batches=True, newest=16)


def shapes(seed: int) -> Iterator[tuple[str, Floats]]:
    """Stable continuous streams, most of them with mean 0 and deviation 1."""
    chance = np.random.default_rng(seed)
    yield "beta(2, 5)", chance.beta(2, 5, LENGTH)
    yield "normal", chance.normal(size=LENGTH)
    yield "log-normal", np.exp(chance.normal(size=LENGTH))
    yield "student t(3)", chance.standard_t(3, LENGTH)
    noise, walk = chance.normal(size=LENGTH), np.zeros(LENGTH)
    for place in range(1, LENGTH):
        walk[place] = 0.9 * walk[place - 1] + noise[place]
    yield "AR(1) 0.9", walk
    for day in (24, 288, 1_440):
        yield f"a cycle of {day:,}", chance.normal(size=LENGTH) + 2.0 * np.sin(2.0 * np.pi * np.arange(LENGTH) / day)


def mean_alarms(values: Floats, limit: float, setting: Adwin = NUMBERS) -> int:
    """Alarms of ADWIN with values scaled as ``processors.watch`` does."""
    data, count = adwin.fresh(), 0
    centre, scale = float(np.median(values[:100])), float(np.std(values[:100]))
    for value in np.clip((values - centre) / scale, -3, 3).tolist():
        if adwin.update(data, value, setting) > limit:
            count += 1
            adwin.cut(data, setting)
    return count


def tail_evidence(values: Floats) -> Floats:
    data = tails.fresh()
    return np.array([tails.update(data, value) for value in values.tolist()])


def report(name: str, shape: str, limits: list[float], count: Callable[[float, int], int], streams: int) -> None:
    """One row of thresholds with their alarms per 100,000, and the line through them."""
    rates = [sum(count(limit, SEED + seed) for seed in range(streams)) / streams * 1e5 / LENGTH for limit in limits]
    some = [(limit, rate) for limit, rate in zip(limits, rates, strict=True) if rate > 0]
    line = ""
    if len(some) > 1:
        slope, at_one = np.polyfit(np.log([rate for _, rate in some]), [limit for limit, _ in some], 1)
        line = f"  {at_one:.2f} - {-slope:.2f} ln(alarms)"
    cells = "  ".join(f"{limit:g}: {rate:.2f}" for limit, rate in zip(limits, rates, strict=True))
    print(f"{name:6} {shape:14} {cells}{line}", flush=True)


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--streams", type=int, default=20)
    parser.add_argument("--only", default="")
    args = parser.parse_args()
    if args.only in ("", "mixlr"):
        for rate in (0.01, 0.05, 0.2):
            report(
                "mixlr", f"rate {rate:g}", [5.0, 6.3, 7.6, 9.0],
                lambda limit, seed, rate=rate: len(mix_alarms(flips(constant(rate, LENGTH), seed), Mix(), limit)),
                args.streams,
            )  # fmt: skip
    for number, (shape, _) in enumerate(shapes(0)):
        made = {SEED + seed: list(shapes(SEED + seed))[number][1] for seed in range(args.streams)}
        if args.only in ("", "adwin"):
            report(
                "adwin", shape, [4.0, 6.0, 8.0], lambda limit, seed, m=made: mean_alarms(m[seed], limit), args.streams
            )
        if args.only in ("", "tails"):
            found = {seed: tail_evidence(values) for seed, values in made.items()}
            limits = [7.0, 8.0, 9.0, 10.0, 10.6, 11.0, 12.0]
            report("tails", shape, limits, lambda limit, seed, f=found: int((f[seed] > limit).sum()), args.streams)


if __name__ == "__main__":
    main()
