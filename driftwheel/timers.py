"""When the keys of a lane want to be ticked: near ones in memory, far ones on disk until they are near.

A stage may remember millions of keys for a day, each with a timer; only those of the next minutes cost memory.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from itertools import islice, takewhile

from schemas.events import EPOCH

Due = tuple[datetime, str]
"""A timer: when it runs out, and whose it is. The order of timers is that of these pairs."""
Stored = Callable[[Due], Iterator[Due]]
"""The timers on disk from a pair on, in order."""

AHEAD = timedelta(minutes=10)
"""Timers up to so far ahead are taken into memory; the next look at the disk comes when half of it has passed."""
TICKS = 1000
_LOAD = 10_000
"""So many are taken into memory at a time."""


class Timers:
    """Timers of a lane over those ``stored`` on its disk, which the lane keeps up to date: ``set`` says what it wrote.

    One thread at a time may use it, but for ``count``.
    """

    def __init__(self, stored: Stored) -> None:
        self._stored = stored
        self._near: dict[str, datetime] = {}
        self._heap: list[Due] = []
        self._horizon: Due = (EPOCH, "")
        """What runs out before this is in memory; the disk has been read up to here."""

    def __len__(self) -> int:
        """How many are in memory."""
        return len(self._near)

    def set(self, key: str, due: datetime | None) -> None:
        """A key's timer was set or cleared on disk."""
        if due is None or (due, key) >= self._horizon:
            self._near.pop(key, None)
        else:
            self._remember(key, due)

    def _remember(self, key: str, due: datetime) -> None:
        if self._near.get(key) != due:
            self._near[key] = due
            heapq.heappush(self._heap, (due, key))
            if len(self._heap) > 2 * len(self._near) + TICKS:
                self._heap = [(at, name) for name, at in self._near.items()]
                heapq.heapify(self._heap)

    def wants(self, now: datetime) -> bool:
        """Whether ``due`` has something to give, or to read from the disk first."""
        return self._is_due(now) or self._looks_at_disk(now)

    def count(self, now: datetime) -> int:
        """How many have run out at ``now``, one for all that are still to be read from disk; from any thread."""
        return sum(due <= now for due in list(self._near.values())) + (self._horizon[0] <= now)

    def due(self, now: datetime, limit: int = TICKS) -> list[str]:
        """Keys whose timer ran out at ``now``, earliest first; they stay until they are set anew."""
        found: list[Due] = []
        while len(found) < limit:
            if self._is_due(now):
                found.append(heapq.heappop(self._heap))
            elif self._looks_at_disk(now):
                self._look(now)
            else:
                break
        for one in found:
            heapq.heappush(self._heap, one)
        return list(dict.fromkeys(key for _, key in found))

    def _is_due(self, now: datetime) -> bool:
        while self._heap and self._near.get(self._heap[0][1]) != self._heap[0][0]:
            heapq.heappop(self._heap)
        return bool(self._heap) and self._heap[0][0] <= now

    def _looks_at_disk(self, now: datetime) -> bool:
        return self._horizon[0] < now + AHEAD / 2

    def _look(self, now: datetime) -> None:
        end = (now + AHEAD, "")
        near = list(islice(takewhile(lambda one: one < end, self._stored(self._horizon)), _LOAD))
        for due, key in near:
            self._remember(key, due)
        self._horizon = (near[-1][0], near[-1][1] + "\0") if len(near) == _LOAD else end
