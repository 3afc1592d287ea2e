"""Three numbers about probabilities, against plain definitions and scikit-learn."""

from __future__ import annotations

import random

import pytest
from sklearn.metrics import roc_auc_score

from processors.prequential import Foretold, auroc, ece, metrics, pack, prr, unpack


def some(seed: int, count: int, skill: float) -> list[Foretold]:
    chance = random.Random(seed)
    found: list[Foretold] = []
    for _ in range(count):
        failed = chance.random() < 0.3
        p = round(min(max(chance.random() * (1 - skill) + skill * failed, 0.0), 1.0), 2)
        found.append(Foretold(p, failed, chance.choice((0.5, 1.0, 2.0))))
    return found


@pytest.mark.parametrize("skill", [0.0, 0.2, 0.6])
def test_auroc_is_scikit_learns_with_weights_and_ties(skill: float) -> None:
    found = some(1, 500, skill)
    expected = roc_auc_score([o.failed for o in found], [o.p for o in found], sample_weight=[o.weight for o in found])
    assert auroc(found) == pytest.approx(expected)


def test_ece_is_the_distance_of_calibration() -> None:
    chance = random.Random(2)
    sure = [Foretold(p, chance.random() < p) for p in (chance.random() for _ in range(20_000))]
    assert ece(sure) < 0.02
    off = [one._replace(p=one.p / 2) for one in sure]
    assert ece(off) == pytest.approx(0.25, abs=0.02)


def test_weights_are_as_good_as_copies() -> None:
    found = some(3, 300, 0.3)
    copied = [one._replace(weight=0.5) for one in found for _ in range(int(one.weight * 2))]
    for measure in (auroc, ece, prr):
        assert measure(found) == pytest.approx(measure(copied), abs=0.02 if measure is ece else 1e-9)


def test_prr_is_1_for_an_oracle_and_0_by_lot() -> None:
    found = some(4, 2_000, 0.0)
    assert prr([one._replace(p=float(one.failed)) for one in found]) == pytest.approx(1.0)
    assert prr([one._replace(p=0.5) for one in found]) == pytest.approx(0.0)
    assert abs(prr(found)) < 0.12
    assert prr([one._replace(p=float(not one.failed)) for one in found]) == pytest.approx(-1.0)


def test_of_one_kind_alone_only_counts_are_told() -> None:
    assert metrics([Foretold(0.5, True)] * 3) == {"count": 3.0, "failures": 3.0}
    assert metrics([]) == {"count": 0.0, "failures": 0.0}
    assert set(metrics(some(5, 50, 0.2))) == {"count", "failures", "auroc", "ece", "prr"}


def test_what_is_packed_comes_back() -> None:
    chance = random.Random(6)
    for one in some(6, 200, 0.1):
        exact = one._replace(p=round(chance.random(), 4), weight=round(chance.uniform(0.01, 9.9), 2))
        assert unpack(pack(exact)) == exact
    assert unpack(pack(Foretold(1.0, True, 1e9))).weight == 9.99
    assert unpack(pack(Foretold(0.0, False, 0.0))).weight == 0.01
