from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from connectors.embeddings import HashedNgrams
from deploy.local_nemo.classifier import (
    Epoch,
    Examples,
    Head,
    Recipe,
    fit,
    load_head,
    save_head,
    widen,
    zero_shot,
)
from tests.deploy.local_nemo_kit import LABELS, toy


def examples(count: int, seed: int, flip: float = 0) -> Examples:
    pairs = toy(count, seed)
    order = sorted(LABELS)
    labels = np.array([order.index(label) for _, label in pairs])
    rng = np.random.default_rng(seed)
    noisy = rng.random(count) < flip
    labels[noisy] = rng.integers(0, 3, noisy.sum())
    return Examples(HashedNgrams().embed([text for text, _ in pairs]), labels)


BASE = zero_shot(LABELS, HashedNgrams())
NONE = Examples(np.zeros((0, 2048), np.float32), np.zeros(0, np.int64))


def accuracy(head: Head, data: Examples) -> float:
    return float((head.log_probs(data.rows).argmax(1) == data.labels).mean())


def quiet(_: Epoch) -> None:
    pass


def test_as_good_as_logistic_regression() -> None:
    train, test = examples(100, 1), examples(300, 2)
    theirs = LogisticRegression(C=10, max_iter=1000).fit(train.rows, train.labels)
    ours = fit(BASE, train, NONE, Recipe(), quiet)
    assert accuracy(ours, test) > theirs.score(test.rows, test.labels) - 0.02
    assert accuracy(ours, test) > accuracy(BASE, test) + 0.2


def test_wrong_labels_are_not_learnt() -> None:
    train, test = examples(200, 1, flip=0.2), examples(300, 2)
    ours = fit(BASE, train, NONE, Recipe(), quiet)
    careless = fit(BASE, train, NONE, Recipe(weight_decay=0), quiet)
    assert accuracy(ours, test) > 0.9
    assert accuracy(careless, test) < accuracy(ours, test) - 0.05


def test_probabilities_sum_to_one() -> None:
    rows = examples(20, 3).rows
    np.testing.assert_allclose(np.exp(BASE.log_probs(rows)).sum(1), 1, atol=1e-12)


def test_zero_epochs_are_the_base() -> None:
    assert fit(BASE, examples(50, 1), NONE, Recipe(epochs=0), quiet) is BASE


def test_training_leaves_the_base_alone() -> None:
    before = BASE.weights.copy()
    fit(BASE, examples(50, 1), NONE, Recipe(epochs=1), quiet)
    np.testing.assert_array_equal(BASE.weights, before)


def test_steps_and_seed(tmp_path: Path) -> None:
    data, seen, sums = examples(50, 1), list[Epoch](), list[str]()
    for seed in (1, 1, 2):
        head = fit(BASE, data, NONE, Recipe(epochs=3, batch_size=16, seed=seed), seen.append)
        sums.append(save_head(head, tmp_path / "model"))
    assert [epoch.steps for epoch in seen[:3]] == [4, 8, 12]
    assert sums[0] == sums[1] != sums[2]
    last = list[Epoch]()
    fit(BASE, data, NONE, Recipe(epochs=3, batch_size=16, max_steps=5), last.append)
    assert [epoch.steps for epoch in last] == [4, 5]


def test_the_best_epoch_on_validation_is_kept() -> None:
    seen = list[Epoch]()
    val = examples(60, 9)
    head = fit(BASE, examples(40, 1, flip=0.5), val, Recipe(epochs=30, learning_rate=0.05), seen.append)
    losses = [epoch.val_loss for epoch in seen]
    assert val.loss(head) == pytest.approx(min(x for x in losses if x is not None))
    assert losses[-1] is not None
    assert losses[-1] > min(x for x in losses if x is not None)


@pytest.mark.parametrize("change", [{"decoupled": False}, {"cosine": False}, {"warmup_steps": 5}, {"beta1": 0.5}])
def test_settings_are_honoured(change: dict[str, float]) -> None:
    data = examples(60, 1)
    recipe = Recipe(epochs=2, weight_decay=0.1)
    plain = fit(BASE, data, NONE, recipe, quiet)
    other = fit(BASE, data, NONE, replace(recipe, **change), quiet)
    assert not np.array_equal(plain.weights, other.weights)


def test_rates() -> None:
    recipe = Recipe(learning_rate=1, min_learning_rate=0.1, warmup_steps=10)
    rates = [recipe.rate(step, 110) for step in range(110)]
    assert rates[9] == pytest.approx(1)
    assert rates[-1] == pytest.approx(0.1, abs=1e-3)
    assert rates[:10] == sorted(rates[:10])
    assert rates[10:] == sorted(rates[10:], reverse=True)


def test_unknown_labels_get_their_words() -> None:
    assert widen({"a_b": "given"}, ["a_b", "pay-day", "c_d"]) == {"a_b": "given", "pay-day": "pay day", "c_d": "c d"}


def test_a_file_gives_the_model_back(tmp_path: Path) -> None:
    save_head(BASE, tmp_path / "model")
    back = load_head(tmp_path / "model")
    assert (back.labels, back.embedder) == (BASE.labels, BASE.embedder)
    np.testing.assert_array_equal(back.weights, BASE.weights)
