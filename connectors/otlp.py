"""OTLP/HTTP 1.x: ``POST /v1/traces`` and ``/v1/logs`` in protobuf or JSON, gzip or plain, appended raw and unchanged.

A 2xx is sent only when the log has the request. Records with malformed ids are rejected one by one (partial success);
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
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import Any

from anyio import to_thread
from google.protobuf import json_format
from google.protobuf.message import DecodeError, Message
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest, ExportLogsServiceResponse
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from starlette.requests import Request
from starlette.responses import Response

from connectors.http import HttpError, check_agents, json_of, media_type, read_body, retry_after, tenant_of
from connectors.log import Entry, Log, entry_of
from schemas.errors import Invalid, Reject
from schemas.events import LedgerEntry, identity
from schemas.tenants import plain_agent
from schemas.topics import OTLP_LOGS, OTLP_SPANS, Topic

PROTOBUF, JSON = "application/x-protobuf", "application/json"
AGENT_NAMES = ("driftwheel.agent", "gen_ai.agent.name", "service.name")
SERVICE = "service.name"
NAMING = ("driftwheel.agent", "gen_ai.agent.name", "agent.name")
"""Attributes of resources and spans that name an agent; redaction reads the same."""
ID_FIELDS = ("traceId", "spanId", "parentSpanId", "trace_id", "span_id", "parent_span_id")
NO_ID = base64.b64encode(b"?").decode()
"""What stands for an id that is not hexadecimal: of a length that no id has."""
RPC_CODES = {413: 8, 503: 14}
"""google.rpc.Code by HTTP status: RESOURCE_EXHAUSTED, UNAVAILABLE; else INVALID_ARGUMENT, 3."""


def _said_nothing(_: Iterable[str]) -> None:
    """Every agent may be named."""


@dataclass(frozen=True, slots=True)
class Export:
    """One kind of OTLP request: where it goes, and what its parts are called.

    ``outer``, ``middle`` and ``inner``: its repeated fields, from resources to records; ``older``: a former name of
    ``middle`` in JSON. ``rejected``: the field of
    ``response.partial_success`` that counts. ``problem`` says what is wrong with a record, or nothing. ``source``:
    what the ledger calls it.
    """

    source: str
    topic: Topic
    request: type[Message]
    response: type[Message]
    outer: str
    middle: str
    older: str
    inner: str
    rejected: str
    problem: Callable[[Any], str]

    def accept(
        self,
        body: bytes,
        content_type: str,
        tenant: str,
        now: datetime,
        log: Log,
        check: Callable[[Iterable[str]], None] = _said_nothing,
    ) -> tuple[int, str]:
        """Append one export request; returns (rejected records, why the first was). Raises Invalid or Reject.

        ``check`` is told of every agent that the request names, and may refuse.
        """
        request = self.from_json(body) if content_type == JSON else self._from_protobuf(body)
        check(self._agents(request))
        good, rejected, why = self.drop_malformed(request)
        if good:
            value = request.SerializeToString() if rejected or content_type == JSON else body
            agent = plain_agent(self._agent(request))
            headers = {"tenant": tenant, "agent": agent, "ledger": "gateway"}
            raw = Entry(self.topic.name, f"{tenant}/{agent}", value, now, headers)
            log.append([raw, accepted(body, self.source, good, tenant, agent, now)])
        return rejected, as_in_json(why) if content_type == JSON else why

    def answer(self, rejected: int, why: str) -> Any:
        """The response: empty, or with the records that were rejected and why the first was."""
        response: Any = self.response()
        if rejected:
            setattr(response.partial_success, self.rejected, rejected)
            response.partial_success.error_message = why
        return response

    def _from_protobuf(self, body: bytes) -> Any:
        try:
            return self.request.FromString(body)
        except (DecodeError, RecursionError) as error:
            name = self.request.DESCRIPTOR.name
            raise Invalid("not_otlp", f"body: not a whole {name} in protobuf; was it cut?") from error

    def from_json(self, body: bytes) -> Any:
        """A request from OTLP/JSON, where ids are hexadecimal. Raises Invalid naming the field.

        An id that is not hexadecimal becomes one that no record may have, so that it costs its record and no other.
        """
        document = json_of(body)
        if not isinstance(document, dict):
            raise Invalid("not_otlp", f"body: expected a JSON object with {_camel(self.outer)}")
        return self.from_document(document)

    def from_document(self, document: dict[str, Any]) -> Any:
        """The same, from the JSON object that was read; its ids are rewritten in place."""
        self._rename_older(document)
        for record in self._json_records(document):
            record.update({name: _base64_id(record[name]) for name in ID_FIELDS if name in record})
        try:
            return json_format.ParseDict(document, self.request(), ignore_unknown_fields=True)
        except (json_format.ParseError, ValueError, TypeError, AttributeError, OverflowError, RecursionError) as error:
            raise Invalid("not_otlp", f"{_field_of(str(error))}: not OTLP/JSON") from error

    def _rename_older(self, document: dict[str, Any]) -> None:
        """Before OTLP 0.15 a scope was an instrumentation library; those names are rewritten in place."""
        for resource in _objects(document, self.outer):
            for older in (_camel(self.older), self.older):
                scopes: Any = resource.pop(older, None)
                for scope in scopes if isinstance(scopes, list) else []:
                    if isinstance(scope, dict):
                        scope["scope"] = scope.pop("instrumentationLibrary", scope.pop("instrumentation_library", {}))
                if scopes is not None:
                    resource.setdefault(_camel(self.middle), scopes)

    def _json_records(self, document: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """Whatever has ids: records, and the links of spans. Names are protobuf's own (``trace_id``) or JSON's."""
        for resource in _objects(document, self.outer):
            for scope in _objects(resource, self.middle):
                for record in _objects(scope, self.inner):
                    yield record
                    yield from _objects(record, "links")

    def drop_malformed(self, request: Any) -> tuple[int, int, str]:
        """Drops records with malformed ids from the request; returns (good, dropped, why the first was)."""
        good, dropped, why = 0, 0, ""
        for r, resource in enumerate(getattr(request, self.outer)):
            for s, scope in enumerate(getattr(resource, self.middle)):
                records = getattr(scope, self.inner)
                total = len(records)
                n, wrong = next(((n, p) for n, one in enumerate(records) if (p := self.problem(one))), (0, ""))
                if wrong:
                    why = why or f"{self.outer}[{r}].{self.middle}[{s}].{self.inner}[{n}].{wrong}"
                    kept = [one for one in records if not self.problem(one)]
                    del records[:]
                    records.extend(kept)
                good += len(records)
                dropped += total - len(records)
        return good, dropped, why

    def _agents(self, request: Any) -> Iterator[str]:
        """Every agent that a request names; ``service.name`` counts where nothing else names one."""
        for resource in getattr(request, self.outer):
            told = {a.key: a.value.string_value for a in resource.resource.attributes if a.key in (*NAMING, SERVICE)}
            named = [told[name] for name in NAMING if told.get(name)]
            for scope in getattr(resource, self.middle):
                for record in getattr(scope, self.inner):
                    own = [a.value.string_value for a in record.attributes if a.key in NAMING and a.value.string_value]
                    yield from own or named or [told.get(SERVICE, "unknown")]

    def _agent(self, request: Any) -> str:
        for resource in getattr(request, self.outer):
            found = {a.key: a.value.string_value for a in resource.resource.attributes if a.key in AGENT_NAMES}
            for name in AGENT_NAMES:
                if found.get(name):
                    return found[name][:100]
        return "unknown"


def accepted(body: bytes, source: str, count: int, tenant: str, agent: str, now: datetime) -> Entry:
    """The ledger's entry for one accepted request, appended together with it."""
    minute = now - timedelta(seconds=now.second, microseconds=now.microsecond)
    event_id = identity("accepted", hashlib.sha256(body).hexdigest(), now.isoformat())
    record = LedgerEntry(
        event_id=event_id, tenant=tenant, agent=agent, event_time=minute, entry="accepted", source=source, count=count
    )
    return entry_of(record, now)


def _field_of(problem: str) -> str:
    """The field that a parse error is about: schema names only, the rest of its text may quote the request.

    >>> _field_of("Failed to parse resourceSpans field: Failed to parse resource field: secret")
    'resourceSpans.resource'
    """
    named = re.match(r"(?:Failed to parse \w+ field: )*", problem)
    return ".".join(re.findall(r"parse (\w+) field", named[0])[:8]) if named and named[0] else "body"


def _objects(parent: dict[str, Any], name: str) -> list[dict[str, Any]]:
    children: Any = parent.get(_camel(name), parent.get(name, []))
    return [child for child in children if isinstance(child, dict)] if isinstance(children, list) else []


def _base64_id(value: Any) -> str:
    try:
        return base64.b64encode(binascii.unhexlify(value or "")).decode()
    except (ValueError, TypeError):
        return NO_ID


def _span_problem(span: Any) -> str:
    if len(span.trace_id) != 16 or not any(span.trace_id):
        return "trace_id: must be 16 bytes (32 hexadecimal digits), not all zero"
    if len(span.span_id) != 8 or not any(span.span_id):
        return "span_id: must be 8 bytes (16 hexadecimal digits), not all zero"
    if len(span.parent_span_id) not in (0, 8):
        return "parent_span_id: must be 8 bytes (16 hexadecimal digits) or none"
    return ""


def _log_problem(record: Any) -> str:
    if len(record.trace_id) not in (0, 16):
        return "trace_id: must be 16 bytes (32 hexadecimal digits) or none"
    if len(record.span_id) not in (0, 8):
        return "span_id: must be 8 bytes (16 hexadecimal digits) or none"
    return ""


TRACES = Export(
    "traces", OTLP_SPANS, ExportTraceServiceRequest, ExportTraceServiceResponse,
    "resource_spans", "scope_spans", "instrumentation_library_spans", "spans", "rejected_spans", _span_problem,
)  # fmt: skip
LOGS = Export(
    "logs", OTLP_LOGS, ExportLogsServiceRequest, ExportLogsServiceResponse,
    "resource_logs", "scope_logs", "instrumentation_library_logs", "log_records", "rejected_log_records", _log_problem,
)  # fmt: skip
accept_traces, accept_logs = TRACES.accept, LOGS.accept


def as_in_json(why: str) -> str:
    """The same place in the names of JSON.

    >>> as_in_json("resource_spans[0].scope_spans[1].spans[2].trace_id: must be ...")
    'resourceSpans[0].scopeSpans[1].spans[2].traceId: must be ...'
    """
    place, colon, rest = why.partition(":")
    return _camel(place) + colon + rest


def _camel(name: str) -> str:
    return re.sub("_([a-z])", lambda found: found[1].upper(), name)


class OtlpEndpoint:
    """The handler of ``POST /v1/traces`` (``TRACES``) or ``/v1/logs`` (``LOGS``)."""

    def __init__(self, export: Export, log: Log, clock: Callable[[], datetime], max_body: int) -> None:
        self._export, self._log, self._clock, self._max_body = export, log, clock, max_body

    async def __call__(self, request: Request) -> Response:
        """Answer in the request's own encoding."""
        kind = media_type(request)
        try:
            _check_kind(kind)
            tenant = tenant_of(request)
            body = await read_body(request, self._max_body)
            check, now = partial(check_agents, request), self._clock()
            rejected, why = await to_thread.run_sync(self._export.accept, body, kind, tenant, now, self._log, check)
        except HttpError as error:
            return _status(error.status, error.message, kind)
        except Invalid as error:
            return _status(400, error.detail, kind)
        except Reject as error:
            return _status(503, str(error), kind, retry_after(error))
        return _success(self._export, rejected, why, kind)


def _check_kind(kind: str) -> None:
    if kind not in (PROTOBUF, JSON):
        raise HttpError(415, f"content-type: {kind[:60]!r} is not supported; send {PROTOBUF} or {JSON}")


def _success(export: Export, rejected: int, why: str, kind: str) -> Response:
    response = export.answer(rejected, why)
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
