"""The embedded log: topics, consumer offsets and keyed state in one SQLite database (WAL).

Everything that follows from a batch (state, outputs, offsets) is one transaction, so that a process may die at any
instant. On return from ``append`` the entries survive the death of the process; with ``durable`` also a power cut.
One process owns a folder at a time. Values of raw topics are encrypted at rest (AES-256-GCM).
"""

from __future__ import annotations

import fcntl
import hashlib
import heapq
import json
import os
import sqlite3
import threading
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from types import MappingProxyType
from typing import IO

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from connectors.log import Entry, Stored
from schemas import codec
from schemas.errors import Invalid, Refused, Reject
from schemas.events import EPOCH
from schemas.topics import BY_NAME, TOPICS, Topic

VERSION = 1
NONCE = 12
SPAN = 1 << 44
"""Offsets per topic: an entry's row id is ``topic * SPAN + offset``, which keeps each topic together on disk."""
MICROSECOND = timedelta(microseconds=1)
BATCH_BYTES = 32 * 1024 * 1024
TICKS = 1000

SCHEMA = """
CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS topics (topic INTEGER PRIMARY KEY, name TEXT UNIQUE NOT NULL, next INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS messages (
    id INTEGER PRIMARY KEY, key TEXT NOT NULL, value BLOB NOT NULL, time INTEGER NOT NULL, headers TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS newest (
    topic INTEGER NOT NULL, identity TEXT NOT NULL, id INTEGER NOT NULL, PRIMARY KEY (topic, identity)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS offsets (
    consumer TEXT NOT NULL, topic INTEGER NOT NULL, next INTEGER NOT NULL, PRIMARY KEY (consumer, topic)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS state (
    stage TEXT NOT NULL, key TEXT NOT NULL, value TEXT NOT NULL, due INTEGER, PRIMARY KEY (stage, key));
CREATE INDEX IF NOT EXISTS state_due ON state (stage, due) WHERE due IS NOT NULL;
"""

Row = tuple[int, str, bytes, int, str]
"""id, key, value, time, headers"""


@dataclass(frozen=True, slots=True)
class SqliteLogSettings:
    """``max_lag`` entries that a consumer may be behind on a topic before its producers are told to slow down.

    ``key`` (32 bytes) encrypts raw topics; ``durable`` waits for the disk on every commit; ``max_pages`` of 4 KiB
    bounds the database (None: the disk does).
    """

    key: bytes
    max_lag: int = 100_000
    durable: bool = False
    max_pages: int | None = None


class Transaction:
    """What can be done in one transaction; all of it happens or nothing."""

    def __init__(self, log: SqliteLog, connection: sqlite3.Connection) -> None:
        self._log, self._connection = log, connection
        self.nexts: dict[int, int] = {}
        self.positions: dict[str, dict[int, int]] = {}

    def append(self, entries: Iterable[Entry]) -> None:
        """Append entries to their topics, with dense offsets."""
        rows: list[Row] = []
        for entry in entries:
            number = self._log.number(entry.topic)
            offset = self.nexts.get(number, self._log.next(number))
            self.nexts[number] = offset + 1
            value = self._log.seal(entry.topic, offset, entry.value)
            headers = json.dumps(entry.headers) if entry.headers else ""
            rows.append((number * SPAN + offset, entry.key, value, _micros(entry.time), headers))
            if BY_NAME[entry.topic].compacted:
                self._compact(BY_NAME[entry.topic], number, offset, entry.value)
        self._connection.executemany("INSERT INTO messages VALUES (?, ?, ?, ?, ?)", rows)
        nexts = [(offset, number) for number, offset in self.nexts.items()]
        self._connection.executemany("UPDATE topics SET next = ? WHERE topic = ?", nexts)

    def _compact(self, topic: Topic, number: int, offset: int, value: bytes) -> None:
        try:
            identity = topic.identity(codec.decode(value, topic.record))
        except Invalid:
            return
        row = (number, identity, number * SPAN + offset)
        self._connection.execute("INSERT OR REPLACE INTO newest VALUES (?, ?, ?)", row)

    def advance(self, consumer: str, nexts: Mapping[str, int]) -> None:
        """The consumer has dealt with everything below these offsets."""
        moved = {self._log.number(topic): offset for topic, offset in nexts.items()}
        self.positions.setdefault(consumer, {}).update(moved)
        rows = [(consumer, number, offset) for number, offset in moved.items()]
        self._connection.executemany("INSERT OR REPLACE INTO offsets VALUES (?, ?, ?)", rows)

    def put_state(self, stage: str, key: str, value: str, due: datetime | None) -> None:
        """Replace a key's state."""
        self._connection.execute(
            "INSERT INTO state VALUES (?, ?, ?, ?) "
            "ON CONFLICT (stage, key) DO UPDATE SET value = excluded.value, due = excluded.due",
            (stage, key, value, None if due is None else _micros(due)),
        )

    def delete_state(self, stage: str, key: str) -> None:
        """Forget a key."""
        self._connection.execute("DELETE FROM state WHERE stage = ? AND key = ?", (stage, key))

    def delete(self, number: int, until: int) -> int:
        """Remove a topic's entries below an offset; returns how many."""
        ids = (number * SPAN, number * SPAN + until)
        return self._connection.execute("DELETE FROM messages WHERE id >= ? AND id < ?", ids).rowcount

    def delete_rows(self, number: int, offsets: Iterable[int]) -> None:
        """Remove single entries."""
        ids = [(number * SPAN + offset,) for offset in offsets]
        self._connection.executemany("DELETE FROM messages WHERE id = ?", ids)

    def delete_superseded(self, number: int, until: int) -> int:
        """Remove a compacted topic's entries below an offset that a newer one replaced; returns how many."""
        return self._connection.execute(
            "DELETE FROM messages WHERE id >= ? AND id < ? AND id NOT IN (SELECT id FROM newest WHERE topic = ?)",
            (number * SPAN, number * SPAN + until, number),
        ).rowcount

    def skip_gaps(self, number: int) -> None:
        """Consumers that wait at a removed entry go on to the next one that is there."""
        for consumer, topic, at in self._connection.execute("SELECT * FROM offsets").fetchall():
            if topic == number:
                rows = self._connection.execute(
                    "SELECT id FROM messages WHERE id >= ? AND id < ? ORDER BY id LIMIT 1",
                    (number * SPAN + at, (number + 1) * SPAN),
                ).fetchall()
                there = rows[0][0] - number * SPAN if rows else self._log.next(number)
                if there > at:
                    self.advance(consumer, {self._log.name(number): there})


class SqliteLog:
    """A Log on disk. Threads may share it: reads run side by side, one transaction writes at a time.

    Raises Refused when another process has the folder open, when a newer Driftwheel wrote it, when ``key`` is not
    the one that it was written with, and when ``log.db`` is not a database.
    """

    def __init__(self, folder: Path, settings: SqliteLogSettings) -> None:
        self._path, self._settings = folder / "log.db", settings
        self._cipher = AESGCM(settings.key)
        self._lock, self._idle_lock = threading.Lock(), threading.Lock()
        self._idle: list[sqlite3.Connection] = []
        self._news = threading.Condition()
        self._generation = 0
        self._nexts: dict[int, int] = {}
        self._positions: dict[str, dict[int, int]] = {}
        self._owner = _own(folder)
        try:
            self._writer = self._connect()
            self._prepare()
        except BaseException:
            self.close()
            raise

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self._path, timeout=30, isolation_level=None, check_same_thread=False)
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute(f"PRAGMA synchronous = {'FULL' if self._settings.durable else 'NORMAL'}")
            if self._settings.max_pages:
                connection.execute(f"PRAGMA max_page_count = {self._settings.max_pages}")
        except sqlite3.DatabaseError as error:
            connection.close()
            raise Refused(f"{self._path} cannot be opened: {error}: restore it, or name another data folder") from error
        return connection

    def _prepare(self) -> None:
        meta = self._meta()
        if int(meta.get("version", "0")) > VERSION:
            raise Refused(
                f"{self._path} was written by a newer Driftwheel (log version {meta['version']}; this one knows "
                f"{VERSION}): upgrade Driftwheel, or name another data folder"
            )
        mark = hashlib.sha256(b"driftwheel log" + self._settings.key).hexdigest()[:16]
        if meta.get("key", mark) != mark:
            raise Refused(
                f"{self._path} was written with another key: bring back the key file that belongs to it, "
                "or name another data folder"
            )
        self._writer.executescript(SCHEMA)
        self._writer.executemany("INSERT OR IGNORE INTO topics (name, next) VALUES (?, 0)", [(t.name,) for t in TOPICS])
        self._writer.executemany("INSERT OR IGNORE INTO meta VALUES (?, ?)", [("version", str(VERSION)), ("key", mark)])
        rows = self._writer.execute("SELECT topic, name, next FROM topics").fetchall()
        self._numbers: dict[str, int] = {name: number for number, name, _ in rows}
        self._names: dict[int, str] = {number: name for number, name, _ in rows}
        self._nexts = {number: offset for number, _, offset in rows}

    def _meta(self) -> dict[str, str]:
        if not self._writer.execute("SELECT 1 FROM sqlite_master WHERE name = 'meta'").fetchone():
            return {}
        return dict(self._writer.execute("SELECT name, value FROM meta").fetchall())

    def close(self) -> None:
        """Let go of the folder."""
        with self._idle_lock:
            while self._idle:
                self._idle.pop().close()
        if hasattr(self, "_writer"):
            self._writer.close()
        self._owner.close()

    # What the log knows without asking the disk: it is the only writer.

    def number(self, topic: str) -> int:
        """The topic's number in the database."""
        return self._numbers[topic]

    def name(self, number: int) -> str:
        """The topic of a number."""
        return self._names[number]

    def next(self, number: int) -> int:
        """The offset that the topic's next entry gets."""
        return self._nexts[number]

    def lags(self) -> dict[str, int]:
        """Unread entries by consumer, of those that joined since the log was opened."""
        return {
            consumer: sum(self._nexts[number] - at for number, at in positions.items())
            for consumer, positions in list(self._positions.items())
        }

    def lag(self, consumer: str) -> int:
        """Unread entries of one consumer."""
        return self.lags().get(consumer, 0)

    @property
    def generation(self) -> int:
        """Grows with every append: hand it to ``wait`` to miss none."""
        return self._generation

    def wait(self, seen: int, timeout: float | None) -> None:
        """Block until there was an append (or ``wake``) after generation ``seen``, or ``timeout`` seconds passed."""
        with self._news:
            self._news.wait_for(lambda: self._generation != seen, timeout)

    def wake(self) -> None:
        """End every ``wait``."""
        with self._news:
            self._generation += 1
            self._news.notify_all()

    # Writing.

    @contextmanager
    def transaction(self) -> Generator[Transaction]:
        """One write transaction; an exception undoes all of it. Raises Reject when the disk is full."""
        with self._lock:
            transaction = Transaction(self, self._writer)
            try:
                self._writer.execute("BEGIN IMMEDIATE")
                yield transaction
                self._writer.execute("COMMIT")
            except sqlite3.OperationalError as error:
                self._undo()
                if error.sqlite_errorcode & 0xFF in {sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR}:
                    raise Reject(f"{self._path}: {error}: free some space; nothing was taken", 30) from error
                raise
            except BaseException:
                self._undo()
                raise
            self._nexts.update(transaction.nexts)
            for consumer, positions in transaction.positions.items():
                if consumer in self._positions:
                    self._positions[consumer].update(positions)
        if transaction.nexts:
            self.wake()

    def _undo(self) -> None:
        if self._writer.in_transaction:
            self._writer.execute("ROLLBACK")

    def append(self, entries: Sequence[Entry]) -> None:
        """See Log. Reject when a consumer that has joined is ``max_lag`` entries behind, or when the disk is full."""
        for topic in {entry.topic for entry in entries}:
            number = self.number(topic)
            places = [positions[number] for positions in list(self._positions.values()) if number in positions]
            behind = self._nexts[number] - min(places, default=self._nexts[number])
            if behind >= self._settings.max_lag:
                raise Reject(f"{topic}: the slowest consumer is {behind} entries behind; nothing was taken", 2)
        with self.transaction() as transaction:
            transaction.append(entries)

    def seal(self, topic: str, offset: int, value: bytes) -> bytes:
        """The value as it is stored: raw topics encrypted, bound to their place."""
        if not BY_NAME[topic].raw:
            return value
        nonce = os.urandom(NONCE)
        return nonce + self._cipher.encrypt(nonce, value, f"{topic}/{offset}".encode())

    def _open(self, topic: str, offset: int, value: bytes) -> bytes:
        if not BY_NAME[topic].raw:
            return value
        try:
            return self._cipher.decrypt(value[:NONCE], value[NONCE:], f"{topic}/{offset}".encode())
        except InvalidTag as error:
            raise Refused(f"{self._path}: {topic}/{offset} is damaged and cannot be decrypted") from error

    def join(self, consumer: str, topics: Iterable[Topic]) -> None:
        """Make a consumer known, at the beginning of each topic; a known one keeps its place."""
        numbers = [self.number(topic.name) for topic in topics]
        with self.transaction():
            rows = [(consumer, number) for number in numbers]
            self._writer.executemany("INSERT OR IGNORE INTO offsets VALUES (?, ?, 0)", rows)
            places = self._writer.execute("SELECT topic, next FROM offsets WHERE consumer = ?", (consumer,)).fetchall()
        self._positions[consumer] = {number: at for number, at in places if number in numbers}

    def leave(self, consumer: str) -> None:
        """Forget a consumer for good: nothing is kept for it any more."""
        with self.transaction():
            self._writer.execute("DELETE FROM offsets WHERE consumer = ?", (consumer,))
        self._positions.pop(consumer, None)

    # Reading.

    @contextmanager
    def _reading(self) -> Generator[sqlite3.Connection]:
        with self._idle_lock:
            connection = self._idle.pop() if self._idle else None
        connection = connection or self._connect()
        try:
            yield connection
        finally:
            with self._idle_lock:
                self._idle.append(connection)

    def read(
        self, consumer: str, topics: Sequence[Topic], limit: int, max_bytes: int = BATCH_BYTES
    ) -> tuple[list[Stored], dict[str, int]]:
        """Up to ``limit`` unread entries of the topics, oldest first, and the offsets to advance to.

        Within a topic always by offset, whatever the times say. Stops early at ``max_bytes``, but not before one.
        """
        entries: list[Stored] = []
        nexts: dict[str, int] = {}
        places = self._unread(consumer, topics)
        if not places:
            return entries, nexts
        size = 0
        with self._reading() as connection, _snapshot(connection):
            for number, row in _oldest_first(connection, places, limit):
                entries.append(self._stored(number, row))
                nexts[entries[-1].topic] = entries[-1].offset + 1
                size += len(entries[-1].value)
                if len(entries) == limit or size >= max_bytes:
                    break
        return entries, nexts

    def _unread(self, consumer: str, topics: Iterable[Topic]) -> dict[int, int]:
        positions = self._positions.get(consumer, {})
        places = {number: positions.get(number, 0) for number in (self.number(topic.name) for topic in topics)}
        return {number: at for number, at in places.items() if at < self._nexts[number]}

    def _stored(self, number: int, row: Row) -> Stored:
        name, offset = self._names[number], row[0] - number * SPAN
        headers: dict[str, str] = json.loads(row[4]) if row[4] else {}
        return Stored(name, offset, row[1], self._open(name, offset, row[2]), EPOCH + row[3] * MICROSECOND, headers)

    def oldest_unread(self, consumer: str, topics: Iterable[Topic]) -> datetime | None:
        """When the oldest entry that the consumer has not read was accepted; None when it has read all."""
        times: list[int] = []
        for number, at in self._unread(consumer, topics).items():
            with self._reading() as connection:
                times += [row[3] for row in connection.execute(*_from(number, at, 1)).fetchall()]
        return EPOCH + min(times) * MICROSECOND if times else None

    def scan(self, topic: Topic, first: int = 0) -> list[Stored]:
        """Every entry of a topic that is still there, from an offset on."""
        number = self.number(topic.name)
        with self._reading() as connection:
            return [self._stored(number, row) for row in connection.execute(*_from(number, first)).fetchall()]

    def at(self, topic: Topic, offset: int) -> Stored | None:
        """One entry; None when it is not there, or not any more."""
        number = self.number(topic.name)
        with self._reading() as connection:
            entries = [self._stored(number, row) for row in connection.execute(*_from(number, offset, 1)).fetchall()]
        return entries[0] if entries and entries[0].offset == offset else None

    def state(self, stage: str, key: str) -> str | None:
        """A key's state, or None."""
        query = "SELECT value FROM state WHERE stage = ? AND key = ?"
        with self._reading() as connection:
            rows = connection.execute(query, (stage, key)).fetchall()
        return rows[0][0] if rows else None

    def states(self, stage: str) -> list[tuple[str, str]]:
        """Every key of a stage with its state."""
        with self._reading() as connection:
            return connection.execute("SELECT key, value FROM state WHERE stage = ? ORDER BY key", (stage,)).fetchall()

    def due_keys(self, stage: str, now: datetime, limit: int = TICKS) -> list[str]:
        """Keys of a stage whose timer ran out at ``now``, earliest first."""
        query = "SELECT key FROM state WHERE stage = ? AND due <= ? ORDER BY due, key LIMIT ?"
        with self._reading() as connection:
            return [key for (key,) in connection.execute(query, (stage, _micros(now), limit)).fetchall()]

    def next_due(self, stage: str) -> datetime | None:
        """When the stage's next timer runs out."""
        query = "SELECT min(due) FROM state WHERE stage = ? AND due IS NOT NULL"
        with self._reading() as connection:
            ((due,),) = connection.execute(query, (stage,)).fetchall()
        return None if due is None else EPOCH + due * MICROSECOND

    def stats(self) -> dict[str, int]:
        """Counts by what they count: entries by topic, keys of state by stage, bytes of the database."""
        with self._reading() as connection:
            found = {
                f"entries.{name}": connection.execute(
                    "SELECT count(*) FROM messages WHERE id >= ? AND id < ?", (n * SPAN, (n + 1) * SPAN)
                ).fetchone()[0]
                for name, n in self._numbers.items()
            }
            for stage, keys in connection.execute("SELECT stage, count(*) FROM state GROUP BY stage").fetchall():
                found[f"keys.{stage}"] = keys
        found["bytes"] = self._path.stat().st_size
        return found

    # Letting go.

    def trim(self, now: datetime, kept: Mapping[str, timedelta] = MappingProxyType({})) -> dict[str, int]:
        """Drop what is past its retention, and superseded entries of compacted topics that everyone has read.

        ``kept``: retention by topic, where it is not the topic's own.
        Returns how many entries of each topic were dropped before every consumer had read them: retention wins, but
        never silently. One short transaction per topic, so that producers hardly wait.
        """
        unread: dict[str, int] = {}
        for topic in TOPICS:
            number = self.number(topic.name)
            with self.transaction() as transaction:
                read = self._read_by_all(number)
                if topic.compacted:
                    transaction.delete_superseded(number, read)
                    continue
                until = self._first_since(number, _micros(now - kept.get(topic.name, topic.retention)))
                transaction.delete(number, min(read, until))
                if until > read:
                    lost = transaction.delete(number, until)
                    transaction.skip_gaps(number)
                    unread |= {topic.name: lost} if lost else {}
        return unread

    def _read_by_all(self, number: int) -> int:
        query = "SELECT coalesce(min(next), ?) FROM offsets WHERE topic = ?"
        return int(self._writer.execute(query, (self._nexts[number], number)).fetchone()[0])

    def _first_since(self, number: int, time: int) -> int:
        rows = self._writer.execute(
            "SELECT id FROM messages WHERE id >= ? AND id < ? AND time >= ? ORDER BY id LIMIT 1",
            (number * SPAN, (number + 1) * SPAN, time),
        ).fetchall()
        return rows[0][0] - number * SPAN if rows else self._nexts[number]

    def read_by_all(self, topic: Topic) -> int:
        """The offset below which every consumer has read a topic."""
        with self.transaction():
            return self._read_by_all(self.number(topic.name))

    def drop_consumed(self, topic: Topic) -> int:
        """Drop every entry of a topic that all its consumers have read; returns how many."""
        number = self.number(topic.name)
        with self.transaction() as transaction:
            return transaction.delete(number, self._read_by_all(number))

    @contextmanager
    def shredding(self) -> Generator[None]:
        """What is deleted or replaced inside is overwritten on disk, and in no journal afterwards."""
        with self._lock:
            self._writer.execute("PRAGMA secure_delete = ON")
        try:
            yield
        finally:
            with self._lock:
                self._writer.execute("PRAGMA secure_delete = OFF")
                self._writer.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def delete(self, topic: Topic, offsets: Iterable[int]) -> None:
        """Remove single entries (erasure); offsets of the others stay."""
        number = self.number(topic.name)
        with self.transaction() as transaction:
            transaction.delete_rows(number, offsets)
            transaction.skip_gaps(number)


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
        raise Refused(f"process {pid} has the data folder {folder} open: stop it, or name another folder") from error
    lock.seek(0)
    lock.truncate()
    lock.write(str(os.getpid()))
    lock.flush()
    return lock


def _micros(time: datetime) -> int:
    """Microseconds since 1970, exact."""
    return (time - EPOCH) // MICROSECOND
