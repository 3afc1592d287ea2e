"""What can be asked about dead letters, in plain values: by whoever has the store, or by the running product's API."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol

from schemas.errors import UsageError
from schemas.events import EPOCH

MAX_LETTERS = 100_000
STATES = ("open", "sent", "refused", "settled")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


@dataclass(frozen=True, slots=True)
class LetterFilter:
    """Which letters; an empty value asks for nothing. ``since``: letters of messages that came then or later."""

    tenant: str = ""
    stage: str = ""
    reason: str = ""
    topic: str = ""
    state: str = ""
    since: datetime = EPOCH
    limit: int = MAX_LETTERS

    def texts(self) -> dict[str, str]:
        """As texts, which ``filter_of`` reads."""
        texts = {field.name: str(getattr(self, field.name)) for field in fields(self)}
        return texts | {"since": self.since.isoformat()}


def filter_of(texts: Mapping[str, str]) -> LetterFilter:
    """A filter from texts. UsageError names what is wrong with which."""
    names = {field.name for field in fields(LetterFilter)}
    unknown = sorted(set(texts) - names)
    if unknown:
        raise UsageError(f"{unknown[0]}: no such filter; there are: {', '.join(sorted(names))}")
    given: dict[str, Any] = dict(texts)
    if given.get("state") and given["state"] not in STATES:
        raise UsageError(f"state: {given['state']!r} is none; there are: {', '.join(STATES)}")
    if "limit" in given:
        limit = str(given["limit"])
        if not (limit.isascii() and limit.isdigit() and 1 <= int(limit) <= MAX_LETTERS):
            raise UsageError(f"limit: must be 1 to {MAX_LETTERS}")
        given["limit"] = int(limit)
    if "since" in given:
        given["since"] = moment_of(given["since"]) if given["since"] else EPOCH
    return LetterFilter(**given)


def moment_of(text: str, now: datetime | None = None) -> datetime:
    """An instant: RFC 3339, or so long ago (``90m``, ``36h``, ``7d``). UsageError when it is neither.

    >>> moment_of("36h", datetime(2026, 1, 3, tzinfo=UTC)).isoformat()
    '2026-01-01T12:00:00+00:00'
    """
    ago = re.fullmatch(r"(\d{1,6})([smhd])", text.strip())
    if ago:
        return (now or datetime.now(UTC)) - timedelta(**{_UNITS[ago[2]]: int(ago[1])})
    try:
        found = datetime.fromisoformat(text.strip())
        return (found if found.tzinfo else found.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise UsageError(
            f"since: {text!r} is no time: give one such as 2026-01-05T09:00Z, or how long ago, such as 36h or 7d"
        ) from error


def letters_of(plan: Mapping[str, Any]) -> list[str]:
    """The ids of all letters of a plan."""
    return [event_id for message in plan["messages"] for event_id in message["letters"]]


class Letters(Protocol):
    """The dead letters of one installation, whoever answers."""

    def find(self, chosen: LetterFilter) -> list[dict[str, Any]]:
        """Letters, the newest first, with ``state`` and ``replayed_time``."""
        ...

    def counts(self, chosen: LetterFilter) -> list[dict[str, Any]]:
        """Letters by tenant, stage, topic and reason."""
        ...

    def show(self, name: str) -> dict[str, Any]:
        """One letter, by its id or the beginning of it, and whether its payload is there. Never the payload.

        Raises UsageError when there is none, or more than one.
        """
        ...

    def plan(self, ids: Sequence[str], chosen: LetterFilter, again: bool) -> dict[str, Any]:
        """What a replay would do: ``messages`` with their ``letters``, and ``left_out`` with ``why``.

        ``ids`` empty: all that ``chosen`` asks for and that are not settled. ``again``: also what was replayed before.
        """
        ...

    def replay(self, ids: Sequence[str], again: bool) -> dict[str, Any]:
        """Append the messages of these letters once more: ``replayed`` ids, ``messages``, ``left_out`` with ``why``.

        A message and the marks of its letters are one append. Raises Reject when the log takes no more for now.
        """
        ...
