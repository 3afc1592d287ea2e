"""Watching series: kinds told apart, budgets, cohorts and their roll-up."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest

from processors.watch import Finding, NotBinary, Watch, WatchSettings, strength_of


def flips(rates: Sequence[float], seed: int) -> list[float]:
    chance = random.Random(seed)
    return [float(chance.random() < rate) for rate in rates]


def watch(values: Sequence[float], settings: WatchSettings | None = None) -> list[tuple[int, Finding]]:
    one = Watch(settings or WatchSettings(), by_cohort=False)
    return [(place, found) for place, value in enumerate(values) for found in one.take(value)]


def alarms(found: Sequence[tuple[int, Finding]]) -> list[tuple[int, Finding]]:
    return [(place, one) for place, one in found if one.level == "alarm"]


def test_a_rate_that_rises_warns_and_alarms_once() -> None:
    found = watch(flips([0.05] * 2_000 + [0.2] * 1_500, 1))
    ((place, alarm),) = alarms(found)
    assert 2_000 <= place < 2_150
    assert (alarm.cohort, alarm.signal) == ("*", "rate")
    assert alarm.statistic > alarm.threshold
    assert alarm.before < 0.08 < 0.12 < alarm.after
    assert [one.level for at, one in found if 2_000 <= at <= place] == ["warn", "alarm"]


def test_a_mean_that_moves_alarms_in_its_own_units() -> None:
    chance = random.Random(2)
    values = [chance.gauss(5_000.0 if place < 2_000 else 5_400.0, 500.0) for place in range(2_600)]
    first = alarms(watch(values))[0]
    assert 2_000 <= first[0] < 2_100
    means = [one for _, one in alarms(watch(values)) if one.signal == "mean"]
    assert len(means) == 1
    assert means[0].before == pytest.approx(5_000, abs=100)
    assert means[0].after == pytest.approx(5_400, abs=250)


def test_zeros_and_ones_are_a_rate_until_another_value_comes() -> None:
    chance = random.Random(3)
    values = [0.0] * 200 + [max(chance.gauss(50.0, 5.0), 0.0) for _ in range(1_000)]
    found = alarms(watch(values))
    assert 200 <= found[0][0] <= 205
    assert {one.signal for _, one in found} <= {"mean", "tail"}


@pytest.mark.parametrize(("detector", "signals"), [("adwin", {"mean"}), ("tails", {"tail"})])
def test_one_detector_may_be_asked_for(detector: str, signals: set[str]) -> None:
    chance = random.Random(4)
    values = [chance.gauss(0.0, 1.0) + (4.0 if place >= 2_000 else 0.0) for place in range(2_500)]
    settings = WatchSettings(detector=detector)  # pyright: ignore[reportArgumentType] # a parameter of the test
    assert {one.signal for _, one in watch(values, settings)} == signals


def test_mixlr_takes_zeros_and_ones_only() -> None:
    with pytest.raises(NotBinary):
        watch([0.0, 1.0, 0.5], WatchSettings(detector="mixlr"))


def test_a_larger_budget_tells_more_and_sooner() -> None:
    values = flips([0.05] * 2_000 + [0.09] * 2_000, 5)
    strict, loose = (watch(values, WatchSettings(budget=budget)) for budget in (0.1, 100.0))
    assert len(strict) < len(loose)
    assert alarms(loose)[0][1].threshold < 5.0


def test_cohorts_are_watched_alone() -> None:
    world, found = Watch(WatchSettings(), by_cohort=True), list[Finding]()
    calm, worse = flips([0.05] * 4_000, 6), flips([0.05] * 2_000 + [0.3] * 2_000, 7)
    for one, other in zip(calm, worse, strict=True):
        found += [*world.take(one, "calm"), *world.take(other, "worse")]
    assert {one.cohort for one in found if one.level == "alarm"} == {"worse"}


def test_a_rise_that_is_too_thin_for_every_cohort_is_the_roll_ups() -> None:
    world, found = Watch(WatchSettings(), by_cohort=True), list[Finding]()
    for place, value in enumerate(flips([0.05] * 6_000 + [0.2] * 600, 8)):
        found += world.take(value, f"c{place % 60}")
    assert [one.cohort for one in found if one.level == "alarm"][:1] == ["*"]


def test_cohorts_past_the_cap_share_one() -> None:
    world = Watch(WatchSettings(cohorts=3), by_cohort=True)
    for name in "abcdef":
        world.take(0.0, name)
    assert set(world.cohorts) == {"a", "b", "c", "(other)"}


def test_cohorts_that_differ_lend_little() -> None:
    assert strength_of([(50, 1_000)] * 2) == 50
    assert strength_of([(0, 1_000)] * 5) == 50
    assert strength_of([(50, 1_000), (55, 1_000), (45, 1_000)]) > strength_of([(50, 1_000), (150, 1_000), (10, 1_000)])


def test_constants_are_no_failure() -> None:
    assert watch([7.0] * 3_000) == []
    assert watch([0.0] * 3_000) == []
    assert watch([1.0] * 3_000) == []


def test_a_long_rate_may_still_turn_out_to_be_numbers() -> None:
    chance = random.Random(9)
    values = [0.0] * 1_500 + [chance.gauss(50.0, 5.0) for _ in range(1_000)] + [400.0]
    found = watch(values)
    assert {one.signal for _, one in found} <= {"mean", "tail"}
    assert (2_500, "tail", "alarm") in [(place, one.signal, one.level) for place, one in found]
