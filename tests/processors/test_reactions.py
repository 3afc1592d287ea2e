"""The phrases that users say, and those that only look like it."""

from __future__ import annotations

import pytest

from processors.reactions import is_closing, reactions


def named(now: str, before: str = "where is my payslip") -> list[str]:
    return [one.name for one in reactions(before, now, 10.0, 0.5, 300.0)]


@pytest.mark.parametrize(
    "text", ["No.", "nope, that failed", "That\u2019s wrong", "this is not what I asked", "Actually, it is for March",
             "you ignored my question", "I meant the pay slip", "please try again"],
)  # fmt: skip
def test_corrections(text: str) -> None:
    assert "explicit_correction" in named(text)


@pytest.mark.parametrize("text", ["no problem", "no thanks", "now the other one", "nothing else", "I know the rule"])
def test_not_corrections(text: str) -> None:
    assert "explicit_correction" not in named(text)


@pytest.mark.parametrize(
    "text", ["can I speak to a person", "connect me with a live agent", "human agent!", "open a support ticket",
             "please escalate this", "I want to talk to your manager"],
)  # fmt: skip
def test_escalations(text: str) -> None:
    assert "escalation" in named(text)


@pytest.mark.parametrize(
    "text", ["who is the manager of team red", "human resources address", "price of a train ticket"]
)
def test_not_escalations(text: str) -> None:
    assert named(text) == ["proceeded"]


@pytest.mark.parametrize("text", ["thanks", "Ok great, thank you so much!", "That's all", "solved", "bye"])
def test_closings(text: str) -> None:
    assert is_closing(text)
    assert named(text) == ["task_complete"]


def test_a_thank_you_with_a_complaint_is_a_complaint() -> None:
    assert named("thanks, but that is wrong") == ["explicit_correction"]


def test_empty_texts_say_nothing() -> None:
    assert named("", "") == named(" \ud800 ", "...") == []
