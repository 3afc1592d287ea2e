"""One stage on one partition, on a real broker."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Iterator
from datetime import timedelta
from pathlib import Path
from threading import Lock
from typing import Any

import pytest

from connectors.kafka.log import KafkaLog
from connectors.kafka.settings import KafkaSettings
from connectors.kafka.state import POSITIONS, Table
from connectors.kafka.transactions import Failed, Transactions
from connectors.log import entry_of
from driftwheel.lane import Lane, LaneLost
from driftwheel.orders import orders_of
from driftwheel.routing import INBOX
from processors.stage import Event, Message, Stage, forget, is_routed
from processors.state import KeyState
from schemas import codec
from schemas.events import Calibration, LedgerEntry, Record
from schemas.subjects import Subject
from schemas.topics import CALIBRATIONS, DEAD_LETTERS, ERASURES, LEDGER, TURNS
from tests.driftwheel.engine_kit import T0, Clock, Tally, raw, tally
from tests.driftwheel.kafka_kit import lane_settings, make_topics, records, stored
from tests.world import turn


class Sum(Stage):
    """Adds up per agent, straight from its topic; each count shows what came before. Closes after a minute."""

    name, sources, emits = "sum", (LEDGER,), (ERASURES,)

    def step(self, event: Event, state: KeyState) -> Iterable[Record]:
        assert isinstance(event.record, LedgerEntry)
        state.data["sum"] = state.data.get("sum", 0) + event.record.count
        state.due = T0 + timedelta(minutes=1)
        yield from Echoes.of(event.event_id, event.record.agent, state.data["sum"])

    def tick(self, key: str, state: KeyState, now: Any) -> Iterable[Record]:
        state.due = None
        yield from Echoes.of(f"closed {key}", key.partition("/")[2], state.data["sum"])


class Settle(Sum):
    """Tells what it had of a person when that person is erased."""

    name = "settle"

    def erase(self, name: str, state: KeyState, about: Subject) -> Iterable[Record]:
        assert about.hash == "h"
        yield Echoes.record(f"gone {name}", name, state.data["sum"])
        forget(state)


class Tell(Stage):
    """Makes a calibration of each count, which every partition is to have."""

    name, sources, emits = "tell", (LEDGER,), (CALIBRATIONS,)

    def step(self, event: Event, state: KeyState) -> Iterable[Record]:
        state.data["n"] = number = state.data.get("n", 0) + 1
        yield Calibration(
            event_id=event.event_id, tenant="t", agent="a", event_time=T0, number=number, lessons=1, audited=0
        )


class Hear(Stage):
    """Adds to its own topic's records the newest calibration: no inbox, one state for each partition."""

    name, sources, emits, by, memo_size = "hear", (TURNS, CALIBRATIONS), (ERASURES,), "session", 0

    def step(self, event: Event, state: KeyState) -> Iterable[Record]:
        if isinstance(event.record, Calibration):
            state.data["n"] = event.record.number
        else:
            yield Echoes.record(event.event_id, "a", state.data.get("n", 0))


class Echoes:
    @staticmethod
    def of(event_id: str, agent: str, count: int) -> Iterator[Record]:
        yield Echoes.record(event_id, agent, count)

    @staticmethod
    def record(event_id: str, agent: str, count: int) -> Record:
        from schemas.events import Erasure

        return Erasure(event_id=event_id, tenant="t", agent=agent, event_time=T0, deleted={"n": count})


def messages(first: int, last: int, agent: str = "a") -> list[Message]:
    made = [tally(str(n), agent, 1) for n in range(first, last)]
    return [Message(LEDGER.name, n, "", codec.encode(r), T0) for n, r in zip(range(first, last), made, strict=True)]


def heard(name: str) -> Record:
    return turn(event_id=name, tenant="t", agent="a", event_time=T0)


@pytest.fixture
def settings(kafka_settings: KafkaSettings) -> KafkaSettings:
    make_topics(kafka_settings, [Sum, Settle, Tally])
    return kafka_settings


@pytest.fixture
def lane(settings: KafkaSettings, tmp_path: Path) -> Iterator[Lane]:
    made = open_lane(settings, tmp_path)
    yield made
    made.close()


def open_lane(settings: KafkaSettings, folder: Path, stage: Stage | None = None) -> Lane:
    lane = Lane(stage or Sum(), 0, lane_settings(settings, folder, Clock()), Lock())
    lane.open()
    return lane


def sums(settings: KafkaSettings) -> list[int]:
    return [record.deleted["n"] for record in records(settings, ERASURES)]  # type: ignore[attr-defined]


def test_a_batch_leaves_outputs_state_and_position_together(settings: KafkaSettings, lane: Lane) -> None:
    lane.process(messages(0, 3))
    assert sums(settings) == [1, 2, 3]
    texts = {one.key: one.value.decode() for one in stored(settings, settings.state_topic("sum"))}
    assert json.loads(texts.pop(POSITIONS)) == {LEDGER.name: 3}
    assert {key: KeyState.load(text).data for key, text in texts.items()} == {"t/a": {"sum": 3}}


def test_what_comes_again_is_passed_over(settings: KafkaSettings, lane: Lane) -> None:
    lane.process(messages(0, 3))
    lane.process(messages(1, 5))
    lane.process(messages(0, 5))
    lane.process([*messages(5, 8), *messages(6, 9), *messages(0, 2)])  # as after a rebalance in the middle of a batch
    assert sums(settings) == list(range(1, 10))


def test_timers_that_are_due_run_after_the_messages_in_one_transaction(settings: KafkaSettings, tmp_path: Path) -> None:
    commits: list[tuple[int, int]] = []
    given = lane_settings(settings, tmp_path, Clock(), on_batch=lambda _, n, out, __: commits.append((n, len(out))))
    lane = Lane(Sum(), 0, given, Lock())
    lane.open()
    due = T0 + timedelta(minutes=1)
    lane.process(messages(0, 1, "a"))
    lane.process(messages(1, 2, "b"))
    lane.process(messages(2, 4, "a"), due - timedelta(seconds=1))
    assert sorted(sums(settings)) == [1, 1, 2, 3]
    lane.process(messages(4, 5, "c"), due)
    assert sorted(sums(settings)) == [1, 1, 1, 1, 2, 3, 3], "the timers of a and b, which were due before, not c's"
    lane.process(messages(4, 5, "c"), due)
    assert lane.tick(due)
    lane.close()
    assert sorted(sums(settings)) == [1, 1, 1, 1, 1, 2, 3, 3]
    assert commits == [(1, 1), (1, 1), (2, 2), (1, 3), (0, 1)]


@pytest.mark.parametrize("loses_folder", [False, True])
def test_a_lane_that_is_opened_again_goes_on_where_it_was(
    settings: KafkaSettings, tmp_path: Path, loses_folder: bool
) -> None:
    lane = open_lane(settings, tmp_path)
    lane.process(messages(0, 3))
    lane.close()
    if loses_folder:
        shutil.rmtree(tmp_path / "sum")
    again = open_lane(settings, tmp_path)
    assert (again.positions, again.due(T0), again.due(T0 + timedelta(minutes=1))) == ({LEDGER.name: 3}, [], ["t/a"])
    again.process(messages(0, 4))
    again.close()
    assert sums(settings) == [1, 2, 3, 4]


def test_a_table_that_missed_the_last_commit_catches_up(settings: KafkaSettings, tmp_path: Path) -> None:
    lane = open_lane(settings, tmp_path)
    lane.process(messages(0, 2))
    lane.close()
    shutil.copytree(tmp_path / "sum", tmp_path / "before")
    lane = open_lane(settings, tmp_path)
    lane.process(messages(2, 5))
    lane.close()
    shutil.rmtree(tmp_path / "sum")
    (tmp_path / "before").rename(tmp_path / "sum")
    lane = open_lane(settings, tmp_path)
    lane.process(messages(0, 6))
    lane.close()
    assert sums(settings) == [1, 2, 3, 4, 5, 6]


def test_a_transaction_that_fails_is_done_again_whole(
    settings: KafkaSettings, lane: Lane, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, failures = Transactions.commit, [True, False]

    def commit(self: Transactions, effects: Any) -> int:
        """Once before anything is visible, once after all is: the lane cannot know."""
        before = failures.pop(0) if failures else None
        if before is True:
            raise Failed("planted")
        end = real(self, effects)
        if before is False:
            raise Failed("planted")
        return end

    monkeypatch.setattr(Transactions, "commit", commit)
    lane.process(messages(0, 3))
    lane.process(messages(3, 5))
    assert sums(settings) == [1, 2, 3, 4, 5]


class Died(Exception):
    """What a killed process would not live to see."""


class Dying:
    """A lane's producer in a process that is killed around its commit."""

    def __init__(self, real: Any, *, first_commits: bool) -> None:
        self._real, self._first_commits = real, first_commits

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def commit_transaction(self, timeout: float) -> None:
        if self._first_commits:
            self._real.commit_transaction(timeout)
        else:
            self._real.flush(timeout)
        raise Died


@pytest.mark.parametrize("first_commits", [False, True])
def test_a_lane_that_dies_in_the_middle_of_an_erasure_carries_it_out_once(
    settings: KafkaSettings, tmp_path: Path, first_commits: bool
) -> None:
    order = Message(INBOX, 0, "", next(orders_of(Subject("t", "h"))), T0)
    lane = open_lane(settings, tmp_path / "one", Settle())
    lane.process(messages(0, 3))
    assert lane._transactions is not None
    lane._transactions._producer = Dying(lane._transactions._producer, first_commits=first_commits)  # type: ignore[assignment]
    with pytest.raises(Died):
        lane.process([order, *messages(3, 5)])
    assert sums(settings) == ([1, 2, 3, 4, 5, 5] if first_commits else [1, 2, 3])

    other = open_lane(settings, tmp_path / "two", Settle())
    other.process([order, *messages(3, 5)])
    other.process([order])
    other.close()
    assert sums(settings) == [1, 2, 3, 4, 5, 5], "the last is what was erased"
    texts = {one.key: one.value for one in stored(settings, settings.state_topic("settle"))}
    assert (texts["t/a"], json.loads(texts[POSITIONS])) == (b"", {INBOX: 1, LEDGER.name: 5})


def test_who_opens_a_lane_last_has_it(settings: KafkaSettings, tmp_path: Path) -> None:
    first = open_lane(settings, tmp_path / "one")
    first.process(messages(0, 2))
    second = open_lane(settings, tmp_path / "two")
    with pytest.raises(LaneLost, match="sum/0: another process has it"):
        first.process(messages(2, 4))
    second.process(messages(0, 4))
    second.close()
    assert sums(settings) == [1, 2, 3, 4]


def test_a_defect_commits_nothing(settings: KafkaSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lane = open_lane(settings, tmp_path)
    with monkeypatch.context() as broken:
        broken.setattr(Echoes, "record", staticmethod(lambda *_: 1 / 0))
        with pytest.raises(ZeroDivisionError):
            lane.process(messages(0, 3))
    lane.process(messages(0, 3))
    lane.close()
    assert sums(settings) == [1, 2, 3]


def test_timers_run_once_also_after_a_restart(settings: KafkaSettings, tmp_path: Path) -> None:
    lane = open_lane(settings, tmp_path)
    lane.process(messages(0, 2))
    assert not lane.tick(T0)
    lane.close()
    lane = open_lane(settings, tmp_path)
    assert lane.tick(T0 + timedelta(minutes=1))
    assert not lane.tick(T0 + timedelta(minutes=2))
    lane.close()
    assert sums(settings) == [1, 2, 2]


def test_a_routed_stage_meets_its_state_through_the_inbox(settings: KafkaSettings, tmp_path: Path) -> None:
    stage = Tally()
    sources = [raw(n, agent="ab"[n % 2], payload="poison" if n == 3 else None) for n in range(6)]
    inputs = [Message("agent.signals.raw", n, "", codec.encode(r), T0) for n, r in enumerate(sources)]
    front = open_lane(settings, tmp_path, stage)
    front.process(inputs)
    front.process(inputs)
    front.close()
    assert records(settings, LEDGER) == []
    parcels = stored(settings, settings.inbox("tally"))
    assert 1 <= len(parcels) <= 2
    for number in {parcel.partition for parcel in parcels}:
        back = Lane(stage, number, lane_settings(settings, tmp_path, Clock()), Lock())
        back.open()
        mine = [p for p in parcels if p.partition == number]
        back.process([Message(INBOX, p.offset, "", p.value, p.time, {}, number) for p in mine])
        back.close()
    counts = {(r.agent, r.count) for r in records(settings, LEDGER)}  # type: ignore[attr-defined]
    assert counts == {("a", 1), ("a", 2), ("a", 3), ("b", 1), ("b", 2)}
    (letter,) = records(settings, DEAD_LETTERS)
    assert (letter.topic, letter.offset, letter.reason) == ("agent.signals.raw", 3, "poisoned")  # type: ignore[attr-defined]


def test_a_broadcast_record_reaches_every_partition_once_and_with_its_transaction(
    kafka_settings: KafkaSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_topics(kafka_settings, [Tell, Hear])
    assert kafka_settings.partitions > 1
    assert not is_routed(Hear)
    teller = open_lane(kafka_settings, tmp_path, Tell())
    with monkeypatch.context() as broken:
        broken.setattr(Transactions, "commit", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            teller.process(messages(0, 1))
    teller.process(messages(0, 2))
    teller.process(messages(0, 2))
    teller.close()
    copies = stored(kafka_settings, kafka_settings.topic(CALIBRATIONS))
    partitions = range(kafka_settings.partitions)
    assert [(one.partition, codec.decode(one.value).number) for one in copies] == [  # type: ignore[attr-defined]
        (partition, number) for partition in partitions for number in (1, 2)
    ]
    state = kafka_settings.state_topic("hear")
    for partition in partitions:
        hearer = Lane(Hear(), partition, lane_settings(kafka_settings, tmp_path, Clock()), Lock())
        hearer.open()
        mine = [one for one in copies if one.partition == partition]
        hearer.process([Message(CALIBRATIONS.name, o.offset, o.key, o.value, o.time, {}, partition) for o in mine])
        hearer.process([Message(TURNS.name, 0, "", codec.encode(heard(f"turn {partition}")), T0)])
        hearer.process([Message(TURNS.name, 1, "", codec.encode(heard(f"again {partition}")), T0)])
        written = [one for one in stored(kafka_settings, state) if one.partition == partition]
        assert [one.key for one in written].count("t/a") == 1, "a turn changes no state but where its lane goes on"
        hearer.close()
    assert sums(kafka_settings) == [2] * 2 * len(partitions)


def test_the_log_broadcasts_too(kafka_settings: KafkaSettings) -> None:
    make_topics(kafka_settings, [])
    log = KafkaLog(kafka_settings)
    made = Calibration(event_id="c", tenant="t", agent="a", event_time=T0, number=1, lessons=1, audited=0)
    try:
        log.append([entry_of(made, T0), entry_of(tally("x", "a", 1), T0)])
    finally:
        log.close()
    assert len(records(kafka_settings, CALIBRATIONS)) == kafka_settings.partitions
    assert len(records(kafka_settings, LEDGER)) == 1


def test_a_table_is_open_in_one_place(tmp_path: Path) -> None:
    from schemas.errors import Retry

    table = Table(tmp_path / "x")
    with pytest.raises(Retry, match="still open elsewhere"):
        Table(tmp_path / "x")
    table.close()
    Table(tmp_path / "x").close()
