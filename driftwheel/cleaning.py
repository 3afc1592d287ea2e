"""Texts through the redaction stage, for what does not come in as a trace: the rows that train a first model."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue

from processors.stage import Message, Stage
from processors.state import MemoryState
from schemas.events import Span, identity
from schemas.topics import OTLP_SPANS


def clean_texts(redact: Stage, texts: Sequence[str], now: datetime) -> list[str]:
    """The texts without personal data, in order; '' for one that could not be cleaned."""
    request = ExportTraceServiceRequest()
    scope = request.resource_spans.add().scope_spans.add()
    nanos = int(now.timestamp() * 1_000_000) * 1000
    for number, text in enumerate(texts):
        span = scope.spans.add(name="row", start_time_unix_nano=nanos, end_time_unix_nano=nanos)
        span.trace_id = bytes.fromhex(identity("row", str(number)))
        span.span_id = number.to_bytes(8, "big", signed=False) if number else b"\xff" * 8
        message = json.dumps([{"role": "user", "parts": [{"type": "text", "content": text}]}])
        values = {"gen_ai.operation.name": "chat", "session.id": "rows", "gen_ai.input.messages": message}
        span.attributes.extend(KeyValue(key=k, value=AnyValue(string_value=v)) for k, v in values.items())
    message = Message(OTLP_SPANS.name, 0, "", request.SerializeToString(), now, {"ledger": "gateway"})
    cleaned = {
        record.span_id: record.input for record in redact.process([message], MemoryState()) if isinstance(record, Span)
    }
    names = [number.to_bytes(8, "big").hex() if number else "ff" * 8 for number in range(len(texts))]
    return [cleaned.get(name, "") for name in names]
