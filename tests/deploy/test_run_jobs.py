"""Jobs: from a trigger to the gate's decision, through crashes, outages and refusals, training once."""

from __future__ import annotations

import json
import time
from collections.abc import Generator
from dataclasses import replace
from datetime import timedelta

import pytest

from connectors.nemo.memory import MemoryNemo
from connectors.nemo.microservices import Microservices
from connectors.nemo.port import NemoPort, Split
from deploy.bootstrap import bootstrap
from deploy.dataset import TEST, TRAIN
from deploy.gate import GateSettings
from deploy.local_nemo.settings import Settings
from deploy.names import dataset_of
from deploy.run_jobs import RunJobs, RunJobsSettings
from processors.agreement import Pairs, Rate, Tally, standing
from processors.state import KeyState
from schemas.errors import Refused, Retry
from schemas.events import DatasetVersion, Deployment, Evaluation, Job
from tests.deploy.local_nemo_kit import serve
from tests.deploy.wheel_kit import NEW, NOW, OLD, Driver, Shelf, deployment, library_rows, texts, trigger


def no_wait(_seconds: float) -> None:
    """Tests do not wait for the twin."""


def first_model(port: NemoPort, rows: int = 300) -> str:
    records = bootstrap(
        port, "default", "desk", texts(rows, OLD, 1), NOW, no_wait if isinstance(port, MemoryNemo) else time.sleep
    )
    return next(record.candidate for record in records if isinstance(record, Job))


@pytest.fixture
def port() -> MemoryNemo:
    return MemoryNemo(polls=2)


def driver(port: NemoPort, shelf: Shelf | None = None, settings: RunJobsSettings | None = None) -> Driver:
    return Driver(RunJobs(port, shelf or Shelf(library_rows()), settings, wait=no_wait))


def states(one: Driver) -> list[str]:
    return [job.state for job in one.of(Job)]


def test_a_job_from_trigger_to_gate(port: MemoryNemo) -> None:
    live = first_model(port)
    one = driver(port)
    one.give(deployment("live", live, ""), trigger(live))
    one.run()
    assert states(one) == ["queued", "running", "evaluating", "passed"]
    (version,), (evaluation,), last = one.of(DatasetVersion), one.of(Evaluation), one.of(Job)[-1]
    assert evaluation.passed
    assert evaluation.candidate_accuracy > evaluation.incumbent_accuracy + 0.3
    assert last.candidate == f"driftwheel/desk@{version.dataset_id[:12]}"
    assert last.incumbent == live
    assert version.train + version.validation + version.test == version.rows
    assert set(version.labels) == {*OLD, *NEW}
    assert len(version.samples) >= 150
    assert one.state.due is None
    assert one.state.data["queue"] == []


def test_the_incumbents_rows_are_replayed_and_its_test_stays_held_out(port: MemoryNemo) -> None:
    live = first_model(port)
    one = driver(port)
    one.give(trigger(live))
    one.run()
    old, new = port.files[dataset_of(live)], port.files[dataset_of(one.of(Job)[-1].candidate)]
    golden = {line for line in old[TEST].splitlines() if line}
    assert golden
    learnt = {json.loads(line)["messages"][-2]["content"] for line in new[TRAIN].splitlines()}
    held = {json.loads(line)["messages"][-2]["content"] for line in golden}
    assert not learnt & held
    assert len(learnt & {json.loads(line)["messages"][-2]["content"] for line in old[TRAIN].splitlines()}) > 100


def test_shuffled_labels_do_not_pass(port: MemoryNemo) -> None:
    live = first_model(port)
    one = driver(port, Shelf(library_rows(shuffled=True)))
    one.give(trigger(live))
    one.run()
    assert states(one)[-1] == "refused"
    assert not one.of(Evaluation)[0].passed
    assert one.of(Job)[-1].message == "; ".join(one.of(Evaluation)[0].reasons)


def test_a_crash_after_any_step_trains_once() -> None:
    """The remote step was taken, its state was lost: for every step of a job, and for all of them."""
    places = [[place] for place in range(14)] + [list(range(16))]
    for crashes in places:
        port = MemoryNemo(polls=2)
        live = first_model(port, 120)
        one = driver(port, Shelf(library_rows(160)), RunJobsSettings(gate=GateSettings(min_rows=10)))
        one.give(deployment("live", live, ""), trigger(live, labels=160))
        ticks = 0
        while one.state.due is not None:
            if ticks in crashes:
                lost = KeyState.load(one.state.dump())
                list(one.stage.tick("default/desk", lost, NOW))
            one.tick()
            ticks += 1
            assert ticks < 60
        assert states(one)[-1] == "passed", crashes
        assert port.trainings == 2, crashes


def test_a_crash_gives_the_same_records(port: MemoryNemo) -> None:
    live = first_model(port)
    runs = []
    for _ in range(2):
        one = driver(port)
        one.give(trigger(live))
        one.run()
        runs.append([(type(r).__name__, r.event_id, r.model_dump_json(exclude={"event_time"})) for r in one.out])
    assert runs[0] == runs[1]
    assert port.trainings == 2


def test_an_outage_changes_nothing(port: MemoryNemo) -> None:
    live = first_model(port)
    one = driver(port)
    one.give(trigger(live))
    for _ in range(60):
        port.away = True
        before = one.state.dump()
        if one.state.due is not None:
            with pytest.raises(Retry):
                one.tick()
        assert one.state.dump() == before
        port.away = False
        one.tick()
    assert states(one)[-1] == "passed"
    assert port.trainings == 2


def test_a_trigger_redelivered_is_one_job(port: MemoryNemo) -> None:
    stage = RunJobs(port, Shelf(library_rows()), wait=no_wait)
    from processors.stage import Message
    from processors.state import MemoryState
    from schemas import codec
    from schemas.topics import TRIGGERS

    store = MemoryState()
    one = Message(TRIGGERS.name, 0, "k", codec.encode(trigger("m")), NOW)
    first, second = stage.process([one], store), stage.process([one], store)
    assert first == second
    (state,) = (state for _, state in store)
    assert len(state.data["queue"]) == 1


def test_it_waits_for_the_library_but_not_for_ever(port: MemoryNemo) -> None:
    live, shelf = first_model(port), Shelf(library_rows()[:150])
    one = driver(port, shelf)
    one.give(trigger(live, labels=200))
    one.run()
    assert states(one) == ["queued"]
    assert one.state.due == NOW + timedelta(seconds=5)
    one.now += timedelta(minutes=11)
    one.run()
    assert states(one)[-1] in ("passed", "refused")


def test_an_empty_library_fails_in_words(port: MemoryNemo) -> None:
    one = driver(port, Shelf())
    one.give(trigger("m"))
    one.now += timedelta(minutes=11)
    one.run()
    assert states(one)[-1] == "failed"
    assert "library is empty" in one.of(Job)[-1].message


def test_a_training_that_breaks_off_is_tried_again_then_failed(port: MemoryNemo) -> None:
    live = first_model(port)
    port.fail_training = "NotEnoughResources"
    one = driver(port)
    one.give(trigger(live))
    one.run()
    assert states(one)[-1] == "failed"
    assert "NotEnoughResources" in one.of(Job)[-1].message
    assert port.trainings == 3


def test_a_job_that_stands_still_fails(port: MemoryNemo) -> None:
    live = first_model(port)
    port._polls = 10**6
    one = driver(port)
    one.give(trigger(live))
    for _ in range(6):
        one.tick()
    one.now += timedelta(hours=2)
    one.run()
    assert states(one)[-1] == "failed"
    assert "has not moved" in one.of(Job)[-1].message


def test_an_unknown_incumbent_fails_the_job_and_the_next_runs(port: MemoryNemo) -> None:
    live = first_model(port)
    one = driver(port)
    one.give(trigger("acme/from-elsewhere"), trigger(live, name="trigger-2"))
    one.tick()
    one.run(until=lambda: "failed" in states(one))
    assert "from-elsewhere" in one.of(Job)[-1].message
    one.give(deployment("live", live, ""))
    one.run()
    assert states(one)[-1] == "passed"


def test_a_roll_back_brings_the_incumbent_back(port: MemoryNemo) -> None:
    one = driver(port)
    one.give(deployment("live", "m2", "m1"))
    assert one.state.data["live"] == "m2"
    one.give(deployment("rolled_back", "m2", "m1"))
    assert one.state.data["live"] == "m1"
    one.give(deployment("rolled_back", "m3", "m1"), deployment("stopped", "m1", "m0"))
    assert one.state.data["live"] == "m1"


def test_bootstrap_is_repeatable_and_serves(port: MemoryNemo) -> None:
    rows = texts(300, OLD, 1)
    first = bootstrap(port, "default", "desk", rows, NOW, no_wait)
    second = bootstrap(port, "default", "desk", list(reversed(rows)), NOW, no_wait)
    assert first == second
    assert [type(record) for record in first] == [DatasetVersion, Job, Deployment]
    assert port.trainings == 1
    assert port.observe("desk") == Split(first[1].candidate)
    assert (first[2].state, first[2].incumbent, first[0].samples) == ("live", "", [])
    assert bootstrap(port, "acme", "desk", rows, NOW, no_wait)[2].candidate.startswith("driftwheel/acme.desk@")


def test_bootstrap_says_what_is_missing(port: MemoryNemo) -> None:
    with pytest.raises(Refused, match="fewer than two labels"):
        bootstrap(port, "default", "desk", [("reset", "it"), ("vpn", "it")], NOW, no_wait)
    port.fail_training = "out of memory"
    with pytest.raises(Refused, match="out of memory"):
        bootstrap(port, "default", "desk", texts(100, OLD, 3), NOW, no_wait)


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Generator[Microservices]:
    with serve(Settings(tmp_path_factory.mktemp("nemo"))) as url:
        nemo = Microservices(url, "driftwheel", timeout=60)
        yield nemo
        nemo.close()


def test_the_whole_job_on_the_local_nemo(real: Microservices) -> None:
    live = first_model(real)
    one = Driver(RunJobs(real, Shelf(library_rows()), RunJobsSettings(hyperparameters={"epochs": 12})))
    one.give(deployment("live", live, ""), trigger(live))
    while one.state.due is not None:
        lost = KeyState.load(one.state.dump())
        list(one.stage.tick("default/desk", lost, NOW))
        one.tick()
    assert states(one)[-1] == "passed", one.of(Job)[-1].message
    trained = [job for job in real._jobs() if job["output_model"] == one.of(Job)[-1].candidate]
    assert len(trained) == 1


JUDGE = "instruction_following:1-0af7/m"


def judged_shelf() -> Shelf:
    """What people labelled in the library before is a judge's word alone now."""
    return Shelf([replace(row, rater=f"judge:{JUDGE}") for row in library_rows()])


def test_the_gate_asks_whether_a_judge_may_gate(port: MemoryNemo) -> None:
    live, shelf = first_model(port), judged_shelf()
    one = driver(port, shelf)
    one.give(trigger(live))
    one.run()
    assert states(one)[-1] == "refused"
    assert f"the judge {JUDGE} has no right to gate: nobody has compared it with people" in one.of(Job)[-1].message
    assert shelf.asked == ["default"]


def test_a_judge_with_the_right_gates(port: MemoryNemo) -> None:
    live, shelf = first_model(port), judged_shelf()
    tally = Tally(JUDGE, Pairs(50, 1, 1, 48), 0, Rate(0, 99), Rate(0, 40), Rate(0, 40))
    shelf.judges = {JUDGE: standing(tally)}
    one = driver(port, shelf)
    one.give(trigger(live))
    one.run()
    assert states(one)[-1] == "passed"


def test_nobody_asks_about_judges_where_people_labelled(port: MemoryNemo) -> None:
    live, shelf = first_model(port), Shelf(library_rows())
    one = driver(port, shelf)
    one.give(trigger(live))
    one.run()
    assert (states(one)[-1], shelf.asked) == ("passed", [])
