"""The detector by itself: false alarms on stable streams, delay after a rise, state that fits in 300 bytes."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator

import pytest

from processors.mixlr import Mix, baseline, fresh, reset, update

ALARM = 8.6


def alarms(rates: Iterator[float], mix: Mix, seed: int) -> list[int]:
    """When a stream of failures with these rates alarms; the bets start anew after each."""
    chance, data, found = random.Random(seed), fresh(mix), list[int]()
    for place, rate in enumerate(rates):
        if update(data, int(chance.random() < rate), mix) > ALARM:
            found.append(place)
            reset(data)
    return found


def stable(rate: float, length: int) -> Iterator[float]:
    return (rate for _ in range(length))


def rising(before: float, after: float, at: int, length: int) -> Iterator[float]:
    return (before if place < at else after for place in range(length))


@pytest.mark.parametrize("nref", [200, 500])
def test_false_alarms_are_rare(nref: int) -> None:
    """Half a million stable values: at most 1.5 false alarms per 100,000."""
    found = sum(len(alarms(stable(0.05, 50_000), Mix(nref=nref), seed)) for seed in range(10))
    assert found <= 7


def test_without_the_margin_there_would_be_many() -> None:
    """The control: bets against the mean of a short baseline alarm on a stable stream."""
    found = sum(len(alarms(stable(0.05, 20_000), Mix(margin=0.0), seed)) for seed in range(10))
    assert found > 10


def test_a_threefold_rise_is_found_soon() -> None:
    delays: list[int] = []
    for seed in range(60):
        found = alarms(rising(0.05, 0.15, 2_000, 3_500), Mix(), seed)
        delays += [place - 2_000 for place in found if place >= 2_000][:1]
    assert len(delays) == 60, "none is missed"
    assert sorted(delays)[30] <= 170
    assert sum(delays) / 60 <= 200


def test_a_fall_is_no_rise() -> None:
    assert alarms(rising(0.2, 0.05, 2_000, 10_000), Mix(), 1) == []


def test_a_rise_does_not_become_its_own_baseline() -> None:
    chance, mix = random.Random(2), Mix()
    data = fresh(mix)
    for rate in rising(0.05, 0.4, 2_000, 2_400):
        update(data, int(chance.random() < rate), mix)
    assert baseline(data) == pytest.approx(0.05, abs=0.02)


def test_state_is_small_and_survives_json_bit_for_bit() -> None:
    chance, mix = random.Random(3), Mix()
    data, copy = fresh(mix), fresh(mix)
    largest = 0
    for place in range(20_000):
        value = int(chance.random() < 0.1)
        copy = json.loads(json.dumps(copy))
        assert update(data, value, mix) == update(copy, value, mix)
        largest = max(largest, len(json.dumps(copy))) if place % 100 == 0 else largest
    assert data == copy
    assert largest <= 300


@pytest.mark.parametrize("value", [0, 1])
def test_streams_of_one_kind_stay_finite(value: int) -> None:
    data, mix = fresh(Mix()), Mix()
    for _ in range(3_000):
        statistic = update(data, value, mix)
        assert abs(statistic) < 1e6
