"""MixLR over many streams at once, in numpy: the same numbers as ``processors.mixlr``, ten times as fast.

``python benchmarks/drift/fleet.py`` holds the two against each other. After an alarm the reference is learnt anew.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent.parent))

import numpy as np
from numpy.typing import NDArray

from benchmarks.drift.streams import Floats, mix_alarms
from processors.mixlr import Mix

Bools = NDArray[np.bool_]
_FLAT = 1e6


class Fleet:
    """One detector for each of ``count`` streams, in step; ``hourly``: with the hours of the day."""

    def __init__(self, count: int, mix: Mix, limit: float, *, hourly: bool = False) -> None:
        self.mix, self.limit, self.hourly = mix, limit, hourly
        self.rises = np.array(mix.rises)[:, None]
        self.f, self.s = np.full(count, float(mix.failures)), np.full(count, float(mix.successes))
        self.n, self.nref = np.zeros(count, int), np.full(count, mix.nref)
        self.logs, self.fall = np.zeros((len(mix.rises), count)), np.zeros(count)
        self.pf, self.ps = np.zeros(count), np.zeros(count)
        self.hf, self.hn = np.zeros((24, count)), np.zeros((24, count))
        self.weight, self.mean, self.hour = np.full(count, _FLAT), np.zeros(count), np.full(count, -1)

    def warm(self, rate: Floats, strength: float) -> None:
        """Begin with a rate that counts as so many values."""
        self.f, self.s = rate * strength, (1.0 - rate) * strength

    def update(self, value: Floats, hour: int | None = None) -> Bools:
        """One value for each stream; which alarm. Those begin anew."""
        mix, self.n = self.mix, self.n + 1
        rate = self._granted(hour)
        if hour is not None:
            self._learn_hour(value, hour, self.logs.max(0) <= 2.0)
        young = self.n <= self.nref
        self.f += value * young
        self.s += (1.0 - value) * young
        self.logs = np.where(young, 0.0, self._bets(self.logs, value, rate, self.rises))
        self.fall = np.where(young, 0.0, self._bets(self.fall, value, rate, 0.6))
        fallen = self.fall > 12.0
        self._learn(value, ~young & (self.f + self.s < mix.cap) & ~fallen)
        top = self.logs.max(0)
        alarms = ~young & ~fallen & (top + np.log(np.exp(self.logs - top).mean(0)) > self.limit)
        self._restart(alarms | fallen)
        return alarms

    @staticmethod
    def _bets(logs: Floats, value: Floats, rate: Floats, rise: Floats | float) -> Floats:
        raised = np.minimum(rise * rate, np.maximum(0.95, (1.0 + rate) / 2.0))
        gain = np.where(value > 0, np.log(raised / rate), np.log((1.0 - raised) / (1.0 - rate)))
        return np.round(np.maximum(logs, 0.0) + gain, 6)

    def _granted(self, hour: int | None) -> Floats:
        known = self.f + self.s
        rate = self.f / known
        if hour is not None:
            told = (self.weight < _FLAT) & (self.mean > 0)
            share = self.hf[hour] / np.where(told, self.mean, 1.0) + self.weight
            rate = np.where(told, rate * share / (self.hn[hour] + self.weight), rate)
        margin = self.mix.margin * np.minimum(self.mix.nref / known, 1.0)
        return np.clip(rate + margin * np.sqrt(rate * np.maximum(1.0 - rate, 0.0) / known), 1e-4, 0.9999)

    def _learn(self, value: Floats, open_: Bools) -> None:
        self.pf += value * open_
        self.ps += (1.0 - value) * open_
        done = open_ & (self.logs.max(0) <= 0.0)
        self.f += self.pf * done
        self.s += self.ps * done
        self.pf[done] = self.ps[done] = 0.0

    def _learn_hour(self, value: Floats, hour: int, calm: Bools) -> None:
        news = calm & (self.hour != hour) & (self.hour >= 0)
        if news.any():
            self._compare(news)
        self.hour = np.where(calm, hour, self.hour)
        self.hf[hour] += value * calm
        self.hn[hour] += calm
        full = self.hn[hour] > 2_000
        self.hf[hour][full] //= 2
        self.hn[hour][full] //= 2

    def _compare(self, which: Bools) -> None:
        count = self.hn.sum(0)
        rate = self.hf.sum(0) / np.maximum(count, 1)
        used = self.hn >= 20
        chance = np.maximum(rate * (1.0 - rate), 1e-12)
        each = np.where(used, (self.hf - self.hn * rate) ** 2 / (np.maximum(self.hn, 1) * chance) - 1.0, 0.0)
        beyond = each.sum(0) / np.maximum((self.hn * used).sum(0), 1)
        told = (rate > 0) & (used.sum(0) >= 12)
        self.mean = np.where(which, np.where(told, np.round(rate, 6), 0.0), self.mean)
        weight = np.minimum(np.round(1.0 / np.maximum(beyond, 1e-6)), _FLAT)
        self.weight = np.where(which, np.where(told & (beyond > 1e-6), weight, _FLAT), self.weight)

    def _restart(self, which: Bools) -> None:
        if which.any():
            self.f[which], self.s[which] = self.mix.failures, self.mix.successes
            self.n[which], self.nref[which] = 0, self.mix.nref
            self.logs[:, which] = 0.0
            self.fall[which] = self.pf[which] = self.ps[which] = 0.0


def alarms(values: Floats, mix: Mix, limit: float, hour: list[int] | None = None) -> list[list[int]]:
    """Where each stream (a row) alarms."""
    fleet, found = Fleet(len(values), mix, limit, hourly=hour is not None), [list[int]() for _ in values]
    for place, column in enumerate(np.ascontiguousarray(values.T, dtype=float)):
        for stream in np.flatnonzero(fleet.update(column, None if hour is None else hour[place])):
            found[stream].append(place)
    return found


def main() -> None:
    """Compare with the one that ships."""
    chance = np.random.default_rng(1)
    rates = np.where(np.arange(20_000) < 12_000, 0.05, 0.12)
    values = (chance.random((6, 20_000)) < rates).astype(float)
    hour = [place // 80 % 24 for place in range(20_000)]
    for given in (None, hour):
        many = alarms(values, Mix(), 5.0, given)
        one = [mix_alarms([int(v) for v in row], Mix(), 5.0, given) for row in values]
        print("the same alarms" if many == one else f"differ: {many} {one}", sum(map(len, many)))


if __name__ == "__main__":
    main()
