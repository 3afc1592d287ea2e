"""Scores: what is missing says nothing, what is there points the right way."""

from __future__ import annotations

import math

import pytest

from processors.assemble import Assemble
from processors.score import ScoreTurns
from processors.state import MemoryState
from schemas.events import Score
from schemas.topics import SCORES
from tests.world import World, message, run_in_memory, turn


def scored(**given: object) -> Score:
    (found,) = ScoreTurns().process([message(turn(**given))], MemoryState())
    assert isinstance(found, Score)
    return found


PLAIN = scored(output="Your laptop is on its way.")


@pytest.mark.parametrize(
    "given",
    [
        {"logprob_top1": -0.7, "logprob_top2": -0.7},
        {"output": "I think it might possibly be the router, but I am not sure"},
        {"output": "I'm sorry, I cannot help with that"},
        {"tool_calls": 1, "tool_errors": 1, "failed_tool": "find"},
        {"retrievals": 2, "retrieval_score": 0.1},
        {"error": "timeout"},
    ],
)
def test_every_sign_of_trouble_raises_the_probability_of_failure(given: dict[str, object]) -> None:
    assert scored(**given).p_failure > PLAIN.p_failure


def test_a_sure_answer_lowers_it() -> None:
    sure = scored(logprob_top1=-0.001, logprob_top2=-9.0)
    assert sure.p_failure < PLAIN.p_failure
    assert sure.uncertainty == pytest.approx(0.001, abs=0.001)


def test_features_that_are_missing_are_not_invented() -> None:
    assert "doubt" not in PLAIN.features
    assert "low_retrieval" not in PLAIN.features
    assert PLAIN.uncertainty == PLAIN.p_failure == pytest.approx(1 / (1 + math.exp(2.0)), abs=1e-6)


@pytest.mark.parametrize("value", [5.0, -1e9, 1e308])
def test_strange_numbers_stay_in_bounds(value: float) -> None:
    found = scored(logprob_top1=value, logprob_top2=value, retrieval_score=value)
    assert 0 <= found.uncertainty <= 1
    assert 0 <= found.p_failure <= 1


def test_an_answer_that_is_the_category_is_a_route() -> None:
    assert scored(category="it", output=" IT ").features["router"] == 1.0
    assert scored(category="it", output="ask the help desk").features["router"] == 0.0


def test_unsure_wrong_answers_score_worse_than_others() -> None:
    world = World(seed=3, sessions=60, shift=0)
    unsure = {op.trace for op in world.ops if op.kind == "llm" and op.logprobs == (-0.9, -1.2)}
    run = run_in_memory([Assemble(), ScoreTurns()], world.clean(), [world.end])
    bad = [one.p_failure for one in run.records(SCORES) if one.trace_id in unsure]
    rest = sorted(one.p_failure for one in run.records(SCORES) if one.trace_id not in unsure)
    assert len(bad) > 10
    assert min(bad) > rest[len(rest) // 2]
