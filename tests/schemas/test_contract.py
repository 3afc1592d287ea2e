"""The published contract: schema files equal the records, topics carry them, bytes come back whole."""

from __future__ import annotations

import io
import json
from datetime import UTC, datetime
from typing import Any

import fastavro
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from schemas import codec
from schemas.avro_schema import FOLDER, avro_schema, path_of
from schemas.errors import Invalid
from schemas.events import RECORDS, Part, Record, Redaction, Span, identity
from schemas.topics import BY_NAME, BY_RECORD, TOPICS, topic_of

NOW = datetime(2026, 1, 5, 8, 0, 0, 123456, tzinfo=UTC)


def example(record: type[Part]) -> Any:
    """A record with every required field filled."""
    values: dict[str, Any] = {}
    for name, info in record.model_fields.items():
        if not info.is_required():
            continue
        annotation = str(info.annotation)
        if info.annotation is Redaction:
            values[name] = Redaction(policy_version="1", detector="d", counts={"EMAIL": 1})
        elif "datetime" in annotation.lower():
            values[name] = NOW
        elif "Literal" in annotation:
            values[name] = info.annotation.__args__[0]  # type: ignore[union-attr]  # a Literal has arguments
        else:
            values[name] = {str: f"a {name}", int: 3, float: 0.5, bool: True}[info.annotation]  # type: ignore[index]
    return record(**values)


@pytest.mark.parametrize("record", RECORDS)
def test_schema_file_equals_the_record(record: type[Record]) -> None:
    assert json.loads(path_of(record).read_text()) == avro_schema(record), "run `make schemas`"


def test_no_stray_schema_files() -> None:
    assert {path.stem for path in FOLDER.glob("*.avsc")} == {record.__name__ for record in RECORDS}


@pytest.mark.parametrize("record", RECORDS)
def test_round_trip(record: type[Record]) -> None:
    made = example(record)
    assert codec.decode(codec.encode(made), record) == made


@pytest.mark.parametrize("record", RECORDS)
def test_every_cut_and_flip_is_invalid_or_a_record(record: type[Record]) -> None:
    data = codec.encode(example(record))
    for cut in range(len(data)):
        with pytest.raises(Invalid):
            codec.decode(data[:cut], record)
    for place in range(len(data)):
        damaged = data[:place] + bytes([data[place] ^ 0xFF]) + data[place + 1 :]
        try:
            codec.decode(damaged, record)
        except Invalid as error:
            assert error.reason in {"unknown_schema", "damaged_record", "invalid_field"}


def test_wrong_record_on_a_topic() -> None:
    data = codec.encode(example(RECORDS[1]))
    with pytest.raises(Invalid, match="the topic carries Signal"):
        codec.decode(data, BY_NAME["agent.signals"].record)


def test_unknown_fields_are_ignored() -> None:
    span = example(Span)
    assert codec.validate(Span, span.model_dump() | {"from_the_future": 1}) == span


def test_field_errors_name_the_field() -> None:
    with pytest.raises(Invalid, match=r"Span\.duration_us"):
        codec.validate(Span, example(Span).model_dump() | {"duration_us": "long"})


def test_times_need_a_zone_and_become_utc() -> None:
    body = example(Span).model_dump()
    with pytest.raises(ValidationError):
        Span.model_validate(body | {"event_time": "2026-01-05T08:00:00"})
    assert Span.model_validate(body | {"event_time": "2026-01-05T10:00:00+02:00"}).event_time.utcoffset() == (NOW - NOW)


def test_a_time_that_utc_cannot_hold_is_invalid() -> None:
    with pytest.raises(Invalid, match=r"Span\.event_time"):
        codec.validate(Span, example(Span).model_dump() | {"event_time": "0001-01-01T00:00:00+14:00"})


@given(st.text())
def test_any_text_survives_but_lone_surrogates(text: str) -> None:
    span = example(Span).model_copy(update={"input": text})
    assert codec.decode(codec.encode(span)).model_dump()["input"] == text.encode("utf-8", "replace").decode()


def test_lone_surrogates_are_replaced() -> None:
    span = example(Span).model_copy(update={"input": "a\ud800b"})
    assert codec.decode(codec.encode(span)).model_dump()["input"] == "a?b"


def test_a_standard_reader_understands_the_body() -> None:
    span = example(Span)
    body = codec.encode(span)[codec.HEADER :]
    schema = fastavro.parse_schema(json.loads(path_of(Span).read_text()))
    read: Any = fastavro.schemaless_reader(io.BytesIO(body), schema, None)
    assert read["event_time"] == NOW
    assert read["span_id"] == span.span_id


def test_every_record_has_one_topic_and_every_topic_a_record() -> None:
    assert set(BY_RECORD) == set(RECORDS)
    assert [topic.name for topic in TOPICS if topic.record is None] == ["otlp_spans", "otlp_logs"]
    assert len(BY_NAME) == len(TOPICS)


@pytest.mark.parametrize("record", RECORDS)
def test_keys_are_readable(record: type[Record]) -> None:
    made = example(record)
    assert topic_of(made).key(made)
    assert topic_of(made).identity(made)


def test_identity_depends_on_every_part() -> None:
    assert identity("a", "bc") != identity("ab", "c")
