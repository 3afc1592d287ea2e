"""Small stages for tests of engines, and the two engines behind one face."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from connectors.sink import MemorySink
from processors.stage import Event, Stage, forget
from processors.state import KeyState
from schemas.errors import Invalid, Retry
from schemas.events import DeadLetter, Erasure, LedgerEntry, RawSignal, Record, identity
from schemas.topics import DEAD_LETTERS, ERASURES, LEDGER, SIGNALS_RAW

T0 = datetime(2026, 1, 1, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
LIMIT = 90.0


def raw(number: int, agent: str = "a", payload: str | None = None) -> RawSignal:
    """An input of ``Tally``; "poison" is refused."""
    text = payload or str(number)
    return RawSignal(event_id=identity("raw", str(number)), tenant="t", agent=agent, event_time=T0, payload=text)


def tally(event_id: str, agent: str, count: int) -> LedgerEntry:
    """What ``Tally`` says."""
    return LedgerEntry(
        event_id=identity("tally", event_id), tenant="t", agent=agent, event_time=T0, entry="accepted", source="x",
        count=count,
    )  # fmt: skip


class Clock:
    """A clock that is set."""

    def __init__(self) -> None:
        self.now = T0

    def __call__(self) -> datetime:
        return self.now


@dataclass(frozen=True, slots=True)
class TallySettings:
    step: int = 1
    idle: timedelta = MINUTE


class Tally(Stage):
    """Counts per agent; closes an agent that was idle."""

    name, sources, emits = "tally", (SIGNALS_RAW,), (LEDGER,)

    def __init__(self, settings: TallySettings | None = None) -> None:
        super().__init__(settings or TallySettings())

    def step(self, event: Event, state: KeyState) -> Iterable[Record]:
        assert isinstance(event.record, RawSignal)
        if event.record.payload == "poison":
            raise Invalid("poisoned", "it says so", items=2)
        state.data["count"] = state.data.get("count", 0) + self.settings.step
        state.due = T0 + self.settings.idle
        yield tally(event.event_id, event.record.agent, state.data["count"])

    def tick(self, key: str, state: KeyState, now: datetime) -> Iterable[Record]:
        yield tally(f"closed {key}", key.partition("/")[2], -state.data["count"])
        forget(state)


class Echo(Stage):
    """Passes tallies on, without state."""

    name, sources, emits, memo_size, by = "echo", (LEDGER,), (ERASURES,), 0, None

    def step(self, event: Event, state: KeyState) -> Iterable[Record]:
        assert isinstance(event.record, LedgerEntry)
        yield Erasure(
            event_id=event.event_id, tenant="t", agent=event.record.agent, event_time=T0,
            deleted={"n": event.record.count},
        )  # fmt: skip


class Act(Stage):
    """Asks the world about every erasure until it says yes."""

    name, sources, emits, effects, memo_emits = "act", (ERASURES,), (DEAD_LETTERS,), True, False

    def __init__(self, world: Callable[[str], bool]) -> None:
        super().__init__()
        self.world = world

    def key(self, record: Record) -> str:
        return record.event_id

    def repeat(self, event: Event, state: KeyState, memo: list[Any]) -> Iterable[Record]:
        return ()

    def step(self, event: Event, state: KeyState) -> Iterable[Record]:
        state.data["open"] = True
        state.due = T0
        return ()

    def tick(self, key: str, state: KeyState, now: datetime) -> Iterable[Record]:
        if self.world(key):
            forget(state)
            yield DeadLetter(
                event_id=key, tenant="t", agent="a", event_time=T0, stage="act", topic="x", offset=0, reason="done"
            )


class AwaySink(MemorySink):
    """A sink that is away for its first calls."""

    def __init__(self, away: int = 0, refuses: Callable[[Record], bool] = lambda _: False) -> None:
        super().__init__()
        self.away, self.refuses = away, refuses
        self.topics = (LEDGER, ERASURES, DEAD_LETTERS)
        self.delivered: list[str] = []

    def write(self, records: Sequence[Record]) -> None:
        if self.away:
            self.away -= 1
            raise Retry("the store is away")
        for record in records:
            if self.refuses(record):
                raise Invalid("refused", "by the sink")
        super().write(records)
        self.delivered += [record.event_id for record in records]

    def of(self, kind: type[Record]) -> list[Record]:
        """Every record of a kind that arrived, each once."""
        return [record for record in self.records.values() if type(record) is kind]


def until(true: Callable[[], bool], seconds: float = LIMIT) -> None:
    """Wait for something that happens in another thread or process."""
    pause, ends = threading.Event(), time.monotonic() + seconds
    while time.monotonic() < ends:
        if true():
            return
        pause.wait(0.02)
    raise AssertionError("it did not happen in time")
