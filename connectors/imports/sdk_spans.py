"""Spans as OpenTelemetry's SDKs keep them, in the names of ``connectors.imports.phoenix``.

Python's ``span.to_json()`` has those names itself. JavaScript's ``ReadableSpan`` says ``spanContext``, counts its times
as seconds and nanoseconds, and its statuses by number. Attributes alone are a span too: its ids are made of them, and
it has no time, so that it is stored at the time of acceptance.
"""

from __future__ import annotations

import json
from typing import Any, cast

from schemas.errors import Invalid

Values = dict[str, Any]

_CONVENTIONS = ("openinference.span.kind", "gen_ai.operation.name", "gen_ai.provider.name", "gen_ai.system")
"""One of these among a row's own names makes attributes of it."""
_FAILED = 2
_TIMES = {"startTime": "start_time", "endTime": "end_time", "time": "timestamp"}


def is_javascript(row: Values) -> bool:
    """Whether a row is a span of the SDK for JavaScript."""
    return isinstance(row.get("spanContext"), dict) and isinstance(row.get("attributes"), dict)


def is_attributes(row: Values) -> bool:
    """Whether a row is the attributes of one span, and nothing else of it."""
    return any(isinstance(row.get(name), str) for name in _CONVENTIONS) and "context.trace_id" not in row


def plain(row: Values) -> Values:
    """The row, or the span that it stands for. Raises Invalid naming the field."""
    if is_javascript(row):
        return _of_javascript(row)
    if is_attributes(row):
        name = json.dumps(row, sort_keys=True)
        title = row.get("gen_ai.operation.name") or row.get("openinference.span.kind") or "span"
        return {"name": title, "context": {"trace_id": name, "span_id": name}, "start_time": None, "attributes": row}
    return row


def _of_javascript(row: Values) -> Values:
    context, parent, status = (_part(row, name) for name in ("spanContext", "parentSpanContext", "status"))
    events = row.get("events")
    resource = {"resource": row["resource"]} if "resource" in row else {}
    return {
        "name": row.get("name"),
        "context": {"trace_id": context.get("traceId"), "span_id": context.get("spanId")},
        "parent_id": row.get("parentSpanId") or parent.get("spanId"),
        "status": {"code": "ERROR" if status.get("code") == _FAILED else "", "message": status.get("message")},
        "attributes": row["attributes"],
        "events": [
            cast("Values", one) | _times(cast("Values", one), f"events[{place}].")
            for place, one in enumerate(cast("list[Any]", events) if isinstance(events, list) else [])
            if isinstance(one, dict)
        ],
        **resource,
        **_times(row, ""),
    }


def _part(row: Values, name: str) -> Values:
    inner = row.get(name)
    return cast("Values", inner) if isinstance(inner, dict) else {}


def _times(row: Values, place: str) -> Values:
    """Its times by their plain names: ``[seconds, nanoseconds]`` as one number, others as they are."""
    return {new: _nanos(row[old], place + old) for old, new in _TIMES.items() if old in row}


def _nanos(time: Any, place: str) -> Any:
    if not isinstance(time, list):
        return time
    pair = cast("list[Any]", time)
    if len(pair) != 2 or not all(isinstance(one, int) for one in pair):
        raise Invalid("wrong_field", f"{place}: not [seconds, nanoseconds]")
    return pair[0] * 10**9 + pair[1]
