"""Fusion: what it computes is what river computes, state goes on bit for bit, what is missing is not invented."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest
from river.linear_model import LogisticRegression
from river.optim import SGD
from river.preprocessing import StandardScaler

from processors.calibrating import p_failure, with_category
from processors.fusion import Fusion, FusionRules
from processors.prequential import Foretold, auroc, ece

RULES = FusionRules()
PLAIN = FusionRules(slope=0.0, offset=0.0)
Lesson = tuple[dict[Any, float], str, bool]


def lessons(seed: int, count: int, absent: float = 0.0) -> list[Lesson]:
    """Turns that fail by their doubt and by their category; log-probabilities are absent in a share of them."""
    chance = random.Random(seed)
    found: list[Lesson] = []
    for _ in range(count):
        doubt, category = chance.random(), chance.choice("abcd")
        failed = chance.random() < 0.05 + 0.3 * doubt + (0.3 if category == "a" else 0.0)
        features: dict[Any, float] = {"hedges": round(chance.random(), 4)}
        if chance.random() >= absent:
            features |= {"doubt": round(doubt, 4), "nll": round(doubt + chance.random(), 4)}
        found.append((features, category, failed))
    return found


def taught(some: list[Lesson], rules: FusionRules = RULES) -> tuple[Fusion, list[Foretold]]:
    """A model that has seen them, and what it expected of each before."""
    fusion, expected = Fusion(None, rules), list[Foretold]()
    for features, category, failed in some:
        seen = with_category(features, category, fusion.model())
        expected.append(Foretold(p_failure(seen, fusion.model()), failed))
        fusion.learn(seen, category, failed, 1.0)
    return fusion, expected


def test_it_is_rivers_pipeline() -> None:
    """The oracle: the same features through river's own objects, without a category and with none missing."""
    fusion = Fusion(None, PLAIN)
    scaler, model = StandardScaler(), LogisticRegression(optimizer=SGD(PLAIN.rate), l2=PLAIN.l2, intercept_init=-1.0)
    for features, _, failed in lessons(1, 400):
        fusion.learn(features, "", failed, 0.7)
        scaler.learn_one(features)
        model.learn_one(scaler.transform_one(features), failed, w=0.7)
    for features, _, _ in lessons(2, 50):
        expected = model.predict_proba_one(scaler.transform_one(features))[True]
        assert p_failure(features, fusion.model() | {"absent": {}}) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("seed", [3, 4])
def test_it_learns_to_tell_failures_and_how_likely_they_are(seed: int) -> None:
    _, expected = taught(lessons(seed, 4_000))
    assert auroc(expected[1_000:]) > 0.65
    assert ece(expected[1_000:]) < 0.04


def test_shuffled_verdicts_teach_nothing() -> None:
    some = lessons(5, 4_000)
    verdicts = [failed for *_, failed in some]
    random.Random(5).shuffle(verdicts)
    _, expected = taught([(f, c, failed) for (f, c, _), failed in zip(some, verdicts, strict=True)])
    told = [Foretold(one.p, failed) for one, (*_, failed) in zip(expected, some, strict=True)]
    assert 0.42 < auroc(told[1_000:]) < 0.58


def test_a_group_that_is_missing_counts_as_its_mean_with_an_indicator() -> None:
    fusion, _ = taught(lessons(6, 500))
    assert "absent" in fusion.model()
    assert fusion.model()["absent"] == {}, "nothing was ever missing"
    mixed, expected = taught(lessons(6, 3_000, absent=0.5))
    assert set(mixed.model()["absent"]) == {"logprobs"}, "and groups that nobody has seen are no columns"
    assert auroc(expected[1_000:]) > 0.6
    mean = mixed.model()["columns"]["doubt"][0]
    lone = mixed.model() | {"absent": {}}
    assert p_failure({"doubt": mean}, lone) == pytest.approx(p_failure({}, lone))


def test_a_weak_category_is_known_and_a_new_one_is_like_all() -> None:
    fusion, _ = taught(lessons(7, 1_500))
    model = fusion.model()
    assert model["categories"]["a"] > max(model["categories"][name] for name in "bcd") + 0.5
    assert with_category({}, "new", model) == {"weak_category": model["other"]}
    assert with_category({}, "", model) == {}


def test_categories_are_bounded() -> None:
    fusion = Fusion(None, FusionRules(categories=3))
    for place in range(10):
        fusion.learn({"hedges": 0.0}, f"c{place}", False, 1.0)
    assert list(fusion.body["categories"]) == ["c7", "c8", "c9"]


def test_state_is_versioned_json_and_goes_on_bit_for_bit() -> None:
    some = lessons(8, 600, absent=0.3)
    fusion, _ = taught(some[:300])
    again = Fusion(json.loads(json.dumps(fusion.body)), RULES)
    for features, category, failed in some[300:]:
        for one in (fusion, again):
            one.learn(with_category(features, category, one.model()), category, failed, 1.3)
        again = Fusion(json.loads(json.dumps(again.body)), RULES)
    assert json.dumps(again.body) == json.dumps(fusion.body)
    assert json.dumps(again.model()) == json.dumps(fusion.model())
    with pytest.raises(ValueError, match="version 9"):
        Fusion({"v": 9}, RULES)


@pytest.mark.parametrize("value", [1e9, -1e9, 0.0])
def test_strange_values_stay_in_bounds(value: float) -> None:
    fusion, _ = taught(lessons(9, 200))
    odd: dict[str, Any] = {"doubt": value, "nll": value, "no_such_feature": value}
    for _ in range(50):
        fusion.learn(odd, "a", True, 3.0)
    assert 0.0 < p_failure(odd, fusion.model()) < 1.0
    json.dumps(fusion.body, allow_nan=False)
