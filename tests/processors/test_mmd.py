"""MMD by itself: new subjects are found, the same ones are not, and the state is small."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from numpy.typing import NDArray

from processors.mmd import FEATURES, Mmd, features, fresh, sketch, sketched, update

LIMIT = 3.2
KNOWN = [29, -63, -110, 10]


def texts(seed: int, count: int, new: float = 0.0) -> NDArray[np.int8]:
    """Features of embeddings around thirty subjects; a share of ten other ones."""
    centres = np.random.default_rng(1).normal(size=(40, 64))
    chance = np.random.default_rng(seed)
    subject = np.where(chance.random(count) < new, chance.integers(30, 40, count), chance.integers(0, 30, count))
    rows = centres[subject] + 0.8 * chance.normal(size=(count, 64))
    return features(rows / np.linalg.norm(rows, axis=1, keepdims=True))


def statistics(rows: NDArray[np.int8]) -> list[float]:
    data = fresh()
    return [update(data, row, Mmd()) for row in rows]


def test_the_same_subjects_stay_under_the_threshold() -> None:
    found = statistics(texts(2, 6_000))
    assert found[:1_000] == [0.0] * 1_000, "the reference is learnt first"
    assert max(found) < LIMIT
    assert 0.5 < float(np.mean(found[1_500:])) < 2.0, "in units of chance"


def test_new_subjects_are_found() -> None:
    for seed in (3, 4, 5):
        found = statistics(np.concatenate([texts(seed, 2_000), texts(seed + 10, 1_000, new=0.6)]))
        places = [place for place, value in enumerate(found) if value > LIMIT]
        assert 2_000 <= places[0] < 2_900


def test_the_features_are_the_same_everywhere() -> None:
    rows = np.eye(4, 16)
    assert (features(rows) == features(rows[:1])[0]).all(axis=1).tolist() == [True, False, False, False]
    assert features(rows)[0, :4].tolist() == KNOWN
    assert features(rows).shape == (4, FEATURES)


def test_state_is_small_and_survives_json_bit_for_bit() -> None:
    data: dict[str, Any] = fresh()
    copy, largest = fresh(), 0
    for row in texts(6, 1_500):
        copy = json.loads(json.dumps(copy))
        assert update(data, row, Mmd()) == update(copy, row, Mmd())
        largest = max(largest, len(json.dumps(copy, separators=(",", ":"))))
    assert copy == data
    assert largest <= 300


def test_a_sketch_travels_as_text_and_nothing_else_is_one() -> None:
    row = np.eye(16)[3]
    found = sketched(sketch(row))
    assert found is not None
    assert found.tolist() == features(row[None, :])[0].tolist()
    assert [sketched(text) for text in ("", "AAAA", "no base64!", "\u00e4")] == [None] * 4
