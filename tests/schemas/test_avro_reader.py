"""The reader gives what fastavro gives, or gives up."""

from __future__ import annotations

import io
from typing import Any

import fastavro
import pytest
from fastavro.schema import parse_schema
from hypothesis import given
from hypothesis import strategies as st

from schemas import codec
from schemas.avro_reader import GIVES_UP, reader
from schemas.errors import Invalid
from schemas.events import RECORDS, Record
from tests.schemas.test_avro_writer import LONG, SCHEMA, TEXT, TIME, by_fastavro
from tests.schemas.test_contract import example

READ = reader(SCHEMA)
VALUES = st.fixed_dictionaries({
    "text": TEXT, "count": LONG, "at": TIME, "share": st.floats(allow_nan=False), "is_so": st.booleans(),
    "texts": st.lists(TEXT), "counts": st.dictionaries(TEXT, LONG), "maybe": st.none() | st.floats(allow_nan=False),
    "several": st.lists(st.none() | LONG), "inner": st.fixed_dictionaries({"text": TEXT}),
})  # fmt: skip


def read_by_fastavro(body: bytes, schema: Any) -> Any:
    return fastavro.schemaless_reader(io.BytesIO(body), schema, None)


@given(VALUES)
def test_any_values_are_read_as_they_were_written(values: dict[str, Any]) -> None:
    body = by_fastavro(values, SCHEMA)
    found = READ(b"head" + body + b"tail", 4)
    assert found == values
    assert repr(found) == repr(read_by_fastavro(body, SCHEMA))


@pytest.mark.parametrize("record", RECORDS)
def test_every_record_is_read_as_fastavro_reads_it(record: type[Record]) -> None:
    body = codec.encode(example(record))[codec.HEADER :]
    assert repr(reader(codec.schema_of(record))(body, 0)) == repr(read_by_fastavro(body, codec.schema_of(record)))


@given(VALUES, st.data())
def test_of_damaged_bytes_it_says_what_fastavro_says_or_gives_up(values: dict[str, Any], data: st.DataObject) -> None:
    body = bytearray(by_fastavro(values, SCHEMA))
    for _ in range(data.draw(st.integers(1, 3))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    cut = bytes(body[: data.draw(st.integers(0, len(body)))])
    try:
        found = READ(cut, 0)
    except GIVES_UP:
        return
    assert repr(found) == repr(read_by_fastavro(cut, SCHEMA))


@pytest.mark.parametrize("record", RECORDS)
def test_a_record_that_is_cut_is_a_damaged_one(record: type[Record]) -> None:
    whole = codec.encode(example(record))
    with pytest.raises(Invalid, match="damaged_record"):
        codec.decode(whole[:-1])


def test_blocks_with_their_size_are_left_to_fastavro() -> None:
    schema: Any = parse_schema({"type": "record", "name": "N", "fields": [
        {"name": "n", "type": {"type": "array", "items": "long"}}
    ]})  # fmt: skip
    sized = bytes([3, 4, 2, 4, 0])  # two items, in two bytes
    assert read_by_fastavro(sized, schema) == {"n": [1, 2]}
    with pytest.raises(ValueError, match="not as the writer makes it"):
        reader(schema)(sized, 0)


@pytest.mark.parametrize("kind", [["string", "null"], ["null", "string", "long"], {"type": "fixed"}])
def test_other_types_are_refused_at_once(kind: Any) -> None:
    with pytest.raises(TypeError, match="no code for the Avro"):
        reader({"type": "record", "name": "N", "fields": [{"name": "n", "type": kind}]})
