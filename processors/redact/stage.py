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
from processors.redact.drafts import Draft
from processors.redact.otlp import spans_of
from processors.redact.policy import policies_of
from processors.redact.settings import RedactSettings
from processors.redact.signals import signal_of
from processors.replay import replay_of
from processors.stage import UNKNOWN, Event, Message, Prepared, Stage, as_first, dead_letter, forget, minute_of
from processors.state import KeyState
from schemas import codec
from schemas.errors import Invalid
from schemas.events import Clean, Entry, LedgerEntry, RawSignal, Record, Span, identity
from schemas.topics import LABELS, LEDGER, OTLP_SPANS, SIGNALS, SIGNALS_RAW, SPANS

MAX_HELD = 256
"""Spans of one trace that wait for a session at a time; one more lets all of them go."""

_KINDS: dict[str, type[Record]] = {kind.__name__: kind for kind in (Span, LedgerEntry)}


class Redact(Stage):
    """Raw OTLP requests and signals to clean spans, signals and labels, with the ledger's other side.

    Fails closed: what cannot be read, cleaned or proved clean is a dead letter that names fields and never quotes
    text; the neighbours pass.
    """

    name = "redact"
    sources = (OTLP_SPANS, SIGNALS_RAW)
    emits = (SPANS, SIGNALS, LABELS, LEDGER)
    memo_size = 2_048
    memo_emits = False
    by = "trace"
    heavy = True

    def __init__(self, settings: RedactSettings | None = None) -> None:
        self._settings = settings or RedactSettings()
        policies_of(self._settings)  # a policy that cannot be read ends the process before it has begun
        super().__init__(self._settings)

    def prepare(self, messages: Sequence[Message]) -> list[Prepared]:
        """Every message's drafts, cleaned in one go; see ``Stage.prepare``."""
        messages = [as_first(message) for message in messages]
        read = [self._read(message) for message in messages]
        drafts = [d for some in read if not isinstance(some, Invalid) for d in some if isinstance(d, Draft)]
        cleaned: dict[int, Clean | Invalid] = {}
        if drafts:
            cleaner = cleaner_for(self._settings)
            wanted = [draft for draft in drafts if cleaner.may_store(draft)]
            cleaned = dict(zip(map(id, wanted), cleaner.clean(wanted), strict=True))
        return [self._prepared(message, some, cleaned) for message, some in zip(messages, read, strict=True)]

    def _read(self, message: Message) -> list[Draft | Invalid] | Invalid:
        try:
            if message.topic == OTLP_SPANS.name:
                return spans_of(message, message.headers.get("tenant", UNKNOWN), self._settings.max_skew)
            raw = cast("RawSignal", codec.decode(message.value, RawSignal))
        except Invalid as error:
            return error
        tenant = message.headers.get("tenant", raw.tenant)
        try:
            return [signal_of(raw, message, tenant, self._settings.max_skew)]
        except Invalid as error:
            return [error]

    def _prepared(
        self, message: Message, read: list[Draft | Invalid] | Invalid, cleaned: dict[int, Clean | Invalid]
    ) -> Prepared:
        replay = replay_of(message.headers)
        if isinstance(read, Invalid):
            if replay is None and _counted(message):
                return read
            read = [read]
        named = _named(message, read)
        if replay is not None:
            places = [place for place in range(len(read)) if replay.takes(place)]
            return again(replay, named, [(place, self._event(named, place, read[place], cleaned)) for place in places])
        events = [self._event(named, place, draft, cleaned) for place, draft in enumerate(read)]
        if not _counted(message):
            accepted = _entry("accepted", named, len(read), identity("accepted", message.origin))
            events.insert(0, Event("", accepted.event_id, message.origin, None, (accepted,)))
        return events

    def _event(
        self, message: Message, place: int, draft: Draft | Invalid, cleaned: dict[int, Clean | Invalid]
    ) -> Event:
        origin = f"{message.origin}#{place}"
        if isinstance(draft, Draft):
            record = cleaned.get(id(draft)) or _dropped(message, draft, origin)
            if not isinstance(record, Invalid):
                return Event(_state_key(draft), record.event_id, origin, record)
            draft = _placed(record, f"item {draft.item}: {record.detail}")
        letter = dead_letter(self.name, message, draft)
        return Event("", letter.event_id, origin, None, (letter,))

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
            data["denied"] = True
            yield record
            yield from self._along(state, event_id, [_denied(span) for span in _held(state)])
        elif not isinstance(record, Span):
            yield record
        elif data.get("denied"):
            data.setdefault("refused", []).append(record.event_id)
            yield _denied(record)
        elif record.session_id or data.get("session"):
            data["session"] = record.session_id or data["session"]
            yield _in_session(record, data["session"])
            yield from self._along(state, event_id, [_in_session(s, data["session"]) for s in _held(state)])
        else:
            data.setdefault("held", []).append([micros(record.received_time), record.model_dump_json()])
            if len(data["held"]) > MAX_HELD:
                yield from self._along(state, event_id, [_in_session(s, _fallback(s)) for s in _held(state)])

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
            yield _ledger_entry("duplicate", record, identity("duplicate", record.event_id, event.origin))
            return
        if not isinstance(record, Span):
            yield record
        elif record.event_id in state.data.get("refused", []):
            yield _denied(record)
        elif not any(span.event_id == record.event_id for span in _waiting(state)):
            yield _in_session(record, state.data.get("session") or _fallback(record))
        for name, text in state.data.get("along", {}).get(event.event_id, []):
            yield _KINDS[name].model_validate_json(text)

    def tick(self, key: str, state: KeyState, now: datetime) -> Iterable[Record]:
        """Spans that nobody named a session for go to their trace's own; a trace long silent is forgotten."""
        del key
        until = micros(now) - seconds(self._settings.hold)
        held = state.data.pop("held", [])
        ready = [Span.model_validate_json(text) for since, text in held if since <= until]
        state.data["held"] = [[since, text] for since, text in held if since > until]
        self._wake(state)
        if not state.data["held"] and micros(now) >= self._forget_at(state):
            forget(state)
        return [_in_session(span, _fallback(span)) for span in ready]

    def _forget_at(self, state: KeyState) -> int:
        return state.data.get("last", 0) + seconds(self._settings.remember)

    def _wake(self, state: KeyState) -> None:
        held = [since + seconds(self._settings.hold) for since, _ in state.data.get("held", [])]
        state.due = moment(min([*held, self._forget_at(state)]))


def _placed(error: Invalid, detail: str) -> Invalid:
    """The same failure, with its place in the message."""
    return Invalid(error.reason, detail, error.items)


def _counted(message: Message) -> bool:
    """Whether a gateway has entered the message in the ledger already."""
    return message.headers.get("ledger") == "gateway"


def _named(message: Message, read: list[Draft | Invalid]) -> Message:
    """The message with tenant and agent in its headers, from its first draft where they are not there."""
    first = next((draft for draft in read if isinstance(draft, Draft)), None)
    known = {"tenant": first.tenant, "agent": first.agent} if first else {}
    return replace(message, headers={**known, **message.headers})


def _state_key(draft: Draft) -> str:
    about = draft.facts.get("trace_id") or f"signal/{draft.session or draft.ids.get('sample_id', '')}"
    return f"{draft.tenant}/{about}"


def _source(topic: str) -> str:
    return "traces" if topic == OTLP_SPANS.name else "signals"


def _entry(entry: Entry, message: Message, count: int, event_id: str) -> LedgerEntry:
    return LedgerEntry(
        event_id=event_id,
        tenant=message.headers.get("tenant", UNKNOWN),
        agent=message.headers.get("agent", UNKNOWN),
        event_time=minute_of(message.time),
        entry=entry,
        source=_source(message.topic),
        count=count,
    )


def _dropped(message: Message, draft: Draft, origin: str) -> LedgerEntry:
    return _entry("dropped", message, 1, identity("dropped", draft.event_id, origin))


def _denied(span: Span) -> LedgerEntry:
    return _ledger_entry("dropped", span, identity("dropped", span.event_id))


def _ledger_entry(entry: Entry, record: Record, event_id: str) -> LedgerEntry:
    return LedgerEntry(
        event_id=event_id,
        tenant=record.tenant,
        agent=record.agent,
        event_time=minute_of(_received(record)),
        entry=entry,
        source="traces" if isinstance(record, Span) else "signals",
        count=1,
    )


def _received(record: Record) -> datetime:
    return getattr(record, "received_time", record.event_time)


def _waiting(state: KeyState) -> list[Span]:
    return [Span.model_validate_json(text) for _, text in state.data.get("held", [])]


def _held(state: KeyState) -> list[Span]:
    """The spans that wait for a session, which wait no longer."""
    spans = _waiting(state)
    state.data.pop("held", None)
    return spans


def _fallback(span: Span) -> str:
    return f"trace:{span.trace_id}"


def _in_session(span: Span, session: str) -> Span:
    return span if span.session_id else span.model_copy(update={"session_id": session})
