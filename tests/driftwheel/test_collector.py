"""Spans as an OpenTelemetry Collector's Kafka exporter writes them: plain ``ExportTraceServiceRequest`` bytes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from confluent_kafka import Producer
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult

from connectors.kafka.settings import KafkaSettings, client_options
from driftwheel.clock import utc_now
from processors.redact import Redact
from processors.redact.settings import RedactSettings
from schemas.events import LedgerEntry, Span
from schemas.topics import LEDGER, OTLP_SPANS, SPANS
from tests.driftwheel.engine_kit import until
from tests.driftwheel.kafka_kit import lane_settings, make_topics, records, working


class Kept(SpanExporter):
    """What the SDK would send."""

    def __init__(self) -> None:
        self.spans: list[ReadableSpan] = []

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self.spans += spans
        return SpanExportResult.SUCCESS


def sdk_spans() -> list[ReadableSpan]:
    """One turn as an instrumented agent makes it."""
    kept = Kept()
    provider = TracerProvider(resource=Resource.create({"service.name": "support-router"}))
    provider.add_span_processor(SimpleSpanProcessor(kept))
    tracer = provider.get_tracer("agent")
    said = json.dumps([{"role": "user", "parts": [{"type": "text", "content": "write to ana.lima@example.com"}]}])
    with tracer.start_as_current_span("invoke_agent", attributes={"gen_ai.operation.name": "invoke_agent"}) as root:
        root.set_attributes({"gen_ai.conversation.id": "s-1", "gen_ai.input.messages": said})
        with tracer.start_as_current_span("chat", attributes={"gen_ai.operation.name": "chat"}) as chat:
            chat.set_attribute("gen_ai.request.model", "m-1")
    return kept.spans


@pytest.mark.parametrize("keyed", [False, True])
def test_a_collectors_bytes_are_consumed_as_they_are(
    kafka_settings: KafkaSettings, tmp_path: Path, keyed: bool
) -> None:
    """Without headers, with and without ``partition_traces_by_id``; each span in a request of its own."""
    redact = Redact(RedactSettings(key=b"secret"))
    make_topics(kafka_settings, [redact])
    producer = Producer(client_options(kafka_settings) | {"compression.type": "gzip"})
    spans = sdk_spans()
    for span in spans:
        key = f"{span.context.trace_id:032x}".encode() if keyed else None  # type: ignore[union-attr]
        producer.produce(kafka_settings.topic(OTLP_SPANS), encode_spans([span]).SerializeToString(), key)
    producer.flush(30)
    with working([redact], lane_settings(kafka_settings, tmp_path, utc_now)):
        until(lambda: len(records(kafka_settings, SPANS)) == len(spans))
    found = [record for record in records(kafka_settings, SPANS) if isinstance(record, Span)]
    assert {(span.name, span.agent, span.session_id) for span in found} == {
        ("invoke_agent", "support-router", "s-1"),
        ("chat", "support-router", "s-1"),
    }
    (root,) = [span for span in found if span.name == "invoke_agent"]
    assert "write to" in root.input
    assert "ana.lima" not in root.input
    accepted = [record for record in records(kafka_settings, LEDGER) if isinstance(record, LedgerEntry)]
    assert sum(entry.count for entry in accepted if entry.entry == "accepted") == len(spans)
