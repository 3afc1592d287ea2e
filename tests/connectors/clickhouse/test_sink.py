"""The sink: whatever is delivered, however often, each record is in the store once; when it cannot be, it says why."""

from __future__ import annotations

import random
from typing import Any

import pytest
from clickhouse_connect.driver.exceptions import DatabaseError, OperationalError

from connectors.clickhouse.sink import ClickHouseSink
from connectors.clickhouse.store import Store
from connectors.clickhouse.tables import TABLES
from schemas import events
from schemas.errors import Invalid, Retry
from schemas.events import Redaction
from schemas.topics import BY_RECORD, TOPICS
from tests.connectors.clickhouse.records import count, span, turn
from tests.schemas.test_contract import example


def test_it_reads_every_topic_that_is_not_raw() -> None:
    assert ClickHouseSink.topics == tuple(topic for topic in TOPICS if not topic.raw)
    assert {BY_RECORD[kind] for kind in TABLES} == set(ClickHouseSink.topics)


def test_a_batch_delivered_twice_leaves_one_row(shared: Store, tenant: str) -> None:
    batch = [example(kind).model_copy(update={"tenant": tenant}) for kind in TABLES]
    ClickHouseSink(shared).write(batch)
    ClickHouseSink(shared).write(batch)
    views = [table if table == "ledger" else f"{table}_current" for table in TABLES.values()]
    assert {view: count(shared, view, tenant) for view in views} == dict.fromkeys(views, 1)


def test_redelivery_in_other_batches_leaves_one_row(shared: Store, tenant: str) -> None:
    """A crash between insert and commit: the same records come again, cut into other batches."""
    spans, sink, rng = [span(n, tenant=tenant) for n in range(40)], ClickHouseSink(shared), random.Random(5)
    for _ in range(12):
        first = rng.randrange(40)
        sink.write(spans[first : first + rng.randrange(1, 20)])
    sink.write(spans)
    assert count(shared, "spans_current", tenant) == 40


def test_a_turn_that_changed_is_not_taken_for_its_twin(shared: Store, tenant: str) -> None:
    """The same event id with other content in a batch of its own: the newer turn wins, also when it comes first."""
    sink = ClickHouseSink(shared)
    old, new = turn(1, tenant=tenant), turn(1, tenant=tenant, tool_calls=1, output="more")
    for batch in ([old], [new], [old]):
        sink.write(batch)
    assert shared.select(f"SELECT output FROM turns_current WHERE tenant = '{tenant}'").rows == [["more"]]
    same = turn(2, tenant=tenant), turn(2, tenant=tenant, output="said later")
    for one in same:
        sink.write([one])
    found = shared.select(f"SELECT output FROM turns_current WHERE tenant = '{tenant}' AND turn_id = 'turn2'")
    assert found.rows == [["said later"]]


def test_nothing_is_written_of_a_batch_with_a_record_that_was_not_redacted(shared: Store, tenant: str) -> None:
    naked = turn(1, tenant=tenant, redaction=Redaction(policy_version="", detector=""))
    with pytest.raises(Invalid, match="redaction envelope") as failure:
        ClickHouseSink(shared).write([span(0, tenant=tenant), naked])
    assert failure.value.reason == "no_redaction"
    assert count(shared, "spans", tenant) == 0


def test_raw_records_are_refused(shared: Store) -> None:
    with pytest.raises(Invalid, match="raw zone"):
        ClickHouseSink(shared).write([example(events.RawSignal)])


@pytest.mark.parametrize(
    "failure",
    [
        ConnectionError("refused"),
        OperationalError("connection refused"),
        DatabaseError("Code: 241. DB::Exception: Memory limit (total) exceeded. (MEMORY_LIMIT_EXCEEDED)"),
    ],
)
def test_a_store_that_is_away_is_retried(
    shared: Store, tenant: str, failure: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    sink, batch = ClickHouseSink(shared), [span(n, tenant=tenant) for n in range(3)]

    def away(*_: object, **__: object) -> None:
        raise failure

    monkeypatch.setattr(shared._client, "insert", away)
    with pytest.raises(Retry, match="did not take 3 rows for spans"):
        sink.write(batch)
    monkeypatch.undo()
    sink.write(batch)
    assert count(shared, "spans_current", tenant) == 3


def test_a_value_that_no_column_takes_is_invalid_not_retried_for_ever(shared: Store, tenant: str) -> None:
    with pytest.raises(Invalid, match="unstorable: spans"):
        ClickHouseSink(shared).write([span(1, tenant=tenant, duration_us=2**70)])


def test_a_table_that_was_changed_meanwhile_is_looked_at_anew(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    described: list[str] = []
    describe = store._client.create_insert_context

    def noted(table: str, *given: Any, **more: Any) -> Any:
        described.extend([] if any(given[2:4]) else [table])  # the types of its columns are not given
        return describe(table, *given, **more)

    monkeypatch.setattr(store._client, "create_insert_context", noted)
    sink = ClickHouseSink(store)
    sink.write([span(1)])
    sink.write([span(2)])
    store._client.command("ALTER TABLE spans RENAME COLUMN tool_name TO gone")
    with pytest.raises(Retry, match="tool_name"):
        sink.write([span(3)])
    store._client.command("ALTER TABLE spans RENAME COLUMN gone TO tool_name")
    sink.write([span(3)])
    assert described == ["spans", "spans"]
    assert store.select("SELECT count() FROM spans_current").rows == [[3]]


def test_a_table_that_lacks_a_column_says_so(store: Store) -> None:
    store._client.command("ALTER TABLE spans DROP COLUMN tool_name")
    with pytest.raises(Retry, match="tool_name"):
        ClickHouseSink(store).write([span(1)])
