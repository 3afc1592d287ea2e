"""Which features moved: numbers and shares, few and surprising first."""

from __future__ import annotations

import random
from typing import Any

from processors.movement import moved, observe


def seen(count: int, shift: float = 0.0) -> dict[str, Any]:
    chance, data = random.Random(1), dict[str, Any]()
    for place in range(count):
        late = place >= count - 60
        cause = "tool" if late and chance.random() < 0.5 else ""
        observe(data, {"uncertainty": chance.random() + (shift if late else 0.0)}, {"cause": cause, "category": "it"})
    return data


def test_nothing_moved_while_nothing_did() -> None:
    chance, data = random.Random(2), dict[str, Any]()
    for _ in range(2_000):
        observe(data, {"uncertainty": chance.random()}, {"category": chance.choice("abc")})
    assert moved(data) == {}


def test_a_share_that_was_never_there_and_a_number_that_jumped() -> None:
    found = moved(seen(1_000, shift=0.6))
    assert list(found) == ["cause:tool", "uncertainty"]
    assert 0.3 < found["uncertainty"] < 0.7


def test_few_outcomes_say_nothing() -> None:
    assert moved(seen(80, shift=0.6)) == {}


def test_endless_names_do_not_fill_the_state() -> None:
    data = dict[str, Any]()
    for place in range(500):
        observe(data, {}, {"category": f"c{place}"})
    assert len(data) <= 24
