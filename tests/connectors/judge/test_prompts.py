from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.judge.prompts import MOST_RATIONALE, MOST_TEXT, Case, pair_prompt, score_prompt, scored, winner
from connectors.judge.rubrics import NAMES, rubric

CASE = Case("how do I reset my vpn?", "in the portal", "VPN: portal, Reset", ("VPN: portal, Reset", "lunch is at noon"))


def material(messages: list[dict[str, str]]) -> dict[str, Any]:
    return json.loads(messages[-1]["content"].split("\nMATERIAL\n", 1)[1])


@pytest.mark.parametrize("name", NAMES)
def test_each_rubric_shows_what_it_needs_and_nothing_else(name: str) -> None:
    shown = material(score_prompt(rubric(name), CASE))
    wanted = {
        "factuality": {"question", "answer", "reference", "documents"},
        "retrieval_relevance": {"question", "documents"},
    }
    assert set(shown) == wanted.get(name, {"question", "answer"})
    assert set(material(pair_prompt(rubric(name), CASE, "a", "b"))) >= {"question", "candidate_1", "candidate_2"}


def test_factuality_is_not_judged_without_something_to_judge_it_against() -> None:
    bare = Case("q", "a")
    assert [name for name in NAMES if bare.fits(rubric(name))] == ["instruction_following", "safety_refusal", "tone"]
    assert not Case("q", " ").fits(rubric("tone"))
    assert not Case("", "a").fits(rubric("tone"))
    assert Case("q", "a", reference="r").fits(rubric("factuality"))
    assert Case("q", "", documents=("d",)).fits(rubric("retrieval_relevance"))


@given(st.text(), st.text())
def test_no_text_gets_out_of_the_material(question: str, answer: str) -> None:
    shown = material(score_prompt(rubric("tone"), Case(question, answer)))
    assert (shown["question"], shown["answer"]) == (question[:MOST_TEXT], answer[:MOST_TEXT])


def test_long_texts_are_cut_and_it_is_said() -> None:
    shown = material(score_prompt(rubric("tone"), Case("q", "x" * (MOST_TEXT + 7))))
    assert shown["answer"].endswith("[... 7 more characters]")


@pytest.mark.parametrize(
    ("text", "score", "abstained"),
    [
        ('{"score": 1, "rationale": "r"}', 1.0, ""),
        ('```json\n{"score": 0.25}\n```', 0.25, ""),
        ('{"score": null, "rationale": "r"}', None, "unsure"),
        ('{"score": 1.2}', None, "unparsable"),
        ('{"score": "0.5"}', None, "unparsable"),
        ('{"score": true}', None, "unparsable"),
        ('{"score": NaN}', None, "unsure"),
        ('{"rationale": "r"}', None, "unparsable"),
        ('{"score": 1, "confidence": 1}', None, "unparsable"),
        ('Sure! {"score": 1}', None, "unparsable"),
        ('{"score": 1} {"score": 0}', None, "unparsable"),
        ("[" * 100_000, None, "unparsable"),
        ("[1]", None, "unparsable"),
        ("", None, "unparsable"),
    ],
)
def test_an_answer_is_read_strictly(text: str, score: float | None, abstained: str) -> None:
    found = scored(text)
    assert (found.score, found.abstained) == (score, abstained)


@given(st.text())
def test_any_text_is_read_as_something(text: str) -> None:
    assert (scored(text).score is None) == bool(scored(text).abstained)
    assert winner(text) in (None, 0, 1, 2)


def test_rationales_are_short_and_one_line() -> None:
    found = scored(json.dumps({"score": 0, "rationale": "a\n\n b " + "c" * 1000}))
    assert found.rationale.startswith("a b cc")
    assert len(found.rationale) == MOST_RATIONALE
    assert scored('{"score": 0, "rationale": [1]}').rationale == ""
