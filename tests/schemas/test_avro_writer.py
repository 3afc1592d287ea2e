"""The writer's bytes are those of fastavro."""

from __future__ import annotations

import io
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import fastavro
import pytest
from fastavro.schema import parse_schema
from hypothesis import given
from hypothesis import strategies as st

from schemas import codec
from schemas.avro_writer import writer
from schemas.events import RECORDS, Record
from tests.schemas.test_contract import example

SCHEMA: Any = parse_schema({
    "type": "record",
    "name": "All",
    "fields": [
        {"name": "text", "type": "string"},
        {"name": "count", "type": "long"},
        {"name": "at", "type": {"type": "long", "logicalType": "timestamp-micros"}},
        {"name": "share", "type": "double"},
        {"name": "is_so", "type": "boolean"},
        {"name": "texts", "type": {"type": "array", "items": "string"}},
        {"name": "counts", "type": {"type": "map", "values": "long"}},
        {"name": "maybe", "type": ["null", "double"]},
        {"name": "several", "type": {"type": "array", "items": ["null", "long"]}},
        {"name": "inner", "type": {"type": "record", "name": "In", "fields": [{"name": "text", "type": "string"}]}},
    ],
})  # fmt: skip
LONG = st.integers(-(1 << 63), (1 << 63) - 1)
TEXT = st.text(st.characters(exclude_categories=["Cs"]))
TIME = st.datetimes(timezones=st.sampled_from([UTC]))


def by_fastavro(values: dict[str, Any], schema: Any) -> bytes:
    out = io.BytesIO()
    fastavro.schemaless_writer(out, schema, values)
    return out.getvalue()


def by_us(value: Any, schema: Any) -> bytes:
    out: list[bytes] = []
    writer(schema)(value, out.append)
    return b"".join(out)


@given(
    st.fixed_dictionaries({
        "text": TEXT, "count": LONG, "at": TIME, "share": st.floats(), "is_so": st.booleans(),
        "texts": st.lists(TEXT), "counts": st.dictionaries(TEXT, LONG), "maybe": st.none() | st.floats(),
        "several": st.lists(st.none() | LONG), "inner": st.fixed_dictionaries({"text": TEXT}),
    })
)  # fmt: skip
def test_any_values_are_written_as_fastavro_writes_them(values: dict[str, Any]) -> None:
    given = SimpleNamespace(**values | {"inner": SimpleNamespace(**values["inner"])})
    assert by_us(given, SCHEMA) == by_fastavro(values, SCHEMA)


@pytest.mark.parametrize("record", RECORDS)
def test_every_record_is_written_as_fastavro_writes_it(record: type[Record]) -> None:
    made = example(record)
    assert codec.encode(made)[codec.HEADER :] == by_fastavro(made.model_dump(), codec.schema_of(record))


def test_long_texts_and_many_items() -> None:
    values = {
        "text": "ü" * 5000, "count": -1, "at": datetime(1, 1, 1, tzinfo=UTC) + timedelta(microseconds=1), "share": -0.0,
        "is_so": True, "texts": ["a"] * 5000, "counts": {str(n): n for n in range(5000)}, "maybe": None, "several": [],
        "inner": {"text": ""},
    }  # fmt: skip
    given = SimpleNamespace(**values | {"inner": SimpleNamespace(text="")})
    assert by_us(given, SCHEMA) == by_fastavro(values, SCHEMA)


@pytest.mark.parametrize("number", [1 << 63, -(1 << 63) - 1])
def test_a_number_of_more_than_64_bits_is_refused(number: int) -> None:
    schema = {"type": "record", "name": "N", "fields": [{"name": "n", "type": "long"}]}
    with pytest.raises(OverflowError, match="64 bits"):
        by_us(SimpleNamespace(n=number), schema)


@pytest.mark.parametrize("kind", ["bytes", ["string", "null"], ["null", "string", "long"], {"type": "fixed"}])
def test_other_types_are_refused_at_once(kind: Any) -> None:
    with pytest.raises(TypeError, match="no code for the Avro"):
        writer({"type": "record", "name": "N", "fields": [{"name": "n", "type": kind}]})
