"""The reader gives what fastavro and pydantic give, or nothing."""

from __future__ import annotations

import io
import json
import math
import random
import struct
import types
import typing
from datetime import UTC, timedelta
from typing import Annotated, Any, Literal

import fastavro
import pytest
from fastavro.schema import parse_schema
from hypothesis import given
from hypothesis import strategies as st
from pydantic import AwareDatetime, BaseModel, Field, field_validator

from schemas import codec
from schemas.avro_reader import UNSURE, reader, time_at
from schemas.avro_schema import avro_schema
from schemas.avro_writer import long_bytes
from schemas.errors import Invalid
from schemas.events import EPOCH, RECORDS, Failure, LedgerEntry, Part, Record, Redaction, Time
from tests.schemas.test_contract import example

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=200)
VALUES: dict[Any, st.SearchStrategy[Any]] = {
    str: TEXT,
    int: st.integers(-(1 << 62), (1 << 62) - 1),
    float: st.floats(allow_nan=False, allow_infinity=False),
    bool: st.booleans(),
    AwareDatetime: st.datetimes(timezones=st.just(UTC)),
}


class All(Part):
    """Every kind of field."""

    text: str
    count: int
    at: Time
    share: float
    is_so: bool
    word: Literal["", "a", "b"]
    strict: Literal["a", "b"]
    texts: list[str]
    counts: dict[str, int]
    maybe: float | None
    maybe_text: str | None
    several: list[float | None]
    inner: Redaction


def values_of(kind: Any) -> st.SearchStrategy[Any]:
    """Any value of a field's type."""
    args = typing.get_args(kind)
    match typing.get_origin(kind):
        case typing.Literal:
            return st.sampled_from(args)
        case origin if origin is list:
            return st.lists(values_of(args[0]), max_size=100)
        case origin if origin is dict:
            return st.dictionaries(TEXT, values_of(args[1]), max_size=5)
        case typing.Union | types.UnionType:
            return st.none() | values_of(args[0])
        case _:
            return VALUES[kind] if kind in VALUES else records_of(kind)


def records_of(record: type[BaseModel]) -> st.SearchStrategy[Any]:
    """Any record of a kind."""
    return st.builds(record, **{name: values_of(one.annotation) for name, one in record.model_fields.items()})


def by_others(record: Any, body: bytes) -> Any:
    """What fastavro and pydantic make of a body."""
    return record.model_validate(fastavro.schemaless_reader(io.BytesIO(body), schema_of(record), None))


def schema_of(record: type[BaseModel]) -> Any:
    return parse_schema(json.loads(json.dumps(avro_schema(record))))


def body_of(record: BaseModel) -> bytes:
    out = io.BytesIO()
    fastavro.schemaless_writer(out, schema_of(type(record)), record.model_dump())
    return out.getvalue()


def same(ours: BaseModel, theirs: BaseModel) -> bool:
    """To the type, the order of fields and the sign of zero; times in UTC."""
    return (
        repr(ours) == repr(theirs)
        and ours == theirs
        and list(ours.__dict__) == list(theirs.__dict__)
        and ours.model_fields_set == theirs.model_fields_set
        and ours.model_dump_json() == theirs.model_dump_json()
    )


@given(records_of(All))
def test_any_values_are_read_as_fastavro_and_pydantic_read_them(made: All) -> None:
    body = body_of(made)
    ours = reader(typing.cast("Any", All))(b"before" + body + b"behind", 6)
    assert same(ours, by_others(All, body))
    assert ours == made


@pytest.mark.parametrize("record", RECORDS)
def test_every_record_is_read_as_fastavro_and_pydantic_read_it(record: type[Record]) -> None:
    body = body_of(example(record))
    assert same(reader(record)(body, 0), by_others(record, body))


def test_a_record_that_was_read_is_like_any_other() -> None:
    made = example(RECORDS[1])
    read = codec.decode(codec.encode(made))
    changed = read.model_copy(update={"tenant": "another"})
    assert changed.tenant == "another"
    assert read == made != changed
    assert hash(read.event_id) == hash(made.event_id)
    assert type(read).model_validate_json(read.model_dump_json()) == made


@pytest.mark.parametrize("record", [All, *RECORDS])
def test_what_is_damaged_is_read_as_fastavro_and_pydantic_read_it_or_not_at_all(record: Any) -> None:
    chance = random.Random(record.__name__)
    values = {"texts": ["a", ""], "counts": {"b": -1}, "maybe": 0.5, "maybe_text": "c", "several": [None, 1.0]}
    plain = {"text": "ü" * 70, "count": 300, "at": EPOCH + timedelta(days=20000), "share": 1.5, "is_so": True}
    inner = Redaction(policy_version="1", detector="d", counts={"EMAIL": 1})
    made = All(**values, **plain, word="", strict="a", inner=inner) if record is All else example(record)  # type: ignore[arg-type]
    body, ours = body_of(made), reader(record)
    read = 0
    for _ in range(1500):
        damaged = bytearray(body)
        for _ in range(chance.choice((1, 1, 2, 3))):
            place = chance.randrange(len(damaged))
            bytes_ = bytes(chance.choice((0, 1, 2, 3, 0x7F, 0x80, 0x81, 0xFF, chance.randrange(256))) for _ in range(2))
            damaged[place : place + chance.randrange(3)] = bytes_[: chance.randrange(3)]
            damaged = damaged or bytearray(1)
        given = bytes(damaged[: chance.choice((None, None, None, chance.randrange(len(damaged) + 1)))])
        try:
            found = ours(given, 0)
        except UNSURE:
            continue
        read += 1
        assert same(found, by_others(record, given)), given.hex()
    assert read > 20  # or nothing was compared


@pytest.mark.parametrize(
    ("start", "rest"),
    [("00", ""), ("8000", ""), ("80808080808080808000", ""), ("01", ""), ("0800", "61"), ("08", "ff616161")],
    ids=["empty", "two bytes of nothing", "ten bytes of nothing", "less than nothing", "cut", "not UTF-8"],
)
def test_texts_of_unusual_lengths(start: str, rest: str) -> None:
    class OnlyText(Part):
        """A text."""

        text: str

    body = bytes.fromhex(start + rest)
    try:
        theirs = by_others(OnlyText, body)
    except (ValueError, EOFError, IndexError, TypeError, MemoryError):
        theirs = None
    try:
        ours = reader(typing.cast("Any", OnlyText))(body, 0)
    except UNSURE:
        ours = None
    assert ours is None or ours == theirs


def test_a_list_that_ends_with_a_zero_of_two_bytes_is_left_to_others() -> None:
    class Texts(Part):
        """Two lists."""

        first: list[str]
        second: list[str]

    body = bytes.fromhex("8000" "020261" "00" "00")  # fmt: skip
    assert by_others(Texts, body).second == ["a"]
    with pytest.raises(UNSURE):
        reader(typing.cast("Any", Texts))(body, 0)


@given(st.integers(-(10**16), 10**16) | st.integers(17 * 10**14, 18 * 10**14))
def test_times_are_exact(micros: int) -> None:
    data, time = long_bytes(micros), EPOCH + timedelta(microseconds=micros)
    assert time_at(data, 0) == (time, len(data))
    assert time_at(b"\xff" + data + b"\xff", 1) == (time, len(data) + 1)


@pytest.mark.parametrize("share", [math.inf, -math.inf, math.nan])
def test_numbers_that_are_none_are_left_to_others(share: float) -> None:
    data = codec.encode(example(Failure)).replace(struct.pack("<d", 0.5), struct.pack("<d", share))
    with pytest.raises(UNSURE):
        reader(Failure)(data, codec.HEADER)
    with pytest.raises(Invalid, match=r"p_failure: .* finite"):
        codec.decode(data)


@pytest.mark.parametrize("count", [1 << 62, (1 << 63) - 1, -(1 << 63)])
def test_numbers_of_ten_bytes_are_left_to_others(count: int) -> None:
    made = example(LedgerEntry).model_copy(update={"count": count})
    with pytest.raises(UNSURE):
        reader(LedgerEntry)(codec.encode(made), codec.HEADER)
    assert codec.decode(codec.encode(made)) == made


def test_a_number_without_an_end_is_not_read_to_the_end() -> None:
    with pytest.raises(UNSURE):
        reader(LedgerEntry)(b"\x80" * (8 << 20), 0)  # for hours, if it were


def test_who_is_invalid_is_told_so_as_before() -> None:
    data = codec.encode(example(RECORDS[1]))
    with pytest.raises(Invalid, match="Span") as caught:
        codec.decode(data[: len(data) // 2])
    assert caught.value.reason == "damaged_record"


def test_what_the_reader_does_not_know_is_refused_at_once() -> None:
    class Bounded(Part):
        """A constraint."""

        count: Annotated[int, Field(ge=0)]

    class Checked(Part):
        """A validator."""

        count: int

        @field_validator("count")
        @classmethod
        def check(cls, count: int) -> int:
            return count

    class Odd(Part):
        """Another type."""

        data: bytes

    for record, what in ((Bounded, "constraints"), (Checked, "validators"), (Odd, "type")):
        with pytest.raises(TypeError, match=f"no code for the {what}"):
            reader(typing.cast("Any", record))
