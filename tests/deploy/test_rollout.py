"""Releases: better candidates go live soon, worse ones never or not for long, silence decides nothing."""

from __future__ import annotations

import random
import statistics
from collections.abc import Iterator
from datetime import timedelta
from itertools import islice
from typing import Any

import pytest

from deploy import canary, shadow, watch
from deploy.canary import CanarySettings
from deploy.rollout import Rollout, RolloutSettings
from deploy.shadow import ShadowSettings
from deploy.watch import WatchSettings
from processors.stage import Message
from processors.state import MemoryState
from schemas import codec
from schemas.errors import UsageError
from schemas.events import Deployment, Record, identity
from schemas.topics import topic_of
from tests.deploy.wheel_kit import NOW, WHO, Driver, comparison, label, outcome, passed

RELEASE = identity("release", "job-1")
STEP = timedelta(seconds=20)
CLOSE = 90  # a session without a failure is known to be one this many sessions later


def states(one: Driver) -> list[str]:
    return [release.state for release in one.of(Deployment)]


def shadow_turns(rng: random.Random, first: int, live: float, candidate: float) -> Iterator[Record]:
    """Turns in the shadow phase: both models are right with these chances; people say something now and then."""
    number = first
    while True:
        number += 1
        time = NOW + number * STEP
        right, other = rng.random() < live, rng.random() < candidate
        said, shown = ("truth" if right else "wrong"), ("truth" if other else "odd")
        yield comparison(number, said, shown, RELEASE, time)
        draw = rng.random()
        if right and draw < 0.65:
            yield outcome(number, "m1", time, verdict="success")
        elif not right and draw < 0.22:
            yield outcome(number, "m1", time, verdict="failure", expected="truth")
        elif not right and draw < 0.85:
            yield outcome(number, "m1", time, verdict="failure")
        if draw > 0.95:
            yield label(number, "truth", time)


def decide_shadow(live: float, candidate: float, seed: int, most: int) -> tuple[str, int]:
    """How a shadow phase ends, and after how many turns."""
    rng, data, settings = random.Random(seed), shadow.begin(), ShadowSettings(most=most)
    for record in shadow_turns(rng, 0, live, candidate):
        before = data["wins"], data["losses"], data["seen"]
        shadow.take(data, record, str(seed))
        if (data["wins"], data["losses"], data["seen"]) != before:
            decision = shadow.decide(data, settings)
            if decision:
                return decision[0], data["seen"]
    raise AssertionError


def test_shadow_a_better_candidate_is_seen_soon() -> None:
    found = [decide_shadow(0.55, 0.88, seed, 3000) for seed in range(40)]
    assert all(word == "canary" for word, _ in found)
    assert statistics.median(turns for _, turns in found) < 150


def test_shadow_an_equal_candidate_is_neither() -> None:
    found = [decide_shadow(0.7, 0.7, seed, 600) for seed in range(60)]
    assert sum(word == "canary" for word, _ in found) <= 3
    assert sum(word == "stopped" and turns < 600 for word, turns in found) <= 6


def test_shadow_a_worse_candidate_is_stopped() -> None:
    found = [decide_shadow(0.88, 0.5, seed, 3000) for seed in range(30)]
    assert all(word == "stopped" for word, _ in found)
    assert statistics.median(turns for _, turns in found) < 1500


def test_shadow_order_does_not_matter() -> None:
    records = [comparison(1, "a", "b", RELEASE), label(1, "b")]
    for given in (records, records[::-1]):
        data = shadow.begin()
        for record in given:
            shadow.take(data, record, "x")
        assert (data["wins"], data["losses"]) == (1, 0)


def test_shadow_a_late_label_explains_a_failure() -> None:
    data = shadow.begin()
    for record in (comparison(1, "a", "b", RELEASE), outcome(1, "m1", verdict="failure"), label(1, "b")):
        shadow.take(data, record, "x")
    assert (data["wins"], data["explained"], data["failed"], data["open"]) == (1, 1, 1, {})


def sessions(rng: random.Random, first: int, live: float, candidate: float, weight: float) -> Iterator[Record]:
    """Sessions of a canary: a failure is known at once, a success when the session closes."""
    waiting: dict[int, Record] = {}
    number = first
    while True:
        number += 1
        model, chance = ("m2", candidate) if rng.random() < weight else ("m1", live)
        time = NOW + number * STEP
        if rng.random() < chance:
            yield outcome(number, model, time, verdict="failure", session_value=1)
        else:
            waiting[number + CLOSE] = outcome(number, model, time, verdict="success", session_value=0)
        if number in waiting:
            yield waiting.pop(number)


def decide_canary(live: float, candidate: float, seed: int, settings: CanarySettings) -> tuple[str, int, int]:
    """How a canary ends, its sessions of the candidate, and how many sessions began in all."""
    data, began = canary.begin(), 0
    for place, record in enumerate(sessions(random.Random(seed), 0, live, candidate, 0.25)):
        canary.take(data, record, "m2")  # type: ignore[arg-type]  # outcomes only
        began = max(began, int(record.event_id.split("-")[1]))
        if place % 4 == 0 and (decision := canary.decide(data, settings)):
            return decision[0], data["candidate"][0], began
    raise AssertionError


def test_canary_a_better_candidate_goes_live_soon() -> None:
    found = [decide_canary(0.45, 0.12, seed, CanarySettings()) for seed in range(30)]
    assert all(word == "live" for word, *_ in found)
    assert statistics.median(ours for _, ours, _ in found) <= 70
    assert statistics.median(began for *_, began in found) <= 400


def test_canary_a_worse_candidate_is_taken_back_soon() -> None:
    found = [decide_canary(0.12, 0.45, seed, CanarySettings()) for seed in range(30)]
    assert all(word == "rolled_back" for word, *_ in found)
    assert statistics.median(began for *_, began in found) <= 150


def test_canary_errors_are_as_rare_as_stated() -> None:
    settings = CanarySettings(most=500)
    equal = [decide_canary(0.4, 0.4, seed, settings)[0] for seed in range(100)]
    assert equal.count("rolled_back") <= 8
    at_margin = [decide_canary(0.4, 0.5, seed, settings)[0] for seed in range(100)]
    assert at_margin.count("live") <= 8


def test_canary_traffic_that_is_not_split_as_asked_never_promotes() -> None:
    data, rng = canary.begin(), random.Random(3)
    for record in sessions(rng, 0, 0.4, 0.4, 0.02):
        canary.take(data, record, "m2")  # type: ignore[arg-type]  # outcomes only
        decision = canary.decide(data, CanarySettings(sessions=1, most=1500))
        assert decision is None or decision[0] == "stopped"
        if decision:
            assert "not split as asked" in decision[1]
            return


def test_canary_what_was_served_before_the_split_does_not_count() -> None:
    data = canary.begin()
    for number in range(30):
        canary.take(data, outcome(number, "m1", NOW + number * STEP, session_value=1), "m2")
    canary.take(data, outcome(40, "m2", NOW + 40 * STEP, verdict="success"), "m2")
    canary.take(data, outcome(39, "m1", NOW + 39 * STEP, session_value=1), "m2")
    canary.take(data, outcome(41, "m1", NOW + 41 * STEP, session_value=0), "m2")
    assert (data["live"], data["candidate"]) == ([1, 0], [0, 0])


def test_canary_weight_is_a_share() -> None:
    with pytest.raises(UsageError, match="between 0 and 1"):
        CanarySettings(weight=1.0)


def watched(before: float, after: float, seed: int) -> str:
    """How a watch ends: 100 sessions before the release, then those after it."""
    rng, data, settings = random.Random(seed), watch.begin(), WatchSettings(settle=CLOSE * 20.0)
    for record in sessions(rng, 0, before, before, 0.0):
        watch.take(data, record, "m2", settings)  # type: ignore[arg-type]  # outcomes only
        if data["reference"][0] >= 100:
            break
    watch.released(data, NOW + 300 * STEP)
    for place, record in enumerate(sessions(rng, 300, after, after, 1.0)):
        watch.take(data, record, "m2", settings)  # type: ignore[arg-type]  # outcomes only
        if place % 5 == 0 and (decision := watch.decide(data, settings)):
            return decision[0]
    raise AssertionError


def test_watch_takes_back_what_got_worse_and_keeps_the_rest() -> None:
    assert [watched(0.3, 0.3, seed) for seed in range(40)].count("rolled_back") <= 2
    assert all(watched(0.45, 0.12, seed) == "kept" for seed in range(10))
    assert all(watched(0.2, 0.6, seed) == "rolled_back" for seed in range(10))


def feed(one: Driver, records: Iterator[Record], until: str, most: int = 4000) -> int:
    for count, record in enumerate(records):
        if until in [release.state for release in one.give(record)]:
            return count
        assert count < most, one.state.data
    return 0


def released(seed: int = 1) -> Driver:
    one, rng = Driver(Rollout()), random.Random(seed)
    one.give(passed())
    feed(one, shadow_turns(rng, 0, 0.55, 0.88), "canary")
    feed(one, sessions(rng, 4000, 0.45, 0.12, 0.25), "live")
    return one


def test_the_whole_way_to_live() -> None:
    one = released()
    assert states(one) == ["shadow", "canary", "live"]
    first, second, third = one.of(Deployment)
    assert (first.weight, second.weight, third.weight) == (0.0, 0.25, 1.0)
    assert {d.release_id for d in one.of(Deployment)} == {RELEASE}
    assert first.event_time < second.event_time < third.event_time
    assert second.evidence["e_better"] >= 20
    assert third.evidence["sessions"] >= 60
    assert "canary sessions failed" in third.reason
    assert (third.candidate, third.incumbent) == ("m2", "m1")


def test_a_release_that_turns_bad_is_taken_back() -> None:
    one = released()
    feed(one, sessions(random.Random(5), 20_000, 0.0, 0.95, 1.0), "rolled_back")
    last = one.of(Deployment)[-1]
    assert (last.state, last.weight) == ("rolled_back", 0.0)
    assert "since the release" in last.reason
    assert one.state.data["live"] == "m1"
    assert one.state.data["release"] == {}


def test_a_release_that_stays_good_is_kept_and_the_next_may_come() -> None:
    one = released()
    one.give(passed("m3", "m1", "job-2"))
    assert states(one)[-1] == "live"
    rng = random.Random(6)
    feed(one, sessions(rng, 20_000, 0.0, 0.1, 1.0), "shadow")
    last = one.of(Deployment)[-1]
    assert (last.candidate, last.incumbent) == ("m3", "m2")


def test_a_harmful_canary_is_taken_back() -> None:
    one, rng = Driver(Rollout()), random.Random(2)
    one.give(passed())
    feed(one, shadow_turns(rng, 0, 0.55, 0.88), "canary")
    feed(one, sessions(rng, 4000, 0.1, 0.6, 0.25), "rolled_back")
    assert states(one) == ["shadow", "canary", "rolled_back"]
    assert one.of(Deployment)[-1].evidence["e_worse"] >= 20


def test_silence_promotes_nothing() -> None:
    one = Driver(Rollout())
    one.give(passed())
    for number in range(300):
        one.give(comparison(number, "a", "b", RELEASE), outcome(number, "m1", verdict="failure"))
    assert states(one) == ["shadow"]
    one.now += timedelta(days=15)
    one.run()
    assert states(one) == ["shadow", "stopped"]
    assert "14 days decided nothing" in one.of(Deployment)[-1].reason


def test_only_the_newest_candidate_waits() -> None:
    one = Driver(Rollout())
    one.give(passed(), passed("m3", "m1", "job-2"), passed("m4", "m1", "job-3"))
    assert states(one) == ["shadow"]
    one.now += timedelta(days=15)
    one.tick()
    assert [(d.state, d.candidate) for d in one.of(Deployment)] == [
        ("shadow", "m2"),
        ("stopped", "m2"),
        ("shadow", "m4"),
    ]


@pytest.mark.parametrize("state", ["queued", "running", "evaluating", "refused", "failed"])
def test_only_passed_jobs_are_released(state: Any) -> None:
    one = Driver(Rollout())
    one.give(passed().model_copy(update={"state": state}))
    one.give(passed().model_copy(update={"incumbent": ""}))
    assert one.out == []


def test_what_is_of_other_releases_or_models_does_not_count() -> None:
    one = Driver(Rollout())
    one.give(outcome(1, "m1", session_value=1), comparison(1, "a", "b", RELEASE))
    one.give(passed())
    before = one.state.dump()
    one.give(comparison(2, "a", "b", "another-release"))
    one.give(comparison(3, "a", "b", RELEASE).model_copy(update={"source": "user"}))
    assert one.state.dump() == before


def test_labels_without_meaning_promote_nothing() -> None:
    one, rng = Driver(Rollout(RolloutSettings())), random.Random(4)
    one.give(passed())
    for number in range(400):
        one.give(comparison(number, "a", "b", RELEASE), label(number, rng.choice("ab")))
    assert "canary" not in states(one)


def test_times_never_run_back() -> None:
    one = released(3)
    times = [release.event_time for release in one.of(Deployment)]
    assert times == sorted(times)
    late = {**WHO, "event_time": NOW - timedelta(days=3)}
    one.give(outcome(99_999, "m2", late["event_time"], session_value=1))
    assert one.state.due is not None


def messages(seed: int) -> list[Message]:
    """A release's records in the order of the log, but each delivered within 20 of its place."""
    rng = random.Random(seed)
    records: list[Record] = [passed()]
    records += islice(shadow_turns(rng, 0, 0.5, 0.9), 300)
    records += islice(sessions(rng, 2000, 0.45, 0.1, 0.25), 600)
    places = sorted(range(len(records)), key=lambda i: i + rng.uniform(0, 20))
    return [Message(topic_of(records[i]).name, n, "k", codec.encode(records[i]), NOW) for n, i in enumerate(places)]


@pytest.mark.parametrize("seed", [1, 2])
def test_batches_and_redelivery_change_nothing(seed: int) -> None:
    stage, given = Rollout(), messages(seed)
    whole, one, twice = MemoryState(), MemoryState(), MemoryState()
    expected = stage.process(given, whole)
    assert [record.state for record in expected if isinstance(record, Deployment)][:2] == ["shadow", "canary"]
    assert [record for message in given for record in stage.process([message], one)] == expected
    again = [
        record for n in range(0, len(given), 100) for _ in (1, 2) for record in stage.process(given[n : n + 100], twice)
    ]
    assert {record.event_id for record in again} == {record.event_id for record in expected}
    texts = [{key: state.dump() for key, state in store} for store in (whole, one, twice)]
    assert texts[0] == texts[1] == texts[2]
