"""Liveness by committed progress."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

from connectors.kafka.settings import KafkaSettings
from driftwheel.cluster import Reading, Watch
from driftwheel.progress import ProgressWatch
from driftwheel.telemetry import Metrics
from processors.stage import Stage
from tests.driftwheel.engine_kit import Tally

HERE = ("agent.turns", 2)


class Seconds:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def watch() -> tuple[ProgressWatch, Seconds]:
    seconds = Seconds()
    return ProgressWatch(60, seconds), seconds


def test_a_place_with_work_that_stands_still_is_stalled() -> None:
    progress, seconds = watch()
    progress.look({HERE: 5}, {HERE: 10})
    seconds.now = 61
    progress.look({HERE: 7}, {HERE: 10})
    assert progress.stalled() == [HERE]
    assert progress.problems() == ["agent.turns, partition 2: 7 entries to read and no progress for 60 s"]
    assert progress.stalled(2.0) == []
    seconds.now = 121
    assert progress.stalled(2.0) == [HERE]


def test_a_place_that_moves_or_has_nothing_to_read_is_not() -> None:
    progress, seconds = watch()
    progress.look({HERE: 5, ("idle", 0): 0}, {HERE: 10})
    seconds.now = 61
    progress.look({HERE: 900, ("idle", 0): 0}, {HERE: 11})
    assert progress.stalled() == []
    seconds.now = 121
    progress.look({HERE: 900, ("idle", 0): 0}, {HERE: 12})
    assert progress.stalled() == []


def test_idle_time_does_not_count_once_work_arrives() -> None:
    progress, seconds = watch()
    progress.look({HERE: 0}, {HERE: 10})
    seconds.now = 1_000
    progress.look({HERE: 0}, {HERE: 10})
    seconds.now = 1_001
    progress.look({HERE: 3}, {HERE: 10})
    assert progress.stalled() == []


def test_a_place_that_went_to_another_owner_is_forgotten() -> None:
    progress, seconds = watch()
    progress.look({HERE: 5}, {HERE: 10})
    seconds.now = 50
    progress.look({}, {})
    seconds.now = 70
    progress.look({HERE: 5}, {HERE: 10})
    assert progress.stalled() == []


class Still:
    """A cluster whose one lane has work and does not get on."""

    config = SimpleNamespace(worker=SimpleNamespace(stall_seconds=0.1))
    kafka = KafkaSettings("127.0.0.1:1", "t.")

    def __init__(self) -> None:
        self.metrics, self.stopping = Metrics(), threading.Event()
        self.stopping.set()  # nobody but the test looks

    def lags(self, stages: Sequence[Stage]) -> dict[str, dict[tuple[str, int], int]]:
        return {stage.name: {HERE: 3} for stage in stages}


def test_a_worker_that_stands_still_is_told_to_end_and_first_to_be_unhealthy() -> None:
    ended: list[str] = []
    cluster: Any = Still()
    watch = Watch(cluster, [Tally()], lambda: {"tally": {HERE[1]: {HERE[0]: 10}}}, lambda: ended.append("ended"))
    watch.look()
    time.sleep(0.15)
    watch.look()
    assert watch.problems()
    assert not ended
    time.sleep(0.1)
    watch.look()
    assert ended == ["ended"]


class Behind:
    """A look at groups: the same again and again."""

    def state_of(self, group: str, topics: Sequence[str]) -> tuple[dict[tuple[str, int], int], dict[Any, int]]:
        assert (group, topics) == ("t.driftwheel.sink", ["t.a"])
        return {HERE: 3}, {HERE: 10}


def test_a_sink_that_reads_no_more_is_unhealthy_unless_it_waits_for_its_store() -> None:
    cluster: Any = Still()
    cluster.backlog = Behind()
    waits = [True]
    reading = Reading("t.driftwheel.sink", ["t.a"], lambda: waits[0])
    watch = Watch(cluster, [], dict, readings={"sink": reading})
    for expected in (False, True):
        watch.look()
        time.sleep(0.15)
        watch.look()
        assert bool(watch.problems()) is expected
        waits[0] = False
