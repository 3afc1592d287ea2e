"""A stage's state over some store: reads through, keeps what is put until the engine commits it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime

from processors.state import KeyState

Read = Callable[[str], str | None]
Due = Callable[[datetime], list[str]]
Put = tuple[str, datetime | None]
"""A state's text and when its timer runs out."""


class BufferedState:
    """A StateStore of one stage: ``read`` gives a key's text, ``due`` the keys whose timer ran out."""

    def __init__(self, read: Read, due: Due) -> None:
        self._stored, self._due = read, due
        self._read: dict[str, str | None] = {}
        self._changed: dict[str, Put | None] = {}

    def get(self, key: str) -> KeyState | None:
        """See StateStore."""
        if key in self._changed:
            put = self._changed[key]
            text = None if put is None else put[0]
        else:
            text = self._read[key] = self._stored(key)
        return None if text is None else KeyState.load(text)

    def put(self, key: str, state: KeyState) -> None:
        """See StateStore. What was read and put back unchanged is not written."""
        text = state.dump()
        if key in self._changed or text != self._read.get(key):
            self._changed[key] = (text, state.due)

    def delete(self, key: str) -> None:
        """See StateStore. What was read and not there is not deleted."""
        if key in self._changed or self._read.get(key, "") is not None:
            self._changed[key] = None

    def texts(self, stored: Iterable[tuple[str, str]]) -> Iterator[tuple[str, str]]:
        """Every key and text as it is now. ``stored``: all that the store holds; it may be put meanwhile."""
        changed = dict(self._changed)
        yield from ((key, put[0]) for key, put in changed.items() if put is not None)
        yield from ((key, text) for key, text in stored if key not in changed)

    def due(self, now: datetime) -> list[str]:
        """See StateStore. Not those whose timer was moved since, or cleared."""
        return [key for key in self._due(now) if self._is_due(key, now)]

    def _is_due(self, key: str, now: datetime) -> bool:
        put = self._changed.get(key, ("", now))
        return put is not None and put[1] is not None and put[1] <= now

    @property
    def changes(self) -> Mapping[str, Put | None]:
        """What was put (None: deleted), by key."""
        return self._changed
