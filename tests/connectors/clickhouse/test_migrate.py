"""Migrations run once, in order, and are never changed behind a store's back."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from clickhouse_connect.driver.client import Client

from connectors.clickhouse.client import open_client
from connectors.clickhouse.migrate import FOLDER, migrate, statements
from connectors.clickhouse.store import Store
from connectors.clickhouse.tables import TABLES
from schemas.errors import Refused
from tests.store import settings

FIRST = "CREATE TABLE IF NOT EXISTS a (x Int8) ENGINE = MergeTree ORDER BY x;\n"
SECOND = (
    "-- a comment; with a semicolon\n"
    "CREATE TABLE IF NOT EXISTS b (y String DEFAULT ';') ENGINE = MergeTree ORDER BY y;\n"
)


@pytest.fixture
def client() -> Iterator[Client]:
    place = settings()
    made = open_client(place)
    made.command(f"CREATE DATABASE {place.database} ENGINE = Atomic")
    made.close()
    opened = open_client(place, place.database)
    yield opened
    opened.command(f"DROP DATABASE {place.database} SYNC")
    opened.close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "0001_first.sql").write_text(FIRST + SECOND)
    return tmp_path


def test_a_table_and_a_view_for_every_record(shared: Store) -> None:
    names = {one[0] for one in shared.select("SHOW TABLES").rows}
    others = {"schema_migrations", "erasure_keys", "subject_places", "erasure_obligations"}
    others |= {"judge_verdicts", "judge_probes", "judge_pairs"}
    others |= {"calibration_metrics", "clustered_failures", "top_clusters"}
    assert names == {*TABLES.values(), *(f"{table}_current" for table in TABLES.values())} | others


def test_they_run_once(client: Client, folder: Path) -> None:
    assert migrate(client, folder) == 2
    assert migrate(client, folder) == 0
    (folder / "0002_more.sql").write_text("ALTER TABLE a ADD COLUMN IF NOT EXISTS z Int8;\n")
    assert migrate(client, folder) == 1


def test_a_changed_statement_is_refused(client: Client, folder: Path) -> None:
    migrate(client, folder)
    (folder / "0001_first.sql").write_text(FIRST + SECOND.replace("String", "Int8"))
    with pytest.raises(Refused, match="0001_first, statement 2, was changed after it was applied to t_"):
        migrate(client, folder)


def test_a_removed_statement_is_refused(client: Client, folder: Path) -> None:
    migrate(client, folder)
    (folder / "0001_first.sql").write_text(FIRST)
    with pytest.raises(Refused, match=r"0001, statement 2, was applied to .* and is in no file"):
        migrate(client, folder)


def test_comments_may_change(client: Client, folder: Path) -> None:
    migrate(client, folder)
    (folder / "0001_first.sql").write_text("-- new\n" + FIRST + SECOND.replace("a comment", "another"))
    assert migrate(client, folder) == 0


def test_a_newer_store_is_refused_with_both_versions_and_the_way_out(client: Client, folder: Path) -> None:
    (folder / "0007_later.sql").write_text("ALTER TABLE a ADD COLUMN IF NOT EXISTS z Int8;\n")
    migrate(client, folder)
    (folder / "0007_later.sql").unlink()
    with pytest.raises(Refused, match=r"0007 by a newer Driftwheel; this one knows 0001: upgrade Driftwheel"):
        migrate(client, folder)


def test_an_interrupted_migration_goes_on(client: Client, folder: Path) -> None:
    (folder / "0002_broken.sql").write_text("ALTER TABLE a ADD COLUMN IF NOT EXISTS z Int8;\nNONSENSE;\n")
    with pytest.raises(Refused, match=r"0002_broken, statement 2: .*NONSENSE"):
        migrate(client, folder)
    (folder / "0002_broken.sql").write_text("ALTER TABLE a ADD COLUMN IF NOT EXISTS z Int8;\nSELECT 1;\n")
    assert migrate(client, folder) == 1


def test_every_statement_may_run_twice(store: Store) -> None:
    store._client.command("TRUNCATE TABLE schema_migrations")
    assert migrate(store._client) == len(list(statements()))


def test_keys_come_from_the_event_alone() -> None:
    """A redelivery meets its twin: nothing of the time of writing is in a key, a partition or a version."""
    text = "\n".join(path.read_text() for path in FOLDER.glob("*.sql"))
    keys = re.findall(r"^(?:PARTITION BY|PRIMARY KEY|ORDER BY) .*$", text, re.MULTILINE)
    assert len(keys) >= 3 * len(TABLES)
    assert not [key for key in keys if "stored_time" in key or "received_time" in key or "now" in key]
    assert text.count("ENGINE = ReplacingMergeTree(version)") == len(TABLES)
