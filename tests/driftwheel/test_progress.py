"""Liveness by committed progress."""

from __future__ import annotations

from driftwheel.progress import ProgressWatch

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
