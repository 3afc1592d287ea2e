"""The redact stage: the only reader of the raw zone.

``prepare`` reads, cleans and checks whole batches, without state; ``step`` settles what only order can tell: which
session the spans of a trace belong to, what arrived twice, and whose consent was denied later in the trace.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any, cast

from processors.moments import micros, moment, seconds
from processors.redact.again import again
from processors.redact.clean import cleaner_for
from processors.redact.drafts import Draft, Read
from processors.redact.feedback import sealed
from processors.redact.origin import checked, of_nobody, of_tenant
from processors.redact.otlp import logs_of, spans_of
from processors.redact.policy import policies_of
from processors.redact.settings import RedactSettings, keyed, tenant_key
from processors.redact.settle import (
    denied,
    hold,
    is_traced,
    joined,
    ledger_entry,
    let_go,
    refuse,
    remember,
    ripe,
    shares_consent,
    trace_of,
    waiting,
    waits,
)
from processors.redact.signals import signal_of
from processors.replay import replay_of
from processors.stage import UNKNOWN, Event, Message, Prepared, Stage, as_first, dead_letter, forget, minute_of
from processors.state import KeyState
from schemas import codec
from schemas.errors import Invalid
from schemas.events import Clean, Entry, LedgerEntry, RawSignal, Record, Signal, Span, identity
from schemas.subjects import Subject
from schemas.tenants import plain_agent
from schemas.topics import LABELS, LEDGER, OTLP_LOGS, OTLP_SPANS, SIGNALS, SIGNALS_RAW, SPANS

MAX_HELD = 256
"""Spans and signals of one trace that wait for a session at a time; one more lets all of them go."""

_KINDS: dict[str, type[Record]] = {kind.__name__: kind for kind in (Span, Signal, LedgerEntry)}
_SOURCES = {OTLP_SPANS.name: "traces", OTLP_LOGS.name: "logs"}


class Redact(Stage):
    """Raw OTLP requests and signals to clean spans, signals and labels, with the ledger's other side.

    A signal about a trace belongs to the trace's session, agent and person as far as they are known.

    Fails closed: what cannot be read, cleaned or proved clean is a dead letter that names fields and never quotes
    text; the neighbours pass.
    """

    name = "redact"
    sources = (OTLP_SPANS, OTLP_LOGS, SIGNALS_RAW)
    emits = (SPANS, SIGNALS, LABELS, LEDGER)
    memo_size = 2_048
    memo_emits = False
    memo_origin = True
    by = "trace"
    heavy = True

    def __init__(self, settings: RedactSettings | None = None) -> None:
        self._settings = settings or RedactSettings()
        policies_of(self._settings)  # a policy that cannot be read ends the process before it has begun
        super().__init__(self._settings)

    def prepare(self, messages: Sequence[Message]) -> list[Prepared]:
        """Every message's drafts, cleaned in one go; see ``Stage.prepare``."""
        read = [self._read(as_first(message)) for message in messages]
        drafts = [d for _, some in read if isinstance(some, Read) for d in some.drafts if isinstance(d, Draft)]
        cleaned: dict[int, Clean | Invalid] = {}
        if drafts:
            cleaner = cleaner_for(self._settings)
            wanted = [draft for draft in drafts if shares_consent(draft) or cleaner.may_store(draft)]
            cleaned = dict(zip(map(id, wanted), cleaner.clean(wanted), strict=True))
        return [self._prepared(message, some, cleaned) for message, some in read]

    def _read(self, message: Message) -> tuple[Message, Read | Invalid]:
        """A message, its tenant settled, and what it holds."""
        try:
            message = of_tenant(message)
        except Invalid as error:
            return of_nobody(message), error
        try:
            read = self._drafts(message)
        except Invalid as error:
            return message, error
        for draft in read.drafts:
            if isinstance(draft, Draft) and "feedback_id" in draft.facts:
                sealed(draft, tenant_key(self._settings.key, draft.tenant))
        return message, read

    def _drafts(self, message: Message) -> Read:
        skew = self._settings.max_skew
        if message.topic == OTLP_SPANS.name:
            return spans_of(message, message.headers["tenant"], skew)
        if message.topic == OTLP_LOGS.name:
            return logs_of(message, message.headers["tenant"], skew)
        raw = cast("RawSignal", codec.decode(message.value, RawSignal))
        try:
            tenant = message.headers.get("tenant") or checked(raw.tenant)
            return Read([signal_of(raw, message, tenant, skew)])
        except Invalid as error:
            return Read([error])

    def _prepared(self, message: Message, read: Read | Invalid, cleaned: dict[int, Clean | Invalid]) -> Prepared:
        replay = replay_of(message.headers)
        if isinstance(read, Invalid):
            if replay is None and _counted(message) and "tenant" in message.headers:
                return read
            read = Read([read])
        drafts, named = read.drafts, _named(message, read.drafts, cleaned)
        if replay is not None:
            places = [place for place in range(len(drafts)) if replay.takes(place)]
            return again(
                replay, named, [(place, self._event(named, place, drafts[place], cleaned)) for place in places]
            )
        events = [self._event(named, place, draft, cleaned) for place, draft in enumerate(drafts)]
        counts = tuple(_counts(named, read))
        return [Event("", counts[0].event_id, message.origin, None, counts), *events] if counts else events

    def _event(
        self, message: Message, place: int, draft: Draft | Invalid, cleaned: dict[int, Clean | Invalid]
    ) -> Event:
        origin = f"{message.origin}#{place}"
        if isinstance(draft, Draft):
            record = cleaned.get(id(draft)) or _dropped(message, draft, origin)
            if not isinstance(record, Invalid):
                return Event(self._state_key(draft), record.event_id, origin, record)
            draft = _placed(record, f"item {draft.item}: {record.detail}")
        letter = dead_letter(self.name, message, draft)
        return Event("", letter.event_id, origin, None, (letter,))

    def _state_key(self, draft: Draft) -> str:
        """What is about one trace shares a key; else a session's signals, under a keyed hash: keys are stored."""
        trace = trace_of(draft)
        if trace:
            return f"{draft.tenant}/{trace}"
        key, about = tenant_key(self._settings.key, draft.tenant), draft.session or draft.ids.get("sample_id", "")
        return f"{draft.tenant}/signal/{keyed(key, 'state', about)[:32]}"

    def step(self, event: Event, state: KeyState) -> Iterable[Record]:
        """A record, its session settled; a span without one waits in state."""
        record = cast("Record", event.record)
        received = _received(record)
        state.data["last"] = max(state.data.get("last", 0), micros(received))
        out = list(self._settled(record, state, event.event_id))
        self._wake(state)
        return out

    def _settled(self, record: Record, state: KeyState, event_id: str) -> Iterator[Record]:
        data = state.data
        if isinstance(record, LedgerEntry):
            yield record
            if record.source == _SOURCES[OTLP_SPANS.name]:
                data["denied"] = True
                yield from self._along(state, event_id, [denied(one) for one in ripe(data)])
        elif not is_traced(record):
            yield record
        elif data.get("denied"):
            yield refuse(record, data)
        else:
            if isinstance(record, Span):
                remember(record, data)
            if waits(record, data):
                self._hold(record, data)
            else:
                yield joined(record, data)
            if (data.get("session") and data.get("stored")) or len(data.get("held", ())) > MAX_HELD:
                yield from self._along(state, event_id, let_go(ripe(data), data))

    def _hold(self, record: Span | Signal, data: dict[str, Any]) -> None:
        hold(record, data)
        data["waited"] = [*data.get("waited", ()), record.event_id][-self.memo_size :]

    def _along(self, state: KeyState, event_id: str, records: Sequence[Record]) -> Sequence[Record]:
        """What an event lets go besides its own is remembered, so that the same event again emits it again."""
        if records:
            kept = [[type(record).__name__, record.model_dump_json()] for record in records]
            state.data.setdefault("along", {})[event_id] = kept
        return records

    def repeat(self, event: Event, state: KeyState, memo: list[Any]) -> Iterable[Record]:
        """The same delivery again emits the same; another delivery of the same record is a duplicate."""
        record = cast("Record", event.record)
        if memo[0] != event.origin:
            yield ledger_entry("duplicate", record, identity("duplicate", record.event_id, event.origin))
            return
        if not is_traced(record):
            yield record
        elif record.event_id in state.data.get("refused", []):
            yield denied(record)
        elif record.event_id not in state.data.get("waited", []):
            yield joined(record, state.data)
        for name, text in state.data.get("along", {}).get(event.event_id, []):
            yield _KINDS[name].model_validate_json(text)

    def tick(self, key: str, state: KeyState, now: datetime) -> Iterable[Record]:
        """What nobody named a session for goes to its trace's own; a trace long silent is forgotten.

        A shadow's pairs that waited as long pass when a span of their trace is stored, and are dropped otherwise.
        """
        del key
        out = let_go(ripe(state.data, micros(now) - seconds(self._settings.hold)), state.data)
        self._wake(state)
        if not state.data["held"] and micros(now) >= self._forget_at(state):
            forget(state)
        return out

    def erase(self, name: str, state: KeyState, about: Subject) -> Iterable[Record]:
        """See Stage: what waits for a session is dropped, also what is nobody's in a trace of theirs."""
        yield from super().erase(name, state, about)
        data = state.data
        records = waiting(data)
        gone = [record for record in records if about.owns(record)]
        if gone:
            kept = zip(data["held"], records, strict=True)
            data["held"] = [one for one, record in kept if not about.owns(record)]
        along = data.get("along", {})
        for event_id, some in along.items():
            along[event_id] = [pair for pair in some if about.hash not in pair[1]]
        if data.get("about") and data["about"][1] == about.hash:
            data["about"][1] = ""
        if data:
            self._wake(state)
        yield from map(denied, gone)

    def _forget_at(self, state: KeyState) -> int:
        return state.data.get("last", 0) + seconds(self._settings.remember)

    def _wake(self, state: KeyState) -> None:
        held = [one[0] + seconds(self._settings.hold) for one in state.data.get("held", [])]
        state.due = moment(min([*held, self._forget_at(state)]))


def _placed(error: Invalid, detail: str) -> Invalid:
    """The same failure, with its place in the message."""
    return Invalid(error.reason, detail, error.items)


def _counted(message: Message) -> bool:
    """Whether a gateway has entered the message in the ledger already."""
    return message.headers.get("ledger") == "gateway"


def _named(message: Message, drafts: Sequence[Draft | Invalid], cleaned: dict[int, Clean | Invalid]) -> Message:
    """The message with tenant and agent in its headers: from its first draft, and the first that is clean."""
    tenant = next((draft.tenant for draft in drafts if isinstance(draft, Draft)), "")
    agent = next((one.agent for draft in drafts if isinstance(one := cleaned.get(id(draft)), Clean)), "")
    known = {name: value for name, value in (("tenant", tenant), ("agent", agent)) if value}
    headers = {**known, **message.headers}
    return replace(message, headers=headers | {"agent": plain_agent(headers.get("agent", UNKNOWN))})


def _counts(message: Message, read: Read) -> Iterator[LedgerEntry]:
    """What no gateway has counted of a message, and what of it is not for us."""
    others = sum(read.others.values())
    accepted = read.more if _counted(message) else len(read.drafts) + others
    if accepted or not _counted(message):
        yield _entry("accepted", message, accepted, identity("accepted", message.origin))
    for reason, count in read.others.items():
        entry = _entry("dropped", message, count, identity("dropped", message.origin, reason))
        yield entry.model_copy(update={"reason": reason})


def _entry(entry: Entry, message: Message, count: int, event_id: str) -> LedgerEntry:
    return LedgerEntry(
        event_id=event_id,
        tenant=message.headers.get("tenant", UNKNOWN),
        agent=message.headers.get("agent", UNKNOWN),
        event_time=minute_of(message.time),
        entry=entry,
        source=_SOURCES.get(message.topic, "signals"),
        count=count,
    )


def _dropped(message: Message, draft: Draft, origin: str) -> LedgerEntry:
    """Consent that a span denies holds for its trace, and consent that a signal denies for the signal."""
    entry = _entry("dropped", message, 1, identity("dropped", draft.event_id, origin))
    return entry if draft.kind is Span else entry.model_copy(update={"source": "signals"})


def _received(record: Record) -> datetime:
    return getattr(record, "received_time", record.event_time)
