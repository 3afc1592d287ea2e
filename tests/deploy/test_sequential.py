"""Sequential evidence: looked at after every observation it errs as rarely as stated, and decides."""

from __future__ import annotations

import json
import math
import random

import pytest
from scipy.integrate import quad

from deploy.sequential import Side, evidence, log_evidence

ENOUGH = math.log(20)


def edges(null: float, side: Side, most: int) -> list[int]:
    """For each number of observations, the count of hits from which (above) or to which (below) it decides."""
    found, hits = [most + 1 if side == "above" else -1], 0 if side == "above" else -1
    for number in range(1, most + 1):
        if side == "above":
            while hits <= number and log_evidence(hits, number - hits, null, side) < ENOUGH:
                hits += 1
        else:
            while hits < number and log_evidence(hits + 1, number - hits - 1, null, side) >= ENOUGH:
                hits += 1
        found.append(hits)
    return found


def crossings(chance: float, null: float, side: Side, runs: int, seed: int) -> list[int | None]:
    """For each run of 400, the observation at which the e-value first reached 20."""
    rng, limits = random.Random(seed), edges(null, side, 400)
    found: list[int | None] = []
    for _ in range(runs):
        hits, place = 0, None
        for number in range(1, 401):
            hits += rng.random() < chance
            if hits >= limits[number] if side == "above" else hits <= limits[number]:
                place = number
                break
        found.append(place)
    return found


@pytest.mark.parametrize(("null", "side"), [(0.5, "above"), (0.5, "below"), (0.25, "above"), (0.29, "below")])
def test_errors_are_as_rare_as_stated(null: float, side: Side) -> None:
    found = crossings(null, null, side, 600, 1)
    assert sum(place is not None for place in found) / 600 <= 0.05


@pytest.mark.parametrize(("chance", "side"), [(0.8, "above"), (0.2, "below")])
def test_far_from_the_null_it_decides_soon(chance: float, side: Side) -> None:
    found = [place or 400 for place in crossings(chance, 0.5, side, 200, 2)]
    assert sorted(found)[100] < 40
    assert max(found) < 400


def test_it_is_the_mixture_it_says_it_is() -> None:
    hits, misses, null = 7, 4, 0.3

    def prior(p: float) -> float:
        return 1 / (math.pi * math.sqrt(p * (1 - p)))

    def ratio(p: float) -> float:
        return (p / null) ** hits * ((1 - p) / (1 - null)) ** misses * prior(p)

    mixed = quad(ratio, null, 1)[0] / quad(prior, null, 1)[0]
    assert math.exp(log_evidence(hits, misses, null, "above")) == pytest.approx(mixed, rel=1e-6)


@pytest.mark.parametrize("counts", [(0, 0), (10**6, 0), (0, 10**6), (10**6, 10**6), (1, 10**6)])
@pytest.mark.parametrize("side", ["above", "below"])
def test_it_is_always_a_number(counts: tuple[int, int], side: Side) -> None:
    value = evidence(*counts, 0.3, side)
    assert json.loads(json.dumps(value)) == value
    assert value >= 0
