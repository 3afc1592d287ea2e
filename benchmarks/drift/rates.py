"""Drift of a failure rate: false alarms and delays of MixLR, beside ADWIN tuned to the same false alarms in one run.

``python benchmarks/drift/rates.py`` prints every row as it is measured, in a few minutes (``--share 0.1``: a tenth
of it). After an alarm the reference is learnt anew. Seeds differ from those that chose the settings.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent.parent))

import numpy as np
from numpy.typing import NDArray
from river.drift import ADWIN

from benchmarks.drift import fleet
from benchmarks.drift.streams import constant, daily, delay, flips, hours, river_alarms, step, told
from processors import mixlr
from processors.budget import threshold
from processors.mixlr import Mix

LENGTH = 100_000
SEED = 41_000
MIX, LIMIT = Mix(), threshold("mixlr", 1.0)
MANY = Mix(nref=1_000)
CHANGES = (("5 to 15%", 0.15, 0, 5_000), ("5 to 8%", 0.08, 0, 20_000), ("5 to 15% over 2,000", 0.15, 2_000, 8_000))
Made = NDArray[np.float64]
Alarms = Callable[[Made], list[list[int]]]
"""Streams, one a row, to where each alarms."""


def ours(values: Made) -> list[list[int]]:
    return fleet.alarms(values, MIX, LIMIT)


def made(rates: NDArray[np.float64], count: int, seed: int) -> Made:
    """So many streams of failures with these rates."""
    return (np.random.default_rng(seed).random((count, len(rates))) < rates).astype(float)


def rivers(delta: float, clock: int, *, rises: bool) -> Alarms:
    return lambda values: [river_alarms(row.tolist(), ADWIN(delta=delta, clock=clock), rises=rises) for row in values]


def false_alarms(detect: Alarms, values: Made) -> float:
    """Per 100,000 values."""
    return sum(map(len, detect(values))) / values.size * 1e5


def tuned(clock: int, wanted: float, values: Made, *, rises: bool) -> float:
    """The delta of river's ADWIN that raises as many false alarms on these streams, by bisection."""
    low, high = 0.01, 1.0
    for _ in range(6):
        middle = (low * high) ** 0.5
        found = false_alarms(rivers(middle, clock, rises=rises), values)
        low, high = (middle, high) if found < wanted else (low, middle)
    return (low * high) ** 0.5


def delays(detect: Alarms, runs: int, before: int = 2_000) -> dict[str, Any]:
    """Per change: how long it took."""
    out: dict[str, Any] = {}
    for number, (name, after, ramp, horizon) in enumerate(CHANGES):
        rates = step(0.05, after, before, before + horizon, ramp)
        found = detect(made(rates, runs, SEED + number + 1))
        out[name] = told([delay(one, before) for one in found], horizon)
    return out


def show(name: str, **facts: Any) -> None:
    print(json.dumps({"what": name, **facts}), flush=True)


def stable(count: int, runs: int) -> None:
    """False alarms and delays, beside ADWIN's, of which the delta is found on other streams."""
    calm = made(constant(0.05, LENGTH), count, SEED)
    found = false_alarms(ours, calm)
    show("MixLR", threshold=LIMIT, streams=count, false_per_100k=round(found, 2))
    show("MixLR", after=delays(ours, runs))
    others = made(constant(0.05, LENGTH), max(count // 2, 1), SEED + 100)
    for clock, rises in ((32, False), (1, True)):
        delta = tuned(clock, found, others, rises=rises)
        other = rivers(delta, clock, rises=rises)
        name = f"ADWIN (river), clock {clock}, {'rises only' if rises else 'both ways'}, delta {delta:.3f}"
        show(name, false_per_100k=round(false_alarms(other, calm), 2))
        show(name, after=delays(other, runs))


def cycles(count: int) -> None:
    """A daily cycle of 3 points, with and without hours, and no cycle with hours."""
    hour = hours(LENGTH)
    for swing, used in ((0.03, True), (0.03, False), (0.0, True)):
        alarms = fleet.alarms(made(daily(0.05, swing, LENGTH), count, SEED + 50), MIX, LIMIT, hour if used else None)
        late = [sum(place >= 14_000 for place in one) for one in alarms]
        show(
            "daily cycle", swing=swing, hours=used, streams=count, false_per_100k=sum(map(len, alarms)) / count,
            after_the_first_week=round(sum(late) / count / 0.86, 2),
        )  # fmt: skip


def sessions(count: int) -> None:
    """Five events a session, of which 60% copy the session's own: one value a session; as control, every event."""
    chance = np.random.default_rng(SEED + 60)
    whole, single = np.empty((count, LENGTH)), np.empty((count, LENGTH))
    for stream in range(count):
        own = chance.random((LENGTH, 1)) < 0.05
        events = np.where(chance.random((LENGTH, 5)) < 0.6, own, chance.random((LENGTH, 5)) < 0.05)
        whole[stream], single[stream] = events.any(axis=1), events[: LENGTH // 5].ravel()
    facts = {"streams": count, "rate": round(float(whole.mean()), 3)}
    show("one value a session", **facts, false_per_100k=round(false_alarms(ours, whole), 2))
    show("every event (control)", streams=count, false_per_100k=round(false_alarms(ours, single), 2))


def cohorts(worlds: int) -> None:
    """1,000 cohorts of 4,000 values, 30 of which rise after 2,000; the prior: the rate of all, as 100 values."""
    count, moved, change, length = 1_000, 30, 2_000, 4_000
    limit = threshold("mixlr", 50.0 / count)
    for factor in (3.0, 1.6):
        false, late = 0, list[int]()
        for world in range(worlds):
            chance = np.random.default_rng(SEED + 70 + world)
            rates = chance.beta(5, 95, count)
            many = fleet.Fleet(count, MANY, limit)
            many.warm(np.full(count, 0.05), 100.0)
            first = np.full(count, -1)
            for place in range(length):
                if place == change:
                    rates[:moved] = np.minimum(rates[:moved] * factor, 0.95)
                hit = many.update((chance.random(count) < rates).astype(float))
                first = np.where(hit & (first < 0), place, first)
            early = (first >= 0) & ((first < change) | (np.arange(count) >= moved))
            false += int(early.sum())
            late += [int(one) - change + 1 for one in first[:moved] if one >= change]
        show(
            "1,000 cohorts", rise=factor, threshold=round(limit, 2), worlds=worlds, false_cohorts=false / worlds,
            found=f"{len(late)} of {moved * worlds}", mean=round(float(np.mean(late)), 1),
            median=float(np.median(late)),
        )  # fmt: skip


def costs(length: int) -> None:
    """State in bytes, and CPU time of an update, with hours."""
    values, hour, data, largest = flips(constant(0.05, length), SEED + 9_000), hours(length), mixlr.fresh(MIX), 0
    begun = time.process_time()
    for value, at in zip(values, hour, strict=True):
        mixlr.update(data, value, MIX, at)
    spent = (time.process_time() - begun) / length * 1e6
    copy = mixlr.fresh(MIX)
    for place, (value, at) in enumerate(zip(values, hour, strict=True)):
        mixlr.update(copy, value, MIX, at)
        if place % 97 == 0:
            text = json.dumps(copy, separators=(",", ":"))
            largest, copy = max(largest, len(text)), json.loads(text)
    show("cost", micros_an_update=round(spent, 1), bytes=largest, restored_equal=copy == data)


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--share", type=float, default=1.0)
    parser.add_argument("--only", default="", choices=["", *PARTS])
    args = parser.parse_args()
    for name, part in PARTS.items():
        if args.only in ("", name):
            part(args.share)


PARTS: dict[str, Callable[[float], None]] = {
    "costs": lambda share: costs(max(round(LENGTH * share), 1_000)),
    "stable": lambda share: stable(max(round(50 * share), 2), max(round(100 * share), 5)),
    "cycles": lambda share: cycles(max(round(20 * share), 1)),
    "cohorts": lambda share: cohorts(max(round(4 * share), 1)),
    "sessions": lambda share: sessions(max(round(20 * share), 1)),
}

if __name__ == "__main__":
    main()
