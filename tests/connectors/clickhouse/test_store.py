"""The store: rows once whatever is delivered, bounded questions, honest counts, erasure for good."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from connectors.clickhouse.migrate import FOLDER, migrate, statements
from connectors.clickhouse.sink import ClickHouseSink
from connectors.clickhouse.store import Store, open_client
from connectors.clickhouse.tables import TABLES, columns
from schemas import events
from schemas.errors import Invalid, Refused, Retry, UsageError
from schemas.events import Record, Redaction
from tests.schemas.test_contract import example
from tests.store import settings, temporary_store

NOW = datetime(2026, 1, 5, 8, 0, 30, tzinfo=UTC)
CLEAN = Redaction(policy_version="1", detector="d", counts={"EMAIL": 2})


@pytest.fixture(scope="module")
def shared() -> Iterator[Store]:
    with temporary_store() as store:
        yield store


@pytest.fixture
def store() -> Iterator[Store]:
    with temporary_store() as made:
        yield made


def span(number: int, **fields: Any) -> events.Span:
    values = {"trace_id": "t", "span_id": f"s{number}", "session_id": "x", "received_time": NOW, "tenant": "t"}
    base = {"event_id": f"span{number}", "agent": "a", "event_time": NOW, "redaction": CLEAN}
    return events.Span(**(base | values | fields))


def count(store: Store, view: str) -> int:
    return int(store.select(f"SELECT count() FROM {view}").rows[0][0])


@pytest.mark.parametrize(("kind", "table"), TABLES.items())
def test_columns_mirror_the_record_and_rows_come_back(shared: Store, kind: type[Record], table: str) -> None:
    found = shared.select(f"SELECT name FROM system.columns WHERE database = currentDatabase() AND table = '{table}'")
    assert {row[0] for row in found.rows} == set(columns(kind))
    ClickHouseSink(shared).write([example(kind)])
    assert count(shared, table) == 1
    row = shared.select(f"SELECT * FROM {table}_current").rows
    assert len(row) == 1


def test_every_delivery_leaves_one_row(store: Store) -> None:
    sink, spans = ClickHouseSink(store), [span(n) for n in range(40)]
    rng = random.Random(5)
    for _ in range(12):
        first = rng.randrange(40)
        sink.write(spans[first : first + rng.randrange(1, 20)])
    sink.write(spans)
    assert count(store, "spans_current") == 40


def test_text_without_an_envelope_is_refused(store: Store) -> None:
    naked = span(1, redaction=Redaction(policy_version="", detector=""))
    with pytest.raises(Invalid, match="redaction envelope"):
        ClickHouseSink(store).write([span(0), naked])
    assert count(store, "spans") == 0


def test_the_newest_revision_and_state_win(store: Store) -> None:
    outcome = example(events.Outcome)
    job = example(events.Job)
    ClickHouseSink(store).write([
        outcome.model_copy(update={"event_id": "o1", "revision": 1, "verdict": "failure"}),
        outcome.model_copy(update={"event_id": "o0", "revision": 0, "verdict": "success"}),
        job.model_copy(update={"event_id": "j2", "state": "running"}),
        job.model_copy(update={"event_id": "j1", "state": "queued"}),
    ])  # fmt: skip
    assert store.select("SELECT verdict FROM outcomes_current").rows == [["failure"]]
    assert store.select("SELECT state FROM jobs_current").rows == [["running"]]
    assert count(store, "jobs") == 2


def ledger_entry(entry: str, number: int) -> events.LedgerEntry:
    minute = NOW.replace(second=0)
    return events.LedgerEntry(
        event_id=entry, tenant="t", agent="a", event_time=minute, entry=entry, source="traces", count=number
    )  # type: ignore[arg-type]  # the test's words are the record's


def test_the_ledger_adds_up_and_shows_a_loss(store: Store) -> None:
    sink = ClickHouseSink(store)
    dead = example(events.DeadLetter).model_copy(
        update={"tenant": "t", "topic": "otlp_spans", "items": 2, "received_time": NOW}
    )
    implicit = example(events.Signal).model_copy(update={"tenant": "t"})
    sink.write([ledger_entry("accepted", 9), ledger_entry("duplicate", 1), ledger_entry("dropped", 1), dead, implicit])
    sink.write([span(n) for n in range(4)])
    assert [row[2:] for row in store.ledger().rows] == [[8, 4, 2, 1, 1]]
    sink.write([span(4)])
    assert [row[2:] for row in store.ledger().rows] == [[8, 5, 2, 1, 0]]


@pytest.mark.parametrize(
    "query",
    [
        "SELECT * FROM file('/etc/hostname')",
        "INSERT INTO spans SELECT * FROM spans",
        "DROP TABLE spans",
        "CREATE TABLE x (a Int8) ENGINE = Memory",
        "SET readonly = 0",
        "SELECT 1 SETTINGS readonly = 0",
        "SELECT 1; SELECT 2",
        "SELECT 1 -- a comment\n; DROP TABLE spans",
        "",
        "SELECT nothing FROM nowhere",
        "SELECT number FROM numbers(1000000)",
    ],
)
def test_what_analysts_may_not(shared: Store, query: str) -> None:
    with pytest.raises(UsageError):
        shared.query(query)


def test_what_analysts_may(shared: Store) -> None:
    assert shared.query("SELECT 'a;b' AS text, 1 AS n;").rows == [["a;b", 1]]


def test_labelled_samples_are_joined_with_their_newest_label(store: Store) -> None:
    sample = example(events.Sample).model_copy(update={"event_id": "s1", "tenant": "t", "agent": "a", "input": "text"})
    refused = sample.model_copy(update={"event_id": "s2", "consent_train": False})
    label = example(events.Label).model_copy(update={"tenant": "t", "agent": "a", "sample_id": "s1", "value": "old"})
    newer = label.model_copy(
        update={"event_id": "l2", "value": "new", "event_time": label.event_time + timedelta(minutes=1)}
    )
    other = label.model_copy(update={"event_id": "l3", "sample_id": "s2"})
    ClickHouseSink(store).write([sample, refused, newer, label, other])
    (row,) = store.labelled("t", "a")
    assert (row["sample_id"], row["text"], row["label"]) == ("s1", "text", "new")
    assert store.labelled("t", "b") == []
    assert [r["sample_id"] for r in store.named("label_queue", limit=9)] == []


def test_erasure_leaves_nothing_and_names_the_models(store: Store) -> None:
    mine = [span(n, subject_hash="me") for n in range(3)]
    dataset = example(events.DatasetVersion).model_copy(
        update={"tenant": "t", "dataset_id": "d1", "subjects": ["me", "you"]}
    )
    job = example(events.Job).model_copy(update={"tenant": "t", "dataset_id": "d1", "candidate": "m1"})
    ClickHouseSink(store).write([*mine, span(9, subject_hash="you"), dataset, job])
    deleted, datasets, models = store.erase_subject("t", "me")
    assert deleted == {"spans": 3}
    assert (datasets, models) == (["d1"], ["m1"])
    assert store.select("SELECT subject_hash FROM spans").rows == [["you"]]
    on_disk = store.select(
        "SELECT sum(rows) FROM system.parts WHERE database = currentDatabase() AND table = 'spans' AND active"
    )
    assert on_disk.rows == [[1]]


def test_retention_removes_what_is_past_it() -> None:
    with temporary_store(retention_days=1) as store:
        old = datetime.now(UTC) - timedelta(days=3)
        ClickHouseSink(store).write([span(1, event_time=old), span(2, event_time=datetime.now(UTC))])
        store.materialise_retention()
        assert store.select("SELECT span_id FROM spans").rows == [["s2"]]


def test_lone_surrogates_are_stored_as_question_marks(store: Store) -> None:
    ClickHouseSink(store).write([span(1, input="a\ud800b", attributes={"k\ud800": "v"})])
    assert store.select("SELECT input, attributes FROM spans").rows == [["a?b", {"k?": "v"}]]


def test_a_store_that_is_away_is_retried(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    client, sink = store._client, ClickHouseSink(store)

    def away(*_: object, **__: object) -> None:
        raise ConnectionError("refused")

    monkeypatch.setattr(client, "insert", away)
    with pytest.raises(Retry, match="spans"):
        sink.write([span(1)])
    monkeypatch.undo()
    sink.write([span(1)])
    assert count(store, "spans_current") == 1


def test_a_server_that_is_away_is_said_so() -> None:
    with pytest.raises(Retry, match="server does not answer"):
        open_client(replace(settings(), path=None, url="http://127.0.0.1:9"))


def test_migrations_run_once(store: Store) -> None:
    assert len(list(statements())) > 30
    assert migrate(store._client) == 0


def test_a_changed_migration_is_refused(store: Store, tmp_path: Path) -> None:
    for path in FOLDER.glob("*.sql"):
        (tmp_path / path.name).write_text(path.read_text().replace("ZSTD(3)", "ZSTD(4)"))
    with pytest.raises(Refused, match="0001_tables, statement 1, was changed"):
        migrate(store._client, tmp_path)


def test_a_newer_store_is_refused(store: Store, tmp_path: Path) -> None:
    (tmp_path / "0001_tables.sql").write_text((FOLDER / "0001_tables.sql").read_text())
    with pytest.raises(Refused, match="newer Driftwheel"):
        migrate(store._client, tmp_path)


def test_an_interrupted_migration_goes_on(store: Store) -> None:
    store._client.command("ALTER TABLE schema_migrations DELETE WHERE number = 2 SETTINGS mutations_sync = 1")
    assert migrate(store._client) == sum(s.number == 2 for s in statements())
