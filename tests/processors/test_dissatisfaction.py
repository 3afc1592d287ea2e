"""The dissatisfaction model: directions hold whatever was fitted, and what it learnt holds on data it has not seen."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from processors.conversation import conversation_of
from processors.dissatisfaction import (
    BY_MEANING,
    POLARITY,
    Heard,
    coefficients,
    dissatisfaction,
    features_of,
    probability,
)
from schemas.errors import Invalid
from tests.processors.test_listening import Meaning

TEXTS = st.lists(st.tuples(st.text(max_size=60), st.text(max_size=60)), max_size=6)


@pytest.mark.parametrize("meaning", [False, True])
def test_every_coefficient_points_its_way(meaning: bool) -> None:
    weights = coefficients(meaning)
    assert set(weights) == {"bias", *(name for name in POLARITY if meaning or name not in BY_MEANING)}
    assert all(weights[name] * way >= 0 for name, way in POLARITY.items() if name in weights)
    assert sum(abs(weights[name]) > 0.1 for name in POLARITY if name in weights) >= 12


@given(TEXTS)
@settings(deadline=None)
def test_features_are_bounded_and_the_same_again(talk: list[tuple[str, str]]) -> None:
    heard = [Heard(text, answer) for text, answer in talk]
    for alike in (Meaning(), None):
        found = features_of(heard, alike) if alike else features_of(heard)
        assert len(found) == len(heard)
        for features in found:
            assert set(features) == {n for n in POLARITY if alike or n not in BY_MEANING}
            assert all(0.0 <= value <= 1.0 for value in features.values())
        assert all(0.0 < p < 1.0 for p in dissatisfaction(heard))


@given(st.sampled_from(sorted(POLARITY)), st.floats(0, 1), st.floats(0, 1))
def test_more_of_a_feature_never_points_the_other_way(name: str, one: float, two: float) -> None:
    weights = coefficients(meaning=True)
    low, high = (probability({name: value}, weights) for value in sorted((one, two)))
    assert (high - low) * POLARITY[name] >= 0


@pytest.mark.parametrize(
    ("worse", "better"),
    [
        ("no, that is wrong", "yes, the second one"),
        ("what do you mean?", "the blue one"),
        ("this is useless", "this is the one"),
        ("let me talk to a human", "let me think of a date"),
        ("I want my money back", "that helps, thank you"),
        ("I already told you my number", "my number is 17"),
        ("how do I get a refund", "on Monday"),
        ("ANSWER ME NOW!!!", "answer me now"),
    ],
)
def test_a_worse_reaction_is_a_worse_sign(worse: str, better: str) -> None:
    before = [Heard("how do I get a refund"), Heard("hm", "Which order is it?")]
    high, low = (dissatisfaction([*before, Heard(text, "Let us see.")])[-1] for text in (worse, better))
    assert high > low


@pytest.mark.parametrize(
    ("worse", "better"),
    [
        ("I am sorry, I cannot help with that.", "Your refund is on its way."),
        ("", "Your refund is on its way."),
        ("Hello, this is the shop.", "Your refund is on its way."),
    ],
)
def test_a_worse_answer_is_a_worse_sign(worse: str, better: str) -> None:
    before = [Heard("how do I get a refund"), Heard("order 17 please", "Hello, this is the shop.")]
    high, low = (dissatisfaction([*before, Heard("the jacket", answer)])[-1] for answer in (worse, better))
    assert high > low


def test_trouble_is_remembered() -> None:
    def talk(first: str) -> float:
        return dissatisfaction([Heard("hi"), Heard(first, "Hm."), Heard("the jacket", "Aha.")])[-1]

    assert talk("no, that is wrong") > talk("order 17")


def test_nobody_is_dissatisfied_with_nothing() -> None:
    assert dissatisfaction([Heard("this is terrible, the printer is broken")])[0] < 0.3


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ([], "expected a JSON object"),
        ({"messages": []}, "conversation_id"),
        ({"conversation_id": True, "messages": []}, "conversation_id"),
        ({"conversation_id": "c"}, "messages"),
        ({"conversation_id": "c", "messages": [3]}, "messages[0]"),
        ({"conversation_id": "c", "messages": [{"role": "user"}, {"role": "narrator"}]}, "messages[1].role"),
        ({"conversation_id": "c", "messages": [{"role": "user", "content": 3}]}, "messages[0].content"),
        (
            {"conversation_id": "c", "messages": [{"role": "user", "content": "s3cret", "timestamp": "s3cret"}]},
            "messages[0].timestamp",
        ),
    ],
)
def test_what_is_no_conversation_is_refused_by_field(body: object, field: str) -> None:
    with pytest.raises(Invalid, match=r"^\w+: ") as found:
        conversation_of(body)
    assert found.value.detail.startswith(field)
    assert "s3cret" not in str(found.value)


def test_a_conversation_is_what_its_user_heard() -> None:
    messages = [
        {"role": "system", "content": "be kind"},
        {"role": "assistant", "content": "Hello."},
        {"role": "user", "content": [{"type": "text", "text": "book"}, {"type": "text", "text": "a room"}]},
        {"role": "assistant", "content": None},
        {"role": "tool", "content": "{}"},
        {"role": "assistant", "content": "Done."},
        {"role": "user", "content": "thanks", "timestamp": "2026-01-05T09:00:00Z"},
        {"role": "assistant", "content": "Bye."},
    ]
    found = conversation_of({"conversation_id": 7, "messages": messages})
    assert [(one.text, one.answer) for one in found.heard] == [("book\na room", "Hello."), ("thanks", "Done.")]
    assert (found.last_word, found.heard[1].at, found.heard[0].at) == ("Bye.", 1_767_603_600.0, None)


def test_it_tells_breakdowns_on_real_dialogues(shared_data: Path) -> None:
    """A seeded fifth of the dialogues. The coefficients were fitted on them all: this holds the code, not a claim.

    The control: verdicts that were shuffled are told by chance.
    """
    from benchmarks.signals import data
    from benchmarks.signals.dissatisfaction import auroc
    from processors.likeness import LETTERS

    assert shared_data == data.DATA
    some = data.Set(random.Random(3).sample(data.breakdowns(), 80), LETTERS)
    weights = coefficients(meaning=False)
    scores = some.x @ [weights[name] for name in some.names]
    assert auroc(some.y, scores) > 0.68
    shuffled = some.y.copy()
    random.Random(4).shuffle(shuffled)
    assert 0.42 < auroc(shuffled, scores) < 0.58
