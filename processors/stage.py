"""The Stage contract: a pure object with a name, the topics it reads and emits, and a step.

A stage sees no broker, no database, no clock and no environment. Its work has two halves: ``prepare`` turns
messages into events, alone from each other and without state, so that engines may run it in other processes;
``step`` applies one event to its key's state and yields records. What a step yields may depend on nothing but the
state, the event and settings: time comes from the event, ids from content, chance from a hash of an id.

Delivery: at least once in, effectively once out (see ``processors.state``). A message that raises Invalid becomes a
dead letter and its neighbours pass; any other exception is a defect and leaves the batch uncommitted.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, ClassVar

from processors.replay import AGAIN, replay_of
from processors.state import KeyState, StateStore, plain
from schemas import codec
from schemas.errors import Invalid
from schemas.events import EPOCH, RECORDS, DeadLetter, Record, identity
from schemas.subjects import Subject
from schemas.tenants import UNKNOWN, is_canary, plain_agent
from schemas.topics import BY_NAME, By, Topic

_RECORD_BY_NAME = {record.__name__: record for record in RECORDS}


@dataclass(frozen=True, slots=True)
class Message:
    """One entry of a topic. ``time`` is when it was accepted; ``headers`` may hold ``tenant`` and ``agent``.

    ``offset`` counts within ``partition``; a log without partitions has the one, 0.
    """

    topic: str
    offset: int
    key: str
    value: bytes
    time: datetime = EPOCH
    headers: dict[str, str] = field(default_factory=dict[str, str])
    partition: int = 0

    @property
    def origin(self) -> str:
        """Where it stands: the same for every delivery of the same entry."""
        return f"{self.topic}/{self.partition}/{self.offset}"


@dataclass(frozen=True, slots=True)
class Event:
    """One thing to apply to the state of ``key``. ``record`` None: nothing to apply, pass ``emits`` on.

    ``wire``: the record's bytes, where it is as it came; an engine that moves it need not encode it.
    """

    key: str
    event_id: str
    origin: str
    record: Record | None
    emits: tuple[Record, ...] = ()
    wire: bytes = b""


Prepared = list[Event] | Invalid
"""What became of one message."""


class Stage(ABC):
    """One step of the pipeline. ``settings`` is a frozen dataclass with defaults; values only, nothing live."""

    name: ClassVar[str]
    sources: ClassVar[tuple[Topic, ...]]
    emits: ClassVar[tuple[Topic, ...]]
    memo_size: ClassVar[int] = 128
    """Recent events remembered per key; 0: none, an event that comes again changes nothing by itself."""
    memo_emits: ClassVar[bool] = True
    """Whether the memo keeps what was emitted; a stage that does not overrides ``repeat``."""
    memo_origin: ClassVar[bool] = False
    """Whether the memo keeps where an event stood."""
    by: ClassVar[By | None] = "agent"
    """What shares a state key; None: there is no state. An engine with partitions has the records of one key in one
    partition: where a source topic is partitioned by something else, it moves the events first. Of a broadcast topic
    every partition has every record: its state is one for each partition."""
    linger: ClassVar[float] = 0.25
    """Seconds between the batches of a busy key range at most, where each is a transaction: more where nobody waits for
    the result, and where state is large and is written whole with every batch."""
    heavy: ClassVar[bool] = False
    """Whether ``prepare`` is worth a worker process."""
    effects: ClassVar[bool] = False
    """Whether ``tick`` acts on other systems (idempotently): engines call it outside their transaction, commit its
    state and records afterwards, and call it again later when it raises Retry."""

    def __init__(self, settings: Any = None) -> None:
        self.settings = settings

    def prepare(self, messages: Sequence[Message]) -> list[Prepared]:
        """Messages to events, in order, one result per message. Stateless; may run in another process.

        Nothing follows from planted records (``processors.canaries``).
        """
        return [self._prepare_one(message) for message in messages]

    def _prepare_one(self, message: Message) -> Prepared:
        try:
            record = codec.decode(message.value, BY_NAME[message.topic].record)
        except Invalid as error:
            return error
        if is_canary(record.tenant):
            return []
        return [Event(self.key(record), record.event_id, message.origin, record, wire=message.value)]

    def key(self, record: Record) -> str:
        """The state key of a record: what must be applied in order shares one."""
        return f"{record.tenant}/{record.agent}"

    @abstractmethod
    def step(self, event: Event, state: KeyState) -> Iterable[Record]:
        """Apply one event to its key's state, in place; yield what follows.

        Raises Invalid for a dead letter, before anything in ``state`` was changed.
        """

    def repeat(self, event: Event, state: KeyState, memo: list[Any]) -> Iterable[Record]:
        """What an event with an id already seen emits: by default the same records as the first time."""
        del event, state
        return [_RECORD_BY_NAME[name].model_validate_json(text) for name, text in (memo[1] if memo else ())]

    def tick(self, key: str, state: KeyState, now: datetime) -> Iterable[Record]:
        """``state.due`` has come. Clear or move ``due``; clear ``data`` to forget the key."""
        del key, now
        state.due = None
        return ()

    def erased(self, key: str, text: str, about: Subject) -> tuple[KeyState, list[Record]] | None:
        """A key's state without a person, with the records that follow; None when it holds nothing of theirs.

        Engines put it in place of ``text`` and append the records, all at once.
        """
        tenant, _, name = key.partition("/")
        mine = about.hash in plain(text) or name in about.sessions or name in about.traces
        if tenant != about.tenant or not (mine or self.by not in ("session", "trace")):
            return None
        state = KeyState.load(text)
        before = state.dump()  # not the text: an earlier release may have written it in another form
        records = list(self.erase(name, state, about))
        return (state, records) if records or state.dump() != before else None

    def erase(self, name: str, state: KeyState, about: Subject) -> Iterable[Record]:
        """Let go, in place, of what a person's records left in the state of the key ``name`` (without its tenant).

        By default only what repeated events would emit again. What was accepted and is in state alone is entered in the
        ledger as dropped.
        """
        del name
        for kept in filter(None, state.memo.values()):
            kept[1] = [emitted for emitted in kept[1] if about.hash not in emitted[1]]
        return ()

    def process(self, batch: Sequence[Message], store: StateStore) -> list[Record]:
        """Prepare and apply a batch: n messages at once give what n batches of one give."""
        return self.apply(batch, self.prepare(batch), store)

    def apply(self, batch: Sequence[Message], prepared: Sequence[Prepared], store: StateStore) -> list[Record]:
        """The stateful half of ``process``, over what ``prepare`` made of the batch."""
        out: list[Record] = []
        touched: dict[str, KeyState] = {}
        for message, events in zip(batch, prepared, strict=True):
            if not is_for(self.name, message):
                continue
            if isinstance(events, Invalid):
                out.append(dead_letter(self.name, message, events))
                continue
            for event in events:
                out.extend(self._apply_one(message, event, touched, store))
        for key, state in touched.items():
            _keep(store, key, state)
        return out

    def _apply_one(
        self, message: Message, event: Event, touched: dict[str, KeyState], store: StateStore
    ) -> Iterable[Record]:
        if event.record is None:
            return event.emits
        if self.by is None:
            return self._guarded(message, event, KeyState())
        state = touched.get(event.key)
        if state is None:
            state = touched[event.key] = store.get(event.key) or KeyState()
        if self.memo_size == 0:
            return self._guarded(message, event, state)
        seen = state.memo.get(event.event_id)
        if seen is not None:
            return self.repeat(event, state, seen)
        emitted = self._guarded(message, event, state)
        kept = [[type(r).__name__, r.model_dump_json()] for r in emitted] if self.memo_emits else []
        origin = event.origin if self.memo_origin else ""
        state.memo[event.event_id] = [origin, kept] if origin or kept else []
        while len(state.memo) > self.memo_size:
            del state.memo[next(iter(state.memo))]
        return emitted

    def _guarded(self, message: Message, event: Event, state: KeyState) -> list[Record]:
        try:
            return list(self.step(event, state))
        except Invalid as error:
            return [dead_letter(self.name, message, error, event.record)]

    def expire(self, store: StateStore, now: datetime) -> list[Record]:
        """Run ``tick`` for every key that is due at ``now``."""
        out: list[Record] = []
        for key in store.due(now):
            state = store.get(key)
            if state is not None:
                out.extend(self.tick(key, state, now))
                _keep(store, key, state)
        return out


def is_routed(stage: type[Stage] | Stage) -> bool:
    """Whether a stage's events have to move to the partition of their state key."""
    return stage.by is not None and any(topic.by != stage.by for topic in stage.sources if not topic.broadcast)


def has_inbox(stage: type[Stage] | Stage) -> bool:
    """Whether an engine with partitions may have something to tell a stage's state: moved events, or erasures."""
    return stage.by is not None


def _keep(store: StateStore, key: str, state: KeyState) -> None:
    if state.data or state.memo or state.due:
        store.put(key, state)
    else:
        store.delete(key)


def forget(state: KeyState) -> None:
    """Let go of a key for good: its data, memo and timer."""
    state.data.clear()
    state.memo.clear()
    state.due = None


def later(first: datetime | None, second: datetime) -> datetime:
    """The later of two instants, of which the first may be missing."""
    return second if first is None else max(first, second)


def minute_of(time: datetime) -> datetime:
    """The start of an instant's minute: the ledger's unit.

    >>> from datetime import UTC
    >>> minute_of(datetime(2026, 1, 1, 12, 30, 59, 7, UTC)).isoformat()
    '2026-01-01T12:30:00+00:00'
    """
    return time - timedelta(seconds=time.second, microseconds=time.microsecond)


def is_for(consumer: str, message: Message) -> bool:
    """Whether a consumer is to work on a message: a replay is for those alone that could not read it before."""
    replay = replay_of(message.headers)
    return replay is None or consumer in replay.consumers


def as_first(message: Message) -> Message:
    """A replayed message at the place and time of its first delivery; any other as it is."""
    replay = replay_of(message.headers)
    if replay is None:
        return message
    return replace(message, partition=replay.partition, offset=replay.offset, time=replay.time)


def dead_letter(stage: str, message: Message, error: Invalid, record: Record | None = None) -> DeadLetter:
    """The dead letter of a message: reason and origin, never the payload (details quote field names, not values).

    Whose it is, headers say, or the ``record`` that was read. A message that was replayed and fails as before gets the
    same letter, which says so.
    """
    message, replay = as_first(message), replay_of(message.headers)
    named = message.headers.get("agent")
    event_id = identity("dead", stage, message.origin, error.reason, error.detail)
    return DeadLetter(
        event_id=event_id,
        tenant=message.headers.get("tenant", record.tenant if record else UNKNOWN),
        agent=plain_agent(named) if named is not None else record.agent if record else UNKNOWN,
        subject_hash=record.subject_hash if record else "",
        event_time=message.time,
        received_time=message.time,
        stage=stage,
        topic=message.topic,
        partition=message.partition,
        offset=message.offset,
        reason=error.reason,
        detail=error.detail + AGAIN if replay is not None and replay.knows(event_id) else error.detail,
        items=error.items,
    )
