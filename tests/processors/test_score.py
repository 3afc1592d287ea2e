"""Scores: what is missing says nothing, what is there points the right way."""

from __future__ import annotations

import json
import math

import pytest

from driftwheel.buffered import BufferedState
from processors.assemble import Assemble
from processors.calibrating import p_failure
from processors.score import ScoreTurns
from processors.state import MemoryState
from schemas.events import Calibration, Record, Score
from schemas.topics import SCORES
from tests.world import AGENT, START, TENANT, World, message, run_in_memory, turn


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


MODEL = {
    "v": 1, "columns": {"doubt": [0.2, 0.1, 1.0], "refusal": [0.05, 0.2, 0.5]}, "absent": {"logprobs": 0.4},
    "intercept": -1.0, "platt": [1.2, -0.3], "categories": {"it": -1.5}, "other": -2.0,
}  # fmt: skip


def calibration(number: int, model: object = MODEL, **given: object) -> Calibration:
    return Calibration.model_validate({
        "event_id": f"c{number}", "tenant": TENANT, "agent": AGENT, "event_time": START, "number": number,
        "lessons": 300, "audited": 40, "model": json.dumps(model) if model else "", **given,
    })  # fmt: skip


def rescored(store: MemoryState, *records: Record) -> list[Score]:
    batch = [message(one, place) for place, one in enumerate(records)]
    return [one for one in ScoreTurns().process(batch, store) if isinstance(one, Score)]


def test_a_calibration_scores_what_comes_after_it_and_is_named() -> None:
    store, one = MemoryState(), turn(logprob_top1=-0.7, logprob_top2=-0.7, category="it")
    before, after = rescored(store, one, calibration(7), one)
    (later,) = rescored(store, one)
    assert (before.scorer, after.scorer) == ("rules-1", "calibration-7")
    assert later == after != before
    assert after.event_id == before.event_id
    assert after.features == before.features | {"weak_category": -1.5}
    assert after.p_failure == round(p_failure(after.features, MODEL), 6) != before.p_failure
    assert after.uncertainty == before.uncertainty, "what drift is looked for in does not jump"


def test_the_newest_calibration_counts_in_whatever_order_they_come() -> None:
    (found,) = rescored(MemoryState(), calibration(9), calibration(8, {**MODEL, "intercept": 3.0}), turn())
    assert found.scorer == "calibration-9"


def test_a_calibration_is_for_its_agent_alone() -> None:
    ours, theirs = rescored(MemoryState(), calibration(1), turn(), turn(agent="another"))
    assert (ours.scorer, theirs.scorer) == ("calibration-1", "rules-1")


def test_forces_come_without_a_model_too_and_only_when_learnt() -> None:
    before, after = rescored(MemoryState(), turn(), calibration(1, None, forces={"rephrase": -0.2}), turn())
    assert (before.forces, after.forces) == ({}, {"rephrase": -0.2})
    assert (after.scorer, after.p_failure) == ("rules-1", before.p_failure)


def test_turns_change_no_state() -> None:
    """Neither before a calibration, where a deletion would be written, nor after one."""
    texts: dict[str, str] = {}
    state = BufferedState(texts.get, lambda _: [])
    ScoreTurns().process([message(turn())], state)
    assert dict(state.changes) == {}
    ScoreTurns().process([message(calibration(1))], state)
    texts |= {key: put[0] for key, put in state.changes.items() if put is not None}
    assert len(texts) == 1
    state = BufferedState(texts.get, lambda _: [])
    assert ScoreTurns().process([message(turn()), message(calibration(1))], state)
    assert dict(state.changes) == {}


def test_estimates_become_features_and_only_those_that_are_known() -> None:
    found = scored(estimates={"min_prob": 0.2, "agreement": 0.6, "semantic_entropy": 0.5, "other": 1.0})
    assert found.features.items() >= {"min_prob": 0.2, "inconsistency": 0.4, "semantic_entropy": 0.5}.items()
    assert not {"other", "agreement", "token_entropy"} & set(found.features)
    assert found.p_failure == PLAIN.p_failure, "the rules do not know them"
    assert scored(logprob_top1=-0.3).features["nll"] == 0.3


def test_the_probability_of_a_model_by_hand() -> None:
    z = 1.0 * (0.5 - 0.2) / 0.1 + 0.5 * (0.0 - 0.05) / 0.2 - 1.0
    given = p_failure({"doubt": 0.5, "refusal": 0.0, "unheard_of": 9.0}, MODEL)
    assert given == pytest.approx(1 / (1 + math.exp(-(1.2 * z - 0.3))))
    without = p_failure({"refusal": 0.0}, MODEL)
    assert without == pytest.approx(1 / (1 + math.exp(-(1.2 * (0.4 - 0.125 - 1.0) - 0.3))))


def test_unsure_wrong_answers_score_worse_than_others() -> None:
    world = World(seed=3, sessions=60, shift=0)
    unsure = {op.trace for op in world.ops if op.kind == "llm" and op.logprobs == (-0.9, -1.2)}
    run = run_in_memory([Assemble(), ScoreTurns()], world.clean(), [world.end])
    bad = [one.p_failure for one in run.records(SCORES) if one.trace_id in unsure]
    rest = sorted(one.p_failure for one in run.records(SCORES) if one.trace_id not in unsure)
    assert len(bad) > 10
    assert min(bad) > rest[len(rest) // 2]
