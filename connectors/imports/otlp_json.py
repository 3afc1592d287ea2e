"""OTLP/JSON files: export requests, one a line (as the Collector's file exporter writes them) or in one document.

A row is a request or one of its ``resourceSpans``; names may be protobuf's own (``resource_spans``) or
those of before OTLP 0.15 (``instrumentationLibrarySpans``) as well.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from connectors.imports.spans import REQUEST_BYTES, attribute
from connectors.otlp import TRACES, as_in_json
from schemas.errors import Invalid

_OLDER = {"instrumentationLibrarySpans", "instrumentation_library_spans"}
_KEYS = {"resourceSpans", "scopeSpans", "resource_spans", "scope_spans"} | _OLDER


def is_otlp(row: Any) -> bool:
    """Whether a row looks like OTLP/JSON."""
    return isinstance(row, dict) and bool(_KEYS & cast("dict[str, Any]", row).keys())


def otlp_requests(row: Any, agent: str, limit: int = REQUEST_BYTES) -> Iterator[ExportTraceServiceRequest]:
    """The requests of one row, of ``agent`` when it is not ''; a row of more than ``limit`` bytes is cut into several.

    Raises Invalid naming the field, also for a span with a malformed id.
    """
    if not is_otlp(row):
        raise Invalid("not_otlp", "expected an object with resourceSpans")
    whole = "resourceSpans" in row or "resource_spans" in row
    request = TRACES.from_document(row if whole else {"resourceSpans": [row]})
    _, dropped, why = TRACES.drop_malformed(request)
    if dropped:
        raise Invalid("invalid_span", as_in_json(why))
    if agent:
        _name(request, agent)
    yield from [request] if request.ByteSize() <= limit else _cut(request, limit)


def _name(request: ExportTraceServiceRequest, agent: str) -> None:
    for resource in request.resource_spans:
        for scope in resource.scope_spans:
            for span in scope.spans:
                span.attributes.append(attribute("driftwheel.agent", agent))


def _cut(request: ExportTraceServiceRequest, limit: int) -> Iterator[ExportTraceServiceRequest]:
    for resource in request.resource_spans:
        for scope in resource.scope_spans:
            spans = list(scope.spans)
            while spans:
                part = ExportTraceServiceRequest()
                group = part.resource_spans.add()
                group.resource.CopyFrom(resource.resource)
                inner = group.scope_spans.add()
                inner.scope.CopyFrom(scope.scope)
                size = 0
                while spans and (not size or size < limit):
                    size += spans[0].ByteSize()
                    inner.spans.append(spans.pop(0))
                yield part
