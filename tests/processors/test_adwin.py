"""ADWIN by itself: beside river's, on changes and on stable values; state that fits in 300 bytes."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Sequence
from statistics import median

import pytest
from river.drift import ADWIN

from processors.adwin import Adwin, cut, fresh, parts, update

LIMIT = 6.4
RISES = Adwin()


def beta(seed: int, length: int, shift: float = 0.0, at: int = 0) -> list[float]:
    chance = random.Random(seed)
    return [chance.betavariate(2, 5) + (shift if place >= at else 0.0) for place in range(length)]


def alarms(values: Sequence[float], adwin: Adwin = RISES, limit: float = LIMIT) -> list[int]:
    data, found = fresh(), list[int]()
    for place, value in enumerate(values):
        if update(data, value, adwin) > limit:
            found.append(place)
            cut(data, adwin)
    return found


def rivers(values: Sequence[float]) -> list[int]:
    detector, found, before = ADWIN(delta=0.256, clock=1), list[int](), 0.0
    for place, value in enumerate(values):
        detector.update(value)
        if detector.drift_detected and detector.estimation > before:
            found.append(place)
        before = detector.estimation
    return found


def test_stable_values_raise_no_alarm() -> None:
    assert sum(len(alarms(beta(seed, 20_000))) for seed in range(3)) <= 1


@pytest.mark.parametrize("shift", [0.05, 0.1])
def test_a_rise_is_found_about_as_soon_as_by_rivers(shift: float) -> None:
    """The thresholds of both: about one false alarm per 100,000."""
    delays: dict[str, list[int]] = {"ours": [], "river": []}
    for seed in range(25):
        values = beta(100 + seed, 4_000, shift, 2_000)
        for name, found in (("ours", alarms(values)), ("river", rivers(values))):
            delays[name].append(next((place - 2_000 for place in found if place >= 2_000), 4_000))
    assert max(delays["ours"]) < 2_000, "none is missed"
    assert median(delays["ours"]) <= 1.5 * median(delays["river"])


def test_the_cut_lies_at_the_change_and_the_window_goes_on_from_there() -> None:
    data = fresh()
    for value in beta(3, 2_300, 0.2, 2_000):
        if update(data, value, RISES) > LIMIT:
            before, after = parts(data, RISES)
            assert cut(data, RISES) == (before, after)
            assert after - before == pytest.approx(0.2, abs=0.08)
            assert data["n"] < 200
            break
    else:
        pytest.fail("not found")


def test_falls_are_found_where_they_are_asked_for() -> None:
    values = beta(4, 4_000, -0.15, 2_000)
    assert alarms(values) == []
    assert len(alarms(values, Adwin(rises=False))) == 1


def test_values_that_resemble_their_neighbours_need_batches() -> None:
    chance, value, values = random.Random(5), 0.0, list[float]()
    for _ in range(20_000):
        value = 0.9 * value + chance.gauss(0.0, 1.0)
        values.append(value)
    assert len(alarms(values, Adwin(rises=False))) > 20, "the control"
    assert len(alarms(values, Adwin(rises=False, batches=True))) <= 4


def test_a_cycle_of_a_thousand_values_and_more_is_learnt() -> None:
    chance = random.Random(9)
    day = [chance.gauss(2.0 * math.sin(2.0 * math.pi * place / 1_440), 1.0) for place in range(15_000)]
    assert len(alarms(day, Adwin(rises=False))) > 20, "the control"
    assert sum(place > 3_000 for place in alarms(day, Adwin(rises=False, batches=True))) == 0
    later = [value + (6.0 if place >= 12_000 else 0.0) for place, value in enumerate(day)]
    assert any(place > 12_000 for place in alarms(later, Adwin(rises=False, batches=True)))


def test_state_is_small_and_survives_json_bit_for_bit() -> None:
    data, copy, largest = fresh(), fresh(), 0
    for place, value in enumerate(beta(6, 30_000)):
        assert update(data, value, RISES) == update(copy, value, RISES)
        if place % 500 == 0:
            text = json.dumps(copy, separators=(",", ":"))
            largest, copy = max(largest, len(text)), json.loads(text)
    assert copy == data
    assert largest <= 300


def test_values_without_spread_are_no_failure() -> None:
    assert alarms([0.5] * 5_000) == []
    assert 1 <= len(alarms([0.5] * 2_000 + [0.6] * 2_000)) <= 2
