"""The phrases that users say, and those that only look like it."""

from __future__ import annotations

import pytest

from processors.likeness import LETTERS, Likeness
from processors.phrases import is_closing
from processors.reactions import Reaction, ReactionRules, Said, pace, reactions, said


def named(now: str, before: str = "where is my payslip") -> list[str]:
    return [one.name for one in reactions([Said(before, end=0.0)], Said(now, start=10.0), ReactionRules())]


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


def reaction(now: Said, *earlier: Said, alike: Likeness = LETTERS) -> dict[str, Reaction]:
    return {one.name: one for one in reactions(earlier, now, ReactionRules(), alike)}


@pytest.mark.parametrize(
    "text",
    ["I already told you my name", "as I said, it is broken", "you asked me that", "I gave you my number before"],
)
def test_saying_that_it_was_said(text: str) -> None:
    assert "forgetfulness" in reaction(Said(text), Said("where is my payslip"))


@pytest.mark.parametrize("text", ["tell me again", "I told a friend", "what did you ask him"])
def test_not_saying_that_it_was_said(text: str) -> None:
    assert "forgetfulness" not in reaction(Said(text), Said("where is my payslip"))


def test_rules_about_time_say_nothing_without_it() -> None:
    before = Said("reset my vpn", end=100.0)
    assert set(reaction(Said("reset my vpn"), before)) == {"repeat"}
    assert set(reaction(Said("reset my vpn", start=110.0), before)) == {"regenerate"}
    assert set(reaction(Said("vpn reset", start=900.0), before)) == set()
    assert set(reaction(Said("vpn reset"), before)) == {"rephrase"}


def test_evidence_says_which_rule_and_what_it_saw() -> None:
    before = Said("reset my vpn password now", end=100.0)
    seen = reaction(Said("no, reset my vpn password", start=112.4), before)
    assert dict(seen["explicit_correction"].evidence) == {"rule": "phrase:correction"}
    assert {**seen["rephrase"].evidence, "similarity": "s"} == {
        "rule": "alike", "similarity": "s", "measure": "letters", "gap_s": "12",
    }  # fmt: skip
    assert float(seen["rephrase"].evidence["similarity"]) > 0.5


def test_a_pause_counts_for_the_length_of_the_answer() -> None:
    paces = tuple(pace(said("q", "word " * 20, end=0.0), Said("n", start=float(s))) or 0.0 for s in (9, 10, 11, 12, 10))
    short, long = (said("q", "word " * n, end=0.0) for n in (20, 2_000))
    late = Said("when is payday", start=300.0, paces=paces)
    assert "dwell" in reaction(late, short)
    assert "dwell" not in reaction(late, long)
    assert "dwell" not in reaction(Said("when is payday", start=300.0, paces=paces[:3]), short)
