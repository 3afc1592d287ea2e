"""Analysts read the store's tables, within bounds, and reach nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from connectors.clickhouse import analyst
from connectors.clickhouse.store import Store
from schemas.errors import UsageError
from tests.connectors.clickhouse.records import span

FILE = "/etc/hostname"
READS_A_FILE = [
    f"SELECT * FROM file('{FILE}')",
    f"SELECT file('{FILE}')",
    f"SELECT `file`('{FILE}')",
    f"SELECT \"file\" ('{FILE}')",
    f"SELECT file/* */('{FILE}')",
    f"SELECT arrayMap(x -> file(x), ['{FILE}'])",
    f"SELECT * APPLY(file) FROM (SELECT '{FILE}' AS a)",
    f"SELECT * APPLY file FROM (SELECT '{FILE}' AS a)",
    f"WITH file AS f SELECT f('{FILE}')",
    f"EXPLAIN PLAN SELECT file('{FILE}')",
    f"DESCRIBE TABLE file('{FILE}')",
    f"SELECT * FROM default.`{FILE}`",
    f"SELECT * FROM filesystem('{FILE}')",
    f"SELECT * FROM viewExplain('EXPLAIN', '', (SELECT file('{FILE}')))",
    f"SELECT * FROM eval('SELECT file(''{FILE}'')')",
    f"SELECT `fi\\x6ce`('{FILE}')",
    f"SELECT /* /* */ ' */ file('{FILE}') -- '",
    f"SELECT 1 --\n, file('{FILE}')",
]
CHANGES = [
    "INSERT INTO spans SELECT * FROM spans",
    "DROP TABLE spans",
    "CREATE TABLE x (a Int8) ENGINE = Memory",
    "CREATE TEMPORARY TABLE x (a Int8)",
    "ALTER TABLE spans DELETE WHERE 1",
    "DELETE FROM spans WHERE 1",
    "TRUNCATE TABLE spans",
    "OPTIMIZE TABLE spans",
    "BACKUP DATABASE default TO File('/tmp/b')",
    "KILL QUERY WHERE 1",
    "SYSTEM FLUSH LOGS",
    "USE default",
    "SET readonly = 0",
    "SELECT 1 SETTINGS readonly = 0",
    "SELECT 1 SETTINGS max_execution_time = 0",
]
SEVERAL = [
    "SELECT 1; SELECT 2",
    "SELECT 4/2; SELECT 8/2",
    "SELECT 'a\\'; SELECT 2 --'; SELECT 3",
    "SELECT 1 -- a comment\n; DROP TABLE spans",
    "SELECT 1 /* a */ ; SELECT 2 /* b */",
    "SELECT 1 PARALLEL WITH DROP TABLE spans",
]
OUTSIDE = [
    "SELECT * FROM url('http://127.0.0.1:9/x', 'CSV', 'a String')",
    "DESCRIBE TABLE url('http://127.0.0.1:9/x')",
    "SELECT * FROM s3('http://127.0.0.1:9/bucket/x', 'CSV', 'a String')",
    "SELECT * FROM remote('127.0.0.1:9', system.one)",
    "SELECT * FROM executable('x.sh', 'CSV', 'a String')",
    "SELECT * FROM python(sys)",
    "SELECT aiGenerate('x')",
]
ODD = [
    "",
    ";",
    "-- nothing",
    "SELECT 'open",
    "SELECT 1 /* open",
    "SELECT $$a;b$$",
    "SELECT \u2018a\u2019",
    "SELECT 1 # x",
    "'SELECT 1'",
    "SELECT nothing FROM nowhere",
]
TOO_MUCH = ["SELECT number FROM numbers(1000000)", "SELECT 1 FORMAT JSON"]


@pytest.mark.parametrize("query", READS_A_FILE + CHANGES + SEVERAL + OUTSIDE + ODD + TOO_MUCH)
def test_what_analysts_may_not(shared: Store, query: str) -> None:
    with pytest.raises(UsageError):
        shared.query(query)


def test_no_file_is_written(shared: Store, tmp_path: Path) -> None:
    target = tmp_path / "out.csv"
    with pytest.raises(UsageError, match="outfile is not allowed"):
        shared.query(f"SELECT 1 INTO OUTFILE '{target}'")
    assert not target.exists()


@pytest.mark.parametrize(
    ("query", "rows"),
    [
        ("SELECT 'a;b' AS text, 1 AS n;", [["a;b", 1]]),
        ("SELECT 'it''s \\'file(x)\\'; DROP' -- file('x');", [["it's 'file(x)'; DROP"]]),
        ("select 4/2, 8/2 /* ; file() */", [[2.0, 4.0]]),
        ("WITH 3 AS n SELECT sum(number) FROM numbers(n)", [[3]]),
        ("(SELECT 1) UNION ALL (SELECT 1)", [[1], [1]]),
        ("FROM numbers(1) SELECT format('{}-{}', 'a', 'b')", [["a-b"]]),
        ("SELECT domain('http://a.b/c') AS url, `url` AS `a name`", [["a.b", "a.b"]]),
        ("EXISTS TABLE turns_current", [[1]]),
    ],
)
def test_what_analysts_may(shared: Store, query: str, rows: list[list[object]]) -> None:
    assert shared.query(query).rows == rows


def test_parameters_are_values(shared: Store) -> None:
    assert shared.query("SELECT {x:String} AS x", {"x": "'; DROP TABLE spans"}).rows == [["'; DROP TABLE spans"]]
    with pytest.raises(UsageError, match="identifier is not allowed"):
        shared.query("SELECT * FROM {x:Identifier}", {"x": "spans"})


def test_tables_and_views_are_shown(shared: Store) -> None:
    assert ["turns_current"] in shared.query("SHOW TABLES").rows
    assert shared.query("DESCRIBE turns").rows[0][:2] == ["schema_version", "UInt16"]


def test_time_is_bounded(shared: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(analyst.BOUNDS, "max_execution_time", 0.05)
    with pytest.raises(UsageError, match=r"TIMEOUT_EXCEEDED|max_execution_time|elapsed"):
        shared.query("SELECT sum(sipHash64(number)) FROM numbers(1000000000000)")


def test_a_refusal_leaves_everything_as_it_was(store: Store) -> None:
    store.write([span(1)])
    for query in CHANGES + SEVERAL:
        with pytest.raises(UsageError):
            store.query(query)
    assert store.query("SELECT count() FROM spans_current").rows == [[1]]


@pytest.mark.parametrize("query", [query for query in READS_A_FILE if "default." not in query])
def test_the_check_alone_refuses_files(query: str) -> None:
    """All but a table that is named like a file, which the engine's readonly refuses."""
    with pytest.raises(UsageError):
        analyst.check(query, ["file", "filesystem", "eval", "viewExplain"])
