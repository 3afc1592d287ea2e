"""Drafts: records that still hold raw text, in the parts that cleaning treats differently. Never leave a process."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from schemas.errors import Invalid
from schemas.events import Clean

EARLIEST = datetime(2000, 1, 1, tzinfo=UTC)


@dataclass(slots=True)
class Draft:
    """A record before redaction.

    ``facts`` are numbers, times and words of our own; ``ids`` are opaque, and hashed when they are not; ``words`` and
    ``lists`` of words are machine text such as model names; ``texts`` are what people and agents wrote; ``attributes``
    anything else.
    ``agent`` is '' until it is known, and ``service`` stands in for it. ``store``, ``train`` and ``evaluate`` are the
    consents, None when not said. ``event_id`` names the record for ever; ``item`` is its place in the message whose
    origin is ``message``. ``feedback`` is what a span says about itself or, by its ``links`` (trace and span), about
    others.
    """

    kind: type[Clean]
    tenant: str
    event_id: str
    message: str
    item: int
    agent: str
    event_time: datetime
    facts: dict[str, Any]
    ids: dict[str, str]
    words: dict[str, str]
    texts: dict[str, str]
    attributes: dict[str, str] = field(default_factory=dict[str, str])
    lists: dict[str, list[str]] = field(default_factory=dict[str, list[str]])
    service: str = ""
    user: str = ""
    store: bool | None = None
    train: bool | None = None
    evaluate: bool | None = None
    feedback: list[Any] = field(default_factory=list[Any])
    links: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])

    @property
    def group(self) -> tuple[str, str]:
        """What is masked together: the records of one trace in one message."""
        return self.message, self.facts.get("trace_id", "")

    @property
    def session(self) -> str:
        """The session as its producer named it; '' when nobody did."""
        return self.ids["session_id"]


@dataclass(slots=True)
class Read:
    """What a message held, in order.

    ``more``: how many of the drafts its sender's count does not know. ``others``: how many records are not for us, by
    reason.
    """

    drafts: list[Draft | Invalid]
    more: int = 0
    others: dict[str, int] = field(default_factory=dict[str, int])


def settled_time(time: datetime | None, received: datetime, skew: float) -> tuple[datetime, str]:
    """A producer's time, or the time of acceptance when it is more than ``skew`` seconds in the future, or no time.

    The past is kept: late data and recordings are of their own time. The second value is by how many seconds a clock
    that cannot be right was off, '' when its time was kept.
    """
    if time is None:
        return received, ""
    if EARLIEST <= time <= received + timedelta(seconds=skew):
        return time, ""
    return received, str(round((time - received).total_seconds()))


def scrubbed(text: str) -> str:
    """Text that is valid UTF-8: lone surrogates become question marks."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


def consent(value: Any) -> bool | None:
    """A consent as producers write it: a boolean or its name; None for anything else, which says nothing."""
    if isinstance(value, bool):
        return value
    return {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}.get(str(value).lower())
