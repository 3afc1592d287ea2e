"""Numbered, forward-only migrations with a ledger of checksums.

The ledger has one entry a statement, since ClickHouse has no transactional DDL: every statement is written so that it
may run twice, and an interrupted migration goes on where it stopped.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import ClickHouseError, OperationalError

from connectors.clickhouse.client import first_line
from schemas.errors import Refused, Retry

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

    Raises Refused when an applied statement was changed or removed since, when the database was written by a newer
    program, or when a statement fails; Retry when the store is away. Run again, it goes on where it stopped.
    """
    done = _applied(client)
    wanted = list(statements(folder))
    _check(done, wanted, str(client.database))
    missing = [one for one in wanted if (one.number, one.place) not in done]
    for statement in missing:
        _apply(client, statement)
    return len(missing)


def _applied(client: Client) -> dict[tuple[int, int], str]:
    """The checksum of every statement that ran, by migration and place."""
    try:
        client.command(LEDGER)
        found = client.query("SELECT number, statement, checksum FROM schema_migrations FINAL WHERE done").result_rows
    except (ClickHouseError, OSError) as error:
        raise _failure(error)(f"the ledger of migrations in {client.database}: {first_line(error)}") from error
    return {(int(number), int(place)): str(checksum) for number, place, checksum in found}


def _check(done: Mapping[tuple[int, int], str], wanted: Sequence[Statement], database: str) -> None:
    known = max((one.number for one in wanted), default=0)
    found = max((number for number, _ in done), default=0)
    if found > known:
        raise Refused(
            f"the store's database {database} was migrated to {found:04d} by a newer Driftwheel; this one knows "
            f"{known:04d}: upgrade Driftwheel, or name another store"
        )
    for one in wanted:
        if done.get((one.number, one.place), one.checksum) != one.checksum:
            raise Refused(
                f"migration {one.name}, statement {one.place + 1}, was changed after it was applied to {database}: "
                "put the file back as it was and write a new migration"
            )
    lost = set(done) - {(one.number, one.place) for one in wanted}
    if lost:
        number, place = min(lost)
        raise Refused(
            f"migration {number:04d}, statement {place + 1}, was applied to {database} and is in no file: "
            "put the file back as it was and write a new migration"
        )


def _apply(client: Client, statement: Statement) -> None:
    row = [statement.number, statement.place, statement.name, statement.checksum, True]
    try:
        client.command(statement.text)
        client.insert("schema_migrations", [row], column_names=COLUMNS)
    except (ClickHouseError, OSError) as error:
        text = f"migration {statement.name}, statement {statement.place + 1}: {first_line(error)}"
        raise _failure(error)(text) from error


def _failure(error: Exception) -> type[Refused] | type[Retry]:
    return Retry if isinstance(error, OSError) or type(error) is OperationalError else Refused
