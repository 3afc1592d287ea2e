"""Spans from files of other tools as OTLP: ids, times and attributes, in requests of a gateway's size."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, cast

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, ArrayValue, KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, Span, Status

from schemas.errors import Invalid
from schemas.events import EPOCH, identity

REQUEST_BYTES = 4 * 1024 * 1024
"""A request is closed when it holds as much: well under what a gateway takes."""
YEARS = range(1971, 2200)
"""Times outside are mistakes; OTLP counts nanoseconds from 1970 in 64 bits."""
_HEX = re.compile(r"[0-9a-f]+")
_UNITS = ((10**11, 10**9), (10**14, 10**6), (10**17, 10**3), (10**20, 1))
"""A number is a time in seconds, milliseconds, microseconds or nanoseconds by its size: under the first, times it."""


@dataclass(frozen=True, slots=True)
class SpanRow:
    """One span before it is one: ids in hexadecimal, times in nanoseconds of Unix."""

    trace_id: str
    span_id: str
    parent_id: str
    name: str
    start: int
    end: int
    attributes: dict[str, Any]
    failed: bool = False
    message: str = ""
    resource: dict[str, Any] = field(default_factory=dict[str, Any])
    events: tuple[tuple[str, int, dict[str, Any]], ...] = ()


def trace_id_of(name: str) -> str:
    """A trace's id as OTLP has it: itself, of a UUID its digits, of anything else what is always made of it."""
    return _id(name, 32, "trace")


def span_id_of(name: str, trace: str) -> str:
    """A span's id in a trace as OTLP has it, in the same way; '' for none."""
    return _id(name, 16, f"span {trace}") if name else ""


def _id(name: str, digits: int, salt: str) -> str:
    plain = name.lower().removeprefix("0x").replace("-", "")
    if len(plain) == digits and _HEX.fullmatch(plain) and plain.strip("0"):
        return plain
    return identity("imported", salt, name)[:digits]


def nanos(value: Any, place: str) -> int:
    """A time in nanoseconds: ISO 8601 (UTC when it names no zone) or a number. Raises Invalid naming the place."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        unit = next((factor for limit, factor in _UNITS if 0 <= value < limit), None)
        if unit is not None:
            return _within_years(int(value * unit), place)
    elif isinstance(value, str) and value:
        try:
            time = datetime.fromisoformat(value)
        except ValueError as error:
            raise Invalid("wrong_field", f"{place}: not an ISO 8601 time, such as 2026-01-05T09:00:00Z") from error
        time = time if time.tzinfo else time.replace(tzinfo=UTC)
        return _within_years((time - EPOCH) // timedelta(microseconds=1) * 1000, place)
    raise Invalid("wrong_field", f"{place}: neither a time nor a number")


def _within_years(value: int, place: str) -> int:
    year = 1970 + value // (365 * 86_400 * 10**9)
    if year not in YEARS:
        raise Invalid("wrong_field", f"{place}: not between the years {YEARS.start} and {YEARS.stop - 1}")
    return value


def text_in(held: dict[str, Any], *names: str) -> str:
    """The first of the fields that is there, as text; '' for none."""
    found = (held.get(name) for name in names)
    return next((str(one) for one in found if isinstance(one, (str, int, float)) and one != ""), "")


def required(held: dict[str, Any], *names: str) -> str:
    """The same, but Invalid for none."""
    found = text_in(held, *names)
    if not found:
        raise Invalid("missing_field", f"no field {names[0]!r}")
    return found


def attribute(key: str, value: Any) -> KeyValue:
    """An attribute; structures as JSON text."""
    return KeyValue(key=_sound(key), value=_any(value))


def _any(value: Any) -> AnyValue:
    if isinstance(value, bool):
        return AnyValue(bool_value=value)
    if isinstance(value, int) and -(2**63) <= value < 2**63:
        return AnyValue(int_value=value)
    if isinstance(value, float):
        return AnyValue(double_value=value)
    if isinstance(value, str):
        return AnyValue(string_value=_sound(value))
    listed = cast("list[Any]", value) if isinstance(value, list) else []
    if listed and all(isinstance(one, (str, int, float, bool)) for one in listed):
        return AnyValue(array_value=ArrayValue(values=[_any(one) for one in listed]))
    return AnyValue(string_value=_sound(json.dumps(value, ensure_ascii=False)))


def _sound(text: str) -> str:
    return text.encode("utf-8", "replace").decode()


def requests_of(rows: Iterable[SpanRow], limit: int = REQUEST_BYTES) -> Iterator[ExportTraceServiceRequest]:
    """Export requests, each closed with the span that makes it ``limit`` bytes or more; spans keep their order."""
    request, size, last = ExportTraceServiceRequest(), 0, None
    for row in rows:
        if last is None or row.resource != last:
            _resource(request.resource_spans.add(), row.resource)
            last = row.resource
        span = _span(row)
        request.resource_spans[-1].scope_spans[0].spans.append(span)
        size += span.ByteSize()
        if size >= limit:
            yield request
            request, size, last = ExportTraceServiceRequest(), 0, None
    if request.resource_spans:
        yield request


def _resource(group: ResourceSpans, attributes: dict[str, Any]) -> None:
    group.resource.attributes.extend(attribute(key, value) for key, value in attributes.items() if value is not None)
    group.scope_spans.add().scope.name = "driftwheel.import"


def _span(row: SpanRow) -> Span:
    span = Span(
        trace_id=bytes.fromhex(row.trace_id),
        span_id=bytes.fromhex(row.span_id),
        parent_span_id=bytes.fromhex(row.parent_id),
        name=_sound(row.name),
        start_time_unix_nano=row.start,
        end_time_unix_nano=max(row.end, row.start),
        attributes=[attribute(key, value) for key, value in row.attributes.items() if value is not None],
        status=Status(
            code=Status.STATUS_CODE_ERROR if row.failed else Status.STATUS_CODE_UNSET, message=_sound(row.message)
        ),
    )
    for name, time, values in row.events:
        listed = [attribute(key, value) for key, value in values.items() if value is not None]
        span.events.add(name=_sound(name), time_unix_nano=time, attributes=listed)
    return span
