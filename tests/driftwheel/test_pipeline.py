"""Which stages run where, and what leads to what."""

from __future__ import annotations

from pathlib import Path

import pytest

from connectors.models import MINILM
from driftwheel import config
from driftwheel.config import Config
from driftwheel.pipeline import JOB_STAGES, WHEEL, WORKER_STAGES, likeness, upstream, worker_stages
from processors import PIPELINE
from processors.likeness import LETTERS
from processors.stage import is_routed
from schemas.errors import Refused, UsageError
from schemas.topics import CALIBRATIONS


def names(stages: object) -> list[str]:
    return [stage.name for stage in stages]  # type: ignore[attr-defined]


def test_every_stage_runs_in_a_worker_or_in_the_job_runner() -> None:
    assert sorted(names(WORKER_STAGES) + names(JOB_STAGES)) == sorted(names(WHEEL))
    assert set(names(PIPELINE)) < set(names(WORKER_STAGES))
    assert names(JOB_STAGES) == ["run_jobs", "apply_release"]


def test_a_worker_has_its_stages_in_the_order_of_the_flow() -> None:
    assert names(worker_stages(config.load(), ["score", "redact"], b"key")) == ["redact", "score"]


def test_a_name_that_no_worker_runs_is_refused_with_those_that_there_are() -> None:
    with pytest.raises(UsageError, match="'run_jobs' is not a stage that workers run; there are: redact, assemble"):
        worker_stages(config.load(), ["run_jobs"], b"key")


def test_upstream_is_the_way_from_the_raw_topics() -> None:
    by_name = {stage.name: stage for stage in WHEEL}
    assert names(upstream(by_name["redact"])) == ["redact"]
    assert names(upstream(by_name["attribute"])) == ["redact", "assemble", "score", "attribute"]
    assert names(upstream(by_name["rollout"])) == [
        *names(PIPELINE)[:4], "detect_drift", "curate", "plan", "run_jobs", "rollout",
    ]  # fmt: skip


def test_only_stages_whose_topics_are_keyed_otherwise_are_routed() -> None:
    assert [stage.name for stage in WHEEL if is_routed(stage)] == [
        "redact",
        "detect_drift",
        "curate",
        "learn",
        "plan",
        "rollout",
    ]


def test_what_was_learnt_comes_round_and_nothing_waits_for_itself() -> None:
    """The loop of score and learn: calibrations need no way through an inbox, and hold up nobody's timers for ever."""
    by_name = {stage.name: stage for stage in WHEEL}
    assert CALIBRATIONS in by_name["score"].sources
    assert CALIBRATIONS in by_name["learn"].emits
    assert names(upstream(by_name["score"])) == ["redact", "assemble", "score"]
    assert names(upstream(by_name["learn"])) == [*names(PIPELINE)[:4], "detect_drift", "curate", "learn"]


def test_likeness_is_by_letters_where_there_is_no_model(tmp_path: Path) -> None:
    folder = {"folder": tmp_path / "models", "embedding": "minilm"}
    assert likeness(Config.model_validate({"models": folder})) is LETTERS
    place = tmp_path / "models" / MINILM.name
    place.mkdir(parents=True)
    for file in MINILM.files:
        with (place / file.name).open("wb") as made:
            made.truncate(file.size)
    found = likeness(Config.model_validate({"models": folder}))
    assert (found.meaning, found.name) == (True, "all-minilm-l6-v2")
    with pytest.raises(Refused):
        found("it is loaded when it is first asked", "and then it has to be whole")
