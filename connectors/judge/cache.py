"""What a judge said before, so that the same answer is not paid for twice: scores alone, under a keyed hash.

No text is in it, neither of the turn nor of the judge: a score and a time stand under HMAC-SHA256 of judge, prompt form
and content. Whoever has the file and not the key learns nothing from it, so that there is nothing in it to erase.
"""

from __future__ import annotations

import hashlib
import hmac
import sqlite3
import threading
from collections.abc import Callable, Sequence
from contextlib import closing
from datetime import datetime, timedelta
from pathlib import Path
from typing import Protocol

from connectors.judge.prompts import FORM
from schemas.errors import Refused

KEPT = timedelta(days=30)
MOST = 200_000
"""Scores that are kept; the oldest go first."""


class Cache(Protocol):
    """Remembers scores by key."""

    def get(self, key: str) -> float | None:
        """The score, or None."""
        ...

    def put(self, key: str, score: float) -> None:
        """Remember a score."""
        ...


def cache_key(secret: bytes, judge: str, parts: Sequence[str]) -> str:
    """What a verdict stands under. ``secret``: the redaction's own, or any other that is kept."""
    text = "\x1f".join(["judge", str(FORM), judge, *(f"{len(part)}:{part}" for part in parts)])
    return hmac.new(secret, text.encode("utf-8", "replace"), hashlib.sha256).hexdigest()


class MemoryCache:
    """A Cache in memory."""

    def __init__(self) -> None:
        self.scores: dict[str, float] = {}

    def get(self, key: str) -> float | None:
        """See Cache."""
        return self.scores.get(key)

    def put(self, key: str, score: float) -> None:
        """See Cache."""
        self.scores[key] = score


class FileCache:
    """A Cache in one SQLite file, for all threads. Raises Refused when the file cannot be opened."""

    def __init__(self, path: Path, clock: Callable[[], datetime]) -> None:
        self._lock, self._clock = threading.Lock(), clock
        try:
            self._database = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
            self._database.execute("PRAGMA journal_mode = WAL")
            self._database.execute("CREATE TABLE IF NOT EXISTS scores (key TEXT PRIMARY KEY, score REAL, time REAL)")
            self._database.execute("CREATE INDEX IF NOT EXISTS by_time ON scores (time, key)")
        except sqlite3.Error as error:
            raise Refused(f"{path}, the judge's cache, cannot be opened: {error}; it may be deleted") from error
        path.chmod(0o600)

    def get(self, key: str) -> float | None:
        """See Cache."""
        since = (self._clock() - KEPT).timestamp()
        with self._lock, closing(self._database.cursor()) as cursor:
            found = cursor.execute("SELECT score FROM scores WHERE key = ? AND time >= ?", (key, since)).fetchone()
        return None if found is None else float(found[0])

    def put(self, key: str, score: float) -> None:
        """See Cache."""
        now = self._clock()
        with self._lock, closing(self._database.cursor()) as cursor:
            cursor.execute("INSERT OR REPLACE INTO scores VALUES (?, ?, ?)", (key, score, now.timestamp()))
            cursor.execute("DELETE FROM scores WHERE time < ?", ((now - KEPT).timestamp(),))
            over = "SELECT key FROM scores ORDER BY time DESC LIMIT -1 OFFSET ?"
            cursor.execute(f"DELETE FROM scores WHERE key IN ({over})", (MOST,))  # noqa: S608  # all of it is ours

    def close(self) -> None:
        """Let go of the file."""
        with self._lock:
            self._database.close()
