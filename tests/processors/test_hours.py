"""The daily cycle: what each hour learns, and that chance is no cycle."""

from __future__ import annotations

import random
from typing import Any

import pytest

from processors.hours import DAY, learn, ratio


def taught(rates: list[float], values: int, seed: int = 1) -> dict[str, Any]:
    chance, data = random.Random(seed), dict[str, Any]()
    for _ in range(values // 100):
        for hour in range(DAY):
            for _ in range(100):
                learn(data, int(chance.random() < rates[hour]), hour)
    return data


def test_hours_that_differ_are_told_apart() -> None:
    data = taught([0.02] * 12 + [0.1] * 12, 1_000)
    assert ratio(data, 3) == pytest.approx(0.02 / 0.06, abs=0.12)
    assert ratio(data, 20) == pytest.approx(0.1 / 0.06, abs=0.25)


def test_chance_is_no_cycle() -> None:
    data = taught([0.06] * DAY, 500, seed=2)
    assert all(abs(ratio(data, hour) - 1.0) < 0.15 for hour in range(DAY))


def test_few_values_say_nothing() -> None:
    data = dict[str, Any]()
    for place in range(48):
        learn(data, place % 2, place % DAY)
    assert {ratio(data, hour) for hour in range(DAY)} == {1.0}


def test_a_cycle_that_turns_is_followed_in_a_bounded_state() -> None:
    data = taught([0.02] * 12 + [0.1] * 12, 2_500)
    chance = random.Random(3)
    for _ in range(40):
        for hour in range(DAY):
            for _ in range(100):
                learn(data, int(chance.random() < (0.1 if hour < 12 else 0.02)), hour)
    assert ratio(data, 3) > 1.2
    assert ratio(data, 20) < 0.8
    assert len(data["h"]) == 4 * DAY
