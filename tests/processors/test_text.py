"""Likeness of texts, with pairs that a person would call alike or not."""

from __future__ import annotations

import pytest

from processors.text import chance, normal, resemblance, similarity, sketch


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("how do I reset my password", "I need a new password, the reset fails"),
        ("book a flight to berlin", "flight berlin booking"),
        ("the printer is jammed", "printer jam on my floor"),
    ],
)
def test_rephrasings_are_alike(first: str, second: str) -> None:
    assert similarity(first, second) >= 0.5


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("how do I reset my password", "how do I book a flight"),
        ("what is the holiday policy", "what is the wifi code"),
        ("", "hello"),
        ("\ud800", "!!!"),
    ],
)
def test_other_topics_are_not(first: str, second: str) -> None:
    assert similarity(first, second) < 0.5


def test_a_sketch_finds_near_copies_and_only_those() -> None:
    text = "please reset the password of my company mailbox today"
    assert resemblance(sketch(text), sketch(text.upper() + "!")) == 1.0
    assert resemblance(sketch(text), sketch(text.replace("today", "now"))) > 0.6
    assert resemblance(sketch(text), sketch("which hotel is allowed in oslo")) < 0.2
    assert len(sketch(text * 100)) <= 32


def test_normal_keeps_nothing_but_words() -> None:
    assert normal(" Caf\u00e9,\n NO.5 ") == "caf\u00e9 no 5"


def test_chance_is_uniform() -> None:
    values = [chance("turn", str(n)) for n in range(4_000)]
    assert all(0 <= value < 1 for value in values)
    assert abs(sum(value < 0.1 for value in values) / 4_000 - 0.1) < 0.02
