"""The gate, by its numbers: what it lets through and what it refuses, over many simulated candidates."""

from __future__ import annotations

import random

import pytest

from deploy.gate import GateSettings, Paired, judge, p_better
from processors.agreement import Pairs, Rate, Standing, Tally, standing

LABELS = ["it", "hr", "travel", "legal", "facilities"]


def rows(count: int, candidate: float, incumbent: float, rng: random.Random, *, golden: bool = False) -> list[Paired]:
    """Rows that the two get right independently, with these chances."""

    def said(truth: str, chance: float) -> str:
        return truth if rng.random() < chance else rng.choice([one for one in LABELS if one != truth])

    truths = rng.choices(LABELS, k=count)
    return [Paired(truth, said(truth, candidate), said(truth, incumbent), golden) for truth in truths]


def share_passed(runs: int, fresh: tuple[float, float], golden: tuple[float, float], seed: int) -> float:
    rng = random.Random(seed)
    return sum(judge(rows(50, *fresh, rng) + rows(80, *golden, rng, golden=True)).passed for _ in range(runs)) / runs


def test_a_better_candidate_passes() -> None:
    assert share_passed(200, (0.88, 0.45), (0.92, 0.92), 1) > 0.9


def test_shuffled_labels_are_refused() -> None:
    """Labels without meaning: nobody answers them better than chance."""
    assert share_passed(200, (0.2, 0.2), (0.92, 0.92), 2) <= 0.01
    assert share_passed(200, (0.2, 0.2), (0.5, 0.92), 3) == 0.0


def test_no_better_is_refused() -> None:
    assert share_passed(200, (0.6, 0.6), (0.92, 0.92), 4) <= 0.02


@pytest.mark.parametrize(("candidate", "least", "most"), [(0.92, 0.0, 0.1), (0.72, 0.8, 1.0)])
def test_the_golden_rows_hold(candidate: float, least: float, most: float) -> None:
    rng = random.Random(5)
    runs = [rows(50, 0.95, 0.3, rng) + rows(100, candidate, 0.92, rng, golden=True) for _ in range(200)]
    refused = sum(any("golden rows by" in reason for reason in judge(run).reasons) for run in runs) / 200
    assert least <= refused <= most


def test_too_few_rows_never_pass() -> None:
    rng = random.Random(6)
    verdict = judge(rows(10, 1.0, 0.0, rng) + rows(3, 1.0, 1.0, rng, golden=True))
    assert not verdict.passed
    assert "10 labelled test rows are too few" in verdict.reasons[0]
    assert "3 golden rows are too few" in verdict.reasons[1]
    assert not judge([]).passed


def test_one_label_that_breaks_is_seen() -> None:
    rng = random.Random(7)
    broken = [Paired("legal", "hr", "legal", golden=True) for _ in range(40)]
    verdict = judge(rows(100, 0.95, 0.4, rng) + rows(300, 0.95, 0.9, rng, golden=True) + broken)
    assert not verdict.passed
    assert any("'legal'" in reason for reason in verdict.reasons)
    assert verdict.slices["label:legal"] < 0 < verdict.slices["label:it"]


def test_numbers_and_reasons_are_told() -> None:
    fresh = [Paired("a", "a", "b")] * 20 + [Paired("a", "b", "a")] * 2 + [Paired("a", "a", "a")] * 8
    verdict = judge(fresh + [Paired("b", "b", "b", golden=True)] * 10)
    assert (verdict.rows, verdict.wins, verdict.losses) == (40, 20, 2)
    assert verdict.candidate_accuracy == pytest.approx(28 / 30, abs=1e-5)
    assert verdict.p_value == pytest.approx(p_better(20, 2))
    assert verdict.passed
    assert "20 rows won, 2 lost" in verdict.reasons[0]


def test_the_order_of_rows_does_not_matter() -> None:
    rng = random.Random(8)
    found = rows(60, 0.8, 0.5, rng) + rows(60, 0.8, 0.9, rng, golden=True)
    assert judge(found) == judge(list(reversed(found)))


def test_settings_are_used() -> None:
    rng = random.Random(9)
    found = rows(40, 1.0, 0.0, rng) + rows(20, 1.0, 1.0, rng, golden=True)
    assert judge(found).passed
    assert not judge(found, GateSettings(min_rows=41)).passed


# Rows that only a judging model has decided.

JUDGE = "tone:1-0af7/m"


def stands(pairs: Pairs) -> dict[str, Standing]:
    return {JUDGE: standing(Tally(JUDGE, pairs, 0, Rate(0, 99), Rate(0, 40), Rate(0, 40)))}


GOOD, BAD = stands(Pairs(50, 1, 1, 48)), stands(Pairs(30, 20, 20, 30))


def decided(by: str) -> list[Paired]:
    fresh = [Paired("a", "a", "b", judge=by)] * 20 + [Paired("a", "a", "a", judge=by)] * 10
    return fresh + [Paired("b", "b", "b", golden=True)] * 10


def test_a_judge_with_the_right_is_heard_like_people() -> None:
    assert judge(decided(JUDGE), standings=GOOD) == judge(decided(""))
    assert judge(decided(JUDGE), standings=GOOD).passed


@pytest.mark.parametrize(
    ("standings", "why"),
    [(BAD, "not shown to reach 0.4"), (None, "nobody has compared it with people"), ({}, "nobody has compared")],
)
def test_a_judge_without_the_right_is_no_evidence(standings: dict[str, Standing] | None, why: str) -> None:
    found = judge(decided(JUDGE), standings=standings)
    assert not found.passed
    assert found.reasons[0] == "0 labelled test rows are too few to judge by: 20 are needed"
    assert found.reasons[-1].startswith(f"30 rows were left out: the judge {JUDGE} has no right to gate: ")
    assert why in found.reasons[-1]
    assert found.rows == 10


def test_people_alone_may_be_enough_and_what_was_left_out_is_said() -> None:
    against = [Paired("a", "b", "a", judge=JUDGE)] * 30
    found = judge(decided("") + against, standings=BAD)
    assert found.passed
    assert (found.wins, found.losses) == (20, 0)
    assert "30 rows were left out" in found.reasons[1]
    assert not judge(decided("") + against, standings=GOOD).passed
