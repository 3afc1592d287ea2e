"""OTLP requests to drafts of spans and signals: GenAI conventions old and new, OpenInference, Langfuse, Traceloop.

Unknown attributes are tolerated. What only the root of a trace says (session, user, agent, consent) holds for the
other spans of the trace in the same request.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any

from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from processors.redact.bodies import Values
from processors.redact.drafts import Draft, Read, consent, scrubbed, settled_time
from processors.redact.feedback import EVENT, Around, Target, draft_of, event_verdict, feedback_of, with_feedback
from processors.redact.figures import NUMBER_ATTRIBUTES, figures_of
from processors.redact.messages import CONTENT, told, word_for
from processors.redact.names import (
    AGENT,
    CONSUMED,
    WORDS,
    is_session_or_user,
    kind_of,
    named,
    session_of,
    tool_of,
    user_of,
)  # fmt: skip
from processors.redact.retrievals import MAX_DOCUMENTS, TOOL_ATTRIBUTES, found_documents, offered_tools
from processors.stage import UNKNOWN, Message
from schemas.errors import Invalid
from schemas.events import EPOCH, Span, identity

MAX_ATTRIBUTES = 64
MAX_ATTRIBUTE = 4_096
KEPT_ATTRIBUTE = 512
"""At most so many attributes are kept; longer ones than the second are left out, what is kept is cut to the third."""

_CONTENT = {*CONTENT, *TOOL_ATTRIBUTES, "logfire.json_schema"}
_PREFIXES = (
    *(f"{name}." for name in sorted(_CONTENT)),
    "llm.prompt_template", "gen_ai.system_instructions", "gen_ai.tool.description", "gen_ai.retrieval",
    "retrieval.documents", "reranker.", "embedding.", "tool.parameters", "tool.description", "ai.embedding", "ai.value",
    "langfuse.observation.usage_details", "langfuse.observation.cost_details",
    "driftwheel.", "telemetry.", "process.", "host.", "os.", "exception.", "annotations.", "evaluations.",
    "trace.annotations.", "trace.evaluations.", "session.annotations.", "session.evaluations.",
)  # fmt: skip
_TAKEN = CONSUMED | NUMBER_ATTRIBUTES
_STATUS = {0: "unset", 1: "ok", 2: "error"}
_MESSAGE_EVENTS = frozenset({
    "gen_ai.system.message", "gen_ai.user.message", "gen_ai.assistant.message", "gen_ai.tool.message", "gen_ai.choice",
    "gen_ai.content.prompt", "gen_ai.content.completion", "gen_ai.client.inference.operation.details",
})  # fmt: skip
"""Log events that hold what was said: it is taken from spans alone."""


def spans_of(message: Message, tenant: str, skew: float) -> Read:
    """A request's spans as drafts, in order; Invalid in place of a span that is not one. Then their feedback.

    Raises Invalid when the bytes are not an ExportTraceServiceRequest.
    """
    request = _request(ExportTraceServiceRequest(), message)
    parsed = list(_parsed(request, message, tenant, skew))
    if not parsed and message.value:
        raise Invalid("damaged_otlp", f"{len(message.value)} bytes hold no span")
    _inherit([draft for draft in parsed if isinstance(draft, Draft)])
    for draft in parsed:
        if isinstance(draft, Draft):
            draft.agent = draft.agent or draft.service or message.headers.get("agent", UNKNOWN)
    return with_feedback(parsed, message.time, skew)


def _request(request: Any, message: Message) -> Any:
    """The message's bytes as a request of this kind. Raises Invalid."""
    try:
        request.ParseFromString(message.value)
    except DecodeError as error:
        name = request.DESCRIPTOR.name
        raise Invalid(
            "damaged_otlp", f"{len(message.value)} bytes are no {name}: cut short, another message, or not UTF-8"
        ) from error
    return request


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
    kind = kind_of(values, events)
    spoken, documents = told(kind, values, events), found_documents(values, events)
    trace_id, span_id = span.trace_id.hex(), span.span_id.hex()
    time, off = settled_time(_instant(span.start_time_unix_nano), message.time, skew)
    said = {**shared, **values}
    service = named(shared, ("service.name",))
    return Draft(
        kind=Span,
        tenant=tenant,
        event_id=identity("span", tenant, trace_id, span_id),
        message=message.origin,
        item=item,
        agent=named(said, AGENT),
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
            **figures_of(values, documents),
        },
        ids={"session_id": session_of(said)},
        words={field: named(values, names) for field, names in WORDS.items()}
        | {"name": scrubbed(span.name), "tool_name": tool_of(kind, values, span.name)},
        lists={
            "tools": _scrubbed(offered_tools(values)),
            "called_tools": _scrubbed(spoken.calls),
            "document_ids": _scrubbed(one.id for one in documents[:MAX_DOCUMENTS]),
        },
        texts={
            "input": scrubbed(spoken.input),
            "output": scrubbed(spoken.output),
            "status_message": scrubbed(_problem(span, events)),
            "category": named(values, ("driftwheel.category",)),
        },
        attributes=_kept(said) | ({"driftwheel.clock_skew": off} if off else {}),
        service="" if service.startswith("unknown_service") else service,
        user=user_of(said),
        store=consent(said.get("driftwheel.consent.store")),
        train=consent(said.get("driftwheel.consent.train")),
        evaluate=consent(said.get("driftwheel.consent.evaluate")),
        feedback=feedback_of(values, events, [_instant(event.time_unix_nano) for event in span.events]),
        links=[(link.trace_id.hex(), link.span_id.hex()) for link in span.links],
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
        evaluate = next((one.evaluate for one in by_rank if one.evaluate is not None), None)
        for one in spans:
            one.ids["session_id"] = one.session or session
            one.user, one.agent = one.user or user, one.agent or agent
            one.store = store if one.store is None else one.store
            one.train = train if one.train is None else one.train
            one.evaluate = evaluate if one.evaluate is None else one.evaluate


def _problem(span: Any, events: Iterable[tuple[str, Values]]) -> str:
    raised = (str(values.get("exception.message", "")) for name, values in events if name == "exception")
    return span.status.message or next((text for text in raised if text), "")


def _kept(values: Values) -> dict[str, str]:
    """Scalar attributes that nothing else takes, by name."""
    kept = {
        scrubbed(key): scrubbed(str(value))
        for key, value in sorted(values.items())
        if isinstance(value, (str, int, float, bool)) and not _is_elsewhere(key)
    }
    short = {key: text for key, text in kept.items() if len(text) <= MAX_ATTRIBUTE and len(key) <= KEPT_ATTRIBUTE}
    return dict(list(short.items())[:MAX_ATTRIBUTES])


@lru_cache(8_192)
def _is_elsewhere(name: str) -> bool:
    """Whether what an attribute says is in a field of its own, or is content that no field needs."""
    if name in _TAKEN or name in _CONTENT or name.startswith(_PREFIXES) or "logprobs" in name:
        return True
    return bool(word_for(name)) or is_session_or_user(name)


def _scrubbed(texts: Iterable[str]) -> list[str]:
    return [scrubbed(text) for text in texts]


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


def logs_of(message: Message, tenant: str, skew: float) -> Read:
    """A request's evaluation events as drafts of signals, in order; Invalid in place of one that is wrong.

    Other log records are not for us. Raises Invalid when the bytes are not an ExportLogsServiceRequest.
    """
    request = _request(ExportLogsServiceRequest(), message)
    read = Read([])
    for resource in request.resource_logs:
        shared = _values(resource.resource.attributes)
        for scope in resource.scope_logs:
            for record in scope.log_records:
                _read_record(record, shared, read, message, tenant, skew)
    if message.value and not read.drafts and not read.others:
        raise Invalid("damaged_otlp", f"{len(message.value)} bytes hold no log record")
    return read


def _read_record(record: Any, shared: Values, read: Read, message: Message, tenant: str, skew: float) -> None:
    body: Any = _value(record.body)
    values = {**(body if isinstance(body, dict) else {}), **_values(record.attributes)}
    name = record.event_name or str(values.get("event.name", ""))
    if name != EVENT:
        reason = "message_event" if name in _MESSAGE_EVENTS else "not_feedback"
        read.others[reason] = read.others.get(reason, 0) + 1
        return
    said, item = {**shared, **values}, len(read.drafts)
    around = Around(
        tenant=tenant, message=message.origin, item=item, received=message.time, skew=skew,
        time=_instant(record.time_unix_nano or record.observed_time_unix_nano), agent=named(said, AGENT),
        user=user_of(said), store=consent(said.get("driftwheel.consent.store")),
        train=consent(said.get("driftwheel.consent.train")),
        evaluate=consent(said.get("driftwheel.consent.evaluate")),
        attributes={"service.name": named(shared, ("service.name",))},
    )  # fmt: skip
    target = Target(
        "span" if record.span_id else "trace", session_of(said), record.trace_id.hex(), record.span_id.hex(),
        named(values, ("gen_ai.response.id",)),
    )  # fmt: skip
    try:
        read.drafts.append(draft_of(event_verdict(values), target, around))
    except Invalid as error:
        read.drafts.append(Invalid(error.reason, f"item {item}, an evaluation event: {error.detail}"))
