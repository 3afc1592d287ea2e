"""OTLP requests to span drafts: GenAI conventions old and new, OpenInference, Langfuse, Traceloop.

Unknown attributes are tolerated. What only the root of a trace says (session, user, agent, consent) holds for the
other spans of the trace in the same request.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from processors.redact.drafts import Draft, consent, scrubbed, settled_time
from processors.redact.messages import Values, input_of, output_of, retrieved
from processors.stage import UNKNOWN, Message
from schemas.errors import Invalid
from schemas.events import EPOCH, Span, SpanKind, identity

MAX_ATTRIBUTES = 64
MAX_ATTRIBUTE = 4_096
KEPT_ATTRIBUTE = 512
"""At most so many attributes are kept; longer ones than the second are left out, what is kept is cut to the third."""

_SESSION = ("gen_ai.conversation.id", "session.id", "langfuse.session.id", "langfuse.trace.session_id")
_USER = ("user.id", "enduser.id", "enduser.pseudo.id", "langfuse.user.id", "langfuse.trace.user_id", "user.hash")
_AGENT = ("driftwheel.agent", "gen_ai.agent.name", "agent.name")
_WORDS = {
    "model": ("gen_ai.request.model", "llm.request.model_name", "llm.model_name", "gen_ai.response.model",
              "langfuse.observation.model.name"),
    "model_version": ("driftwheel.model.version", "gen_ai.response.model", "llm.response.model_name", "llm.model_name"),
    "provider": ("gen_ai.provider.name", "gen_ai.system", "llm.provider", "llm.system"),
    "prompt_version": ("gen_ai.prompt.version", "llm.prompt_template.version", "langfuse.observation.prompt.version",
                       "traceloop.prompt.version"),
    "tool_call_id": ("gen_ai.tool.call.id", "tool_call.id", "tool.id"),
}  # fmt: skip
_TOOL = ("gen_ai.tool.name", "tool.name", "tool_call.function.name", "traceloop.entity.name")
_INPUT_TOKENS = ("llm.token_count.prompt", "gen_ai.usage.input_tokens", "gen_ai.usage.prompt_tokens")
_OUTPUT_TOKENS = ("llm.token_count.completion", "gen_ai.usage.output_tokens", "gen_ai.usage.completion_tokens")
_KINDS: dict[str, dict[str, SpanKind]] = {
    "openinference.span.kind": {
        "llm": "llm", "agent": "agent", "tool": "tool", "retriever": "retrieval", "chain": "chain",
    },
    "gen_ai.operation.name": {
        "chat": "llm", "generate_content": "llm", "text_completion": "llm", "completion": "llm",
        "invoke_agent": "agent", "execute_tool": "tool", "retrieval": "retrieval", "search_memory": "retrieval",
        "invoke_workflow": "chain", "plan": "chain", "chain": "chain",
    },
    "langfuse.observation.type": {
        "generation": "llm", "agent": "agent", "tool": "tool", "retriever": "retrieval", "chain": "chain",
    },
    "traceloop.span.kind": {"workflow": "chain", "task": "chain", "agent": "agent", "tool": "tool"},
}  # fmt: skip
_CONTENT = (
    "llm.input_messages", "llm.output_messages", "llm.tools", "llm.prompt_template", "llm.prompts", "llm.completions",
    "gen_ai.prompt", "gen_ai.completion", "gen_ai.input", "gen_ai.output", "gen_ai.system_instructions",
    "gen_ai.tool.call.arguments", "gen_ai.tool.call.result", "gen_ai.tool.definitions", "gen_ai.tool.description",
    "gen_ai.retrieval", "retrieval.documents", "reranker.", "embedding.", "input.value", "output.value",
    "tool.parameters", "tool.description", "langfuse.observation.input", "langfuse.observation.output",
    "langfuse.trace.input", "langfuse.trace.output", "traceloop.entity.input", "traceloop.entity.output",
    "driftwheel.", "telemetry.", "process.", "host.", "os.", "exception.",
)  # fmt: skip
_CONSUMED = {*_SESSION, *_USER, *_AGENT, *_TOOL, *_KINDS, *_INPUT_TOKENS, *_OUTPUT_TOKENS} | {
    name for names in _WORDS.values() for name in names
}
_STATUS = {0: "unset", 1: "ok", 2: "error"}


def spans_of(message: Message, tenant: str, skew: float) -> list[Draft | Invalid]:
    """A request's spans as drafts, in order; Invalid in place of a span that is not one.

    Raises Invalid when the bytes are not an ExportTraceServiceRequest.
    """
    request = ExportTraceServiceRequest()
    try:
        request.ParseFromString(message.value)
    except DecodeError as error:
        raise Invalid(
            "damaged_otlp",
            f"{len(message.value)} bytes are no ExportTraceServiceRequest: cut short, another message, or not UTF-8",
        ) from error
    parsed = list(_parsed(request, message, tenant, skew))
    if not parsed and message.value:
        raise Invalid("damaged_otlp", f"{len(message.value)} bytes hold no span")
    _inherit([draft for draft in parsed if isinstance(draft, Draft)])
    for draft in parsed:
        if isinstance(draft, Draft):
            draft.agent = draft.agent or draft.service or message.headers.get("agent", UNKNOWN)
    return parsed


def _parsed(request: Any, message: Message, tenant: str, skew: float) -> Iterator[Draft | Invalid]:
    item = 0
    for resource in request.resource_spans:
        shared = _values(resource.resource.attributes)
        for scope in resource.scope_spans:
            for span in scope.spans:
                wrong = _wrong(span)
                place = f"span {item} of the request: {wrong}"
                yield Invalid("invalid_span", place) if wrong else _draft(span, shared, item, message, tenant, skew)
                item += 1


def _wrong(span: Any) -> str:
    for name, size in (("trace_id", 16), ("span_id", 8)):
        value = getattr(span, name)
        if len(value) != size or not any(value):
            return f"{name} must be {size} bytes that are not all zero, not {len(value)} bytes"
    if span.parent_span_id and len(span.parent_span_id) != 8:
        return f"parent_span_id must be 8 bytes or none, not {len(span.parent_span_id)} bytes"
    return ""


def _draft(span: Any, shared: Values, item: int, message: Message, tenant: str, skew: float) -> Draft:
    values = _values(span.attributes)
    events = [(event.name, _values(event.attributes)) for event in span.events]
    kind = kind_of(values)
    trace_id, span_id = span.trace_id.hex(), span.span_id.hex()
    time, off = settled_time(_instant(span.start_time_unix_nano), message.time, skew)
    said = {**shared, **values}
    service = _named(shared, ("service.name",))
    return Draft(
        kind=Span,
        tenant=tenant,
        event_id=identity("span", tenant, trace_id, span_id),
        message=message.origin,
        item=item,
        agent=_named(said, _AGENT),
        event_time=time,
        facts={
            "trace_id": trace_id,
            "span_id": span_id,
            "parent_span_id": span.parent_span_id.hex(),
            "kind": kind,
            "status": _STATUS.get(span.status.code, "unset"),
            "duration_us": max(span.end_time_unix_nano - span.start_time_unix_nano, 0) // 1000
            if span.end_time_unix_nano and span.start_time_unix_nano
            else 0,
            "received_time": message.time,
            **_numbers(values),
        },
        ids={"session_id": _named(said, _SESSION)},
        words={field: _named(values, names) for field, names in _WORDS.items()}
        | {"name": scrubbed(span.name), "tool_name": _tool(kind, values, span.name)},
        texts={
            "input": scrubbed(input_of(kind, values, events)),
            "output": scrubbed(output_of(kind, values, events)),
            "status_message": scrubbed(_problem(span, events)),
            "category": _named(values, ("driftwheel.category",)),
        },
        attributes=_kept(said) | ({"driftwheel.clock_skew": off} if off else {}),
        service="" if service.startswith("unknown_service") else service,
        user=_named(said, _USER),
        store=consent(said.get("driftwheel.consent.store")),
        train=consent(said.get("driftwheel.consent.train")),
    )


def _inherit(drafts: Iterable[Draft]) -> None:
    traces: dict[str, list[Draft]] = {}
    for draft in drafts:
        traces.setdefault(draft.facts["trace_id"], []).append(draft)
    for spans in traces.values():
        by_rank = sorted(spans, key=lambda one: bool(one.facts["parent_span_id"]))
        session = next((one.session for one in by_rank if one.session), "")
        user = next((one.user for one in by_rank if one.user), "")
        tops = [one for one in spans if not one.facts["parent_span_id"]] or spans
        agent = next((one.agent for one in tops if one.agent), "")
        store = next((one.store for one in by_rank if one.store is not None), None)
        train = next((one.train for one in by_rank if one.train is not None), None)
        for one in spans:
            one.ids["session_id"] = one.session or session
            one.user, one.agent = one.user or user, one.agent or agent
            one.store = store if one.store is None else one.store
            one.train = train if one.train is None else one.train


def kind_of(values: Values) -> SpanKind:
    """What a span does, by whatever names it is told; ``other`` when nothing tells."""
    for name, kinds in _KINDS.items():
        if name in values:
            found = kinds.get(str(values[name]).lower())
            if found or name == "openinference.span.kind":
                return found or "other"
    if "gen_ai.tool.name" in values or "tool.name" in values:
        return "tool"
    if any(name in values for name in ("llm.model_name", "gen_ai.request.model", "gen_ai.prompt.0.content")):
        return "llm" if "embedding.model_name" not in values else "other"
    return "retrieval" if retrieved(values) else "other"


def _tool(kind: SpanKind, values: Values, name: str) -> str:
    if kind != "tool":
        return _named(values, ("gen_ai.tool.name", "tool.name"))
    return _named(values, _TOOL) or scrubbed(name.removeprefix("execute_tool "))


def _problem(span: Any, events: Iterable[tuple[str, Values]]) -> str:
    raised = (str(values.get("exception.message", "")) for name, values in events if name == "exception")
    return span.status.message or next((text for text in raised if text), "")


def _numbers(values: Values) -> Values:
    documents = retrieved(values)
    scores = [score for score in (_number(one.get("score")) for one in documents) if score is not None]
    return {
        "input_tokens": _count(values, _INPUT_TOKENS),
        "output_tokens": _count(values, _OUTPUT_TOKENS),
        "logprob_top1": _number(values.get("driftwheel.logprobs.top1")),
        "logprob_top2": _number(values.get("driftwheel.logprobs.top2")),
        "retrieval_score": max(scores, default=None),
        "retrieval_documents": len(documents),
    }


def _number(value: Any) -> float | None:
    try:
        number = float(value) if isinstance(value, (int, float, str)) and not isinstance(value, bool) else math.nan
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _count(values: Values, names: Iterable[str]) -> int:
    found = (_number(values.get(name)) for name in names)
    return next((min(max(int(n), 0), 2**31 - 1) for n in found if n is not None), 0)


def _named(values: Values, names: Iterable[str]) -> str:
    found = (values.get(name) for name in names)
    return next((scrubbed(str(one)) for one in found if isinstance(one, (str, int)) and one != ""), "")


def _kept(values: Values) -> dict[str, str]:
    """Scalar attributes that nothing else takes, by name."""
    kept = {
        scrubbed(key): scrubbed(str(value))
        for key, value in sorted(values.items())
        if isinstance(value, (str, int, float, bool)) and key not in _CONSUMED and not key.startswith(_CONTENT)
    }
    short = {key: text for key, text in kept.items() if len(text) <= MAX_ATTRIBUTE and len(key) <= KEPT_ATTRIBUTE}
    return dict(list(short.items())[:MAX_ATTRIBUTES])


def _values(attributes: Iterable[Any]) -> Values:
    return {one.key: _value(one.value) for one in attributes}


def _value(value: Any) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [_value(one) for one in value.array_value.values]
    if kind == "kvlist_value":
        return _values(value.kvlist_value.values)
    return None if kind in (None, "bytes_value") else getattr(value, kind)


def _instant(nanos: int) -> datetime | None:
    """An instant of OTLP; None when it was not set."""
    return (EPOCH + timedelta(microseconds=nanos // 1000)).astimezone(UTC) if nanos else None
