"""What both engines promise, in one suite: embedded over SQLite, and lanes over a real Kafka broker."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path
from typing import Any, Protocol

import pytest

from connectors.kafka.log import KafkaLog, KafkaLogSettings
from connectors.kafka.quarantine import KafkaQuarantine
from connectors.kafka.settings import KafkaSettings
from connectors.kafka.wire import Plain
from connectors.log import Log, entry_of
from connectors.quarantine import Quarantine
from connectors.sqlite_log import SqliteLog, SqliteLogSettings
from driftwheel.embedded import Engine, EngineSettings
from driftwheel.job_runner import StageLoop
from driftwheel.kafka_sink import KafkaSink, KafkaSinkSettings
from processors.stage import Stage
from schemas.errors import Retry
from schemas.events import DeadLetter, Erasure, LedgerEntry, RawSignal, Record, identity
from schemas.topics import SIGNALS_RAW
from tests.driftwheel.engine_kit import T0, Act, AwaySink, Clock, Echo, Tally, raw, until
from tests.driftwheel.kafka_kit import lane_settings, make_topics, working

KEY = bytes(range(32))
QUICK = EngineSettings(poll_seconds=0.01, tick_seconds=0.02, retry_seconds=0.01, trim_every=timedelta(hours=1))


class Face(Protocol):
    """An engine over a log that survives it: started, stopped and started again."""

    clock: Clock
    log: Log

    def start(self, stages: Sequence[Stage], sink: AwaySink) -> None:
        """Run stages and a sink."""

    def stop(self) -> None:
        """End them gracefully."""

    def payload(self, letter: DeadLetter) -> bytes:
        """What is in the quarantine."""


class Embedded:
    def __init__(self, folder: Path) -> None:
        self.clock = Clock()
        self.log = SqliteLog(folder / "log", SqliteLogSettings(key=KEY))
        self._quarantine = Quarantine(folder / "quarantine", KEY)
        self._engine: Engine | None = None

    def start(self, stages: Sequence[Stage], sink: AwaySink) -> None:
        self._engine = Engine(self.log, stages, [sink], self.clock, QUICK, quarantine=self._quarantine)
        self._engine.start()

    def stop(self) -> None:
        if self._engine is not None:
            self._engine.stop()
            self._engine = None

    def payload(self, letter: DeadLetter) -> bytes:
        return self._quarantine.read(letter.quarantine)

    def close(self) -> None:
        self.stop()
        self.log.close()


class OnKafka:
    def __init__(self, folder: Path, settings: KafkaSettings) -> None:
        make_topics(settings, [Tally, Echo, Act])
        self.clock, self._folder, self._settings = Clock(), folder, settings
        self.log = KafkaLog(settings, Plain(), KafkaLogSettings())
        self._quarantine = KafkaQuarantine(settings, KEY)
        self._stack = ExitStack()

    def start(self, stages: Sequence[Stage], sink: AwaySink) -> None:
        lanes = lane_settings(self._settings, self._folder, self.clock, seal=self._quarantine)
        acting = lane_settings(self._settings, self._folder, self.clock)
        for stage in stages:
            if stage.effects:
                loop = StageLoop(stage, acting, self.clock, poll_seconds=0.05)
                loop.start()
                self._stack.callback(loop.join)
                self._stack.callback(acting.stopping.set)
        tuning = KafkaSinkSettings(batch_seconds=0.05, retry_seconds=0.05)
        reader = KafkaSink(self._settings, sink, Plain(), self.log, self.clock, tuning)
        reader.start()
        self._stack.callback(reader.stop)
        self._stack.enter_context(working([stage for stage in stages if not stage.effects], lanes))

    def stop(self) -> None:
        self._stack.close()

    def payload(self, letter: DeadLetter) -> bytes:
        return self._quarantine.read(letter.quarantine)

    def close(self) -> None:
        self.stop()
        self.log.close()
        self._quarantine.close()


@pytest.fixture(params=["embedded", "kafka"])
def face(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Face]:
    if request.param == "embedded":
        made: Any = Embedded(tmp_path)
    else:
        made = OnKafka(tmp_path, request.getfixturevalue("kafka_settings"))
    yield made
    made.close()


def feed(face: Face, signals: Sequence[RawSignal]) -> None:
    face.log.append([entry_of(signal, face.clock()) for signal in signals])


def counts(sink: AwaySink) -> dict[str, list[int]]:
    """By agent, the tallies that arrived."""
    found: dict[str, list[int]] = {}
    for record in sink.of(LedgerEntry):
        assert isinstance(record, LedgerEntry)
        found.setdefault(record.agent, []).append(record.count)
    return {agent: sorted(values) for agent, values in found.items()}


def test_every_entry_is_counted_once_and_passed_on(face: Face) -> None:
    sink = AwaySink()
    face.start([Tally(), Echo()], sink)
    for first in range(0, 60, 12):
        feed(face, [raw(n, agent="abc"[n % 3]) for n in range(first, first + 12)])
    until(lambda: len(sink.of(Erasure)) == 60)
    assert counts(sink) == {agent: list(range(1, 21)) for agent in "abc"}


def test_state_survives_and_nothing_is_repeated(face: Face) -> None:
    before, after = AwaySink(), AwaySink()
    feed(face, [raw(n) for n in range(10)])
    face.start([Tally()], before)
    until(lambda: len(before.of(LedgerEntry)) == 10)
    face.stop()
    feed(face, [raw(n) for n in range(10, 15)])
    face.start([Tally()], after)
    until(lambda: len(after.of(LedgerEntry)) >= 5)
    assert counts(after) == {"a": [11, 12, 13, 14, 15]}


def test_the_same_record_again_is_known_by_its_id(face: Face) -> None:
    sink = AwaySink()
    face.start([Tally()], sink)
    feed(face, [raw(0), raw(1)])
    feed(face, [raw(0), raw(1), raw(0)])
    feed(face, [raw(2)])
    until(lambda: counts(sink).get("a", [])[-1:] == [3])
    assert counts(sink) == {"a": [1, 2, 3]}


def test_poison_becomes_a_dead_letter_with_its_payload_kept(face: Face) -> None:
    sink = AwaySink()
    face.start([Tally()], sink)
    signals = [raw(0), raw(1, payload="poison"), raw(2)]
    feed(face, signals)
    broken = entry_of(raw(3), T0)
    face.log.append([type(broken)(SIGNALS_RAW.name, "k", b"\x00broken", T0)])
    until(lambda: len(sink.of(DeadLetter)) == 2 and len(sink.of(LedgerEntry)) == 2)
    letters = {letter.reason: letter for letter in sink.of(DeadLetter)}  # type: ignore[attr-defined]
    unread = letters["unknown_schema"]
    assert isinstance(unread, DeadLetter)
    assert (unread.stage, unread.topic, face.payload(unread)) == ("tally", SIGNALS_RAW.name, b"\x00broken")
    poisoned = letters["poisoned"]
    assert isinstance(poisoned, DeadLetter)
    assert (poisoned.items, poisoned.detail, counts(sink)) == (2, "it says so", {"a": [1, 2]})


def test_timers_run_once_when_their_time_has_come(face: Face) -> None:
    sink = AwaySink()
    face.start([Tally()], sink)
    feed(face, [raw(0, "a"), raw(1, "b"), raw(2, "a")])
    until(lambda: len(sink.of(LedgerEntry)) == 3)
    face.clock.now += timedelta(minutes=1)
    feed(face, [raw(3, "c")])  # the embedded engine looks when there is news
    until(lambda: len(sink.of(LedgerEntry)) >= 6)
    assert counts(sink)["a"] == [-2, 1, 2]
    assert counts(sink)["b"] == [-1, 1]


def test_timers_survive_a_restart(face: Face) -> None:
    before, after = AwaySink(), AwaySink()
    face.start([Tally()], before)
    feed(face, [raw(0)])
    until(lambda: len(before.of(LedgerEntry)) == 1)
    face.stop()
    face.clock.now += timedelta(minutes=2)
    face.start([Tally()], after)
    until(lambda: counts(after) == {"a": [-1]})


def test_a_store_that_is_away_gets_everything_later(face: Face) -> None:
    sink = AwaySink(away=5)
    face.start([Tally()], sink)
    feed(face, [raw(n) for n in range(20)])
    until(lambda: len(sink.of(LedgerEntry)) == 20)
    assert sink.away == 0
    assert counts(sink) == {"a": list(range(1, 21))}


def test_what_the_store_refuses_is_a_dead_letter_and_its_neighbours_are_written(face: Face) -> None:
    sink = AwaySink(refuses=lambda record: isinstance(record, LedgerEntry) and record.count == 3)
    face.start([Tally()], sink)
    feed(face, [raw(n) for n in range(6)])
    until(lambda: len(sink.of(LedgerEntry)) == 5 and len(sink.of(DeadLetter)) == 1)
    (letter,) = sink.of(DeadLetter)
    assert isinstance(letter, DeadLetter)
    assert (letter.stage, letter.reason) == ("memory", "refused")
    assert counts(sink) == {"a": [1, 2, 4, 5, 6]}


def test_an_effect_is_asked_for_until_the_world_does_it(face: Face) -> None:
    asked: dict[str, int] = {}

    def world(key: str) -> bool:
        """Away at first, then not ready, then done."""
        asked[key] = asked.get(key, 0) + 1
        if asked[key] == 1:
            raise Retry("the world is away")
        return asked[key] >= 3

    sink = AwaySink()
    face.start([Tally(), Echo(), Act(world)], sink)
    feed(face, [raw(0), raw(1)])
    until(lambda: len(sink.of(DeadLetter)) == 2)
    face.stop()
    face.start([Tally(), Echo(), Act(world)], sink)
    feed(face, [raw(2)])
    until(lambda: len(sink.of(DeadLetter)) == 3)
    assert sorted(asked.values()) == [3, 3, 3]


def test_deterministic_ids_are_what_makes_copies_one(face: Face) -> None:
    """The control: a record under two ids is counted twice."""
    sink = AwaySink()
    face.start([Tally()], sink)
    twin: Callable[[str], Record] = lambda name: raw(0).model_copy(update={"event_id": identity(name)})  # noqa: E731
    feed(face, [twin("one"), twin("two")])  # type: ignore[list-item]
    until(lambda: len(sink.of(LedgerEntry)) == 2)
    assert counts(sink) == {"a": [1, 2]}
