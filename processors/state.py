"""Keyed state: what a stage remembers about one key, as JSON, and the store it is kept in.

JSON that is long is deflated (RFC 1950, in base64): what looks for words in it has to take it from ``plain``.

A key's state is put whole, never incremented, and carries the memo: the ids of its recent events with what each
emitted. That is what makes at-least-once delivery exact: after a crash either the put is there, and a redelivered
event finds its id and emits the same records again, or it is not, and the event meets the same earlier state.
"""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from itertools import groupby
from typing import Any, Protocol

import orjson

STATE_VERSION = 2
_ID = 32
"""Characters of an id: hexadecimal digits, small ones."""
_LONG = 8_000
"""Bytes of JSON from which on it is deflated: so that what a session has in the two stages that keep one is small."""
_DEFLATED = "z"
"""With what deflated state begins; JSON does not."""


@dataclass(slots=True)
class KeyState:
    """One key's state. ``data`` is the stage's own; ``due`` is when ``tick`` wants to see the key.

    ``memo`` maps an event id to ``[origin, [[record name, JSON], ...]]``, oldest first; each part is empty where the
    stage does not need it, and the whole is where both are.
    """

    data: dict[str, Any] = field(default_factory=dict[str, Any])
    memo: dict[str, list[Any]] = field(default_factory=dict[str, list[Any]])
    due: datetime | None = None

    def dump(self) -> str:
        """As text; ``load`` gives back an equal state, bit for bit: numbers are finite, integers have 64 bits."""
        body: dict[str, Any] = {"v": STATE_VERSION, "data": self.data, "memo": list(_runs(self.memo))}
        if self.due is not None:
            body["due"] = self.due.isoformat()
        try:
            found = orjson.dumps(body)
        except TypeError:  # half of a character that needs two: texts of agents may hold such
            found = json.dumps(body, separators=(",", ":")).encode()
        if len(found) < _LONG:
            return found.decode()
        return _DEFLATED + base64.b64encode(zlib.compress(found, 1)).decode()

    @classmethod
    def load(cls, text: str) -> KeyState:
        """From the text that ``dump`` wrote."""
        found = plain(text)
        try:
            body = orjson.loads(found)
        except orjson.JSONDecodeError:
            body = json.loads(found)
        due = body.get("due")
        memo = body["memo"] if body["v"] == 1 else _memo(body["memo"])
        return cls(body["data"], memo, datetime.fromisoformat(due) if due else None)


def _runs(memo: dict[str, list[Any]]) -> Iterator[str | list[Any]]:
    """A memo in order: ids with nothing to remember as one text, base64 of what their digits say; others in pairs."""
    for empty, entries in groupby(memo.items(), key=lambda entry: not entry[1]):
        pairs = [*entries]
        digits = "".join([name for name, _ in pairs]) if empty else ""
        packed = _bytes(digits) if all(len(name) == _ID for name, _ in pairs) else b""
        if packed:
            yield base64.b64encode(packed).decode()
        else:
            yield from map(list, pairs)


def _bytes(digits: str) -> bytes:
    """What hexadecimal digits say; nothing where they would not come back as they are."""
    try:
        found = bytes.fromhex(digits)
    except ValueError:
        return b""
    return found if found.hex() == digits else b""


def _memo(runs: list[Any]) -> dict[str, list[Any]]:
    memo: dict[str, list[Any]] = {}
    for run in runs:
        if isinstance(run, str):
            digits = base64.b64decode(run).hex()
            memo.update({digits[at : at + _ID]: [] for at in range(0, len(digits), _ID)})
        else:
            name, entry = run
            memo[name] = entry
    return memo


def plain(text: str) -> str:
    """The JSON of a dumped state.

    >>> plain(KeyState({"said": "again " * 10_000}).dump())[:38]
    '{"v":2,"data":{"said":"again again aga'
    """
    return zlib.decompress(base64.b64decode(text[1:])).decode() if text.startswith(_DEFLATED) else text


def due_of(text: str) -> datetime | None:
    """When the timer of a dumped state runs out."""
    return KeyState.load(text).due


class StateStore(Protocol):
    """Where a stage's keyed state lives. Engines make puts and outputs durable together."""

    def get(self, key: str) -> KeyState | None:
        """The key's state, or None when it was never put."""
        ...

    def put(self, key: str, state: KeyState) -> None:
        """Replace the key's state."""
        ...

    def delete(self, key: str) -> None:
        """Forget the key; unknown keys are fine."""
        ...

    def due(self, now: datetime) -> list[str]:
        """Keys whose ``due`` is at or before ``now``, earliest first."""
        ...


class MemoryState:
    """A StateStore in memory, through the same JSON as a durable one."""

    def __init__(self) -> None:
        self._texts: dict[str, str] = {}

    def get(self, key: str) -> KeyState | None:
        """See StateStore."""
        text = self._texts.get(key)
        return None if text is None else KeyState.load(text)

    def put(self, key: str, state: KeyState) -> None:
        """See StateStore."""
        self._texts[key] = state.dump()

    def delete(self, key: str) -> None:
        """See StateStore."""
        self._texts.pop(key, None)

    def due(self, now: datetime) -> list[str]:
        """See StateStore."""
        found = [(state.due, key) for key, state in self if state.due is not None and state.due <= now]
        return [key for _, key in sorted(found)]

    def __iter__(self) -> Iterator[tuple[str, KeyState]]:
        return ((key, KeyState.load(text)) for key, text in self._texts.items())
