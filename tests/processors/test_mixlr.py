"""The detector by itself: false alarms on stable streams, delay after a rise, state that fits in 300 bytes."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Iterator

import pytest

from processors.mixlr import Mix, baseline, expected, fresh, hush, relearn, update, weakened

ALARM = 8.0


def alarms(rates: Iterator[float], mix: Mix, seed: int, quiet: int = 0, day: int = 0) -> list[int]:
    """When a stream of failures with these rates alarms; then its reference is learnt anew, or is quiet and stays."""
    chance, data, found = random.Random(seed), fresh(mix), list[int]()
    for place, rate in enumerate(rates):
        hour = place % day * 24 // day if day else None
        if update(data, int(chance.random() < rate), mix, hour) > ALARM:
            found.append(place)
            if quiet:
                hush(data, quiet)
            else:
                relearn(data, mix)
    return found


def stable(rate: float, length: int) -> Iterator[float]:
    return (rate for _ in range(length))


def rising(before: float, after: float, at: int, length: int) -> Iterator[float]:
    return (before if place < at else after for place in range(length))


@pytest.mark.parametrize("quiet", [0, 200])
def test_false_alarms_are_rare(quiet: int) -> None:
    """Three hundred thousand stable values: at most 1.5 false alarms per 100,000, whatever follows an alarm."""
    assert sum(len(alarms(stable(0.05, 50_000), Mix(), seed, quiet)) for seed in range(6)) <= 4


def test_without_a_reference_there_would_be_many() -> None:
    """The control: bets against the mean of a short baseline alarm on a stable stream."""
    found = sum(len(alarms(stable(0.05, 10_000), Mix(nref=30, margin=0.0), seed)) for seed in range(10))
    assert found > 10


def test_a_threefold_rise_is_found_soon() -> None:
    delays: list[int] = []
    for seed in range(60):
        found = alarms(rising(0.05, 0.15, 2_000, 3_500), Mix(), seed)
        delays += [place - 2_000 for place in found if place >= 2_000][:1]
    assert len(delays) == 60, "none is missed"
    assert sorted(delays)[30] <= 120
    assert sum(delays) / 60 <= 135


def test_a_rise_that_lasts_alarms_again_and_one_that_does_not_is_learnt() -> None:
    rates = [0.05] * 2_000 + [0.2] * 1_000
    lasting = [place for place in alarms(iter(rates), Mix(), 4, quiet=200) if place >= 2_000]
    assert len(lasting) >= 3
    assert len([place for place in alarms(iter(rates), Mix(), 4) if place >= 2_000]) == 1


def test_a_daily_cycle_is_learnt() -> None:
    def cycle() -> Iterator[float]:
        return (0.05 + 0.03 * math.sin(2 * math.pi * place / 2_000) for place in range(60_000))

    plain = sum(len(alarms(cycle(), Mix(), seed)) for seed in range(2))
    learnt = sum(len(alarms(cycle(), Mix(), seed, day=2_000)) for seed in range(2))
    assert plain >= 10, "the control"
    assert learnt <= 4


def test_a_stream_without_a_cycle_is_left_alone() -> None:
    chance, data = random.Random(5), fresh(Mix())
    for place in range(30_000):
        update(data, int(chance.random() < 0.1), Mix(), place // 80 % 24)
    assert all(expected(data, hour) == pytest.approx(baseline(data), rel=0.15) for hour in range(24))


def test_a_parent_lends_its_rate() -> None:
    chance, parent = random.Random(6), fresh(Mix())
    assert fresh(Mix(), parent) == fresh(Mix()), "not before it has one"
    for _ in range(3_000):
        update(parent, int(chance.random() < 0.2), Mix())
    child = fresh(Mix(), parent)
    assert baseline(child) == pytest.approx(baseline(parent), rel=0.01)
    assert (child["f"] + child["s"], child["r"]) == (Mix().warm, Mix().warm_nref)
    weak = fresh(Mix(), weakened(parent, 30))
    assert (round(weak["f"] + weak["s"]), weak["r"]) == (30, Mix().nref)


def test_a_clear_fall_is_learnt_so_that_the_rise_back_is_found() -> None:
    rates = [0.2] * 3_000 + [0.04] * 2_000 + [0.2] * 400
    found = alarms(iter(rates), Mix(), 8)
    assert [place for place in found if place < 5_000] == []
    assert found


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
        value = int(chance.random() < (0.1 if place < 10_000 else 0.3))
        copy = json.loads(json.dumps(copy))
        found = update(data, value, mix, place // 80 % 24)
        assert found == update(copy, value, mix, place // 80 % 24)
        if found > ALARM:
            hush(data, 100)
            hush(copy, 100)
        largest = max(largest, len(json.dumps(copy, separators=(",", ":")))) if place % 100 == 0 else largest
    assert data == copy
    assert largest <= 300


@pytest.mark.parametrize("value", [0, 1])
def test_streams_of_one_kind_stay_finite(value: int) -> None:
    data, mix = fresh(Mix()), Mix()
    for _ in range(3_000):
        statistic = update(data, value, mix, 3)
        assert abs(statistic) < 1e6
