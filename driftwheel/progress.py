"""Whether lanes get on: the liveness of a worker, from its committed positions and the ends of its topics."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

Place = tuple[str, int]
"""Topic and partition."""


class ProgressWatch:
    """Remembers since when each place has had something to read without getting on.

    ``look`` is called now and then with how far each place is behind and where it stands. ``clock`` counts seconds.
    """

    def __init__(self, stall_seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._stall_seconds, self._clock = stall_seconds, clock
        self._since: dict[Place, tuple[int, float]] = {}
        self._behind: dict[Place, int] = {}

    def look(self, behind: Mapping[Place, int], positions: Mapping[Place, int]) -> None:
        """Take note. A place that is gone (it has another owner) is forgotten."""
        now = self._clock()
        for place in set(self._since) - set(behind):
            del self._since[place]
        for place, count in behind.items():
            at = positions.get(place, 0)
            before = self._since.get(place)
            if not count or before is None or before[0] != at:
                self._since[place] = (at, now)
        self._behind = dict(behind)

    def stalled(self, times: float = 1.0) -> list[Place]:
        """Places that have stood still with something to read for too long, or so many times as long."""
        now = self._clock()
        return [
            place
            for place, (_, since) in self._since.items()
            if self._behind.get(place) and now - since > times * self._stall_seconds
        ]

    def problems(self) -> list[str]:
        """The same in words."""
        return [
            f"{topic}, partition {partition}: {self._behind[topic, partition]} entries to read and no progress for "
            f"{self._stall_seconds:.0f} s"
            for topic, partition in self.stalled()
        ]
