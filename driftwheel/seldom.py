"""Log records of others that would come a hundred times a second."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable


class Seldom(logging.Filter):
    """Lets what ``name`` and its children say through once in ``seconds``; kinds are told apart by their format.

    aiokafka says on every attempt that a broker is away, several times a second for each stage.
    """

    def __init__(self, name: str, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._prefix, self._seconds, self._clock = name, seconds, clock
        self._said: dict[tuple[str, str], float] = {}
        self._lock = threading.Lock()

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the record is to be written."""
        if record.name.partition(".")[0] != self._prefix:
            return True
        kind, now = (record.name, str(record.msg)), self._clock()
        with self._lock:
            if now - self._said.get(kind, -self._seconds) < self._seconds:
                return False
            self._said[kind] = now
        return True
