"""Bytes and records: the only place where the one becomes the other.

On the wire a record is Avro single-object encoding (Avro 1.12 specification, "Single-object encoding"): the marker
``C3 01``, the 8-byte CRC-64 fingerprint of the writer's schema, the Avro body. The writer's schema is looked up by
its fingerprint among the current ones, then among all that were ever released (``schemas/released``).
"""

from __future__ import annotations

import io
import json
from functools import cache
from typing import Any, TypeVar

import fastavro
from fastavro.read import SchemaResolutionError
from fastavro.schema import SchemaParseException, fingerprint, parse_schema, to_parsing_canonical_form
from pydantic import ValidationError

from schemas import avro_reader, avro_writer, released
from schemas.avro_schema import path_of
from schemas.compatibility import problems
from schemas.errors import Invalid
from schemas.events import RECORDS, Record

R = TypeVar("R", bound=Record)

MARKER = b"\xc3\x01"
HEADER = len(MARKER) + 8

_NOT_ON_THE_WIRE = frozenset({"logicalType", "__fastavro_parsed__", "__named_schemas"})
_DAMAGE = (EOFError, IndexError, ValueError, TypeError, UnicodeDecodeError, OverflowError, MemoryError)
_NO_SCHEMA = (SchemaParseException, ValueError, TypeError, KeyError, AttributeError, RecursionError)


@cache
def schema_of(record: type[Record]) -> Any:
    """The parsed published schema of a record."""
    return parse_schema(json.loads(path_of(record).read_text()))


def prefix_of(schema: Any) -> bytes:
    """The first ``HEADER`` bytes of every record that ``schema`` (parsed) wrote. Raises ValueError when it cannot."""
    return MARKER + bytes.fromhex(fingerprint(to_parsing_canonical_form(schema), "CRC-64-AVRO"))


@cache
def _prefix(record: type[Record]) -> bytes:
    return prefix_of(schema_of(record))


@cache
def _records() -> dict[bytes, type[Record]]:
    return {_prefix(record): record for record in RECORDS}


class Writer:
    """Reads what another schema of a record wrote: resolves it to the current one (Avro's schema resolution).

    ``schema``: a JSON value, or parsed. Raises Invalid when the record cannot be read from it.
    """

    def __init__(self, record: type[Record], schema: Any) -> None:
        self._record = record
        try:
            reasons = problems(schema_of(record), schema)
            self._schema = parse_schema(_bare(schema))
        except _NO_SCHEMA as error:
            raise Invalid("unknown_schema", f"{record.__name__}: not an Avro schema: {error}") from error
        if reasons:
            raise Invalid("incompatible_schema", reasons[0])

    def current(self, body: bytes) -> bytes:
        """An Avro body of this schema as single-object bytes of the current one. Raises Invalid when it is damaged."""
        reader, out = _bare_schema_of(self._record), io.BytesIO()
        out.write(_prefix(self._record))
        try:
            value: Any = fastavro.schemaless_reader(io.BytesIO(body), self._schema, reader)
            fastavro.schemaless_writer(out, reader, value)
        except (*_DAMAGE, SchemaResolutionError) as error:
            raise Invalid("damaged_record", f"{self._record.__name__}: {error}") from error
        return out.getvalue()


@cache
def _released() -> dict[bytes, tuple[type[Record], Writer]]:
    """What was released and is not current any more, by its first bytes."""
    records, found = {record.__name__: record for record in RECORDS}, dict[bytes, tuple[type[Record], Writer]]()
    for form in released.forms():
        prefix, record = prefix_of(parse_schema(form.schema)), records.get(form.record)
        if record is not None and prefix != _prefix(record):
            found[prefix] = (record, Writer(record, form.schema))
    return found


@cache
def _bare_schema_of(record: type[Record]) -> Any:
    return parse_schema(_bare(json.loads(path_of(record).read_text())))


def _bare(schema: Any) -> Any:
    """A schema without logical types: numbers stay numbers on their way from one form to another."""
    match schema:
        case dict():
            return {key: _bare(value) for key, value in schema.items() if key not in _NOT_ON_THE_WIRE}
        case list():
            return [_bare(branch) for branch in schema]
        case _:
            return schema


def record_of(data: bytes) -> type[Record] | None:
    """The record that single-object bytes hold, by their first bytes; None when they are none of ours."""
    head = data[:HEADER]
    return _records().get(head) or (_released()[head][0] if head in _released() else None)


def current(data: bytes) -> bytes:
    """Single-object bytes of a released form as those of the current one. Raises Invalid for anything else."""
    head = data[:HEADER]
    if head in _records():
        return data
    if head not in _released():
        raise Invalid("unknown_schema", f"first bytes {head.hex()!r} name no shipped schema")
    return _released()[head][1].current(data[HEADER:])


def encode(record: Record) -> bytes:
    """The record as single-object Avro bytes. Half of a character, which UTF-8 cannot hold, becomes '?'."""
    kind = type(record)
    out = [_prefix(kind)]
    _writer(kind)(record, out.append)
    return b"".join(out)


@cache
def _writer(record: type[Record]) -> avro_writer.Writer:
    return avro_writer.writer(schema_of(record))


def decode(data: bytes, expected: type[Record] | None = None) -> Record:
    """The record in ``data``.

    Raises Invalid when the bytes are cut, damaged, of an unknown schema, of another record than ``expected``, or
    do not meet the record's own constraints.
    """
    record = _records().get(data[:HEADER])
    if record is None:
        data = current(data)
        record = _records()[data[:HEADER]]
    if expected is not None and record is not expected:
        raise Invalid("wrong_record", f"holds a {record.__name__}, the topic carries {expected.__name__}")
    try:
        return _reader(record)(data, HEADER)
    except avro_reader.UNSURE:
        return _judged(record, data)


@cache
def _reader(record: type[Record]) -> avro_reader.Reader:
    return avro_reader.reader(record)


def _judged(record: type[Record], data: bytes) -> Record:
    """The record in ``data`` if it is one after all. Invalid says what is wrong with it."""
    try:
        body: Any = fastavro.schemaless_reader(io.BytesIO(data[HEADER:]), schema_of(record), None)
    except _DAMAGE as error:
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
