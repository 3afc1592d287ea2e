"""What survives a restart: documents in one SQLite file, file contents in a folder, named by their sha256."""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
import tempfile
import threading
from collections.abc import AsyncIterator, Callable, Iterable
from pathlib import Path

from deploy.local_nemo.wire import Doc, Problem

SCHEMA = """
CREATE TABLE IF NOT EXISTS documents (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, kind TEXT, key TEXT, body TEXT, UNIQUE (kind, key)
);
CREATE TABLE IF NOT EXISTS pairs (id INTEGER PRIMARY KEY AUTOINCREMENT, grp TEXT, body TEXT);
CREATE INDEX IF NOT EXISTS pairs_by_group ON pairs (grp, id);
"""


class Store:
    """JSON documents by kind and key. Every call is one transaction, safe from any thread."""

    def __init__(self, path: Path) -> None:
        self._lock = threading.RLock()
        self._db = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        for pragma in ("journal_mode=WAL", "synchronous=NORMAL", "secure_delete=ON"):
            self._db.execute(f"PRAGMA {pragma}")
        self._db.executescript(SCHEMA)

    def get(self, kind: str, key: str) -> Doc | None:
        """The document, or None."""
        with self._lock:
            row = self._db.execute("SELECT body FROM documents WHERE kind=? AND key=?", (kind, key)).fetchone()
        return json.loads(row[0]) if row else None

    def all(self, kind: str) -> dict[str, Doc]:
        """Every document of a kind by its key, oldest first."""
        with self._lock:
            rows = self._db.execute("SELECT key, body FROM documents WHERE kind=? ORDER BY seq", (kind,)).fetchall()
        return {key: json.loads(body) for key, body in rows}

    def add(self, kind: str, key: str, doc: Doc) -> bool:
        """Write a new document; False, and nothing written, when the key is taken."""
        sql = "INSERT OR IGNORE INTO documents (kind, key, body) VALUES (?, ?, ?)"
        with self._lock:
            return self._db.execute(sql, (kind, key, json.dumps(doc))).rowcount == 1

    def put(self, kind: str, key: str, doc: Doc) -> None:
        """Write a document whole, new or not."""
        sql = "INSERT INTO documents (kind, key, body) VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET body=excluded.body"
        with self._lock:
            self._db.execute(sql, (kind, key, json.dumps(doc)))

    def change(self, kind: str, key: str, edit: Callable[[Doc], None]) -> Doc | None:
        """Read, edit and write as one step; None when there is no such document."""
        with self._lock:
            doc = self.get(kind, key)
            if doc is not None:
                edit(doc)
                self.put(kind, key, doc)
            return doc

    def delete(self, kind: str, key: str) -> bool:
        """Remove a document; False when there was none."""
        with self._lock:
            return self._db.execute("DELETE FROM documents WHERE kind=? AND key=?", (kind, key)).rowcount == 1

    def add_pair(self, group: str, doc: Doc, keep: int) -> None:
        """Append to a group's pairs, keeping the newest ``keep``; ids grow and are never used again."""
        newest = "SELECT id FROM pairs WHERE grp=? ORDER BY id DESC LIMIT 1 OFFSET ?"
        old = f"DELETE FROM pairs WHERE grp=? AND id <= ({newest})"  # noqa: S608 - a constant
        with self._lock:
            self._db.execute("INSERT INTO pairs (grp, body) VALUES (?, ?)", (group, json.dumps(doc)))
            self._db.execute(old, (group, group, keep))

    def pairs(self, group: str, after: int, limit: int) -> list[Doc]:
        """A group's pairs with an id greater than ``after``, oldest first."""
        sql = "SELECT id, body FROM pairs WHERE grp=? AND id>? ORDER BY id LIMIT ?"
        with self._lock:
            rows = self._db.execute(sql, (group, after, limit)).fetchall()
        return [{"id": number, **json.loads(body)} for number, body in rows]

    def forget_pairs(self, group: str) -> None:
        """Remove all pairs of a group."""
        with self._lock:
            self._db.execute("DELETE FROM pairs WHERE grp=?", (group,))

    def close(self) -> None:
        """Close the file; the store cannot be used after it."""
        with self._lock:
            self._db.close()


class Blobs:
    """File contents by sha256, written whole or not at all; what is derived from one (``<oid>.*``) dies with it."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder

    def path(self, oid: str) -> Path:
        """Where that content lies, if it is there."""
        return self._folder / oid

    def write(self, data: bytes) -> str:
        """Keep these bytes; their sha256."""
        oid = hashlib.sha256(data).hexdigest()
        write_whole(self.path(oid), data)
        return oid

    async def receive(self, stream: AsyncIterator[bytes], oid: str, limit: int) -> None:
        """Keep a stream that must hash to ``oid``; 400 when it does not, 413 when it is too long."""
        sha = hashlib.sha256()
        with tempfile.NamedTemporaryFile(dir=self._folder, prefix=".upload-") as out:
            async for chunk in stream:
                sha.update(chunk)
                out.write(chunk)
                if out.tell() > limit:
                    raise Problem(413, f"the file is longer than {limit} bytes")
            if sha.hexdigest() != oid:
                raise Problem(400, f"sha256 of the upload is {sha.hexdigest()}, announced was {oid}")
            out.flush()
            self.path(oid).unlink(missing_ok=True)
            os.link(out.name, self.path(oid))

    def drop(self, oid: str) -> None:
        """Remove one content and what is derived from it."""
        for path in [self.path(oid), *self._folder.glob(f"{oid}.*")]:
            path.unlink(missing_ok=True)

    def sweep(self, used: Iterable[str]) -> None:
        """Remove every content that is not in use."""
        keep = set(used)
        for path in self._folder.iterdir():
            if path.name.partition(".")[0] not in keep:
                path.unlink()


def write_whole(path: Path, data: bytes) -> None:
    """A file that appears complete: written aside, then renamed."""
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".write-", delete=False) as out:
        out.write(data)
    Path(out.name).replace(path)
