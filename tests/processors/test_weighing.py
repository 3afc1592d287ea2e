"""Weights of signals from biased ratings: the bias is corrected, rare signals keep their own, state is JSON."""

from __future__ import annotations

import json
import random

import pytest

from processors.auditing import Audit, AuditRules
from processors.weighing import FORCES, STEEPNESS, WeighingRules, Weights

RULES, AUDIT = WeighingRules(), AuditRules()
SHARE = 0.02
"""Of the turns that are audited."""
TRUE = {"explicit_correction": 1.5, "rephrase": 0.3, "task_complete": -2.0, "proceeded": -0.4}
"""Log-odds of failure in the simulated world; the rules believe in rephrases much more."""
BIAS = -1.5


def world(seed: int, turns: int, bad: float = 0.08, good: float = 0.02) -> tuple[Weights, list[tuple[float, bool]]]:
    """Weights after so many turns, whose users rate failures and successes with these chances; what they expect."""
    from math import exp

    chance, weights, audit = random.Random(seed), Weights(), Audit()
    expected: list[tuple[float, bool]] = []
    for turn in range(turns):
        signals = [name for name in TRUE if chance.random() < 0.25]
        failed = chance.random() < 1 / (1 + exp(-BIAS - sum(TRUE[name] for name in signals)))
        if turn > turns // 2:
            expected.append((weights.p_failure(signals), failed))
        if chance.random() < (bad if failed else good):
            weights.learn(signals, failed, audit.rated(turn // 2_000, failed, AUDIT), RULES)
        if chance.random() < SHARE:
            weights.learn(signals, failed, audit.judged(turn // 2_000, failed, SHARE, AUDIT, by_lot=True), RULES)
    return weights, expected


def off(expected: list[tuple[float, bool]]) -> float:
    """How far the mean probability is from the share of failures."""
    return abs(sum(p for p, _ in expected) - sum(failed for _, failed in expected)) / len(expected)


@pytest.mark.parametrize("seed", [1, 2])
def test_forces_come_to_what_signals_mean_although_failures_are_rated_more(seed: int) -> None:
    weights, expected = world(seed, 60_000)
    for name, truth in TRUE.items():
        assert abs(-STEEPNESS * weights.force(name) - truth) < abs(-STEEPNESS * FORCES[name] - truth) + 0.15, name
    assert abs(-STEEPNESS * weights.force("rephrase") - TRUE["rephrase"]) < 0.6, "it began at 1.8"
    assert off(expected) < 0.05


def test_without_the_correction_probabilities_are_far_off() -> None:
    """The control: the same world, every verdict counted alike."""

    chance, even = random.Random(1), Weights()
    expected: list[tuple[float, bool]] = []
    for turn in range(60_000):
        failed = chance.random() < 0.2
        if turn > 30_000:
            expected.append((even.p_failure([]), failed))
        if chance.random() < (0.08 if failed else 0.02) or chance.random() < SHARE:
            even.learn([], failed, 1.0, RULES)
    assert off(expected) > 0.1


def test_a_signal_that_nobody_judged_keeps_its_weight() -> None:
    weights, _ = world(3, 2_000)
    assert weights.force("escalation") == pytest.approx(FORCES["escalation"])
    assert weights.force("no_such_signal") == 0.0


def test_shuffled_verdicts_teach_nothing() -> None:
    chance, weights = random.Random(5), Weights()
    for _ in range(20_000):
        signals = [name for name in TRUE if chance.random() < 0.25]
        weights.learn(signals, chance.random() < 0.2, 1.0, RULES)
    assert all(abs(weights.force(name)) < 0.25 for name in TRUE)


def test_state_is_small_versioned_json_and_goes_on_bit_for_bit() -> None:
    weights, _ = world(4, 3_000)
    text = json.dumps(weights.dump())
    assert len(text) < 1_000
    again = Weights.load(json.loads(text))
    for one in (weights, again):
        one.learn(["rephrase"], True, 0.5, RULES)
    assert json.dumps(again.dump()) == json.dumps(weights.dump())
    with pytest.raises(ValueError, match="version 9"):
        Weights.load({"v": 9})


def test_forces_are_bounded_whatever_comes() -> None:
    weights = Weights()
    for _ in range(5_000):
        weights.learn(["rephrase", "copy"], True, 3.0, RULES)
    assert all(-1.0 <= weights.force(name) <= 1.0 for name in FORCES)
    assert 0.0 < weights.p_failure(FORCES) < 1.0
    assert set(weights.forces()) == {"copy", "rephrase"}, "of others nobody has told anything"
