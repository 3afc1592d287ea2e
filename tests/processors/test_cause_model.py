"""The learnt half of attribution: what it says of clear and of empty cases, what labels teach, and what comes back."""

from __future__ import annotations

import random

import pytest

from processors.cause_model import (
    ABSTAIN,
    INPUTS,
    LOW,
    default,
    dump,
    fresh,
    inputs,
    learn,
    load,
    low_of,
    predict,
    see,
)
from processors.causes import CAUSES, Case, Fired, rules
from schemas.errors import Invalid
from schemas.events import Cause

CLEAR: dict[Cause, Case] = {
    "tool": Case({"tool_failed": 1.0}),
    "routing": Case({"declined": 1.0, "handoffs": 1.0}),
    "rephrasal": Case({"queries": 1.0, "searches": 1.0, "query_lost": 1.0, "query_unlike": 0.5}, 1, 0.8),
    "retrieval": Case({"queries": 1.0, "searches": 1.0, "found_unlike": 0.9}, 1, 0.2),
    "knowledge_gap": Case({"queries": 3.0, "searches": 3.0, "found_none": 1.0, "no_answer": 1.0}, 3),
    "generation": Case({"queries": 1.0, "searches": 1.0, "ungrounded": 1.0, "numbers_unseen": 1.0}, 1, 0.9),
}


def told(case: Case, state: dict[str, object] | None = None) -> dict[Cause, float]:
    held = state if state is not None else fresh()
    return predict(case, rules(case, low_of(held)), held)


@pytest.mark.parametrize("cause", CAUSES)
def test_clear_cases_are_told_and_sum_to_one(cause: Cause) -> None:
    chances = told(CLEAR[cause])
    assert max(chances, key=lambda name: chances[name]) == cause
    assert chances[cause] >= ABSTAIN
    assert sum(chances.values()) == pytest.approx(1.0)


@pytest.mark.parametrize("case", [Case({}), Case({}, facts=frozenset({"asked_again"})), Case({"queries": 1.0})])
def test_where_nothing_shows_it_abstains(case: Case) -> None:
    assert max(told(case).values()) < ABSTAIN


def test_the_shipped_model_knows_only_known_inputs() -> None:
    for weights in default()["weights"].values():
        assert set(weights) <= set(INPUTS)
    seen = inputs(CLEAR["retrieval"], rules(CLEAR["retrieval"], LOW), LOW)
    assert set(seen) <= set(INPUTS)
    assert all(0.0 < value <= 1.0 for value in seen.values())


def test_few_labels_teach_an_agents_own_kind_of_failure() -> None:
    state, case = fresh(), CLEAR["retrieval"]
    for _ in range(20):
        learn(state, case, "generation")
    assert told(case, state)["generation"] > 0.8
    assert told(CLEAR["tool"], state) == told(CLEAR["tool"]), "what the rules say otherwise stays as it was"
    assert state["labels"] == 20


def test_labels_without_a_pattern_teach_nothing_that_is_told() -> None:
    """The control: causes drawn by lot."""
    state, chance = fresh(), random.Random(3)
    for _ in range(400):
        learn(state, CLEAR["retrieval"], chance.choice(CAUSES))
    assert max(told(CLEAR["retrieval"], state).values()) < ABSTAIN


def test_labels_that_agree_change_little() -> None:
    state = fresh()
    for _ in range(50):
        for cause, case in CLEAR.items():
            learn(state, case, cause)
    for cause, case in CLEAR.items():
        assert told(case, state)[cause] >= told(case)[cause] - 1e-9


def test_unknown_teaches_nothing() -> None:
    state = fresh()
    learn(state, CLEAR["tool"], "unknown")
    assert state == fresh()


def test_state_comes_back_bit_equal_and_small() -> None:
    state, chance = fresh(), random.Random(5)
    for _ in range(300):
        learn(state, CLEAR[chance.choice(CAUSES)], chance.choice(CAUSES))
        see(state, chance.random())
    text = dump(state)
    back = load(text)
    assert back == state
    assert dump(back) == text
    assert told(CLEAR["routing"], back) == told(CLEAR["routing"], state)
    assert len(text) < 1_500
    learn(state, CLEAR["tool"], "tool")
    learn(back, CLEAR["tool"], "tool")
    assert dump(back) == dump(state)


@pytest.mark.parametrize("text", ["{", "[]", '{"v": 99}', "7"])
def test_what_is_no_state_is_refused(text: str) -> None:
    with pytest.raises(Invalid, match="field causes"):
        load(text)
    assert load("") == fresh()


def test_an_agents_own_scores_say_which_are_poor() -> None:
    state, chance = fresh(), random.Random(9)
    for _ in range(20):
        see(state, 0.9)
    assert low_of(state) == LOW, "too few to know"
    for _ in range(4_000):
        see(state, chance.uniform(5.0, 15.0))
    assert low_of(state) == pytest.approx(6.0, abs=1.0)
    poor = Case({"searches": 1.0, "queries": 1.0}, 1, 5.2)
    assert "retrieval" in {one.cause for one in rules(poor, low_of(state))}
    assert "retrieval" not in {one.cause for one in rules(poor, LOW)}


def test_the_surest_rule_of_a_cause_counts() -> None:
    fired = [Fired("a", "tool", 0.7), Fired("b", "tool", 0.9), Fired("c", "routing", 0.4)]
    seen = inputs(Case({}), fired, LOW)
    assert (seen["rule:tool"], seen["rule:routing"], seen["first:tool"]) == (0.9, 0.4, 1.0)
