"""Numbered, forward-only migrations with a ledger of checksums, one entry a statement (ClickHouse has no transactional
DDL, and every statement is written so that it may run twice).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from clickhouse_connect.driver.client import Client

from schemas.errors import Refused

FOLDER = Path(__file__).parent / "migrations"
LEDGER = """
CREATE TABLE IF NOT EXISTS schema_migrations (
    number UInt32, statement UInt16, name String, checksum String, done Bool, at DateTime64(3, 'UTC') DEFAULT now64(3)
) ENGINE = ReplacingMergeTree(at) ORDER BY (number, statement)
"""
COLUMNS = ["number", "statement", "name", "checksum", "done"]


@dataclass(frozen=True, slots=True)
class Statement:
    """One statement of one migration file."""

    number: int
    place: int
    name: str
    text: str

    @property
    def checksum(self) -> str:
        """SHA-256 of the statement."""
        return hashlib.sha256(self.text.encode()).hexdigest()


def statements(folder: Path = FOLDER) -> Iterator[Statement]:
    """Every statement, in order. A statement ends with a semicolon at the end of a line."""
    for path in sorted(folder.glob("[0-9][0-9][0-9][0-9]_*.sql")):
        parts = re.split(r";[ \t]*(?:\n|$)", path.read_text())
        texts = [text for part in parts if (text := _without_comments(part))]
        for place, text in enumerate(texts):
            yield Statement(int(path.name[:4]), place, path.stem, text)


def _without_comments(text: str) -> str:
    return "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("--")).strip()


def migrate(client: Client, folder: Path = FOLDER) -> int:
    """Apply what is missing to the client's database; returns how many statements ran.

    Raises Refused when an applied statement was changed since, or the database was written by a newer program.
    """
    client.command(LEDGER)
    found = client.query("SELECT number, statement, checksum, done FROM schema_migrations FINAL").result_rows
    done: dict[tuple[int, int], str] = {(n, s): checksum for n, s, checksum, finished in found if finished}
    wanted = list(statements(folder))
    newest = max((s.number for s in wanted), default=0)
    if done and max(n for n, _ in done) > newest:
        raise Refused(
            f"the store was migrated to {max(n for n, _ in done):04d} by a newer Driftwheel; this one knows {newest:04d}: "
            "upgrade Driftwheel, or name another store"
        )
    ran = 0
    for statement in wanted:
        applied = done.get((statement.number, statement.place))
        if applied is None:
            _apply(client, statement)
            ran += 1
        elif applied != statement.checksum:
            raise Refused(
                f"migration {statement.name}, statement {statement.place + 1}, was changed after it was applied: "
                "put the file back as it was and write a new migration"
            )
    return ran


def _apply(client: Client, statement: Statement) -> None:
    row = [statement.number, statement.place, statement.name, statement.checksum]
    client.command(statement.text)
    client.insert("schema_migrations", [[*row, True]], column_names=COLUMNS)
