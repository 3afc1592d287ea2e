"""Learning from verdicts: who teaches, when, how often; what is told; and that silence is no success."""

from __future__ import annotations

import json
import random
from datetime import timedelta
from itertools import pairwise
from typing import Any

import pytest

from processors import cause_model
from processors.attribute import Attribute
from processors.calibrating import p_failure
from processors.learn import Learn, LearnSettings, mark
from processors.score import ScoreTurns, rules_p_failure
from processors.stage import Message
from processors.state import MemoryState
from schemas.events import Calibration, Label, Outcome, Record, Sample, Score
from schemas.subjects import Subject
from schemas.topics import CALIBRATIONS
from tests.world import AGENT, START, TENANT, label, message, outcome, sample, signal, turn

KEY = f"{TENANT}/{AGENT}"
SOON = LearnSettings(settle=60.0, pause=600.0, every=10_000)


class Bench:
    def __init__(self, settings: LearnSettings = SOON) -> None:
        self.stage, self.store, self.offset = Learn(settings), MemoryState(), 0

    def send(self, *records: Record) -> list[Calibration]:
        batch = [message(one, self.offset + n) for n, one in enumerate(records)]
        self.offset += len(records)
        return [one for one in self.stage.process(batch, self.store) if isinstance(one, Calibration)]

    def tick(self, seconds: float) -> list[Calibration]:
        found = self.stage.expire(self.store, START + timedelta(seconds=seconds))
        return [one for one in found if isinstance(one, Calibration)]

    @property
    def data(self) -> dict[str, Any]:
        state = self.store.get(KEY)
        return {} if state is None else state.data

    @property
    def lessons(self) -> int:
        fusion = self.data.get("fusion")
        return fusion["lessons"] if fusion else 0


def rating(number: int, failed: bool, seconds: float = 0.0, **given: Any) -> Outcome:
    return outcome(**{
        "turn_id": f"t{number}.r", "verdict": "failure" if failed else "success", "basis": "said",
        "event_time": START + timedelta(seconds=seconds), "features": {"doubt": 0.9 if failed else 0.1},
        "evidence": ["signal:rating:x"],
    } | given)  # fmt: skip


def drawn(number: int, seconds: float = 0.0, **given: Any) -> Sample:
    return sample(**{
        "turn_id": f"t{number}.r", "output": "it", "category": "it", "reason": "random", "propensity": 0.02,
        "event_time": START + timedelta(seconds=seconds), "features": {"doubt": 0.5},
    } | given)  # fmt: skip


def labelled(one: Sample, value: str, **given: Any) -> Label:
    return label(sample_id=one.event_id, value=value, event_time=one.event_time, **given)


@pytest.mark.parametrize(
    "record",
    [
        rating(1, True, basis="done"),
        rating(1, True, basis="judged"),
        rating(1, True, basis="expected"),
        rating(1, True, verdict="unknown"),
        labelled(drawn(1), "hr", rater="judge:factuality"),
    ],
)
def test_what_nobody_said_is_dropped_before_it_costs_anything(record: Record) -> None:
    assert Learn().prepare([message(record)]) == [[]]


def test_no_text_goes_further_than_prepare() -> None:
    for record in (drawn(1, input="my secret", output="an answer"), labelled(drawn(1), "another answer")):
        ((event,),) = Learn().prepare([message(record)])  # type: ignore[misc]
        said = event.record.model_dump_json()  # type: ignore[union-attr]
        assert not any(text in said for text in ("my secret", "an answer", "another answer"))


def test_a_rating_waits_for_its_session_and_teaches_once_with_its_last_word() -> None:
    bench = Bench()
    bench.send(rating(1, False))
    assert (bench.lessons, bench.tick(59.0)) == (0, [])
    bench.send(rating(1, True, revision=1, evidence=["signal:rating:x", "signal:rephrase:y"]))
    bench.send(rating(1, False, revision=0, event_id="late"))
    bench.tick(61.0)
    assert bench.lessons == 1
    assert bench.data["fusion"]["total"][0] > 0, "it failed"
    assert list(bench.data["weights"]["beta"]) == ["rephrase"]
    bench.send(rating(1, False, revision=2))
    bench.tick(200.0)
    assert bench.lessons == 1


@pytest.mark.parametrize(
    ("value", "failed"), [("it", 0), ("IT!", 0), ("hr", 1), ("the IT department", 1), ("pass", 0), ("Fail", 1)]
)
@pytest.mark.parametrize("early", [False, True])
def test_a_label_teaches_at_once_whichever_comes_first(value: str, failed: int, early: bool) -> None:
    bench, one = Bench(), drawn(1)
    records: list[Record] = [one, labelled(one, value)]
    bench.send(*(reversed(records) if early else records))
    assert bench.lessons == 1
    assert (bench.data["fusion"]["total"][0] > 0) == bool(failed)
    assert sum(sum(day[:2]) for day in bench.data["audit"]["days"].values()) == 1
    bench.send(labelled(one, "other", rater="r2"))
    assert (bench.lessons, bench.data["early"]) == (1, {}), "a second label teaches nothing more"


def test_a_label_that_comes_days_later_meets_the_features_of_then() -> None:
    bench, one = Bench(), drawn(1, features={"doubt": 0.77})
    bench.send(one)
    bench.tick(6 * 86_400.0)
    bench.send(labelled(one, "hr"))
    assert bench.data["fusion"]["means"] == {"doubt": 0.77, "weak_category": pytest.approx(-1.0, abs=0.01)}


def test_a_sample_without_a_label_expires_and_teaches_nothing() -> None:
    bench, one = Bench(), drawn(1)
    bench.send(one)
    assert list(bench.data["samples"]) == [one.event_id]
    bench.tick(7 * 86_400.0 + 1)
    assert (bench.data.get("samples", {}), bench.lessons) == ({}, 0)


def test_only_what_was_drawn_by_lot_is_the_audit() -> None:
    bench = Bench()
    for number, reason in enumerate(("random", "failed", "uncertain", "correction")):
        one = drawn(number, reason=reason, propensity=0.2)
        bench.send(one, labelled(one, "hr"))
    assert bench.lessons == 4
    assert sum(sum(day) for day in bench.data["audit"]["days"].values()) == 1


def test_what_waits_is_bounded() -> None:
    bench = Bench(LearnSettings(waiting=3, samples=3, taught=2))
    bench.send(*(rating(number, False) for number in range(10)))
    bench.send(*(drawn(number) for number in range(10)))
    bench.send(*(label(sample_id=f"x{number}", value="it") for number in range(10)))
    sizes = {name: len(bench.data[name]) for name in ("rated", "samples", "early", "taught")}
    assert sizes == {"rated": 3, "samples": 3, "early": 3, "taught": 2}
    assert bench.lessons == 7, "those that had to make room taught at once"


def taught(seed: int, turns: int, *, audit: bool = True, shuffled: bool = False, every: int = 50) -> Bench:
    """Users rate failures four times as often; failures show in their doubt."""
    chance, bench = random.Random(seed), Bench(LearnSettings(settle=60.0, every=every))
    bench.found = []  # type: ignore[attr-defined]
    for number in range(turns):
        doubt, seconds = chance.random(), 30.0 * number
        failed = chance.random() < doubt * 0.4
        told = chance.random() < 0.2 if shuffled else failed
        features = {"doubt": round(doubt, 4)}
        category, records = chance.choice("ab"), list[Record]()
        if chance.random() < (0.4 if told else 0.1):
            evidence = ["signal:rating:x"] + ["signal:rephrase:y"] * (chance.random() < (0.6 if told else 0.1))
            records.append(rating(number, told, seconds, features=features, category=category, evidence=evidence))
        if audit and chance.random() < 0.1:
            one = drawn(number, seconds, features=features, category=category, output="x", propensity=0.1)
            records += [one, labelled(one, "fail" if told else "pass")]
        bench.found += [*bench.send(*records), *bench.tick(seconds)]  # type: ignore[attr-defined]
    return bench


def test_calibrations_follow_lessons_and_count_up() -> None:
    bench = taught(1, 2_000)
    found: list[Calibration] = bench.found  # type: ignore[attr-defined]
    assert [one.number for one in found] == list(range(1, len(found) + 1))
    assert len({one.event_id for one in found}) == len(found)
    steps = [b.lessons - a.lessons for a, b in pairwise(found)]
    assert max(steps) <= 50
    assert bench.lessons / 50 - 2 <= len(found) <= bench.lessons


def test_what_is_told_is_right_calibrated_and_measured() -> None:
    bench = taught(2, 6_000)
    last: Calibration = bench.found[-1]  # type: ignore[attr-defined]
    model = json.loads(last.model)
    for doubt in (0.1, 0.5, 0.9):
        features = {"doubt": doubt, "weak_category": model["categories"]["a"]}
        assert p_failure(features, model) == pytest.approx(doubt * 0.4, abs=0.15)
    assert last.metrics["count"] == 1_000
    assert last.metrics["auroc"] > 0.65
    assert last.metrics["ece"] < 0.06
    assert last.metrics[f"count:{KEY}/v1/a"] == 150
    assert last.forces["rephrase"] < -0.3
    assert set(last.forces) == {"rephrase"}


def test_shuffled_verdicts_foretell_nothing() -> None:
    last: Calibration = taught(3, 4_000, shuffled=True).found[-1]  # type: ignore[attr-defined]
    model = json.loads(last.model)
    assert abs(p_failure({"doubt": 0.9}, model) - p_failure({"doubt": 0.1}, model)) < 0.12
    assert 0.4 < last.metrics["auroc"] < 0.6
    assert abs(last.metrics["prr"]) < 0.2


def test_without_an_audit_there_are_forces_but_no_model() -> None:
    found: list[Calibration] = taught(4, 2_000, audit=False).found  # type: ignore[attr-defined]
    assert found
    assert {one.model for one in found} == {""}
    assert found[-1].forces


def test_the_newest_calibration_is_told_after_a_pause_too() -> None:
    bench = taught(5, 2_000, every=10_000)
    known: list[Calibration] = bench.found  # type: ignore[attr-defined]
    assert 10 < len(known) <= 2_000 * 30 / 900 + 1
    assert known[0].lessons < known[-1].lessons


def test_cohorts_with_metrics_are_bounded() -> None:
    bench = Bench(LearnSettings(settle=0.0, cohorts=3, cohort_window=2, window=4))
    for number in range(12):
        bench.send(rating(number, number % 2 == 0, category=f"c{number // 3}"))
        bench.tick(1.0 + number)
    windows = bench.data["windows"]
    assert [len(one) for one in windows.values()] == [4, 2, 2, 2]
    assert list(windows) == ["", *(f"{KEY}/v1/c{n}" for n in (1, 2, 3))]


def test_state_stays_small() -> None:
    state = taught(6, 6_000).store.get(KEY)
    assert state is not None
    state.memo.clear()
    assert len(state.dump()) < 60_000


def test_a_score_is_made_again_of_its_features_and_the_calibration_that_it_names() -> None:
    """Whatever is learnt between a turn and its redelivery: that is what makes each of its scores explainable."""
    found: list[Calibration] = taught(7, 3_000).found  # type: ignore[attr-defined]
    told = {f"calibration-{one.number}": one for one in found}
    stage, store, offset, scores = ScoreTurns(), MemoryState(), 0, list[Score]()
    for number, one in enumerate([found[0], *(one for one in found if one.model)]):
        turns = [turn(turn_id=f"t{n}.r", logprob_top1=-0.1 * n, logprob_top2=-2.0, category="a") for n in range(3)]
        batch = [message(each, offset + place) for place, each in enumerate([*turns, one, *turns, one])]
        scores += [each for each in stage.process(batch, store) if isinstance(each, Score)]
        offset += len(batch) + number
    assert len({each.scorer for each in scores}) > 10
    assert len({(each.event_id, each.p_failure) for each in scores}) > len({each.event_id for each in scores}) == 3
    for each in scores:
        features = dict(each.features)
        if each.scorer == "rules-1":
            expected = rules_p_failure(features, stage.settings)
        else:
            expected = p_failure(features, json.loads(told[each.scorer].model))
        assert each.p_failure == round(expected, 6)


def test_erased_people_teach_nothing_and_the_rest_goes_on() -> None:
    bench, mine, yours = Bench(), drawn(1, subject_hash="me"), drawn(2, subject_hash="you")
    bench.send(rating(3, True, subject_hash="me"), rating(4, True, subject_hash="you"), mine, yours)
    state = bench.store.get(KEY)
    assert state is not None
    changed = bench.stage.erased(KEY, state.dump(), Subject(TENANT, "me", samples=frozenset({mine.event_id})))
    assert changed is not None
    bench.store.put(KEY, changed[0])
    assert list(bench.data["samples"]) == [yours.event_id]
    bench.send(labelled(mine, "hr"), labelled(yours, "hr"))
    bench.tick(100.0)
    assert bench.lessons == 2


def test_marks_tell_answers_apart_and_give_none_away() -> None:
    assert mark(" IT, please!") == mark("it please") != mark("hr please")
    assert mark("it") != "it"
    assert len(mark("it" * 1_000)) == 12


def test_calibrations_have_the_agents_key() -> None:
    found = taught(8, 800).found[-1]  # type: ignore[attr-defined]
    assert CALIBRATIONS.key(found) == KEY
    assert isinstance(message(found), Message)


# Causes that labels name.


def caused(number: int, cause: str, value: str = "fail") -> tuple[Sample, Label]:
    one = drawn(number, features={"tool_failed": 1.0}, output="an answer")
    return one, labelled(one, value, cause=cause)


def told(causes: str) -> Outcome:
    """The outcome of a failed turn that shows a failed tool, scored and attributed with these causes."""
    failing = turn(turn_id="t1.r", trace_id="t1", faults={"tool_failed": 1.0})
    known = Calibration(
        event_id="c1", tenant=TENANT, agent=AGENT, event_time=START, number=1, lessons=1, audited=0, causes=causes
    )
    (scored,) = ScoreTurns().process([message(known, 0), message(failing, 1)], MemoryState())
    rated = signal(name="rating", value=-1.0, turn_id="t1.r", event_time=START)
    (found,) = Attribute().process([message(scored, 0), message(rated, 1)], MemoryState())
    assert isinstance(found, Outcome)
    return found


def test_causes_that_labels_name_reach_the_next_outcome() -> None:
    bench = Bench()
    assert told("").cause == "tool"
    bench.send(*(one for number in range(20) for one in caused(number, "routing")))
    (known,) = bench.tick(10_000)
    assert told(known.causes).cause == "routing"


@pytest.mark.parametrize(("cause", "value"), [("", "fail"), ("unknown", "fail"), ("routing", "pass")])
def test_a_label_without_a_cause_or_of_a_success_teaches_none(cause: str, value: str) -> None:
    bench = Bench()
    bench.send(*(one for number in range(20) for one in caused(number, cause, value)))
    assert all(one.causes == "" for one in bench.tick(10_000))


def test_a_cause_may_come_before_its_sample() -> None:
    early, late = Bench(), Bench()
    for number in range(20):
        one, named = caused(number, "routing")
        early.send(named, one)
        late.send(one, named)
    assert early.tick(10_000)[0].causes == late.tick(10_000)[0].causes != ""


def test_retrieval_scores_of_successes_teach_which_are_usual() -> None:
    bench = Bench()
    for number in range(60):
        one = drawn(number, features={"retrieval": 0.9 + number % 7 / 100})
        bench.send(one, labelled(one, "pass"))
    (known,) = bench.tick(10_000)
    assert cause_model.low_of(cause_model.load(known.causes)) > cause_model.LOW
