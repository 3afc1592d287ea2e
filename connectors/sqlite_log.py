"""The embedded log: topics, consumer offsets and keyed state in one SQLite database (WAL).

Everything that happens to a batch (state, outputs, offsets) is one transaction, so that a process may die at any
instant: on return from ``append`` or ``commit`` the data survives the death of the process, and with ``durable`` also
a power cut. One process owns a folder at a time. Values of raw topics are encrypted at rest (AES-256-GCM).
"""

from __future__ import annotations

import fcntl
import json
import os
import sqlite3
import threading
from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import IO

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from connectors.log import Entry
from schemas import codec
from schemas.errors import Invalid, Refused, Reject
from schemas.events import EPOCH
from schemas.topics import BY_NAME, TOPICS, Topic

VERSION = 1
NONCE = 12
MICROSECOND = timedelta(microseconds=1)
FULL_WORDS = ("full", "disk I/O error")

SCHEMA = """
CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS messages (
    topic INTEGER NOT NULL, offset INTEGER NOT NULL, key TEXT NOT NULL, value BLOB NOT NULL, time INTEGER NOT NULL,
    headers TEXT NOT NULL, PRIMARY KEY (topic, offset)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS newest (
    topic INTEGER NOT NULL, identity TEXT NOT NULL, offset INTEGER NOT NULL, PRIMARY KEY (topic, identity)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS topics (topic INTEGER PRIMARY KEY, name TEXT UNIQUE NOT NULL, next INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS offsets (
    consumer TEXT NOT NULL, topic INTEGER NOT NULL, next INTEGER NOT NULL, PRIMARY KEY (consumer, topic)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS state (
    stage TEXT NOT NULL, key TEXT NOT NULL, value TEXT NOT NULL, due INTEGER, PRIMARY KEY (stage, key)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS state_due ON state (stage, due) WHERE due IS NOT NULL;
"""


@dataclass(frozen=True, slots=True)
class SqliteLogSettings:
    """``max_lag`` entries that the slowest consumer may be behind before producers are told to slow down.

    ``key`` (32 bytes) encrypts raw topics; ``durable`` waits for the disk on every commit.
    """

    key: bytes
    max_lag: int = 100_000
    durable: bool = False
    max_pages: int | None = None


@dataclass(frozen=True, slots=True)
class Stored:
    """One entry as it is read back."""

    topic: str
    offset: int
    key: str
    value: bytes
    time: datetime
    headers: dict[str, str]


def micros(time: datetime) -> int:
    """Microseconds since 1970, exact."""
    return (time - EPOCH) // MICROSECOND


class Transaction:
    """What can be done in one transaction; all of it happens or nothing."""

    def __init__(self, log: SqliteLog, connection: sqlite3.Connection) -> None:
        self._log, self._connection = log, connection

    def append(self, entries: Iterable[Entry]) -> None:
        """Append entries to their topics."""
        rows: list[tuple[int, int, str, bytes, int, str]] = []
        nexts: dict[int, int] = {}
        for entry in entries:
            topic = self._log.number(entry.topic)
            offset = nexts.get(topic)
            if offset is None:
                (offset,) = self._connection.execute("SELECT next FROM topics WHERE topic = ?", (topic,)).fetchone()
            nexts[topic] = offset + 1
            value = self._log.seal(entry.topic, offset, entry.value)
            headers = json.dumps(entry.headers) if entry.headers else ""
            rows.append((topic, offset, entry.key, value, micros(entry.time), headers))
            if BY_NAME[entry.topic].compacted:
                self._compact(BY_NAME[entry.topic], topic, offset, entry.value)
        self._connection.executemany("INSERT INTO messages VALUES (?, ?, ?, ?, ?, ?)", rows)
        self._connection.executemany("UPDATE topics SET next = ? WHERE topic = ?", [(n, t) for t, n in nexts.items()])

    def _compact(self, topic: Topic, number: int, offset: int, value: bytes) -> None:
        try:
            identity = topic.identity(codec.decode(value, topic.record))
        except Invalid:
            return
        self._connection.execute("INSERT OR REPLACE INTO newest VALUES (?, ?, ?)", (number, identity, offset))

    def advance(self, consumer: str, nexts: dict[str, int]) -> None:
        """The consumer has dealt with everything below these offsets."""
        rows = [(consumer, self._log.number(topic), offset) for topic, offset in nexts.items()]
        self._connection.executemany("INSERT OR REPLACE INTO offsets VALUES (?, ?, ?)", rows)

    def get_state(self, stage: str, key: str) -> str | None:
        """A key's state, or None."""
        row = self._connection.execute("SELECT value FROM state WHERE stage = ? AND key = ?", (stage, key)).fetchone()
        return row[0] if row else None

    def put_state(self, stage: str, key: str, value: str, due: datetime | None) -> None:
        """Replace a key's state."""
        at = None if due is None else micros(due)
        self._connection.execute("INSERT OR REPLACE INTO state VALUES (?, ?, ?, ?)", (stage, key, value, at))

    def delete_state(self, stage: str, key: str) -> None:
        """Forget a key."""
        self._connection.execute("DELETE FROM state WHERE stage = ? AND key = ?", (stage, key))

    def due_keys(self, stage: str, now: datetime, limit: int = 1000) -> list[str]:
        """Keys whose timer ran out at ``now``, earliest first."""
        rows = self._connection.execute(
            "SELECT key FROM state WHERE stage = ? AND due <= ? ORDER BY due, key LIMIT ?", (stage, micros(now), limit)
        )
        return [key for (key,) in rows]


class SqliteLog:
    """A Log on disk. Threads may share it: reads run side by side, one transaction writes at a time."""

    def __init__(self, folder: Path, settings: SqliteLogSettings) -> None:
        self._path, self._settings = folder / "log.db", settings
        self._cipher = AESGCM(settings.key)
        self._lock = threading.Lock()
        self._local = threading.local()
        self._connections: list[sqlite3.Connection] = []
        self._owner = _own(folder)
        self._writer = self._connect()
        self._check_version()
        self._writer.executescript(SCHEMA)
        self._writer.executemany("INSERT OR IGNORE INTO topics (name, next) VALUES (?, 0)", [(t.name,) for t in TOPICS])
        self._writer.execute("INSERT OR IGNORE INTO meta VALUES ('version', ?)", (str(VERSION),))
        self._numbers = {name: int(n) for n, name in self._writer.execute("SELECT topic, name FROM topics")}
        self._names = {n: name for name, n in self._numbers.items()}

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self._path, timeout=30, isolation_level=None, check_same_thread=False)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute(f"PRAGMA synchronous = {'FULL' if self._settings.durable else 'NORMAL'}")
        if self._settings.max_pages:
            connection.execute(f"PRAGMA max_page_count = {self._settings.max_pages}")
        self._connections.append(connection)
        return connection

    def _check_version(self) -> None:
        if not self._writer.execute("SELECT 1 FROM sqlite_master WHERE name = 'meta'").fetchone():
            return
        row = self._writer.execute("SELECT value FROM meta WHERE name = 'version'").fetchone()
        if row and int(row[0]) > VERSION:
            self.close()
            raise Refused(
                f"{self._path} was written by a newer Driftwheel (log version {row[0]}; this one knows {VERSION}): "
                "upgrade Driftwheel, or name another data folder"
            )

    @property
    def _reader(self) -> sqlite3.Connection:
        if not hasattr(self._local, "connection"):
            self._local.connection = self._connect()
        return self._local.connection

    def number(self, topic: str) -> int:
        """The topic's number in the database."""
        return self._numbers[topic]

    def seal(self, topic: str, offset: int, value: bytes) -> bytes:
        """The value as it is stored: raw topics encrypted."""
        if not BY_NAME[topic].raw:
            return value
        nonce = os.urandom(NONCE)
        return nonce + self._cipher.encrypt(nonce, value, f"{topic}/{offset}".encode())

    def _open(self, topic: str, offset: int, value: bytes) -> bytes:
        if not BY_NAME[topic].raw:
            return value
        return self._cipher.decrypt(value[:NONCE], value[NONCE:], f"{topic}/{offset}".encode())

    @contextmanager
    def transaction(self) -> Generator[Transaction]:
        """One write transaction; an exception undoes all of it. Raises Reject when the disk is full."""
        with self._lock:
            try:
                self._writer.execute("BEGIN IMMEDIATE")
                yield Transaction(self, self._writer)
                self._writer.execute("COMMIT")
            except sqlite3.OperationalError as error:
                self._undo()
                if any(word in str(error) for word in FULL_WORDS):
                    raise Reject(f"{self._path}: {error}: free some space; nothing was taken", 30) from error
                raise
            except BaseException:
                self._undo()
                raise

    def _undo(self) -> None:
        if self._writer.in_transaction:
            self._writer.execute("ROLLBACK")

    def append(self, entries: Sequence[Entry]) -> None:
        """See Log."""
        for topic in {entry.topic for entry in entries}:
            behind = self._behind(topic)
            if behind >= self._settings.max_lag:
                raise Reject(f"{topic}: the slowest consumer is {behind} entries behind", 2)
        with self.transaction() as transaction:
            transaction.append(entries)

    def _behind(self, topic: str) -> int:
        row = self._reader.execute(
            "SELECT max(t.next - o.next) FROM topics t JOIN offsets o USING (topic) WHERE t.name = ?", (topic,)
        ).fetchone()
        return row[0] or 0

    def join(self, consumer: str, topics: Iterable[Topic]) -> None:
        """Make a consumer known, at the beginning of each topic; a known one keeps its place."""
        rows = [(consumer, self.number(topic.name)) for topic in topics]
        with self.transaction():
            self._writer.executemany("INSERT OR IGNORE INTO offsets VALUES (?, ?, 0)", rows)

    def read(self, consumer: str, topics: Sequence[Topic], limit: int) -> tuple[list[Stored], dict[str, int]]:
        """Up to ``limit`` unread entries of the topics, oldest first, and the offsets to advance to."""
        numbers = [self.number(topic.name) for topic in topics]
        found: list[tuple[int, int, int, str, bytes, str]] = []
        for number in numbers:
            found += self._reader.execute(
                "SELECT m.time, m.topic, m.offset, m.key, m.value, m.headers FROM messages m "
                "WHERE m.topic = ?1 AND m.offset >= (SELECT coalesce(max(next), 0) FROM offsets "
                "WHERE consumer = ?2 AND topic = ?1) ORDER BY m.offset LIMIT ?3",
                (number, consumer, limit),
            ).fetchall()
        found = _fair(found, limit)
        nexts: dict[str, int] = {}
        entries: list[Stored] = []
        for time, number, offset, key, value, headers in found:
            name = self._names[number]
            nexts[name] = offset + 1
            at = EPOCH + time * MICROSECOND
            meta: dict[str, str] = json.loads(headers) if headers else {}
            entries.append(Stored(name, offset, key, self._open(name, offset, value), at, meta))
        return entries, nexts

    def due_keys(self, stage: str, now: datetime, limit: int = 1000) -> list[str]:
        """Keys of a stage whose timer ran out, read without a transaction."""
        return Transaction(self, self._reader).due_keys(stage, now, limit)

    def state(self, stage: str, key: str) -> str | None:
        """A key's state, read without a transaction."""
        return Transaction(self, self._reader).get_state(stage, key)

    def lags(self) -> dict[str, int]:
        """Unread entries by consumer."""
        rows = self._reader.execute(
            "SELECT o.consumer, sum(t.next - o.next) FROM offsets o JOIN topics t USING (topic) GROUP BY o.consumer"
        )
        return {consumer: int(behind) for consumer, behind in rows}

    def trim(self, now: datetime) -> dict[str, int]:
        """Drop what is past its retention, and superseded entries of compacted topics that everyone has read.

        Returns how many entries of each topic were dropped before every consumer had read them: retention wins, but
        never silently.
        """
        unread: dict[str, int] = {}
        with self.transaction():
            for topic in TOPICS:
                number = self.number(topic.name)
                if topic.compacted:
                    self._drop_superseded(number)
                    continue
                lost = self._drop_old(number, micros(now - topic.retention))
                if lost:
                    unread[topic.name] = lost
        return unread

    def _drop_superseded(self, number: int) -> None:
        self._writer.execute(
            "DELETE FROM messages WHERE topic = ?1 AND offset < (SELECT min(next) FROM offsets WHERE topic = ?1) "
            "AND offset NOT IN (SELECT offset FROM newest WHERE topic = ?1)",
            (number,),
        )

    def _drop_old(self, number: int, before: int) -> int:
        (lost,) = self._writer.execute(
            "SELECT count(*) FROM messages WHERE topic = ?1 AND time < ?2 "
            "AND offset >= (SELECT coalesce(min(next), 0) FROM offsets WHERE topic = ?1)",
            (number, before),
        ).fetchone()
        self._writer.execute("DELETE FROM messages WHERE topic = ? AND time < ?", (number, before))
        if lost:
            self._writer.execute(
                "UPDATE offsets SET next = max(next, coalesce((SELECT min(offset) FROM messages WHERE topic = ?1), "
                "(SELECT next FROM topics WHERE topic = ?1))) WHERE topic = ?1",
                (number,),
            )
        return int(lost)

    def drop_consumed(self, topic: Topic) -> int:
        """Drop every entry of a topic that all its consumers have read; returns how many."""
        with self.transaction():
            return self._writer.execute(
                "DELETE FROM messages WHERE topic = ?1 AND offset < (SELECT min(next) FROM offsets WHERE topic = ?1)",
                (self.number(topic.name),),
            ).rowcount

    def delete(self, topic: Topic, offsets: Iterable[int]) -> None:
        """Remove single entries (erasure); offsets of the others stay."""
        number = self.number(topic.name)
        with self.transaction():
            self._writer.executemany(
                "DELETE FROM messages WHERE topic = ? AND offset = ?", [(number, offset) for offset in offsets]
            )

    def scan(self, topic: Topic) -> list[Stored]:
        """Every entry of a topic that is still there."""
        rows = self._reader.execute(
            "SELECT time, offset, key, value, headers FROM messages WHERE topic = ? ORDER BY offset",
            (self.number(topic.name),),
        )
        return [
            Stored(topic.name, o, k, self._open(topic.name, o, v), EPOCH + t * MICROSECOND, json.loads(h) if h else {})
            for t, o, k, v, h in rows
        ]

    def close(self) -> None:
        """Let go of the folder."""
        for connection in self._connections:
            connection.close()
        self._owner.close()


@contextmanager
def _snapshot(connection: sqlite3.Connection) -> Generator[None]:
    """All reads inside see the same instant."""
    connection.execute("BEGIN")
    try:
        yield
    finally:
        connection.execute("ROLLBACK")


def _from(number: int, offset: int, limit: int = -1) -> tuple[str, tuple[int, int, int]]:
    query = "SELECT id, key, value, time, headers FROM messages WHERE id >= ? AND id < ? ORDER BY id LIMIT ?"
    return query, (number * SPAN + offset, (number + 1) * SPAN, limit)


def _oldest_first(connection: sqlite3.Connection, places: Mapping[int, int], limit: int) -> Iterator[tuple[int, Row]]:
    """The topics' rows merged by time, each topic's by offset, read only as far as they are asked for."""

    def rows(number: int, at: int) -> Iterator[tuple[int, int, Row]]:
        for row in connection.execute(*_from(number, at, limit)):
            yield row[3], number, row

    streams = [rows(number, at) for number, at in places.items()]
    for _, number, row in heapq.merge(*streams, key=lambda item: item[:2]):
        yield number, row


def _own(folder: Path) -> IO[str]:
    folder.mkdir(parents=True, exist_ok=True)
    lock = (folder / "log.lock").open("a+")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        lock.seek(0)
        pid = lock.read().strip() or "unknown"
        lock.close()
        raise Refused(
            f"process {pid} has the data folder {folder} open: stop it, or name another folder"
        ) from error
    lock.seek(0)
    lock.truncate()
    lock.write(str(os.getpid()))
    lock.flush()
    return lock


def now_utc() -> datetime:
    """The real clock."""
    return datetime.now(UTC)
