"""Triggers: only on enough evidence, only one at a time, again only after new evidence."""

from __future__ import annotations

from typing import Any

import pytest

from processors.plan import Plan
from processors.state import MemoryState
from schemas.events import Alarm, Deployment, Job, Record, Trigger
from tests.world import AGENT, START, TENANT, label, message, sample


def alarm(level: str = "alarm", version: str = "v1", name: str = "a1") -> Alarm:
    return Alarm.model_validate(
        {"event_id": name, "tenant": TENANT, "agent": AGENT, "event_time": START, "model_version": version,
         "cohort": f"{TENANT}/{AGENT}/{version}/*", "category": "*", "detector": "d", "signal": "s", "level": level,
         "statistic": 9.0, "threshold": 8.6, "baseline": 0.1, "current": 0.4, "sessions": 500}
    )  # fmt: skip


def job(trigger: str, state: str, name: str = "j1") -> Job:
    return Job.model_validate(
        {"event_id": f"{name}-{state}", "tenant": TENANT, "agent": AGENT, "event_time": START, "job_id": name,
         "trigger_id": trigger, "state": state}
    )  # fmt: skip


def release(state: str, candidate: str = "v2", incumbent: str = "v1") -> Deployment:
    return Deployment.model_validate(
        {"event_id": f"{candidate}-{state}", "tenant": TENANT, "agent": AGENT, "event_time": START, "release_id": "r",
         "job_id": "j1", "candidate": candidate, "incumbent": incumbent, "state": state, "weight": 1.0, "reason": ""}
    )  # fmt: skip


class Bench:
    def __init__(self) -> None:
        self.stage, self.store, self.offset, self.made = Plan(), MemoryState(), 0, 0

    def send(self, *records: Record) -> list[Trigger]:
        batch = [message(one, self.offset + n) for n, one in enumerate(records)]
        self.offset += len(records)
        return [one for one in self.stage.process(batch, self.store) if isinstance(one, Trigger)]

    def labels(self, count: int, wrong: float = 0.5, version: str = "v1", **given: Any) -> list[Trigger]:
        """So many samples with a label each, of which a share contradicts the agent."""
        records: list[Record] = []
        for number in range(self.made, self.made + count):
            one = sample(event_id=f"s{number}", turn_id=f"t{number}.r", model_version=version, **given)
            value = "hr" if (number * 0.61803) % 1 < wrong else " IT"
            records += [one, label(sample_id=one.event_id, value=value)]
        self.made += count
        return self.send(*records)


def test_an_alarm_and_enough_labels_fire_once() -> None:
    bench = Bench()
    assert bench.send(alarm("warn", name="w1"), alarm()) == []
    assert bench.labels(199) == []
    (found,) = bench.labels(1)
    assert (found.trigger_id, found.model_version, found.labels) == (found.event_id, "v1", 200)
    assert found.alarms == ["a1"]
    assert found.expected_gain == pytest.approx(0.49, abs=0.03)
    assert "200 labels" in found.reason
    assert bench.labels(500) == [], "one open trigger at most"


def test_labels_may_come_before_the_alarm() -> None:
    bench = Bench()
    assert bench.labels(250) == []
    assert len(bench.send(alarm())) == 1


@pytest.mark.parametrize(
    ("level", "count", "wrong"), [("alarm", 199, 1.0), ("warn", 400, 1.0), ("alarm", 400, 0.04), ("", 400, 1.0)]
)
def test_too_little_evidence_never_fires(level: str, count: int, wrong: float) -> None:
    bench = Bench()
    if level:
        bench.send(alarm(level))
    assert bench.labels(count, wrong) == []


def test_the_gain_must_exceed_the_cost() -> None:
    """Failures were oversampled: weighted by propensity they are under one turn in a hundred."""
    bench = Bench()
    bench.send(alarm())
    assert bench.labels(30, wrong=1.0, propensity=0.5) == []
    assert bench.labels(400, wrong=0.0, propensity=0.01) == []
    assert next(state for _, state in bench.store).data["cases"]["v1"]["phase"] == "ready"


def test_labels_of_other_versions_do_not_count() -> None:
    bench = Bench()
    bench.send(alarm())
    assert bench.labels(300, version="v0") == []


def test_a_second_rater_does_not_count_twice() -> None:
    bench = Bench()
    bench.send(alarm())
    bench.labels(150)
    assert bench.send(*[label(sample_id=f"s{n}", rater="r2") for n in range(150)]) == []


def test_a_label_may_come_before_its_sample() -> None:
    bench = Bench()
    bench.send(alarm())
    records = [sample(event_id=f"s{n}", turn_id=f"t{n}.r") for n in range(200)]
    assert bench.send(*[label(sample_id=one.event_id) for one in records]) == []
    assert len(bench.send(*records)) == 1


@pytest.mark.parametrize("state", ["refused", "failed"])
def test_after_a_refusal_half_as_many_new_labels_are_needed(state: str) -> None:
    bench = Bench()
    bench.send(alarm())
    (first,) = bench.labels(200)
    assert bench.send(job(first.trigger_id, "queued"), job(first.trigger_id, state)) == []
    assert bench.labels(99) == []
    (second,) = bench.labels(1)
    assert second.trigger_id != first.trigger_id
    assert second.labels == 100


def test_labels_that_fired_are_used_up() -> None:
    bench = Bench()
    bench.send(alarm())
    (first,) = bench.labels(200)
    bench.send(job(first.trigger_id, "refused"))
    assert bench.send(*[label(sample_id=f"s{n}", rater="r2") for n in range(200)]) == []


def test_a_release_that_goes_live_starts_anew() -> None:
    bench = Bench()
    bench.send(alarm())
    (first,) = bench.labels(200)
    bench.send(job(first.trigger_id, "passed"), release("shadow"), release("canary"), release("live"))
    assert bench.send(alarm(name="a2")) == [], "the old version is retired"
    assert bench.labels(300) == []
    assert bench.labels(300, version="v2") == []
    (second,) = bench.send(alarm(version="v2", name="a3"))
    assert (second.model_version, second.alarms) == ("v2", ["a3"])


@pytest.mark.parametrize("state", ["rolled_back", "stopped"])
def test_a_release_taken_back_cools_down_the_old_version(state: str) -> None:
    bench = Bench()
    bench.send(alarm())
    (first,) = bench.labels(200)
    bench.send(job(first.trigger_id, "passed"), release("shadow"), release(state))
    assert bench.labels(99) == []
    assert len(bench.labels(1)) == 1


def test_rolled_back_after_live_the_old_version_is_watched_again() -> None:
    bench = Bench()
    bench.send(alarm())
    bench.labels(200)
    bench.send(release("live"), release("rolled_back"))
    bench.labels(200)
    assert len(bench.send(alarm(name="a2"))) == 1


def test_a_job_of_an_unknown_trigger_changes_nothing() -> None:
    bench = Bench()
    bench.send(alarm(), job("nobody's", "refused"), job("", "failed"))
    assert bench.labels(199) == []
    assert len(bench.labels(1)) == 1


def test_the_same_evidence_gives_the_same_trigger() -> None:
    ids: set[str] = set()
    for size in (1, 200):
        bench = Bench()
        bench.send(alarm())
        found = [one for _ in range(0, 200, size) for one in bench.labels(size)]
        ids |= {one.trigger_id for one in found}
    assert len(ids) == 1


def test_state_stays_bounded() -> None:
    bench = Bench()
    for number in range(30):
        bench.labels(100, version=f"v{number}")
        bench.send(*[label(sample_id=f"lost{number}-{n}") for n in range(100)])
        bench.send(release("live", f"v{number + 1}", f"v{number}"))
    (state,) = [state for _, state in bench.store]
    assert len(state.data["samples"]) <= 2_000
    assert len(state.data["early"]) <= 2_000
    assert len(state.data["cases"]) <= 8
    assert len(state.data["retired"]) <= 8
