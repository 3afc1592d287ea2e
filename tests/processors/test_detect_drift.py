"""Alarms per cohort from one value per session."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from datetime import timedelta
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from processors.detect_drift import DetectDrift, DriftSettings
from processors.mmd import sketch
from processors.state import KeyState, MemoryState
from schemas.events import Alarm, Deployment, Outcome
from tests.world import AGENT, START, TENANT, message, outcome

STEM = f"{TENANT}/{AGENT}/v1"


def sessions(rates: Sequence[float], seed: int = 1, category: str | Sequence[str] = "it") -> list[Outcome]:
    chance = random.Random(seed)
    return [
        outcome(
            session_id=f"s{place}",
            turn_id=f"t{place}.r",
            session_value=int(chance.random() < rate),
            category=category if isinstance(category, str) else category[place],
            event_time=START + timedelta(seconds=place),
        )
        for place, rate in enumerate(rates)
    ]


def run(outcomes: Sequence[Outcome], store: MemoryState | None = None) -> list[Alarm]:
    store = store or MemoryState()
    found = DetectDrift().process([message(one, place) for place, one in enumerate(outcomes)], store)
    return [one for one in found if isinstance(one, Alarm)]


def failures(found: Sequence[Alarm]) -> list[Alarm]:
    return [one for one in found if one.signal == "session_failure"]


def cohorts(store: MemoryState) -> dict[str, Any]:
    return {name: one for _, state in store for name, one in state.data["cohorts"].items()}


RISE = [0.08] * 1_000 + [0.5] * 120


def test_a_rise_warns_and_then_alarms_in_its_category() -> None:
    found = failures(run(sessions(RISE)))
    assert [one.level for one in found if one.cohort == f"{STEM}/it"][:2] == ["warn", "alarm"]
    first = next(one for one in found if one.level == "alarm")
    assert (first.tenant, first.agent, first.model_version, first.category) == (TENANT, AGENT, "v1", "it")
    assert first.subject_hash == ""
    assert first.statistic > first.threshold == 8.6
    assert first.sessions > 1_000
    assert first.baseline < 0.12 < 0.15 < first.current
    assert len({one.event_id for one in found}) == len(found)


def test_a_rise_everywhere_that_no_cohort_shows_yet_is_the_roll_ups() -> None:
    spread = [f"c{place % 40}" for place in range(1_300)]
    outcomes = sessions([0.08] * 1_000 + [0.3] * 300, seed=4, category=spread)
    alarms = [one for one in failures(run(outcomes)) if one.level == "alarm"]
    assert alarms[0].cohort == f"{STEM}/*"
    assert alarms[0].category == "*"


def test_the_roll_up_names_the_smallest_cohort_that_moved() -> None:
    spread = ["it" if place % 5 == 0 else "hr" for place in range(4_000)]
    rates = [0.08 if place < 2_500 or name == "hr" else 0.6 for place, name in enumerate(spread)]
    alarms = [one for one in failures(run(sessions(rates, seed=5, category=spread))) if one.level == "alarm"]
    assert alarms
    assert {one.category for one in alarms} == {"it"}


def test_an_alarm_says_what_changed_with_it() -> None:
    outcomes = [
        one.model_copy(update={"verdict": "failure", "cause": "tool" if place > 1_000 else "retrieval"})
        if one.session_value
        else one
        for place, one in enumerate(sessions(RISE))
    ]
    first = next(one for one in run(outcomes) if one.level == "alarm")
    assert first.moved["cause:tool"] > 0.1
    assert "cause:retrieval" not in first.moved


def test_uncertainty_that_rises_alarms_too() -> None:
    chance = random.Random(6)
    outcomes = [
        one.model_copy(update={"uncertainty": chance.betavariate(2, 5) + (0.2 if place >= 1_000 else 0.0)})
        for place, one in enumerate(sessions([0.08] * 1_300))
    ]
    found = [one for one in run(outcomes) if one.signal == "uncertainty" and one.cohort == f"{STEM}/it"]
    (alarm,) = [one for one in found if one.level == "alarm"]
    assert alarm.detector == "adwin-1"
    assert alarm.current - alarm.baseline == pytest.approx(0.2, abs=0.1)


def deployment(state: str, place: int) -> Deployment:
    return Deployment.model_validate(
        {"event_id": f"d-{state}", "tenant": TENANT, "agent": AGENT, "event_time": START + timedelta(seconds=place),
         "release_id": "r1", "job_id": "j1", "candidate": "v2", "incumbent": "v1", "state": state, "weight": 1.0,
         "reason": ""}
    )  # fmt: skip


@pytest.mark.parametrize(("state", "again"), [("live", True), ("rolled_back", True), ("canary", False)])
def test_a_release_makes_its_cohorts_learn_anew(state: str, again: bool) -> None:
    store, stage = MemoryState(), DetectDrift()
    stage.process([message(one, place) for place, one in enumerate(sessions([0.08] * 600))], store)
    before = cohorts(store)["v1/it"]["rate"]
    stage.process([message(deployment(state, 600), 600)], store)
    after = cohorts(store)["v1/it"]["rate"]
    assert before["n"] == 600
    assert (after["n"] == 0) is again


def test_a_release_before_any_session_changes_nothing() -> None:
    store = MemoryState()
    assert DetectDrift().process([message(deployment("live", 0), 0)], store) == []
    assert cohorts(store) == {}


def test_keys_make_the_cohorts() -> None:
    for keys, wanted in (
        (("model_version",), {"v1/*"}),
        (("category",), {"*/it", "*/*"}),
        ((), {"*/*"}),
    ):
        store = MemoryState()
        stage = DetectDrift(DriftSettings(keys=keys))
        stage.process([message(one, place) for place, one in enumerate(sessions([0.0] * 3))], store)
        assert set(cohorts(store)) == wanted


def test_cohorts_past_the_cap_share_one() -> None:
    store = MemoryState()
    outcomes = sessions([0.0] * 50, category=[f"c{place}" for place in range(50)])
    other = [one.model_copy(update={"model_version": "v2", "event_id": f"x{n}"}) for n, one in enumerate(outcomes)]
    stage = DetectDrift(DriftSettings(cohorts=8))
    stage.process([message(one, place) for place, one in enumerate([*outcomes, *other])], store)
    names = set(cohorts(store))
    assert {"v1/*", "v1/c0", "v1/c6", "v1/(other)", "(other)/*"} <= names
    assert len(names) <= 8 + 2
    assert cohorts(store)["v1/(other)"]["rate"]["n"] == 43
    assert cohorts(store)["(other)/*"]["rate"]["n"] == 50


def test_a_young_cohort_borrows_the_rate_of_the_others() -> None:
    store = MemoryState()
    names = [f"c{place % 4}" for place in range(2_000)]
    run(sessions([0.2] * 2_000, seed=7, category=names), store)
    run([sessions([0.0], seed=8, category="new")[0].model_copy(update={"event_id": "new"})], store)
    young = cohorts(store)["v1/new"]["rate"]
    assert young["f"] / (young["f"] + young["s"]) == pytest.approx(0.2, abs=0.04)
    assert young["f"] + young["s"] > 200


def test_a_warning_is_given_once_until_it_is_calm_again() -> None:
    warnings = [one for one in failures(run(sessions([0.08] * 1_000 + [0.3] * 40))) if one.level == "warn"]
    assert len(warnings) <= 2 * 2


def test_a_rise_that_lasts_alarms_again_but_not_at_once() -> None:
    found = [one for one in failures(run(sessions([0.08] * 1_000 + [0.5] * 900))) if one.category == "it"]
    places = [one.sessions for one in found if one.level == "alarm"]
    assert 3 <= len(places) <= 5
    assert all(after - before > 200 for before, after in pairwise(places))


def test_a_stable_world_raises_no_alarm() -> None:
    assert [one for one in run(sessions([0.08] * 3_000)) if one.level == "alarm"] == []


def test_a_rise_in_one_category_leaves_the_others_alone() -> None:
    calm = sessions([0.08] * 1_120, seed=2, category="hr")
    mixed = [one for pair in zip(sessions(RISE), calm, strict=True) for one in pair]
    assert {one.category for one in run(mixed) if one.level == "alarm"} <= {"it", "*"}


def test_outcomes_without_a_session_value_are_not_sessions() -> None:
    store = MemoryState()
    assert run([one.model_copy(update={"session_value": None}) for one in sessions(RISE)], store) == []
    assert list(store) == []


def test_turns_without_a_category_count_in_the_roll_up_only() -> None:
    store = MemoryState()
    run(sessions([0.0], category=""), store)
    assert list(cohorts(store)) == ["v1/*"]


def test_failures_that_are_known_before_any_success_do_not_spoil_the_baseline() -> None:
    store = MemoryState()
    late = [*sessions([1.0] * 50), *sessions([0.08] * 150, seed=3)]
    run([one.model_copy(update={"event_id": f"o{place}"}) for place, one in enumerate(late)], store)
    assert {one["rate"]["n"] for one in cohorts(store).values()} == {150}


def test_each_detector_of_a_cohort_fits_in_300_bytes() -> None:
    store = MemoryState()
    run(sessions(RISE), store)
    for one in cohorts(store).values():
        for detector in ("rate", "unsure"):
            assert len(json.dumps(one[detector], separators=(",", ":"))) <= 300


def test_an_idle_cohort_is_forgotten() -> None:
    store, stage = MemoryState(), DetectDrift()
    run(sessions([0.0]), store)
    assert stage.expire(store, START + timedelta(days=29)) == []
    assert len(cohorts(store)) == 2
    stage.expire(store, START + timedelta(days=31))
    assert list(store) == []


def test_state_of_an_older_form_is_forgotten_when_its_timer_runs_out() -> None:
    stage, store = DetectDrift(DriftSettings()), MemoryState()
    store.put("acme/desk/v1/it", KeyState({"mixlr": {"n": 3}}, {}, START))
    assert stage.expire(store, START) == []
    assert store.get("acme/desk/v1/it") is None


def asked(seed: int, count: int, about: range, first: int) -> list[Outcome]:
    """Sessions without failure, whose first messages are about some of forty subjects."""
    centres, chance = np.random.default_rng(1).normal(size=(40, 64)), np.random.default_rng(seed)
    rows = centres[chance.choice(about, count)] + 0.8 * chance.normal(size=(count, 64))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    calm = sessions([0.0] * count)
    return [
        one.model_copy(update={"event_id": f"q{first + place}", "sketch": sketch(row)})
        for place, (one, row) in enumerate(zip(calm, rows, strict=True))
    ]


def test_other_queries_warn_and_alarm_once_and_are_then_the_usual() -> None:
    calm = asked(3, 2_800, range(30), 0)
    store = MemoryState()
    assert [one for one in run(calm, store) if one.signal == "query_embedding"] == []
    other = run(asked(4, 3_000, range(30, 40), 5_000), store)
    found = [one for one in other if one.signal == "query_embedding"]
    assert [one.level for one in found] == ["warn", "alarm"]
    alarm = found[-1]
    assert (alarm.cohort, alarm.detector, alarm.category) == (f"{TENANT}/{AGENT}/*/*", "mmd-1", "*")
    assert alarm.statistic == round(alarm.current, 4) > alarm.threshold == 2.1
    assert (alarm.baseline, alarm.subject_hash) == (1.0, "")


def test_sessions_without_a_sketch_leave_queries_alone() -> None:
    store = MemoryState()
    run(sessions([0.0] * 5), store)
    assert all("queries" not in state.data for _, state in store)
