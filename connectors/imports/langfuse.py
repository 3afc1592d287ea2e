"""Langfuse's exports as spans: traces with their observations, or observations row by row.

The first are the download of a trace and ``GET /traces/{id}``; the second exports of tables, blob storage and
``GET /observations``; names may be in camelCase or snake_case. Attributes that came by OpenTelemetry are kept, with
Langfuse's own names for what it moved out of them. Scores become OpenInference annotations of their span or trace. A
trace without observations is one span.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, cast

from connectors.imports.spans import SpanRow, nanos, required, span_id_of, text_in, trace_id_of
from schemas.errors import Invalid

Values = dict[str, Any]

_COPIED = {
    "model": "langfuse.observation.model.name",
    "providedModelName": "langfuse.observation.model.name",
    "promptName": "langfuse.observation.prompt.name",
    "promptVersion": "langfuse.observation.prompt.version",
    "level": "langfuse.observation.level",
    "input": "langfuse.observation.input",
    "output": "langfuse.observation.output",
    "sessionId": "langfuse.session.id",
    "userId": "langfuse.user.id",
    "traceName": "langfuse.trace.name",
    "release": "langfuse.release",
    "environment": "langfuse.environment",
}
_OF_TRACE = {"sessionId": "sessionId", "userId": "userId", "name": "traceName", "release": "release"}
_MOVED = {"attributes", "resourceAttributes", "scope"}
_ANNOTATORS = {"ANNOTATION": "HUMAN", "EVAL": "LLM"}
_SNAKE = re.compile(r"_([a-z])")


def is_langfuse(row: Any) -> bool:
    """Whether a row looks like one of these exports."""
    if not isinstance(row, dict):
        return False
    held = _camel(cast("Values", row))
    if isinstance(held.get("observations"), list):
        return "trace" in held or "timestamp" in held
    return ("startTime" in held and "traceId" in held) or {"id", "timestamp", "sessionId"} <= held.keys()


def langfuse_spans(row: Any, agent: str) -> Iterator[SpanRow]:
    """The spans of one row, all of ``agent``, or else of the agent or service that the row names.

    Raises Invalid naming the field.
    """
    if not isinstance(row, dict):
        raise Invalid("not_object", "a JSON object was expected")
    held = _camel(cast("Values", row))
    if isinstance(held.get("trace"), dict):
        yield from _trace(_camel(held["trace"]) | {"observations": held.get("observations")}, agent)
    elif "traceId" in held:
        yield _span(held, {}, agent)
    else:
        yield from _trace(held, agent)


def _camel(row: Values) -> Values:
    return {_SNAKE.sub(lambda found: found[1].upper(), name): value for name, value in row.items()}


def _trace(trace: Values, agent: str) -> Iterator[SpanRow]:
    trace_id, listed = required(trace, "id"), trace.get("observations") or []
    if not isinstance(listed, list):
        raise Invalid("wrong_field", "observations: must be a list")
    some: list[Values] = []
    for place, one in enumerate(cast("list[Any]", listed)):
        if not isinstance(one, dict):
            raise Invalid("wrong_field", f"observations[{place}]: must be an object")
        some.append({"traceId": trace_id} | _camel(cast("Values", one)))
    if not some:
        some = [_alone(trace, trace_id)]
    root = _first_top(some)
    for place, one in enumerate(some):
        try:
            yield _span(one, trace, agent, root=one is root)
        except Invalid as error:
            raise Invalid(error.reason, f"observations[{place}]: {error.detail}") from error


def _alone(trace: Values, trace_id: str) -> Values:
    """A trace that has no observations, as one: ``required`` names its own missing field."""
    time = required(trace, "timestamp")
    return {
        "id": f"trace {trace_id}",
        "traceId": trace_id,
        "type": "CHAIN",
        "startTime": time,
        "name": trace.get("name"),
    }


def _first_top(some: list[Values]) -> Values:
    known = {one.get("id") for one in some}
    tops = [one for one in some if one.get("parentObservationId") not in known] or some
    return min(tops, key=lambda one: str(one.get("startTime")))


def _span(one: Values, trace: Values, agent: str, *, root: bool = False) -> SpanRow:
    trace_name = required(one, "traceId")
    start = nanos(one.get("startTime"), "startTime")
    trace_id = trace_id_of(trace_name)
    told = {theirs: trace[name] for name, theirs in _OF_TRACE.items() if trace.get(name)} | _present(one)
    metadata = _object(one.get("metadata"))
    resource = _object(metadata.get("resourceAttributes"))
    service = str(resource.get("service.name") or "")
    if not service or service.startswith("unknown_service"):
        resource["service.name"] = text_in(told, "traceName") or "langfuse"
    return SpanRow(
        trace_id=trace_id,
        span_id=span_id_of(required(one, "id"), trace_name),
        parent_id=span_id_of(text_in(one, "parentObservationId"), trace_name),
        name=text_in(one, "name"),
        start=start,
        end=nanos(one["endTime"], "endTime") if one.get("endTime") else start,
        attributes=_attributes(told, metadata) | (_of_root(trace) if root else {}) | _scores(one, trace, root)
        | ({"driftwheel.agent": agent} if agent else {}),
        failed=one.get("level") == "ERROR",
        message=text_in(one, "statusMessage"),
        resource=resource,
    )  # fmt: skip


def _present(one: Values) -> Values:
    return {name: value for name, value in one.items() if value not in (None, "", [], {})}


def _attributes(told: Values, metadata: Values) -> Values:
    kept = _object(metadata.get("attributes"))
    usage, cost = _usage(told), _cost(told)
    names = list(_object(told.get("toolDefinitions")))
    return {
        **kept,
        **{f"langfuse.observation.metadata.{name}": metadata[name] for name in metadata if name not in _MOVED},
        **{theirs: told[name] for name, theirs in _COPIED.items() if name in told},
        **({"langfuse.observation.type": str(told["type"]).lower()} if told.get("type") else {}),
        **({"langfuse.observation.usage_details": usage} if usage else {}),
        **({"langfuse.observation.cost_details": cost} if cost else {}),
        **({"langfuse.observation.tool_definitions": [{"name": name} for name in names]} if names else {}),
    }


def _usage(told: Values) -> Values:
    older = _object(told.get("usage"))
    pairs = {
        "input": told.get("inputUsage", told.get("promptTokens", older.get("input"))),
        "output": told.get("outputUsage", told.get("completionTokens", older.get("output"))),
    }
    return _object(told.get("usageDetails")) or {name: value for name, value in pairs.items() if value}


def _cost(told: Values) -> Values:
    total = told.get("totalCost", told.get("calculatedTotalCost"))
    return _object(told.get("costDetails")) or ({"total": total} if total else {})


def _of_root(trace: Values) -> Values:
    metadata = _object(trace.get("metadata"))
    return {
        **{f"langfuse.trace.{name}": trace[name] for name in ("input", "output") if trace.get(name)},
        **{f"langfuse.trace.metadata.{name}": metadata[name] for name in metadata if name not in _MOVED},
    }


def _scores(one: Values, trace: Values, root: bool) -> Values:
    """Annotations: those of the observation, and on the root those of the trace."""
    out: Values = {}
    for prefix, scores in (("", _of_span(one, trace)), ("trace.", _of_trace(trace) if root else [])):
        for place, score in enumerate(scores):
            value = score.get("value")
            said = {
                "name": text_in(score, "name"),
                "score": value if isinstance(value, (int, float)) else None,
                "label": text_in(score, "stringValue") or (value if isinstance(value, str) else ""),
                "explanation": text_in(score, "comment"),
                "annotator_kind": _ANNOTATORS.get(str(score.get("source")), ""),
                "identifier": text_in(score, "id"),
            }
            start = f"{prefix}annotations.{place}.annotation"
            out |= {f"{start}.{name}": value for name, value in said.items() if value not in (None, "")}
    return out


def _listed(trace: Values) -> list[Values]:
    scores = trace.get("scores")
    return (
        [_camel(cast("Values", one)) for one in cast("list[Any]", scores) if isinstance(one, dict)]
        if isinstance(scores, list)
        else []
    )


def _of_span(one: Values, trace: Values) -> list[Values]:
    return [score for score in _listed(trace) if score.get("observationId") and score["observationId"] == one.get("id")]


def _of_trace(trace: Values) -> list[Values]:
    return [score for score in _listed(trace) if not score.get("observationId")]


def _object(value: Any) -> Values:
    """An object, also one written as JSON text; empty for anything else."""
    if isinstance(value, str) and value[:1] == "{":
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return {}
    return dict(cast("Values", value)) if isinstance(value, dict) else {}
