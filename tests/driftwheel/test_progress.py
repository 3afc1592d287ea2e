"""Liveness by committed progress."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
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
    for seconds.now in (0, 20, 40, 59):
        progress.look({HERE: 5}, {HERE: 10})
    assert progress.stalled() == []
    seconds.now = 60
    progress.look({HERE: 7}, {HERE: 10})
    assert progress.stalled() == [HERE]
    assert progress.problems() == ["agent.turns, partition 2: 7 entries to read and no progress for 60 s"]
    assert progress.stalled(2.0) == []
    for seconds.now in (80, 100, 120):
        progress.look({HERE: 7}, {HERE: 10})
    assert progress.stalled(2.0) == [HERE]
    progress.look({HERE: 7}, {HERE: 11})
    assert progress.stalled() == []


def test_time_in_which_nobody_could_look_is_no_standstill() -> None:
    progress, seconds = watch()
    progress.look({HERE: 5}, {HERE: 10})
    seconds.now = 300  # the brokers were away, or the machine was busy
    assert progress.stalled() == []
    progress.look({HERE: 900}, {HERE: 10})
    assert progress.stalled() == [], "it has been seen twice, and may be about to go on"
    seconds.now = 305
    progress.look({HERE: 800}, {HERE: 110})
    assert progress.stalled() == []
    for seconds.now in (320, 340, 365):
        progress.look({HERE: 800}, {HERE: 110})
    assert progress.stalled() == [HERE]


def test_a_place_that_moves_or_has_nothing_to_read_is_not() -> None:
    progress, seconds = watch()
    progress.look({HERE: 5, ("idle", 0): 0}, {HERE: 10})
    for number in range(1, 20):
        seconds.now = 25.0 * number
        progress.look({HERE: 900, ("idle", 0): 0}, {HERE: 10 + number})
        assert progress.stalled() == []


def test_idle_time_does_not_count_once_work_arrives() -> None:
    progress, seconds = watch()
    for number in range(40):
        seconds.now = 25.0 * number
        progress.look({HERE: 0}, {HERE: 10})
    for seconds.now in (1_000, 1_025, 1_050):
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


def looks_until(watch: Watch, true: Callable[[], bool]) -> None:
    for _ in range(100):
        watch.look()
        if true():
            return
        time.sleep(0.06)
    raise AssertionError("it was never so")


def test_a_worker_that_stands_still_is_told_to_end_and_first_to_be_unhealthy() -> None:
    ended: list[str] = []
    cluster: Any = Still()
    watch = Watch(cluster, [Tally()], lambda: {"tally": {HERE[1]: {HERE[0]: 10}}}, lambda: ended.append("ended"))
    looks_until(watch, lambda: bool(watch.problems()))
    assert not ended
    looks_until(watch, lambda: bool(ended))


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
    for _ in range(4):
        watch.look()
        time.sleep(0.06)
    assert not watch.problems()
    waits[0] = False
    looks_until(watch, lambda: bool(watch.problems()))
