"""Outcomes: when a turn settles, what the verdict is, what was the first fault, one value per session."""

from __future__ import annotations

import random
from datetime import timedelta
from typing import Any

import pytest

from processors.attribute import Attribute, AttributeSettings
from processors.evidence import VerdictRules
from processors.sessions import FIELDS
from processors.state import KeyState, MemoryState, plain
from schemas.events import Failure, Outcome, Record, Score, Signal, Turn
from schemas.subjects import Subject
from tests.world import START, TENANT, message, score, signal, turn

CLOSE = 1_861.0
"""Seconds of silence after which a session has closed: the gap and the grace."""


class Bench:
    def __init__(self) -> None:
        self.stage, self.store, self.offset = Attribute(), MemoryState(), 0
        self.failures: list[Failure] = []

    def send(self, *records: Record) -> list[Outcome]:
        batch = [message(one, self.offset + n) for n, one in enumerate(records)]
        self.offset += len(records)
        return self._outcomes(self.stage.process(batch, self.store))

    def tick(self, seconds: float) -> list[Outcome]:
        return self._outcomes(self.stage.expire(self.store, START + timedelta(seconds=seconds)))

    def _outcomes(self, found: list[Record]) -> list[Outcome]:
        self.failures += [one for one in found if isinstance(one, Failure)]
        return [one for one in found if isinstance(one, Outcome)]

    @property
    def size(self) -> int:
        return max(len(plain(state.dump())) for _, state in self.store)


def at(seconds: float) -> dict[str, object]:
    return {"event_time": START + timedelta(seconds=seconds)}


def scored(number: int, seconds: float | None = None, **given: Any) -> Score:
    when = 100.0 * number if seconds is None else seconds
    return score(turn_id=f"t{number}.r", turn_index=number, **at(when), **given)


def said(number: int | None, value: float, seconds: float = 50, **given: Any) -> Signal:
    about = {} if number is None else {"turn_id": f"t{number}.r"}
    return signal(value=value, **about, **at(seconds), **given)


def did(number: int, name: str, value: float, weight: float, seconds: float = 100) -> Signal:
    return signal(
        name=name, kind="implicit", source="assemble", value=value, weight=weight, turn_id=f"t{number}.r", **at(seconds)
    )


REPHRASED = did(0, "rephrase", -1.0, 0.6)


def test_the_next_turn_settles_the_one_before() -> None:
    bench = Bench()
    assert bench.send(scored(0)) == []
    assert bench.send(REPHRASED) == []
    (found,) = bench.send(scored(1))
    assert (found.turn_id, found.revision, found.verdict, found.session_value) == ("t0.r", 0, "failure", 1)
    assert found.p_failure > 0.3
    assert found.evidence[-1] == f"signal:rephrase:{REPHRASED.event_id}"


@pytest.mark.parametrize(("value", "verdict"), [(-1.0, "failure"), (1.0, "success")])
def test_a_decisive_signal_settles_at_once(value: float, verdict: str) -> None:
    bench = Bench()
    bench.send(scored(0))
    assert [one.verdict for one in bench.send(said(0, value))] == [verdict]


def test_a_signal_before_its_score_waits_for_it() -> None:
    bench = Bench()
    assert bench.send(said(0, -1.0)) == []
    assert [one.verdict for one in bench.send(scored(0))] == ["failure"]


def test_signals_find_their_turn_by_trace() -> None:
    bench = Bench()
    bench.send(scored(0), scored(1))
    (found,) = bench.send(signal(trace_id="t1", value=-1.0, **at(150)))
    assert found.turn_id == "t1.r"


def test_a_signal_about_the_session_is_about_the_last_turn_before_it() -> None:
    bench = Bench()
    bench.send(scored(0))
    assert bench.send(said(None, -1.0, 150)) == [], "the turn it is about may not be known yet"
    settled = bench.send(scored(1))
    assert [(one.turn_id, one.verdict) for one in settled] == [("t0.r", "unknown")]
    assert [(one.turn_id, one.verdict) for one in bench.tick(200 + CLOSE)] == [("t1.r", "failure")]


def test_later_evidence_that_changes_the_verdict_is_a_revision() -> None:
    bench = Bench()
    bench.send(scored(0), REPHRASED, scored(1))
    revised = bench.send(said(0, 1.0, 300))
    assert [(one.revision, one.verdict, one.session_value) for one in revised] == [(1, "success", None)]
    assert bench.send(said(0, 0.9, 301)) == [], "the verdict stands"
    assert [one.verdict for one in bench.send(said(0, -1.0, 400))] == ["failure"], "the newest rating counts"


def test_what_was_said_outweighs_what_was_done() -> None:
    bench = Bench()
    bench.send(scored(0), REPHRASED, said(0, 1.0))
    assert bench.send(scored(1)) == []
    assert [one.verdict for one in bench.tick(100 + CLOSE)] == ["unknown"]


@pytest.mark.parametrize(
    ("signals", "p_failure", "verdict"),
    [
        ([], 0.1, "unknown"),
        ([], 0.99, "unknown"),
        ([("proceeded", 1.0, 0.2)], 0.1, "success"),
        ([("task_complete", 1.0, 0.6)], 0.5, "success"),
        ([("abandonment", -1.0, 0.2)], 0.1, "unknown"),
        ([("abandonment", -1.0, 0.2)], 0.9, "failure"),
        ([("rephrase", -1.0, 0.6)], 0.05, "failure"),
        ([("copy", 0.0, 1.0)], 0.3, "success"),
        ([("regenerate", 0.0, 1.0)], 0.1, "failure"),
        ([("a name of tomorrow", 0.0, 1.0)], 0.4, "unknown"),
    ],
)
def test_verdicts(signals: list[tuple[str, float, float]], p_failure: float, verdict: str) -> None:
    bench = Bench()
    bench.send(scored(0, p_failure=p_failure), *[did(0, *one) for one in signals])
    assert [one.verdict for one in bench.send(scored(1))] == [verdict]


@pytest.mark.parametrize(
    ("given", "extra", "cause"),
    [
        ({"features": {"tool_unresolved": 1.0, "router": 1.0}, "tool_errors": 1}, [], "tool"),
        ({"features": {"router": 1.0}}, [said(0, 0.0, name="correction", text="hr")], "routing"),
        ({"features": {"router": 1.0}}, [], "routing"),
        ({}, [said(0, 0.0, name="missing_knowledge")], "knowledge_gap"),
        ({"retrievals": 2, "retrieval_score": 0.1}, [], "retrieval"),
        ({}, [REPHRASED], "unknown"),
        ({"features": {"hedges": 2.0}}, [], "generation"),
        ({"retrievals": 2, "retrieval_score": 0.9, "features": {"ungrounded": 1.0}}, [], "generation"),
        ({}, [], "unknown"),
    ],
)
def test_the_first_fault_that_fires_is_the_cause(given: dict[str, Any], extra: list[Signal], cause: str) -> None:
    bench = Bench()
    (found,) = bench.send(*extra, did(0, "stopped", -1.0, 1.0), scored(0, **given), scored(1))[:1]
    assert (found.verdict, found.cause) == ("failure", cause)
    assert (found.cause_confidence >= 0.6) == (cause != "unknown")
    assert any(one.startswith("abstained:") for one in found.evidence) == (cause == "unknown")


def test_a_success_has_no_cause() -> None:
    bench = Bench()
    bench.send(scored(0, features={"router": 1.0}))
    assert [(one.cause, one.cause_confidence) for one in bench.send(said(0, 1.0))] == [("unknown", 0.0)]


def test_a_correction_names_the_right_answer() -> None:
    bench = Bench()
    bench.send(scored(0))
    (found,) = bench.send(said(0, 0.0, name="correction", text="hr"))
    assert (found.verdict, found.expected) == ("failure", "hr")


def values(found: list[Outcome]) -> list[int]:
    return [one.session_value for one in found if one.session_value is not None]


def test_a_session_has_one_value_its_first_failure() -> None:
    bench = Bench()
    found = bench.send(scored(0), said(0, -1.0), scored(1), said(1, -1.0, 150), scored(2))
    found += bench.tick(300 + CLOSE)
    assert values(found) == [1]
    assert found[0].session_value == 1


def test_the_sketch_of_the_first_message_goes_with_the_sessions_value_alone() -> None:
    bench = Bench()
    found = bench.send(scored(0, sketch="first"), said(0, 1.0), scored(1), said(1, -1.0, 150), scored(2))
    found += bench.tick(300 + CLOSE)
    assert [(one.sketch, one.session_value) for one in found if one.sketch] == [("first", 1)]
    assert len(found) > 1


def test_a_session_without_failure_has_value_0_when_it_closes() -> None:
    bench = Bench()
    found = bench.send(scored(0), said(0, 1.0), scored(1), said(1, 1.0, 150))
    assert values(found) == []
    closing = bench.tick(150 + CLOSE)
    assert [(one.turn_id, one.revision, one.session_value) for one in closing] == [("t1.r", 1, 0)]
    assert bench.tick(150 + CLOSE + 1) == []


def test_a_closed_session_can_be_revised_and_is_then_forgotten() -> None:
    bench = Bench()
    bench.send(scored(0))
    assert values(bench.tick(CLOSE)) == [0]
    late = bench.send(said(0, -1.0, 3_000))
    assert [(one.revision, one.verdict, one.session_value) for one in late] == [(1, "failure", None)]
    for hour in range(1, 6):
        assert bench.tick(3_000 + 3_600 * hour) == []
    assert list(bench.store) == []


def test_a_signal_for_a_turn_that_never_comes_is_let_go() -> None:
    bench = Bench()
    assert bench.send(said(7, -1.0)) == []
    assert bench.tick(50 + CLOSE) == []
    assert bench.tick(50 + CLOSE + 3_601) == []
    assert list(bench.store) == []


def test_shadow_comparisons_are_no_feedback() -> None:
    bench = Bench()
    bench.send(scored(0))
    assert bench.send(said(0, -1.0, name="comparison", source="shadow")) == []


def test_an_abandonment_does_not_keep_its_session_open() -> None:
    bench = Bench()
    bench.send(scored(0), did(0, "abandonment", -1.0, 0.2, 1_800))
    assert values(bench.tick(CLOSE)) == [0]


def test_any_order_ends_in_the_same_verdicts() -> None:
    records = [scored(0), REPHRASED, scored(1), said(1, 1.0, 150), scored(2), said(2, -1.0, 260), said(0, -0.8, 90)]
    ends: set[tuple[tuple[str, str], ...]] = set()
    for seed in range(20):
        bench, chance = Bench(), random.Random(seed)
        found = bench.send(*chance.sample(records, len(records))) + bench.tick(300 + CLOSE)
        assert len(values(found)) == 1
        ends.add(tuple(sorted({one.turn_id: str(one.verdict) for one in found}.items())))
    assert ends == {(("t0.r", "failure"), ("t1.r", "success"), ("t2.r", "failure"))}


def test_state_stays_bounded_in_an_endless_session() -> None:
    bench = Bench()
    found: list[Outcome] = []
    for number in range(400):
        found += bench.send(scored(number), said(number, -0.1, 100 * number + 10, name=f"n{number}"))
    assert len({one.turn_id for one in found if one.revision == 0}) == 399
    (state,) = [state for _, state in bench.store]
    assert len(state.data["turns"]) <= 24
    assert len(state.data["signals"]) <= 64
    assert len(state.data["asked"]) <= 8


def judged(number: int, value: float, seconds: float = 50, **given: object) -> Signal:
    """What a judge said in one evaluation, ``feedback_id`` its own."""
    body = {"name": "evaluation", "source": "llm", "weight": 0.4, "trace_id": f"t{number}", "turn_id": ""} | given
    return signal(value=value, event_id=f"{seconds}-{given}", **at(seconds), **body)


def test_a_persons_evaluation_settles_and_a_machines_is_weighed() -> None:
    bench = Bench()
    bench.send(scored(0, p_failure=0.5))
    assert bench.send(judged(0, -1.0)) == []
    assert [one.verdict for one in bench.send(judged(0, 1.0, source="human", weight=1.0))] == ["success"]
    alone = Bench()
    alone.send(scored(0, p_failure=0.5), judged(0, -1.0))
    (closed,) = alone.tick(CLOSE + 100)
    assert (closed.verdict, closed.p_failure > 0.7) == ("failure", True)


def test_several_evaluations_count_and_of_each_the_newest() -> None:
    bench = Bench()
    bench.send(scored(0, p_failure=0.5))
    bench.send(judged(0, 1.0, 50, feedback_id="a"), judged(0, -0.6, 51, feedback_id="b"))
    bench.send(judged(0, -1.0, 52, feedback_id="a"))
    (closed,) = bench.tick(CLOSE + 100)
    heard = [one for one in closed.evidence if one.startswith("signal:")]
    assert (closed.verdict, len(heard)) == ("failure", 2)


def test_a_signal_about_a_span_is_about_its_turn() -> None:
    bench = Bench()
    bench.send(score(turn_id="t0.a", **at(0)), score(turn_id="t0.b", turn_index=1, **at(10)))
    said = judged(0, -1.0, source="human", weight=1.0, span_id="a")
    assert [(one.turn_id, one.verdict) for one in bench.send(said)] == [("t0.a", "failure")]
    assert {one.turn_id: one.verdict for one in bench.tick(CLOSE + 100)} == {"t0.b": "unknown"}


def test_what_is_not_believed_at_all_is_not_kept() -> None:
    bench = Bench()
    bench.send(scored(0, p_failure=0.5), judged(0, -1.0, weight=0.0))
    (closed,) = bench.tick(CLOSE + 100)
    assert (closed.verdict, closed.evidence) == ("unknown", [])


# What the verdict rests on, and what was learnt of signals.


def evaluated(number: int, value: float, source: str) -> Signal:
    return said(number, value, name="evaluation", source=source, feedback_id=f"{source}{number}")


@pytest.mark.parametrize(
    ("signals", "basis"),
    [
        ([said(0, -1.0)], "said"),
        ([evaluated(0, -1.0, "human")], "said"),
        ([evaluated(0, -1.0, "judge")], "judged"),
        ([evaluated(0, -1.0, "judge"), said(0, -1.0)], "said"),
        ([REPHRASED], "done"),
        ([], ""),
    ],
)
def test_an_outcome_says_what_it_rests_on_and_shows_features_where_a_person_said_it(
    signals: list[Signal], basis: str
) -> None:
    bench = Bench()
    found = bench.send(scored(0, features={"doubt": 0.3}, p_failure=0.5), *signals, scored(1))
    *_, last = [one for one in [*found, *bench.tick(100 + CLOSE)] if one.turn_id == "t0.r"]
    assert last.basis == basis
    assert last.features == ({"doubt": 0.3} if basis == "said" else {})


def test_judges_that_disagree_by_one_rubric_are_told() -> None:
    """Two rubrics are two questions; a person is no judge; of one judge the newest word counts."""

    def judged(value: float, rubric: str, model: str, source: str = "judge", seconds: float = 50) -> Signal:
        about = {"gen_ai.evaluation.name": rubric}
        given = {"name": "evaluation", "source": source, "weight": 0.3, "attributes": about}
        return said(0, value, seconds, feedback_id=f"{rubric}{model}", **given)

    alone = [judged(-1.0, "tone", "m1"), judged(1.0, "factuality", "m1"), judged(-1.0, "factuality", "p", "human")]
    (found,) = Bench().send(scored(0), *alone, scored(1))
    assert "judge_spread" not in found.features
    both = [judged(-1.0, "tone", "m2", seconds=40), judged(0.5, "tone", "m2")]
    (found,) = Bench().send(scored(0), *alone, *both, scored(1))
    assert found.features["judge_spread"] == 0.75


def test_what_the_score_expects_is_a_basis_of_its_own() -> None:
    (found,) = Bench().send(scored(0, p_failure=0.001), scored(1))
    assert (found.verdict, found.basis) == ("unknown", ""), "a prior alone is not enough by default"
    bench = Bench()
    bench.stage = Attribute(AttributeSettings(rules=VerdictRules(prior_weight=0.9)))
    (found,) = bench.send(scored(0, p_failure=0.001), scored(1))
    assert (found.verdict, found.basis) == ("success", "expected")


def test_a_rated_turn_is_told_again_with_all_that_was_seen_when_its_session_closes() -> None:
    bench = Bench()
    (first,) = bench.send(scored(0), said(0, -1.0))
    assert bench.send(REPHRASED, scored(1)) == []
    closed = [one for one in bench.tick(100 + CLOSE) if one.turn_id == first.turn_id]
    assert [(one.revision, one.verdict) for one in closed] == [(1, "failure")]
    assert any(one.startswith("signal:rephrase:") for one in closed[0].evidence)
    assert not any(one.startswith("signal:rephrase:") for one in first.evidence)


def test_a_turn_that_nobody_rated_is_not_told_again() -> None:
    bench = Bench()
    (first,) = bench.send(scored(0), REPHRASED, scored(1))
    bench.send(did(0, "escalation", -1.0, 0.7))
    assert [one for one in bench.tick(200 + CLOSE) if one.turn_id == first.turn_id] == []


@pytest.mark.parametrize(
    ("force", "verdict"), [(-0.5, "failure"), (-0.05, "unknown"), (0.5, "success"), (0.0, "unknown")]
)
def test_a_reaction_has_the_force_that_was_learnt_for_it(force: float, verdict: str) -> None:
    (found,) = Bench().send(scored(0, p_failure=0.5, forces={"rephrase": force}), REPHRASED, scored(1))
    assert found.verdict == verdict


def test_learnt_forces_are_for_reactions_alone() -> None:
    """What a person said, and what a producer sends with a value of its own, is not weighed anew."""
    sent = signal(name="copy", kind="implicit", source="app", value=1.0, weight=0.6, turn_id="t0.r", **at(50))
    given: dict[str, Any] = {"p_failure": 0.5, "forces": {"copy": -1.0, "rating": 1.0}}
    assert Bench().send(scored(0, **given), sent, scored(1))[0].verdict == "success"
    assert Bench().send(scored(0, **given), said(0, -1.0), scored(1))[0].verdict == "failure"


def asked(number: int, text: str = "reset my vpn", **given: object) -> Turn:
    return turn(
        turn_id=f"t{number}.r", trace_id=f"t{number}", turn_index=number, input=text, **at(100.0 * number), **given
    )


def test_a_turn_that_fails_is_told_with_what_was_asked() -> None:
    bench = Bench()
    (failing,) = bench.send(asked(0, "x" * 900, consent_train=False), scored(0), said(0, -1.0))
    (found,) = bench.failures
    assert (found.turn_id, found.revision, found.input) == ("t0.r", 0, "x" * 400)
    assert (found.p_failure, found.cause, found.consent_train) == (failing.p_failure, failing.cause, False)
    assert found.redaction.detector == "test-1"


def test_what_was_asked_may_come_after_the_verdict() -> None:
    bench = Bench()
    bench.send(scored(0), said(0, -1.0))
    assert bench.failures == []
    assert bench.send(asked(0)) == []
    bench.send(said(0, -0.9, 70))
    assert [(one.turn_id, one.revision) for one in bench.failures] == [("t0.r", 0)], "once"


def test_a_success_is_no_failure_and_becomes_one_with_its_revision() -> None:
    bench = Bench()
    bench.send(asked(0), scored(0), said(0, 1.0))
    assert bench.failures == []
    bench.send(said(0, -1.0, 300))
    bench.send(said(0, 1.0, 400))
    bench.send(said(0, -1.0, 500))
    assert [one.revision for one in bench.failures] == [1, 3]
    assert len({one.event_id for one in bench.failures}) == 2


def test_a_cause_that_changes_is_a_revision() -> None:
    bench = Bench()
    (first,) = bench.send(asked(0), scored(0, features={"tool_unresolved": 1.0}), said(0, -1.0))
    assert first.cause == "tool"
    plain = Bench()
    plain.send(asked(0), scored(0), said(0, -1.0))
    (second,) = plain.send(said(0, 0.0, 60, name="missing_knowledge"))
    assert (second.revision, second.cause) == (1, "knowledge_gap")
    assert [one.cause for one in plain.failures] == ["unknown", "knowledge_gap"]


def test_another_route_that_went_well_names_the_first_one_as_the_fault() -> None:
    bench = Bench()
    bench.send(scored(0, category="hr"), did(0, "rephrase", -1.0, 0.6), scored(1, category="it"))
    told = {one.turn_id: one for one in bench.send(said(1, 1.0, 150))}
    assert (told["t0.r"].cause, told["t1.r"].verdict) == ("routing", "success")
    assert "rule:rerouted" in told["t0.r"].evidence


def test_the_evidence_names_rules_and_spans() -> None:
    bench = Bench()
    given: dict[str, Any] = {"features": {"tool_failed": 1.0, "hedged": 1.0}, "fault_spans": {"tool_failed": "abc"}}
    (found,) = bench.send(scored(0, **given), said(0, -1.0))
    assert found.evidence[:2] == ["rule:tool_unresolved:abc", "rule:unsure_answer"]


def retracted(number: int, name: str, first: Signal, seconds: float = 100) -> Signal:
    return signal(
        name=name, kind="implicit", source="assemble", value=0.0, weight=0.0, turn_id=f"t{number}.r",
        attributes={"rule": "retracted", "retracts": first.event_id}, **at(seconds + 0.001),
    )  # fmt: skip


@pytest.mark.parametrize("late", [False, True])
def test_a_signal_that_is_taken_back_no_longer_counts(late: bool) -> None:
    bench = Bench()
    pair = [REPHRASED, retracted(0, "rephrase", REPHRASED)]
    found = bench.send(scored(0), *(pair[::-1] if late else pair), scored(1))
    assert [(one.verdict, one.evidence) for one in found] == [("unknown", [])]
    kept = Bench()
    (other,) = kept.send(scored(0), REPHRASED, retracted(0, "repeat", did(0, "repeat", -1.0, 1.0)), scored(1))
    assert other.verdict == "failure", "another signal's retraction takes nothing away"


def test_a_signal_that_is_taken_back_revises() -> None:
    bench = Bench()
    bench.send(scored(0), REPHRASED, scored(1))
    (revised,) = bench.send(retracted(0, "rephrase", REPHRASED))
    assert (revised.revision, revised.verdict) == (1, "unknown")


def test_feedback_sent_again_without_weight_is_withdrawn() -> None:
    same: dict[str, Any]
    for same in ({"feedback_id": "f"}, {"event_id": "e"}):
        bench = Bench()
        bench.send(scored(0))
        assert [one.verdict for one in bench.send(said(0, -1.0, **same))] == ["failure"]
        again = [said(0, -1.0, 60, weight=0.0, **same)]
        assert [one.verdict for one in bench.send(*again)] == ["unknown"]
        assert [one.verdict for one in bench.send(*again)] == ["unknown"], "a redelivery tells the same again"


def test_a_long_sessions_state_is_small() -> None:
    bench = Bench()
    features = {"searches": 2.0, "queries": 2.0, "found_unlike": 0.71, "ungrounded": 0.5, "hedged": 1.0}
    spans = {"found_unlike": "a" * 16, "ungrounded": "b" * 16}
    shown: dict[str, Any] = {"features": features, "fault_spans": spans, "retrieval_score": 0.71}
    for number in range(60):
        text = "how do I reset the vpn " * 4
        bench.send(asked(number, text), scored(number, **shown), did(number, "rephrase", -1.0, 0.6))
        assert bench.size < 15_000


def test_an_erased_persons_failures_are_not_told_again() -> None:
    bench = Bench()
    batch = (asked(0, subject_hash="me"), scored(0, subject_hash="me"), said(0, -1.0, subject_hash="me"))
    bench.send(*batch, asked(1, subject_hash="you"), scored(1, subject_hash="you"))
    ((key, state),) = list(bench.store)
    me = Subject(TENANT, "me", turns=frozenset({"t0.r"}))
    (after, _) = bench.stage.erased(key, state.dump(), me) or (state, [])
    assert "me" not in after.data["names"]
    assert list(after.data["asked"]) == ["t1.r"]
    assert "t0.r" not in plain(after.dump())


def test_names_of_an_earlier_release_are_read() -> None:
    """It wrote out verdicts, causes and who signals."""
    bench, present = Bench(), Bench()
    for one in (bench, present):
        one.send(scored(0), said(0, -1.0), scored(1))
    ((key, state),) = list(bench.store)
    names, old = state.data["names"], state.data
    at = [FIELDS.index(name) - 1 for name in ("verdict", "cause")]
    for row in old["turns"].values():
        for place in at:
            row[place] = names[row[place]]
    old["signals"] = [[*row[:2], names[row[2]], names[row[3]], *row[4:]] for row in old["signals"]]
    assert (old["turns"]["t0.r"][at[0]], *old["signals"][0][2:4]) == ("failure", "explicit", "user")
    bench.store.put(key, state)
    later = said(0, 1.0, seconds=70, event_id="later")
    assert bench.send(later) == present.send(later) != []


def test_names_beyond_any_measure_are_written_out() -> None:
    bench, every = Bench(), []
    for number in range(200):
        bench.send(scored(number, category=f"category {number}", subject_hash=f"user {number}"))
        every += bench.send(said(number, -1.0, 100.0 * number + 50, source=f"source {number}"))
    last = every[-1]
    assert (last.category, last.subject_hash, last.verdict) == ("category 199", "user 199", "failure")
    ((key, state),) = list(bench.store)
    assert len(state.data["names"]) == 64
    me = Subject(TENANT, "user 199", turns=frozenset({"t199.r"}))
    (after, _) = bench.stage.erased(key, state.dump(), me) or (state, [])
    assert ("user 199" in plain(state.dump()), "user 199" in plain(after.dump())) == (True, False)


def test_state_of_an_earlier_release_is_read() -> None:
    old = {"turn_id": "t0.r", "trace_id": "t0", "session_id": "s1", "tenant": TENANT, "agent": "a", "subject_hash": "u",
           "start": 1, "model_version": "", "category": "", "p_failure": 0.1, "uncertainty": 0.1, "features": {},
           "retrievals": 0, "retrieval_score": None, "revision": 0, "verdict": "unknown", "expected": ""}  # fmt: skip
    bench = Bench()
    bench.store.put(
        f"{TENANT}/s1",
        KeyState({"turns": {"t0.r": old}, "signals": [], "last": 1, "closed": False, "forget": 0, "valued": False}),
    )
    (found,) = bench.send(said(0, -1.0))
    assert (found.revision, found.verdict, found.subject_hash) == (1, "failure", "u")
