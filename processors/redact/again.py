"""A replayed message, counted exactly: what each of its items comes to now, beside what it came to before.

Before, an item was counted as accepted once and as quarantined by its letter, which stays. What it comes to now is a
further fate, and counted as accepted once more, under an id that follows from the item and its fate: however often and
however late a message is replayed, and whatever redaction remembers of it, the ledger's difference stays 0. An item
that fails as before adds nothing, and no letter.
"""

from __future__ import annotations

from collections.abc import Sequence

from processors.replay import SOURCE, Mark, Replay, mark
from processors.stage import UNKNOWN, Event, Message, minute_of
from schemas.events import DeadLetter, LedgerEntry, Record, identity


def again(replay: Replay, message: Message, items: Sequence[tuple[int, Event]]) -> list[Event]:
    """The events of a replayed message (at its first place), of the items that were to be tried again."""
    out: list[Event] = []
    failed: set[str] = set()
    for place, event in items:
        letter = next((record for record in event.emits if isinstance(record, DeadLetter)), None)
        if letter is not None and replay.knows(letter.event_id):
            failed.add(letter.event_id)
            continue
        fate = letter.event_id if letter else "dropped" if isinstance(event.record, LedgerEntry) else "passed"
        out.append(_event(message, _entry(message, 1, identity("replayed", f"{message.origin}#{place}", fate))))
        out += [_marked(message, "settled", one.event_id) for one in replay.about(place)]
        out.append(event if letter is None else _event(message, _kept(letter, replay)))
    if items and not failed:
        out += [_marked(message, "settled", one.event_id) for one in replay.whole()]
    return out + [_marked(message, "refused", event_id) for event_id in sorted(failed)]


def _event(message: Message, record: Record) -> Event:
    return Event("", record.event_id, message.origin, None, (record,))


def _entry(message: Message, count: int, event_id: str) -> LedgerEntry:
    return LedgerEntry(
        event_id=event_id,
        tenant=message.headers.get("tenant", UNKNOWN),
        agent=message.headers.get("agent", UNKNOWN),
        event_time=minute_of(message.time),
        entry="accepted",
        source=SOURCE,
        count=count,
    )


def _marked(message: Message, kind: Mark, event_id: str) -> Event:
    return _event(message, mark(kind, event_id, _entry(message, 0, "")))


def _kept(letter: DeadLetter, replay: Replay) -> DeadLetter:
    """A new letter about an old payload, which is not kept a second time."""
    return letter.model_copy(update={"quarantine": replay.quarantine})
