"""OTLP/HTTP 1.x: ``POST /v1/traces`` in protobuf or JSON, gzip or plain, appended to the raw topic unchanged.

A 2xx is sent only when the log has the request. Spans with malformed ids are rejected one by one (partial success);
everything that cannot be read at all gets a 4xx with a ``google.rpc.Status`` that names the field. Under pressure:
503 with Retry-After, and nothing was taken (OpenTelemetry protocol specification, "OTLP/HTTP").
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime, timedelta
from functools import partial
from typing import Any

from anyio import to_thread
from google.protobuf import json_format
from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from starlette.requests import Request
from starlette.responses import Response

from connectors.http import HttpError, check_agents, json_of, media_type, read_body, retry_after, tenant_of
from connectors.log import Entry, Log, entry_of
from schemas.errors import Invalid, Reject
from schemas.events import LedgerEntry, identity
from schemas.topics import OTLP_SPANS

PROTOBUF, JSON = "application/x-protobuf", "application/json"
AGENT_NAMES = ("driftwheel.agent", "gen_ai.agent.name", "service.name")
SERVICE = "service.name"
NAMING = ("driftwheel.agent", "gen_ai.agent.name", "agent.name")
"""Attributes of resources and spans that name an agent; redaction reads the same."""
ID_FIELDS = ("traceId", "spanId", "parentSpanId")
NO_ID = base64.b64encode(b"?").decode()
"""What stands for an id that is not hexadecimal: of a length that no id has."""
RPC_CODES = {413: 8, 503: 14}
"""google.rpc.Code by HTTP status: RESOURCE_EXHAUSTED, UNAVAILABLE; else INVALID_ARGUMENT, 3."""


def accept_traces(
    body: bytes,
    content_type: str,
    tenant: str,
    now: datetime,
    log: Log,
    check: Callable[[Iterable[str]], None] = lambda _: None,
) -> tuple[int, str]:
    """Append one export request; returns (rejected spans, why the first was). Raises Invalid or Reject.

    ``check`` is told of every agent that the request names, and may refuse.
    """
    request = request_from_json(body) if content_type == JSON else _from_protobuf(body)
    check(_agents(request))
    spans, rejected, why = _check(request)
    if spans:
        value = request.SerializeToString() if rejected or content_type == JSON else body
        agent = _agent(request)
        headers = {"tenant": tenant, "agent": agent, "ledger": "gateway"}
        raw = Entry(OTLP_SPANS.name, f"{tenant}/{agent}", value, now, headers)
        log.append([raw, accepted(body, "traces", spans, tenant, agent, now)])
    return rejected, _as_in_json(why) if content_type == JSON else why


def accepted(body: bytes, source: str, count: int, tenant: str, agent: str, now: datetime) -> Entry:
    """The ledger's entry for one accepted request, appended together with it."""
    minute = now - timedelta(seconds=now.second, microseconds=now.microsecond)
    event_id = identity("accepted", hashlib.sha256(body).hexdigest(), now.isoformat())
    record = LedgerEntry(
        event_id=event_id, tenant=tenant, agent=agent, event_time=minute, entry="accepted", source=source, count=count
    )
    return entry_of(record, now)


def _from_protobuf(body: bytes) -> ExportTraceServiceRequest:
    try:
        return ExportTraceServiceRequest.FromString(body)
    except (DecodeError, RecursionError) as error:
        raise Invalid("not_otlp", "body: not a whole ExportTraceServiceRequest in protobuf; was it cut?") from error


def request_from_json(body: bytes) -> ExportTraceServiceRequest:
    """An export request from OTLP/JSON, where ids are hexadecimal. Raises Invalid naming the field.

    An id that is not hexadecimal becomes one that no span may have, so that it costs its span and no other.
    """
    document = json_of(body)
    if not isinstance(document, dict):
        raise Invalid("not_otlp", "body: expected a JSON object with resourceSpans")
    for span in _json_spans(document):
        span.update({name: _base64_id(span[name]) for name in ID_FIELDS if name in span})
    try:
        return json_format.ParseDict(document, ExportTraceServiceRequest(), ignore_unknown_fields=True)
    except (json_format.ParseError, ValueError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise Invalid("not_otlp", f"{_field_of(str(error))}: not OTLP/JSON") from error


def _field_of(problem: str) -> str:
    """The field that a parse error is about: schema names only, the rest of its text may quote the request.

    >>> _field_of("Failed to parse resourceSpans field: Failed to parse resource field: secret")
    'resourceSpans.resource'
    """
    named = re.match(r"(?:Failed to parse \w+ field: )*", problem)
    return ".".join(re.findall(r"parse (\w+) field", named[0])[:8]) if named and named[0] else "body"


def _json_spans(document: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for resource in _objects(document, "resourceSpans"):
        for scope in _objects(resource, "scopeSpans"):
            for span in _objects(scope, "spans"):
                yield span
                yield from _objects(span, "links")


def _objects(parent: dict[str, Any], name: str) -> list[dict[str, Any]]:
    children: Any = parent.get(name, [])
    return [child for child in children if isinstance(child, dict)] if isinstance(children, list) else []


def _base64_id(value: Any) -> str:
    try:
        return base64.b64encode(binascii.unhexlify(value or "")).decode()
    except (ValueError, TypeError):
        return NO_ID


def _check(request: ExportTraceServiceRequest) -> tuple[int, int, str]:
    """Drops spans with malformed ids from the request; returns (good, dropped, why the first was)."""
    good, dropped, why = 0, 0, ""
    for r, resource in enumerate(request.resource_spans):
        for s, scope in enumerate(resource.scope_spans):
            total = len(scope.spans)
            n, problem = next(((n, p) for n, span in enumerate(scope.spans) if (p := _problem(span))), (0, ""))
            if problem:
                why = why or f"resource_spans[{r}].scope_spans[{s}].spans[{n}].{problem}"
                kept = [span for span in scope.spans if not _problem(span)]
                del scope.spans[:]
                scope.spans.extend(kept)
            good += len(scope.spans)
            dropped += total - len(scope.spans)
    return good, dropped, why


def _problem(span: Span) -> str:
    if len(span.trace_id) != 16 or not any(span.trace_id):
        return "trace_id: must be 16 bytes (32 hexadecimal digits), not all zero"
    if len(span.span_id) != 8 or not any(span.span_id):
        return "span_id: must be 8 bytes (16 hexadecimal digits), not all zero"
    if len(span.parent_span_id) not in (0, 8):
        return "parent_span_id: must be 8 bytes (16 hexadecimal digits) or none"
    return ""


def _as_in_json(why: str) -> str:
    """The same place in the names of JSON.

    >>> _as_in_json("resource_spans[0].scope_spans[1].spans[2].trace_id: must be ...")
    'resourceSpans[0].scopeSpans[1].spans[2].traceId: must be ...'
    """
    place, colon, rest = why.partition(":")
    return re.sub("_([a-z])", lambda found: found[1].upper(), place) + colon + rest


def _agents(request: ExportTraceServiceRequest) -> Iterator[str]:
    """Every agent that a request names; ``service.name`` counts where nothing else names one."""
    for resource in request.resource_spans:
        told = {a.key: a.value.string_value for a in resource.resource.attributes if a.key in (*NAMING, SERVICE)}
        named = [told[name] for name in NAMING if told.get(name)]
        for scope in resource.scope_spans:
            for span in scope.spans:
                own = [a.value.string_value for a in span.attributes if a.key in NAMING and a.value.string_value]
                yield from own or named or [told.get(SERVICE, "unknown")]


def _agent(request: ExportTraceServiceRequest) -> str:
    for resource in request.resource_spans:
        found = {a.key: a.value.string_value for a in resource.resource.attributes if a.key in AGENT_NAMES}
        for name in AGENT_NAMES:
            if found.get(name):
                return found[name][:100]
    return "unknown"


class TracesEndpoint:
    """The handler of ``POST /v1/traces``."""

    def __init__(self, log: Log, clock: Callable[[], datetime], max_body: int) -> None:
        self._log, self._clock, self._max_body = log, clock, max_body

    async def __call__(self, request: Request) -> Response:
        """Answer in the request's own encoding."""
        kind = media_type(request)
        try:
            _check_kind(kind)
            tenant = tenant_of(request)
            body = await read_body(request, self._max_body)
            check, now = partial(check_agents, request), self._clock()
            rejected, why = await to_thread.run_sync(accept_traces, body, kind, tenant, now, self._log, check)
        except HttpError as error:
            return _status(error.status, error.message, kind)
        except Invalid as error:
            return _status(400, error.detail, kind)
        except Reject as error:
            return _status(503, str(error), kind, retry_after(error))
        return _success(rejected, why, kind)


def _check_kind(kind: str) -> None:
    if kind not in (PROTOBUF, JSON):
        raise HttpError(415, f"content-type: {kind[:60]!r} is not supported; send {PROTOBUF} or {JSON}")


def _success(rejected: int, why: str, kind: str) -> Response:
    response = ExportTraceServiceResponse()
    if rejected:
        response.partial_success.rejected_spans = rejected
        response.partial_success.error_message = why
    if kind == JSON:
        return Response(json_format.MessageToJson(response, indent=None), media_type=JSON)
    return Response(response.SerializeToString(), media_type=PROTOBUF)


def _status(code: int, message: str, kind: str, headers: dict[str, str] | None = None) -> Response:
    """A google.rpc.Status: in protobuf ``code`` is field 1, a number, and ``message`` field 2, a string."""
    number = RPC_CODES.get(code, 3)
    if kind != PROTOBUF:
        return Response(json.dumps({"code": number, "message": message}), code, headers, JSON)
    text = message.encode()
    return Response(b"\x08" + _varint(number) + b"\x12" + _varint(len(text)) + text, code, headers, PROTOBUF)


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*out, number])
