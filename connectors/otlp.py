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
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
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

from connectors.http import HttpError, media_type, read_body, tenant_of
from connectors.log import Entry, Log, entry_of
from schemas.errors import Invalid, Reject
from schemas.events import LedgerEntry, identity
from schemas.topics import OTLP_SPANS

PROTOBUF, JSON = "application/x-protobuf", "application/json"
AGENT_NAMES = ("driftwheel.agent", "gen_ai.agent.name", "service.name")
ID_FIELDS = {"traceId": 16, "spanId": 8, "parentSpanId": 8}


def accept_traces(body: bytes, content_type: str, tenant: str, now: datetime, log: Log) -> tuple[int, str]:
    """Append one export request; returns (rejected spans, why the first was). Raises Invalid or Reject."""
    request = request_from_json(body) if content_type == JSON else _from_protobuf(body)
    spans, rejected, why = _check(request)
    if spans:
        value = request.SerializeToString() if rejected or content_type == JSON else body
        agent = _agent(request)
        headers = {"tenant": tenant, "agent": agent, "ledger": "gateway"}
        raw = Entry(OTLP_SPANS.name, f"{tenant}/{agent}", value, now, headers)
        log.append([raw, accepted(body, "traces", spans, tenant, agent, now)])
    return rejected, why


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
    """An export request from OTLP/JSON, where ids are hexadecimal. Raises Invalid naming the field."""
    try:
        document = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise Invalid("not_json", "body: not JSON") from error
    if not isinstance(document, dict):
        raise Invalid("not_otlp", "body: expected a JSON object with resourceSpans")
    for place, span in _json_spans(document):
        for field, size in ID_FIELDS.items():
            if field in span:
                span[field] = _base64_id(span[field], f"{place}.{field}", size)
    try:
        return json_format.ParseDict(document, ExportTraceServiceRequest(), ignore_unknown_fields=True)
    except (json_format.ParseError, ValueError, TypeError, AttributeError, RecursionError) as error:
        field = str(error).partition(":")[0][:120] if "field" in str(error) else "body"
        raise Invalid("not_otlp", f"{field}: not OTLP/JSON") from error


def _json_spans(document: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for r, resource in enumerate(_objects(document, "resourceSpans")):
        for s, scope in enumerate(_objects(resource, "scopeSpans")):
            for n, span in enumerate(_objects(scope, "spans")):
                yield f"resourceSpans[{r}].scopeSpans[{s}].spans[{n}]", span
                for k, link in enumerate(_objects(span, "links")):
                    yield f"resourceSpans[{r}].scopeSpans[{s}].spans[{n}].links[{k}]", link


def _objects(parent: dict[str, Any], name: str) -> list[dict[str, Any]]:
    children: Any = parent.get(name, [])
    return [child for child in children if isinstance(child, dict)] if isinstance(children, list) else []


def _base64_id(value: Any, place: str, size: int) -> str:
    try:
        raw = binascii.unhexlify(value)
    except (ValueError, TypeError) as error:
        raise Invalid("bad_id", f"{place}: must be {2 * size} hexadecimal digits") from error
    return base64.b64encode(raw).decode()


def _check(request: ExportTraceServiceRequest) -> tuple[int, int, str]:
    """Drops spans with malformed ids from the request; returns (good, dropped, why the first was)."""
    good, dropped, why = 0, 0, ""
    for r, resource in enumerate(request.resource_spans):
        for s, scope in enumerate(resource.scope_spans):
            wrong = [(n, problem) for n, span in enumerate(scope.spans) if (problem := _problem(span))]
            if wrong and not why:
                why = f"resource_spans[{r}].scope_spans[{s}].spans[{wrong[0][0]}].{wrong[0][1]}"
            for n, _ in reversed(wrong):
                del scope.spans[n]
            dropped += len(wrong)
            good += len(scope.spans)
    return good, dropped, why


def _problem(span: Span) -> str:
    if len(span.trace_id) != 16 or not any(span.trace_id):
        return "trace_id: must be 16 bytes, not all zero"
    if len(span.span_id) != 8 or not any(span.span_id):
        return "span_id: must be 8 bytes, not all zero"
    return ""


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
            rejected, why = await to_thread.run_sync(accept_traces, body, kind, tenant, self._clock(), self._log)
        except HttpError as error:
            return _status(error.status, error.message, kind)
        except Invalid as error:
            return _status(400, error.detail, kind)
        except Reject as error:
            return _status(503, str(error), kind, {"retry-after": str(max(1, round(error.retry_after)))})
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
    """A google.rpc.Status: in protobuf its ``message`` is field 2, a string."""
    if kind != PROTOBUF:
        return Response(json.dumps({"message": message}), code, headers, JSON)
    text = message.encode()
    return Response(b"\x12" + _varint(len(text)) + text, code, headers, PROTOBUF)


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*out, number])
