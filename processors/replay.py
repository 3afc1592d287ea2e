"""What a replayed message says about itself, in its headers.

A replay is its first delivery once more: it stands for the place and the time of the message that it repeats, so that
ids, minutes and memos are the same, and whatever was counted or stored before is met again instead of doubled.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from schemas.events import DeadLetter, LedgerEntry
from schemas.topics import OTLP_LOGS, OTLP_SPANS

Mark = Literal["sent", "refused", "settled"]
"""What happened to a letter: its message was appended again; it failed as before; it did not."""

SOURCE = "replay"
"""``source`` of the ledger entries that replays make. Those with a count of 0 are marks of letters."""
AGAIN = " (again)"
"""What a letter's detail ends with after a replay that failed as before."""
_PLACE = re.compile(r"(?:item|span) (\d{1,9})\b")
_LETTER = re.compile(r"([0-9a-zA-Z_-]{1,64})(?:@(\d{1,9}))?")


@dataclass(frozen=True, slots=True)
class Letter:
    """A dead letter by its id. ``place``: which item of its message it is about; None: the whole message."""

    event_id: str
    place: int | None = None


@dataclass(frozen=True, slots=True)
class Replay:
    """``chosen`` letters are to be tried again, ``others`` are about the same message. ``consumers``: for whom it is.

    ``partition``, ``offset`` and ``time`` are those of the first delivery; ``quarantine`` is where its payload lies.
    """

    chosen: tuple[Letter, ...]
    partition: int
    offset: int
    time: datetime
    others: tuple[Letter, ...] = ()
    consumers: tuple[str, ...] = ()
    quarantine: str = ""

    def takes(self, place: int) -> bool:
        """Whether an item of the message is to be tried again."""
        return any(letter.place is None or letter.place == place for letter in self.chosen)

    def knows(self, event_id: str) -> bool:
        """Whether this letter is there already."""
        return any(letter.event_id == event_id for letter in (*self.chosen, *self.others))

    def about(self, place: int) -> list[Letter]:
        """The letters about one item."""
        return [letter for letter in (*self.chosen, *self.others) if letter.place == place]

    def whole(self) -> list[Letter]:
        """The letters about the whole message."""
        return [letter for letter in (*self.chosen, *self.others) if letter.place is None]


def letter_of(letter: DeadLetter) -> Letter:
    """A dead letter with its place: of a request's spans or log records, each may have one of its own."""
    found = _PLACE.match(letter.detail) if letter.topic in (OTLP_SPANS.name, OTLP_LOGS.name) else None
    return Letter(letter.event_id, int(found[1]) if found else None)


def replay_headers(replay: Replay) -> dict[str, str]:
    """A replay as headers.

    >>> replay_headers(Replay((Letter("ab", 1),), 0, 7, datetime(2026, 1, 1, tzinfo=UTC)))["replay"]
    'ab@1'
    """
    return {
        "replay": _text(replay.chosen),
        "replay.others": _text(replay.others),
        "replay.at": f"{replay.partition}/{replay.offset}",
        "replay.time": replay.time.isoformat(),
        "replay.for": ",".join(replay.consumers),
        "replay.payload": replay.quarantine,
    }


def replay_of(headers: dict[str, str]) -> Replay | None:
    """The replay that headers tell of; None when there is none, or not a whole one.

    >>> some, time = (Letter("ab", 1), Letter("cd")), datetime(2026, 1, 1, tzinfo=UTC)
    >>> one = Replay(some, 0, 7, time, (Letter("ef"),), ("redact",))
    >>> replay_of(replay_headers(one)) == one
    True
    """
    if "replay" not in headers:
        return None
    partition, _, offset = headers.get("replay.at", "").partition("/")
    try:
        time = datetime.fromisoformat(headers["replay.time"])
        return Replay(
            _letters(headers["replay"]),
            int(partition),
            int(offset),
            time.astimezone(UTC),
            _letters(headers.get("replay.others", "")),
            tuple(name for name in headers.get("replay.for", "").split(",") if name),
            headers.get("replay.payload", ""),
        )
    except (KeyError, ValueError, OverflowError):
        return None


def mark(kind: Mark, event_id: str, letter: DeadLetter | LedgerEntry) -> LedgerEntry:
    """What happened to letter ``event_id``, as an entry of the ledger that counts nothing.

    ``letter`` has its tenant, its agent and the minute of its message.
    """
    time = letter.received_time if isinstance(letter, DeadLetter) else letter.event_time
    return LedgerEntry(
        event_id=f"{kind}/{event_id}",
        tenant=letter.tenant,
        agent=letter.agent,
        event_time=time.replace(second=0, microsecond=0),
        entry="quarantined" if kind == "refused" else "accepted",
        source=SOURCE,
        count=0,
    )


def _text(letters: tuple[Letter, ...]) -> str:
    return ",".join(one.event_id if one.place is None else f"{one.event_id}@{one.place}" for one in letters)


def _letters(text: str) -> tuple[Letter, ...]:
    """Raises ValueError for what is no list of letters."""
    found = [_LETTER.fullmatch(one) for one in text.split(",") if one]
    if not all(found):
        raise ValueError("not a list of letters")
    return tuple(Letter(one[1], int(one[2]) if one[2] else None) for one in found if one)
