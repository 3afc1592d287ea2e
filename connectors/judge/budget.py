"""What a judge may cost: so many calls an hour, so many tokens a day, in windows that slide with an injected clock."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta

from schemas.errors import Reject

HOUR, DAY = timedelta(hours=1), timedelta(days=1)


class Budget:
    """Thread-safe. A limit of 0 lets nothing through."""

    def __init__(self, calls_per_hour: int, tokens_per_day: int, clock: Callable[[], datetime]) -> None:
        self._calls, self._tokens, self._clock = calls_per_hour, tokens_per_day, clock
        self._spent: deque[tuple[datetime, int, int]] = deque()
        self._lock = threading.Lock()

    def check(self, tokens: int) -> None:
        """Raises Reject, with the seconds until there is room, when a call of so many tokens is too much now."""
        now = self._clock()
        with self._lock:
            while self._spent and self._spent[0][0] <= now - DAY:
                self._spent.popleft()
            wait = max(
                _wait(now, HOUR, [(at, calls) for at, calls, _ in self._spent], self._calls - 1),
                _wait(now, DAY, [(at, count) for at, _, count in self._spent], self._tokens - tokens),
            )
        if wait > 0:
            raise Reject("the judge's budget is spent (judge.calls_per_hour, judge.tokens_per_day)", wait)

    def note(self, calls: int, tokens: int, time: datetime | None = None) -> None:
        """So much was spent, now or at a ``time`` before (in the order of time)."""
        with self._lock:
            self._spent.append((time or self._clock(), calls, tokens))


def _wait(now: datetime, window: timedelta, spent: Sequence[tuple[datetime, int]], room: int) -> float:
    """Seconds until what was spent in the window is at most ``room``; the whole window when that never comes."""
    inside = [one for one in spent if one[0] > now - window]
    total = sum(count for _, count in inside)
    if total <= room:
        return 0.0
    for time, count in inside:
        total -= count
        if total <= room:
            return (time + window - now).total_seconds()
    return window.total_seconds()
