"""Tails: spikes and shifts on any scale, told once; heavy tails are no news."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence

from processors.budget import threshold
from processors.tails import adapt, fresh, means, update

LIMIT = threshold("tails", 1.0)


def news(values: Sequence[float], limit: float = LIMIT) -> list[int]:
    data = fresh()
    return [place for place, value in enumerate(values) if update(data, value) > limit]


def normal(seed: int, length: int) -> list[float]:
    chance = random.Random(seed)
    return [chance.gauss(100.0, 5.0) for _ in range(length)]


def test_stable_values_are_no_news() -> None:
    assert len(news(normal(1, 20_000))) <= 1


def test_a_spike_is_told_once_whatever_the_scale() -> None:
    values = normal(2, 3_000)
    values[2_000:2_010] = [180.0] * 10
    for scale in (1e-6, 1.0, 1e9):
        assert news([scale * value for value in values])[:1] == [2_000]
        assert len(news([scale * value for value in values])) <= 4


def test_a_small_shift_of_many_values_is_found_by_their_mean() -> None:
    values = normal(3, 3_000)
    for place in range(2_000, 3_000):
        values[place] += 12.0
    assert 2_000 <= news(values)[0] < 2_100


def test_heavy_tails_have_to_go_further() -> None:
    chance = random.Random(4)
    heavy = [chance.lognormvariate(0.0, 1.0) for _ in range(20_000)]
    assert len(news(heavy)) < 20
    assert len(news([-one if chance.random() < 0.5 else one for one in heavy])) < 20


def test_a_constant_and_then_anything_is_no_failure() -> None:
    assert news([0.0] * 1_000) == []
    assert news([0.0] * 1_000 + [3.0]) == [1_000]


def test_means_say_what_it_was_used_to_and_what_came() -> None:
    data = fresh()
    for value in [*normal(5, 1_000), 400.0]:
        update(data, value)
    before, after = means(data)
    assert 98.0 < before < 102.0
    assert after > 130.0


def test_a_new_level_is_learnt_faster_when_it_is_known() -> None:
    values = normal(6, 3_000) + [one + 100.0 for one in normal(7, 600)]
    slow, fast = fresh(), fresh()
    for place, value in enumerate(values):
        update(slow, value)
        update(fast, value)
        if place == 3_050:
            adapt(fast)
    assert fast["k"][0][1] > slow["k"][0][1] + 30.0


def test_state_survives_json_bit_for_bit() -> None:
    data, copy = fresh(), fresh()
    for value in normal(8, 3_000):
        copy = json.loads(json.dumps(copy))
        assert update(data, value) == update(copy, value)
    assert copy == data
