"""The edit distance is Levenshtein's, by the length of the longer text, and cheap however long the texts are."""

from __future__ import annotations

import random

import pytest

from processors.edits import LIMIT, distance, size


def plainly(first: str, second: str) -> int:
    """Levenshtein's distance by the table that defines it."""
    row = list(range(len(second) + 1))
    for i, one in enumerate(first, 1):
        before, row[0] = row[0], i
        for j, other in enumerate(second, 1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (one != other))
    return row[-1]


def test_it_is_what_the_definition_says() -> None:
    rng = random.Random(5)
    for _ in range(400):
        first, second = ("".join(rng.choices("abc", k=rng.randrange(0, 70))) for _ in range(2))
        longest = max(len(first), len(second), 1)
        assert distance(first, second) == pytest.approx(plainly(first, second) / longest)
        assert distance(first, second) == pytest.approx(distance(second, first))


def test_long_texts_differ_alike_beyond_the_limit() -> None:
    rng = random.Random(6)
    first = "".join(rng.choices("abcdefgh ", k=5 * LIMIT))
    edited = "".join(letter if rng.random() > 0.1 else "#" for letter in first)
    assert distance(first, edited) == pytest.approx(0.1, abs=0.02)
    assert size(distance(first, edited)) == "light"
    shuffled = "".join(rng.sample(first, len(first)))
    assert size(distance(first, shuffled)) == "rewrite"
    assert distance(first, first[: 3 * LIMIT] + "#" + first[3 * LIMIT :]) == pytest.approx(1 / len(first), rel=0.01)


def test_spaces_at_the_ends_do_not_count() -> None:
    assert distance(" open until three\n", "open until three") == 0
