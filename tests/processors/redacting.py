"""What the redaction tests share: OTLP requests from plain values, and one warm stage."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, ArrayValue, KeyValue, KeyValueList

from processors.redact import Redact, RedactSettings
from processors.redact.drafts import Draft
from processors.stage import Message
from processors.state import MemoryState
from schemas import codec
from schemas.events import EPOCH, RawSignal, Record, Span, identity
from schemas.topics import OTLP_SPANS, SIGNALS_RAW
from tests.world import AGENT, START, TENANT

TRACE = "0af7651916cd43dd8448eb211c80319c"
ROOT = "b7ad6b7169203331"


def any_value(value: Any) -> AnyValue:
    """A Python value as OTLP's."""
    if isinstance(value, bool):
        return AnyValue(bool_value=value)
    if isinstance(value, int):
        return AnyValue(int_value=value)
    if isinstance(value, float):
        return AnyValue(double_value=value)
    if isinstance(value, list):
        return AnyValue(array_value=ArrayValue(values=[any_value(one) for one in value]))
    if isinstance(value, dict):
        return AnyValue(kvlist_value=KeyValueList(values=key_values(value)))
    return AnyValue(string_value=value)


def key_values(values: dict[str, Any]) -> list[KeyValue]:
    return [KeyValue(key=key, value=any_value(value)) for key, value in values.items()]


def otlp(*spans: dict[str, Any], resource: dict[str, Any] | None = None) -> ExportTraceServiceRequest:
    """A request. A span: ``attributes`` and ``events`` plain, ``trace``/``span``/``parent`` hex, others as OTLP's."""
    request = ExportTraceServiceRequest()
    top = request.resource_spans.add()
    top.resource.attributes.extend(key_values({"service.name": AGENT} if resource is None else resource))
    scope = top.scope_spans.add()
    for number, given in enumerate(spans):
        one = scope.spans.add(
            trace_id=bytes.fromhex(given.get("trace", TRACE)),
            span_id=bytes.fromhex(given.get("span", f"{number + 1:016x}")),
            parent_span_id=bytes.fromhex(given.get("parent", "")),
            name=given.get("name", "chat"),
            start_time_unix_nano=given.get("start", int(START.timestamp() * 1e9)),
            end_time_unix_nano=given.get("end", int(START.timestamp() * 1e9) + 1_500_000_000),
            attributes=key_values(given.get("attributes", {})),
        )
        one.status.code, one.status.message = given.get("status", (0, ""))
        for name, values in given.get("events", []):
            one.events.add(name=name, attributes=key_values(values))
    return request


def otlp_message(value: bytes | ExportTraceServiceRequest, offset: int = 0, **headers: str) -> Message:
    data = value if isinstance(value, bytes) else value.SerializeToString()
    headers = {"tenant": TENANT, "ledger": "gateway"} | headers
    return Message(OTLP_SPANS.name, offset, f"{TENANT}/{AGENT}", data, START + timedelta(seconds=2), headers)


def signal_message(body: Any, offset: int = 0, time: datetime = START) -> Message:
    payload = body if isinstance(body, str) else json.dumps(body)
    record = RawSignal(event_id=identity("raw", payload), tenant=TENANT, agent=AGENT, event_time=START, payload=payload)
    headers = {"tenant": TENANT, "ledger": "gateway"}
    return Message(SIGNALS_RAW.name, offset, f"{TENANT}/{AGENT}", codec.encode(record), time, headers)


def packed_rows(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a data set's file, packed JSON Lines."""
    with gzip.open(path, "rt", encoding="utf-8") as file:
        for line in file:
            yield json.loads(line)


def texts_of(conversation: dict[str, Any]) -> list[str]:
    """What people, agents and tools said in a conversation, and what tools were called with."""
    out: list[str] = []
    for message in conversation["messages"]:
        if message["role"] != "system":
            out += [message["content"]] if isinstance(message.get("content"), str) else []
            out += [call["function"]["arguments"] for call in message.get("tool_calls") or []]
    return [text for text in out if text]


def drafts_of(conversation: dict[str, Any]) -> list[Draft]:
    """The texts of a conversation as spans of one trace in one request."""
    return [
        Draft(kind=Span, tenant="t", event_id=str(n), message=conversation["conversation_id"], item=n, agent="a",
              event_time=EPOCH, facts={"trace_id": "t", "span_id": str(n)}, ids={"session_id": "s"}, words={},
              texts={"input": text})
        for n, text in enumerate(texts_of(conversation))
    ]  # fmt: skip


def redacted(*messages: Message, settings: RedactSettings | None = None) -> list[Record]:
    """What the stage emits for messages, timers included."""
    stage, store = Redact(settings), MemoryState()
    return [*stage.process(messages, store), *stage.expire(store, START + timedelta(days=2))]


def span_of(attributes: dict[str, Any], **given: Any) -> Span:
    """The one clean span of a request with one span."""
    (found,) = redacted(otlp_message(otlp({"attributes": attributes, **given})))
    assert isinstance(found, Span), found
    return found
