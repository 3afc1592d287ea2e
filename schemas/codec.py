"""Bytes and records: the only place where the one becomes the other.

On the wire a record is Avro single-object encoding (Avro 1.12 specification, "Single-object encoding"): the marker
``C3 01``, the 8-byte CRC-64 fingerprint of the writer's schema, the Avro body. The writer's schema is looked up by
its fingerprint among the shipped ones; fields that the reader lacks are skipped.
"""

from __future__ import annotations

import io
import json
from functools import cache
from typing import Any, TypeVar

import fastavro
from fastavro.schema import fingerprint, parse_schema, to_parsing_canonical_form
from pydantic import ValidationError

from schemas.avro_schema import path_of
from schemas.errors import Invalid
from schemas.events import RECORDS, Record

R = TypeVar("R", bound=Record)

MARKER = b"\xc3\x01"
HEADER = len(MARKER) + 8


@cache
def schema_of(record: type[Record]) -> Any:
    """The parsed published schema of a record."""
    return parse_schema(json.loads(path_of(record).read_text()))


@cache
def _prefix(record: type[Record]) -> bytes:
    digest = fingerprint(to_parsing_canonical_form(schema_of(record)), "CRC-64-AVRO")
    return MARKER + bytes.fromhex(digest)


@cache
def _records() -> dict[bytes, type[Record]]:
    return {_prefix(record): record for record in RECORDS}


def encode(record: Record) -> bytes:
    """The record as single-object Avro bytes."""
    out = io.BytesIO()
    out.write(_prefix(type(record)))
    fastavro.schemaless_writer(out, schema_of(type(record)), dict(_plain(record)))
    return out.getvalue()


def _plain(record: Any) -> dict[str, Any]:
    return {
        name: _plain(value) if hasattr(value, "model_fields_set") else _text(value)
        for name, value in record.__dict__.items()
    }


def _text(value: Any) -> Any:
    """Lone surrogates cannot be UTF-8: they are replaced, never an error."""
    return value.encode("utf-8", "replace").decode() if isinstance(value, str) and not value.isascii() else value


def decode(data: bytes, expected: type[Record] | None = None) -> Record:
    """The record in ``data``.

    Raises Invalid when the bytes are cut, damaged, of an unknown schema, of another record than ``expected``, or
    do not meet the record's own constraints.
    """
    record = _records().get(data[:HEADER])
    if record is None:
        raise Invalid("unknown_schema", f"first bytes {data[:HEADER].hex()!r} name no shipped schema")
    if expected is not None and record is not expected:
        raise Invalid("wrong_record", f"holds a {record.__name__}, the topic carries {expected.__name__}")
    try:
        schema = schema_of(record)
        body: Any = fastavro.schemaless_reader(io.BytesIO(data[HEADER:]), schema, None)
    except (
        EOFError,
        IndexError,
        ValueError,
        TypeError,
        UnicodeDecodeError,
        OverflowError,
        MemoryError,
    ) as error:
        raise Invalid("damaged_record", f"{record.__name__}: {error}") from error
    return validate(record, body)


def validate(record: type[R], body: Any) -> R:
    """A record from a mapping; Invalid names the first field that is wrong."""
    try:
        return record.model_validate(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(p) for p in first["loc"]) or "(record)"
        raise Invalid("invalid_field", f"{record.__name__}.{place}: {first['msg']}") from error
