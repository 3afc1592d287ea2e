"""Tables mirror the records, column by column, and every value that a record can have is stored."""

from __future__ import annotations

import types
from datetime import UTC, datetime
from typing import Any, Literal, get_args, get_origin

import pytest
from pydantic import AwareDatetime

from connectors.clickhouse.store import Store
from connectors.clickhouse.tables import CONTROL, TABLES, block, columns, grouped, version_of
from schemas import events
from schemas.errors import Invalid
from schemas.events import RECORDS, Record
from tests.connectors.clickhouse.records import span, turn
from tests.schemas.test_contract import example

PLAIN = {"LowCardinality(String)": "String", "UInt16": "Int64"}


def expected(annotation: Any) -> str:
    """The column type of a record field's type."""
    kind, parts = get_origin(annotation), get_args(annotation)
    if kind is Literal:
        return "String"
    if kind is types.UnionType:
        return f"Nullable({expected(parts[0])})"
    if kind is list:
        return f"Array({expected(parts[0])})"
    if kind is dict:
        return f"Map(LowCardinality({expected(parts[0])}), {expected(parts[1])})"
    if kind is not None:  # Annotated
        return expected(parts[0])
    return {str: "String", int: "Int64", float: "Float64", bool: "Bool", AwareDatetime: "DateTime64(6, 'UTC')"}[
        annotation
    ]


def declared(kind: type[Record]) -> dict[str, str]:
    found = {name: expected(info.annotation) for name, info in kind.model_fields.items() if name != "redaction"}
    if "redaction" in kind.model_fields:
        found |= {"redaction_policy": "String", "redaction_detector": "String"}
        found["redaction_counts"] = "Map(LowCardinality(String), Int64)"
    return found


def types_of(store: Store, table: str) -> dict[str, str]:
    where = f"database = currentDatabase() AND table = '{table}'"
    return dict(store.select(f"SELECT name, type FROM system.columns WHERE {where}").rows)


def test_every_record_has_a_table_or_is_raw() -> None:
    assert set(RECORDS) - set(TABLES) == {events.RawSignal}
    assert set(TABLES) > CONTROL


@pytest.mark.parametrize(("kind", "table"), TABLES.items())
def test_columns_equal_the_record(shared: Store, kind: type[Record], table: str) -> None:
    found = types_of(shared, table)
    extra = {name: found.pop(name) for name in ("version", "retention_days", "stored_time")}
    assert extra == {"version": "UInt64", "retention_days": "UInt16", "stored_time": "DateTime('UTC')"}
    assert {name: PLAIN.get(kept, kept) for name, kept in found.items()} == declared(kind)
    assert set(columns(kind)) == set(found) | {"version", "retention_days"}


@pytest.mark.parametrize(("kind", "table"), TABLES.items())
def test_rows_come_back_whole(shared: Store, kind: type[Record], table: str, tenant: str) -> None:
    made = example(kind).model_copy(update={"tenant": tenant})
    shared.write([made])
    found = shared.select(f"SELECT * FROM {table} WHERE tenant = {{t:String}}", {"t": tenant})
    (values,) = found.rows
    stored = dict(zip(found.columns, values, strict=True))
    written = [column[0] for column in block(kind, [made], {tenant: 1})]
    assert [stored[name] for name in columns(kind)[:-1]] == written[:-1]
    if table != "ledger":
        now = shared.select(f"SELECT * FROM {table}_current WHERE tenant = {{t:String}}", {"t": tenant})
        assert (now.columns, now.rows) == (found.columns, found.rows)


def test_no_time_is_too_far(shared: Store, tenant: str) -> None:
    years = [1, 1800, 1969, 1970, 2106, 2300, 9999]
    times = [datetime(year, 6, 1, 12, tzinfo=UTC) for year in years]
    shared.write([span(n, tenant=tenant, event_time=time) for n, time in enumerate(times)])
    shared.write([turn(n, tenant=tenant, event_time=time, end_time=time) for n, time in enumerate(times)])
    shared.select("SELECT 1")
    for table, key in (("spans_current", "span_id"), ("turns_current", "turn_id")):
        where = f"WHERE tenant = '{tenant}' ORDER BY {key}"
        assert shared.select(f"SELECT event_time FROM {table} {where}").rows == [[time] for time in times]


def test_a_batch_may_span_many_months(shared: Store, tenant: str) -> None:
    times = [datetime(1990 + n // 12, 1 + n % 12, 1, tzinfo=UTC) for n in range(150)]
    shared.write([span(n, tenant=tenant, event_time=time) for n, time in enumerate(times)])
    assert shared.select(f"SELECT count() FROM spans_current WHERE tenant = '{tenant}'").rows == [[150]]


def test_lone_surrogates_are_stored_as_question_marks(shared: Store, tenant: str) -> None:
    shared.write([span(1, tenant=tenant, input="a\ud800b\x00", attributes={"k\ud800": "\udfff"})])
    found = shared.select(f"SELECT input, attributes FROM spans WHERE tenant = '{tenant}'").rows
    assert found == [["a?b\x00", {"k?": "?"}]]


def test_the_newer_turn_and_outcome_win_whatever_comes_last() -> None:
    late = turn(1, tool_calls=2)
    assert version_of(late) > version_of(turn(1, tool_calls=1)) > version_of(turn(1))
    outcome = example(events.Outcome)
    assert version_of(outcome.model_copy(update={"revision": 1})) > version_of(outcome)


def test_what_may_not_be_stored_is_refused() -> None:
    raw = example(events.RawSignal)
    with pytest.raises(Invalid, match="raw zone"):
        grouped([span(1), raw])
    with pytest.raises(Invalid, match="redaction envelope"):
        grouped([span(1), span(2, redaction=events.Redaction(policy_version="", detector=""))])
