"""Alarms per cohort from one value per session."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from datetime import timedelta
from itertools import pairwise

from processors.detect_drift import DetectDrift
from processors.state import MemoryState
from schemas.events import Alarm, Outcome
from tests.world import AGENT, START, TENANT, message, outcome

STEM = f"{TENANT}/{AGENT}/v1"


def sessions(rates: Sequence[float], seed: int = 1, category: str = "it") -> list[Outcome]:
    chance = random.Random(seed)
    return [
        outcome(
            session_id=f"s{place}",
            turn_id=f"t{place}.r",
            session_value=int(chance.random() < rate),
            category=category,
            event_time=START + timedelta(seconds=place),
        )
        for place, rate in enumerate(rates)
    ]


def run(outcomes: Sequence[Outcome], store: MemoryState | None = None) -> list[Alarm]:
    store = store or MemoryState()
    found = DetectDrift().process([message(one, place) for place, one in enumerate(outcomes)], store)
    return [one for one in found if isinstance(one, Alarm)]


RISE = [0.08] * 1_000 + [0.5] * 120


def test_a_rise_warns_and_then_alarms_in_its_category_and_the_roll_up() -> None:
    found = run(sessions(RISE))
    for cohort in (f"{STEM}/it", f"{STEM}/*"):
        levels = [one.level for one in found if one.cohort == cohort]
        assert levels[:2] == ["warn", "alarm"]
    first = next(one for one in found if one.level == "alarm")
    assert (first.tenant, first.agent, first.model_version, first.category) == (TENANT, AGENT, "v1", "it")
    assert first.subject_hash == ""
    assert first.statistic > first.threshold == 8.6
    assert first.sessions > 1_000
    assert first.baseline < 0.12 < 0.15 < first.current
    assert len({one.event_id for one in found}) == len(found)


def test_a_warning_is_given_once_until_it_is_calm_again() -> None:
    warnings = [one for one in run(sessions([0.08] * 1_000 + [0.3] * 40)) if one.level == "warn"]
    assert len(warnings) <= 2 * 2


def test_a_rise_that_lasts_alarms_again_but_not_at_once() -> None:
    found = [one for one in run(sessions([0.08] * 1_000 + [0.5] * 900)) if one.category == "*"]
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
    assert [key for key, _ in store] == [f"{STEM}/*"]


def test_failures_that_are_known_before_any_success_do_not_spoil_the_baseline() -> None:
    store = MemoryState()
    late = [*sessions([1.0] * 50), *sessions([0.08] * 150, seed=3)]
    run([one.model_copy(update={"event_id": f"o{place}"}) for place, one in enumerate(late)], store)
    assert {state.data["n"] for _, state in store} == {150}


def test_state_of_a_cohort_fits_in_300_bytes() -> None:
    store = MemoryState()
    run(sessions(RISE), store)
    assert all(len(json.dumps(state.data)) <= 300 for _, state in store)


def test_an_idle_cohort_is_forgotten() -> None:
    store, stage = MemoryState(), DetectDrift()
    run(sessions([0.0]), store)
    assert stage.expire(store, START + timedelta(days=29)) == []
    assert len(list(store)) == 2
    stage.expire(store, START + timedelta(days=31))
    assert list(store) == []
