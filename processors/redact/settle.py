"""What only order can tell of a trace's spans and signals: their session, and what its spans say about all of it.

``data`` is the state of one trace, plain JSON: ``session``; ``about``, agent, person, consents (train, evaluate) of its
spans; ``stored``, whether one of them was let through; ``held``, what waits; ``refused``, ids of what was dropped.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, TypeGuard

from processors.moments import micros
from processors.redact.drafts import Draft
from processors.stage import UNKNOWN, minute_of
from schemas.events import Entry, LedgerEntry, Record, Signal, Span, identity

Traced = Span | Signal
Data = dict[str, Any]

_NOBODY = ["", "", True, True]
_TRACE = re.compile(r"[0-9a-f]{32}")


def trace_of(draft: Draft) -> str:
    """The trace that a draft is of or about; ''."""
    return draft.facts.get("trace_id") or (_trace(draft.ids) if draft.kind is Signal else "")


def shares_consent(draft: Draft) -> bool:
    """Whether a draft is about a shadow's answer: nobody gave it, so that its trace's consent holds."""
    told = (draft.facts.get("name"), draft.words.get("source")) == ("comparison", "shadow")
    return told and draft.store is not False and bool(trace_of(draft))


def _trace(ids: dict[str, str]) -> str:
    """The trace that a signal is about; '' when it names none as OpenTelemetry would."""
    named = ids.get("trace_id") or ids.get("turn_id", "").partition(".")[0]
    return named if _TRACE.fullmatch(named) else ""


def is_traced(record: Record) -> TypeGuard[Traced]:
    """Whether a record belongs to a trace."""
    if isinstance(record, Signal):
        return bool(_trace({"trace_id": record.trace_id, "turn_id": record.turn_id}))
    return isinstance(record, Span)


def remember(span: Span, data: Data) -> None:
    """What a trace's spans say about all that is said about it."""
    data["session"] = span.session_id or data.get("session", "")
    known = data.get("about") or _NOBODY
    data["about"] = [
        span.agent if not span.parent_span_id or known[0] in ("", UNKNOWN) else known[0],
        span.subject_hash or known[1],
        span.consent_train and known[2],
        span.consent_evaluate and known[3],
    ]


def waits(record: Traced, data: Data) -> bool:
    """Whether a record has to wait: nobody has named its session, or it is a shadow's and its trace is not stored."""
    named = record.session_id or data.get("session")
    return not named or (_of_shadow(record) and not data.get("stored"))


def hold(record: Traced, data: Data) -> None:
    """Have a record wait."""
    kind = [] if isinstance(record, Span) else [type(record).__name__]
    data.setdefault("held", []).append([micros(record.received_time), record.model_dump_json(), *kind])


def waiting(data: Data) -> list[Traced]:
    """What waits."""
    return [_revived(*one) for one in data.get("held", [])]


def ripe(data: Data, until: int | None = None) -> list[Traced]:
    """What has waited since ``until`` or longer (None: all), and waits no longer."""
    held = data.pop("held", [])
    data["held"] = [one for one in held if until is not None and one[0] > until]
    return [_revived(*one) for one in held if until is None or one[0] <= until]


def _revived(since: int, text: str, kind: str = "Span") -> Traced:
    del since
    return (Signal if kind == "Signal" else Span).model_validate_json(text)


def let_go(records: Iterable[Traced], data: Data) -> list[Record]:
    """What becomes of records that wait no longer: a shadow's are dropped unless a span of their trace was stored."""
    out: list[Record] = []
    for record in sorted(records, key=lambda one: isinstance(one, Signal)):
        told = isinstance(record, Span) or not _of_shadow(record) or data.get("stored")
        out.append(joined(record, data) if told else refuse(record, data))
    return out


def _of_shadow(record: Traced) -> bool:
    """Whether it tells what a shadow answered: nobody gave it, so that the turn's own consent holds."""
    return isinstance(record, Signal) and (record.name, record.source) == ("comparison", "shadow")


def joined(record: Traced, data: Data) -> Traced:
    """A record in its trace's session; a signal also of its agent and person."""
    if isinstance(record, Span):
        data["stored"] = True
        named = record.session_id or data.get("session") or f"trace:{record.trace_id}"
        return record if record.session_id else record.model_copy(update={"session_id": named})
    trace = _trace({"trace_id": record.trace_id, "turn_id": record.turn_id})
    agent, subject, train, evaluate = data.get("about") or _NOBODY
    found = {
        "session_id": data.get("session") or record.session_id or f"trace:{trace}",
        "trace_id": record.trace_id or trace,
        "agent": record.agent if record.agent != UNKNOWN else agent or record.attributes.get("service.name", UNKNOWN),
        "subject_hash": record.subject_hash or subject,
        "consent_train": record.consent_train and train,
        "consent_evaluate": record.consent_evaluate and evaluate,
    }
    return record.model_copy(update=found)


def refuse(record: Traced, data: Data) -> LedgerEntry:
    """A record that is dropped, and stays so when it comes again."""
    data.setdefault("refused", []).append(record.event_id)
    return denied(record)


def denied(record: Traced) -> LedgerEntry:
    """What the ledger has of a record without consent."""
    return ledger_entry("dropped", record, identity("dropped", record.event_id))


def ledger_entry(entry: Entry, record: Record, event_id: str) -> LedgerEntry:
    """One record in the ledger, in the minute in which it was received."""
    return LedgerEntry(
        event_id=event_id,
        tenant=record.tenant,
        agent=record.agent,
        event_time=minute_of(getattr(record, "received_time", record.event_time)),
        entry=entry,
        source="traces" if isinstance(record, Span) else "signals",
        count=1,
    )
