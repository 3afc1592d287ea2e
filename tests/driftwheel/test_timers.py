"""Timers over a table on disk: those far away cost no memory, and none is lost or comes out of order."""

from __future__ import annotations

import random
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from connectors.kafka.state import Change, Table
from driftwheel.timers import _LOAD, AHEAD, Due, Timers
from schemas.events import EPOCH
from tests.driftwheel.engine_kit import T0

SECOND = timedelta(seconds=1)


@pytest.fixture
def table(tmp_path: Path) -> Iterator[Table]:
    made = Table(tmp_path / "table")
    yield made
    made.close()


class Both:
    """A table, its timers, and what they should be."""

    def __init__(self, table: Table) -> None:
        self.table, self.timers = table, Timers(table.timers)
        self.truth: dict[str, datetime] = {}

    def set(self, times: dict[str, datetime | None]) -> None:
        self.table.write({key: ("text", due) for key, due in times.items()}, 1)
        for key, due in times.items():
            self.timers.set(key, due)
            self.truth.pop(key, None)
            if due is not None:
                self.truth[key] = due

    def due(self, now: datetime) -> list[str]:
        return [key for due, key in sorted((due, key) for key, due in self.truth.items()) if due <= now]


def stored(table: Table) -> list[Due]:
    return list(table.timers((EPOCH, "")))


def test_the_index_has_every_key_once_at_its_time(table: Table) -> None:
    late, early = T0 + SECOND, T0 - SECOND
    table.write({"b": ("b", T0), "a": ("a", T0), "c": ("c", late), "none": ("n", None)}, 1)
    assert stored(table) == [(T0, "a"), (T0, "b"), (late, "c")]
    table.write({"c": ("c2", early), "a": ("a2", T0), "none": None}, 2)
    assert stored(table) == [(early, "c"), (T0, "a"), (T0, "b")]
    changes: dict[str, Change] = {"a": None, "c": ("c3", None)}
    table.write(changes, 3)
    table.write(changes, 3)
    assert stored(table) == [(T0, "b")]
    assert (table.get("a"), table.get("b"), table.get("c"), table.get("none")) == (None, "b", "c3", None)


@pytest.mark.parametrize("time", [EPOCH - SECOND, EPOCH, T0, T0 + timedelta(microseconds=1), T0 + 40_000 * AHEAD])
def test_times_come_back_to_the_microsecond(table: Table, time: datetime) -> None:
    table.write({"é/€\U0001f600": ("x", time)}, 1)
    assert list(table.timers((time, ""))) == [(time, "é/€\U0001f600")]
    assert list(table.timers((time + timedelta(microseconds=1), ""))) == []


def test_a_folder_of_another_format_is_built_anew(tmp_path: Path) -> None:
    table = Table(tmp_path / "table")
    table.write({"a": ("a", T0)}, 7)
    table.close()
    mark = tmp_path / "table" / "OPENED"
    mark.write_text(mark.read_text().partition(" ")[2])
    table = Table(tmp_path / "table")
    assert (table.checkpoint, table.get("a")) == (0, None)
    table.close()


@pytest.mark.parametrize("seed", range(5))
def test_every_timer_runs_out_once_and_in_order(table: Table, seed: int) -> None:
    """Against a plain dict, while keys are set, moved and cleared, near and far, and the process is begun anew."""
    chance, both, now = random.Random(seed), Both(table), T0
    for _ in range(400):
        both.set(
            {
                f"k{chance.randrange(300)}": chance.choice(
                    [None, now + chance.choice([1, 60, 3600]) * chance.random() * SECOND]
                )
                for _ in range(chance.randrange(10))
            }
        )
        if chance.random() < 0.02:
            both.timers = Timers(table.timers)
        now += chance.choice([0, 1, 30, 900]) * SECOND
        assert both.timers.wants(now) or not both.due(now)
        assert both.timers.count(now) >= min(1, len(both.due(now)))
        found = both.timers.due(now)
        assert found == both.due(now)
        both.set({key: chance.choice([None, now + 900 * SECOND]) for key in found[: chance.randrange(50)]})
    assert stored(table) == sorted((due, key) for key, due in both.truth.items())


def test_what_is_far_away_is_not_in_memory(table: Table) -> None:
    both = Both(table)
    both.timers.due(T0)
    both.set({f"k{n:05}": T0 + timedelta(hours=24, seconds=n) for n in range(20_000)})
    both.set({f"k{n:05}": T0 + timedelta(hours=25, seconds=n) for n in range(20_000)})
    assert len(both.timers) == 0
    both.set({"near": T0 + SECOND})
    assert len(both.timers) == 1
    both.set({"near": T0 + 2 * AHEAD})
    assert len(both.timers) == 0
    assert both.timers.due(T0 + timedelta(hours=24)) == ["near"]
    both.set({"near": None})
    later = T0 + timedelta(hours=25, seconds=100)
    assert both.timers.due(later) == both.due(later)
    assert len(both.timers) == 101 + AHEAD // SECOND - 1
    assert both.timers.count(later) == 101


def test_many_that_run_out_at_once_are_read_in_pieces(table: Table) -> None:
    both = Both(table)
    count = 2 * _LOAD + 5
    both.set({f"k{n:05}": T0 for n in range(count)})
    seen: list[str] = []
    while found := both.timers.due(T0):
        assert len(both.timers) <= _LOAD + len(found)
        seen += found
        both.set(dict.fromkeys(found))
    assert seen == [f"k{n:05}" for n in range(count)]
    assert both.timers.count(T0) == 0


def test_a_timer_that_moves_often_leaves_nothing_behind(table: Table) -> None:
    both = Both(table)
    both.timers.due(T0)
    for n in range(3_000):
        both.set({"often": T0 + n % 500 * SECOND})
    assert len(both.timers) == 1
    assert len(both.timers._heap) <= 2 + 1000
    assert len(stored(table)) == 1
