"""What reaches a lane, and in which order: no message passes one that was passed over."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from connectors.kafka.settings import KafkaSettings
from connectors.kafka.wire import stored_of
from driftwheel import lane_runner
from driftwheel.lane_runner import Arrival, Feed, LaneRunner
from driftwheel.worker import Track
from processors.stage import Message
from tests.driftwheel.engine_kit import Clock, Tally
from tests.driftwheel.kafka_kit import lane_settings

TOPIC = "agent.signals.raw"


class Place(NamedTuple):
    topic: str
    partition: int


HERE = Place(TOPIC, 0)


class Lane:
    """Takes down what it is given, and takes its time."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds = seconds
        self.stage, self.partition = Tally(), 0
        self.positions = {TOPIC: 10}
        self.batches: list[list[int]] = []
        self.times: list[object] = []

    def open(self) -> None: ...

    def close(self) -> None: ...

    def wants_tick(self, now: object) -> bool:
        del now
        return False

    def process(self, messages: Sequence[Message], now: object) -> None:
        self.times.append(now)
        time.sleep(self.seconds)
        self.batches.append([message.offset for message in messages])
        self.positions[TOPIC] = max(self.positions[TOPIC], *(message.offset + 1 for message in messages))


def arrival(offset: int, follows: int) -> Arrival:
    return Arrival(stored_of(TOPIC, 0, offset, b"", b"", 0, []), [], follows)


def run(
    arrivals: Sequence[Arrival],
    tmp_path: Path,
    records: set[int],
    wait: float = 0.3,
    *,
    linger: float = 0.0,
    seconds: float = 0.0,
) -> tuple[Lane, list[str]]:
    """A runner that gets these one by one; ``records``: offsets that the brokers have a record at."""
    lane, failures = Lane(seconds), list[str]()
    settings = lane_settings(KafkaSettings("127.0.0.1:1", "t."), tmp_path, Clock())

    async def feed() -> None:
        with ThreadPoolExecutor(1) as pool:
            late = datetime(2026, 1, 1, tzinfo=UTC)
            how = Feed(settings, 100, linger, 0.05, pool, lambda: late, lambda: failures.append("failed"))
            runner: Any = LaneRunner(lane, how)  # type: ignore[arg-type]
            runner._records_between = lambda topic, first, before: any(first <= at < before for at in records)
            for one in arrivals:
                await runner.put(one)
                await asyncio.sleep(0.05)
            await asyncio.sleep(wait)
            await runner.close()

    asyncio.run(feed())
    return lane, failures


def test_marks_of_transactions_are_no_messages(tmp_path: Path) -> None:
    lane, _ = run([arrival(10, 10), arrival(12, 11), arrival(15, 13)], tmp_path, records={11, 13, 14})
    assert [at for batch in lane.batches for at in batch] == [10, 12, 15]


def test_what_came_ahead_waits_for_what_was_passed_over(tmp_path: Path) -> None:
    came = [arrival(10, 10), arrival(14, 14), arrival(11, 11), arrival(14, 12)]
    lane, failures = run(came, tmp_path, records={10, 11, 14})
    assert lane.batches == [[10], [11], [14]]
    assert not failures


def test_a_hole_that_nobody_knows_of_is_looked_into(tmp_path: Path) -> None:
    lane, _ = run([arrival(14, 14)], tmp_path, records={14})
    assert lane.batches == [[14]]


def test_what_never_comes_again_ends_the_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(lane_runner, "LEAP_SECONDS", 0.2)
    lane, failures = run([arrival(14, 14)], tmp_path, records={12, 14}, wait=1.0)
    assert lane.batches == []
    assert failures == ["failed"]
    assert f"{TOPIC} has gone on without the records from offset 10 on" in caplog.text


def test_what_takes_longer_is_done_less_often(tmp_path: Path) -> None:
    came = [arrival(offset, offset) for offset in range(10, 16)]
    many = [arrival(offset, offset) for offset in range(10, 40)]
    slow, _ = run(came, tmp_path, set(range(10, 16)), wait=6.0, linger=5.0, seconds=0.2)
    quick, _ = run(many, tmp_path, set(range(10, 40)), linger=5.0)
    assert slow.batches == [[10], [11, 12, 13, 14, 15]]
    assert len(quick.batches) > 2


def test_a_lane_that_lingers_is_let_go_of_at_once(tmp_path: Path) -> None:
    began = time.monotonic()
    lane, _ = run([arrival(10, 10), arrival(11, 11)], tmp_path, {10, 11}, linger=60.0, seconds=1.0)
    assert lane.batches == [[10]]
    assert time.monotonic() - began < 30


def test_a_consumer_that_reads_on_has_passed_over_nothing() -> None:
    track = Track()
    track.before({HERE: 5})
    assert track.follow(HERE, [5, 7, 8]) == [5, 6, 8]
    track.after({HERE: 10})
    track.before({HERE: 10})
    assert track.follow(HERE, [11]) == [9]


def test_marks_alone_move_a_consumer_on() -> None:
    track = Track()
    for position, found, follows in ((5, [5], [5]), (7, [], []), (9, [9], [6])):
        track.before({HERE: position})
        if found:
            assert track.follow(HERE, found) == follows
        track.after({HERE: position + 2})


def test_a_consumer_that_was_sent_elsewhere_follows_on_nothing() -> None:
    track = Track()
    track.before({HERE: 5})
    track.follow(HERE, [5])
    track.after({HERE: 6})
    track.before({HERE: 20})
    assert track.follow(HERE, [21]) == [20]
    track.after({HERE: 22})
    track.before({HERE: 3})
    assert track.follow(HERE, [4, 5]) == [3, 5]


def test_a_consumer_sent_back_while_it_reads_claims_nothing() -> None:
    track = Track()
    track.before({HERE: 50})
    assert track.follow(HERE, [20, 21]) == [20, 21]
