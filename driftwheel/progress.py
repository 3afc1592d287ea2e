"""Whether lanes get on: the liveness of a worker, from its committed positions and the ends of its topics."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

Place = tuple[str, int]
"""Topic and partition."""


class ProgressWatch:
    """Remembers for how long each place has had something to read without getting on.

    ``look`` is called now and then with how far each place is behind and where it stands. ``clock`` counts seconds.
    Only what looks have seen counts: while brokers are silent, or a busy machine does not get to it, nobody knows
    whether a place stands still. So the time from one look to the next counts for half of ``stall_seconds`` at most.
    """

    def __init__(self, stall_seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._stall_seconds, self._clock = stall_seconds, clock
        self._looked: float | None = None
        self._stood: dict[Place, tuple[int, float]] = {}
        """Where each place was, and for how many seconds it has been seen there with something to read."""
        self._behind: dict[Place, int] = {}

    def look(self, behind: Mapping[Place, int], positions: Mapping[Place, int]) -> None:
        """Take note. A place that is gone (it has another owner) is forgotten."""
        now, before = self._clock(), self._stood
        passed = 0.0 if self._looked is None else min(now - self._looked, self._stall_seconds / 2)
        self._stood = {}
        for place, count in behind.items():
            at = positions.get(place, 0)
            where, stood = before.get(place, (at, 0.0))
            still = count and where == at and self._behind.get(place)
            self._stood[place] = (at, stood + passed if still else 0.0)
        self._looked, self._behind = now, dict(behind)

    def stalled(self, times: float = 1.0) -> list[Place]:
        """Places that have stood still with something to read for too long, or so many times as long."""
        return [place for place, (_, stood) in self._stood.items() if stood >= times * self._stall_seconds]

    def problems(self) -> list[str]:
        """The same in words."""
        return [
            f"{topic}, partition {partition}: {self._behind[topic, partition]} entries to read and no progress for "
            f"{self._stall_seconds:.0f} s"
            for topic, partition in self.stalled()
        ]
