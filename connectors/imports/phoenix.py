"""Phoenix's exports as spans: rows of the spans data frame, or spans of its REST API and command line.

In the first every attribute is a column (``attributes.llm.model_name``, ``context.trace_id``); in the second they are
in ``attributes``, flat or nested. Spans as OpenTelemetry's SDKs keep them have the second form too, or are brought into
it (``connectors.imports.sdk_spans``). A data frame may also come as pandas writes it by default, one object of columns
whose values are by row.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

from connectors.imports.sdk_spans import is_attributes, is_javascript, plain
from connectors.imports.spans import SpanRow, nanos, required, span_id_of, text_in, trace_id_of
from schemas.errors import Invalid

Values = dict[str, Any]

_WHOLE = {"metadata", "variables", "json_schema", "parameters", "invocation_parameters", "arguments", "value"}
"""Attributes whose structure is their value: the last words of their names."""


def is_phoenix(row: Any) -> bool:
    """Whether a row looks like one of these exports."""
    if not isinstance(row, dict):
        return False
    held = cast("Values", row)
    ours = "context.trace_id" in held or ("attributes" in held and isinstance(held.get("context"), dict))
    return ours or is_javascript(held) or is_attributes(held)


def phoenix_spans(row: Any, agent: str) -> Iterator[SpanRow]:
    """The spans of one row, of ``agent``, or else of the agent or service that the row names.

    Raises Invalid naming the field.
    """
    if not isinstance(row, dict):
        raise Invalid("not_object", "a JSON object was expected")
    for one in _rows(cast("Values", row)):
        yield _span(plain(one), agent)


def _rows(row: Values) -> Iterator[Values]:
    """The row; those of a whole data frame that comes by its columns."""
    traces = row.get("context.trace_id")
    if not isinstance(traces, dict):
        yield row
        return
    columns = {name: cast("Values", column) for name, column in row.items() if isinstance(column, dict)}
    for index in cast("Values", traces):
        yield {name: column[index] for name, column in columns.items() if column.get(index) is not None}


def _span(row: Values, agent: str) -> SpanRow:
    held = _flat_context(row)
    trace = required(held, "context.trace_id")
    start = 0 if _is_timeless(held) else nanos(held.get("start_time"), "start_time")
    said = _attributes(held)
    status = held.get("status")
    told = cast("Values", status) if isinstance(status, dict) else {}
    code = text_in(held, "status_code") or text_in(told, "status_code", "code")
    resource = held.get("resource")
    shared = cast("Values", resource).get("attributes") if isinstance(resource, dict) else None
    return SpanRow(
        trace_id=trace_id_of(trace),
        span_id=span_id_of(required(held, "context.span_id"), trace),
        parent_id=span_id_of(text_in(held, "parent_id"), trace),
        name=text_in(held, "name"),
        start=start,
        end=nanos(held["end_time"], "end_time") if held.get("end_time") else start,
        attributes=said | ({"driftwheel.agent": agent} if agent else {}),
        failed=code.rpartition(".")[2].upper() == "ERROR",
        message=text_in(held, "status_message") or text_in(told, "description", "message"),
        resource=cast("Values", shared) if isinstance(shared, dict) else {"service.name": _service(held)},
        events=tuple(_events(held)),
    )


def _is_timeless(held: Values) -> bool:
    return "start_time" in held and held["start_time"] is None and "end_time" not in held


def _flat_context(row: Values) -> Values:
    context = row.get("context")
    inner = cast("Values", context) if isinstance(context, dict) else {}
    return row | {f"context.{name}": inner[name] for name in ("trace_id", "span_id") if name in inner}


def _service(held: Values) -> str:
    return text_in(held, "project_name", "project") or "phoenix"


def _attributes(held: Values) -> Values:
    inner = held.get("attributes")
    columns = {name.removeprefix("attributes."): held[name] for name in held if name.startswith("attributes.")}
    out: Values = {}
    for name, value in (columns | (cast("Values", inner) if isinstance(inner, dict) else {})).items():
        _flatten(name, value, out)
    kind = text_in(held, "span_kind")
    if kind and kind.upper() != "UNKNOWN":
        out.setdefault("openinference.span.kind", kind.upper())
    return out


def _flatten(name: str, value: Any, out: Values) -> None:
    """Objects by dots and lists of objects by numbers, as OpenInference writes them down; structures stay values."""
    if isinstance(value, dict) and name.rpartition(".")[2] not in _WHOLE:
        for key, one in cast("Values", value).items():
            _flatten(f"{name}.{key}", one, out)
    elif isinstance(value, list) and value and all(isinstance(one, dict) for one in cast("list[Any]", value)):
        for place, one in enumerate(cast("list[Any]", value)):
            _flatten(f"{name}.{place}", one, out)
    elif value is not None:
        out[name] = value


def _events(held: Values) -> Iterator[tuple[str, int, Values]]:
    events = held.get("events")
    for place, event in enumerate(cast("list[Any]", events) if isinstance(events, list) else []):
        if isinstance(event, dict):
            one = cast("Values", event)
            attributes = one.get("attributes")
            time = nanos(one.get("timestamp"), f"events[{place}].timestamp") if one.get("timestamp") else 0
            yield text_in(one, "name"), time, cast("Values", attributes) if isinstance(attributes, dict) else {}
