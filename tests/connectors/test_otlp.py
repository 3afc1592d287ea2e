"""OTLP/HTTP: what is taken, what is refused, and with which words."""

from __future__ import annotations

import gzip
import json
import random
from datetime import UTC, datetime
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

from connectors.log import MemoryLog
from driftwheel.gateway import GatewaySettings, create_app
from schemas import codec
from schemas.events import LedgerEntry
from tests.asgi import TestClient

NOW = datetime(2026, 1, 5, 8, 0, 30, tzinfo=UTC)
PROTOBUF = {"content-type": "application/x-protobuf"}


def client(log: MemoryLog, **settings: Any) -> TestClient:
    return TestClient(create_app(log, lambda: NOW, GatewaySettings(**settings), list))


@pytest.fixture
def log() -> MemoryLog:
    return MemoryLog()


def request(spans: int = 2, bad: int | None = None) -> ExportTraceServiceRequest:
    made = ExportTraceServiceRequest()
    scope = made.resource_spans.add().scope_spans.add()
    for n in range(spans):
        scope.spans.add(trace_id=b"t" * (3 if n == bad else 16), span_id=bytes([n + 1]) * 8, name="chat")
    return made


def counted(log: MemoryLog) -> int:
    return sum(
        record.count for entry in log.entries if isinstance(record := _decoded(entry.topic, entry.value), LedgerEntry)
    )


def _decoded(topic: str, value: bytes) -> Any:
    return codec.decode(value) if topic != "otlp_spans" else None


def test_protobuf_is_appended_unchanged_with_its_ledger_entry(log: MemoryLog) -> None:
    body = request().SerializeToString()
    response = client(log).post("/v1/traces", content=body, headers=PROTOBUF)
    assert response.status_code == 200
    assert ExportTraceServiceResponse.FromString(response.content) == ExportTraceServiceResponse()
    assert [entry.topic for entry in log.entries] == ["otlp_spans", "flywheel.ledger"]
    assert log.entries[0].value == body
    assert counted(log) == 2


def test_gzip_and_unknown_fields(log: MemoryLog) -> None:
    body = request().SerializeToString() + b"\xfa\x3e\x03abc"  # field 1007, which no version has
    headers = PROTOBUF | {"content-encoding": "gzip"}
    assert client(log).post("/v1/traces", content=gzip.compress(body), headers=headers).status_code == 200
    assert log.entries[0].value == body


def test_json_with_hexadecimal_ids(log: MemoryLog) -> None:
    span = {"traceId": "0af7651916cd43dd8448eb211c80319c", "spanId": "b7ad6b7169203331", "name": "x", "future": [1]}
    body = {"resourceSpans": [{"scopeSpans": [{"spans": [span]}]}]}
    response = client(log).post("/v1/traces", json=body)
    assert response.status_code == 200
    assert response.json() == {}
    stored = ExportTraceServiceRequest.FromString(log.entries[0].value)
    assert stored.resource_spans[0].scope_spans[0].spans[0].trace_id.hex() == span["traceId"]


def test_a_bad_span_does_not_take_its_neighbours_along(log: MemoryLog) -> None:
    response = client(log).post("/v1/traces", content=request(3, bad=1).SerializeToString(), headers=PROTOBUF)
    partial = ExportTraceServiceResponse.FromString(response.content).partial_success
    assert partial.rejected_spans == 1
    assert "resource_spans[0].scope_spans[0].spans[1].trace_id" in partial.error_message
    assert counted(log) == 2


@pytest.mark.parametrize(
    ("body", "headers", "status", "words"),
    [
        (request().SerializeToString()[:-3], PROTOBUF, 400, b"ExportTraceServiceRequest"),
        (b"{", {"content-type": "application/json"}, 400, b"not JSON"),
        (b"[]", {"content-type": "application/json"}, 400, b"resourceSpans"),
        (b"x", {"content-type": "text/plain"}, 415, b"application/x-protobuf"),
        (b"x", PROTOBUF | {"content-encoding": "br"}, 415, b"gzip"),
        (b"x", PROTOBUF | {"content-encoding": "gzip"}, 400, b"gzip"),
        (gzip.compress(b"a" * 99)[:-9], PROTOBUF | {"content-encoding": "gzip"}, 400, b"cut off"),
        (b"", PROTOBUF | {"x-driftwheel-tenant": "No Tenant"}, 400, b"x-driftwheel-tenant"),
        (b"a" * 2000, PROTOBUF, 413, b"smaller batches"),
        (gzip.compress(b"a" * 50_000_000), PROTOBUF | {"content-encoding": "gzip"}, 413, b"larger"),
    ],
)
def test_refusals_name_what_is_wrong(
    log: MemoryLog, body: bytes, headers: dict[str, str], status: int, words: bytes
) -> None:
    limit = 1000 if status == 413 else 16_000_000
    response = client(log, max_body=limit).post("/v1/traces", content=body, headers=headers)
    assert response.status_code == status
    assert words in response.content
    assert log.entries == []


def test_a_bad_json_id_names_its_place(log: MemoryLog) -> None:
    body = {"resourceSpans": [{"scopeSpans": [{"spans": [{"traceId": "zz", "spanId": "b7ad6b7169203331"}]}]}]}
    response = client(log).post("/v1/traces", json=body)
    assert response.status_code == 400
    assert "resourceSpans[0].scopeSpans[0].spans[0].traceId" in response.json()["message"]


def test_an_empty_request_is_fine(log: MemoryLog) -> None:
    assert client(log).post("/v1/traces", content=b"", headers=PROTOBUF).status_code == 200
    assert log.entries == []


def test_pressure_is_503_and_nothing_is_taken() -> None:
    log = MemoryLog(capacity=1)
    response = client(log).post("/v1/traces", content=request().SerializeToString(), headers=PROTOBUF)
    assert response.status_code == 503
    assert int(response.headers["retry-after"]) >= 1
    assert log.entries == []


def test_token_and_host(log: MemoryLog) -> None:
    guarded = client(log, token="secret")
    body = request().SerializeToString()
    assert guarded.post("/v1/traces", content=body, headers=PROTOBUF).status_code == 401
    assert (
        guarded.post("/v1/traces", content=body, headers=PROTOBUF | {"authorization": "Bearer no"}).status_code == 401
    )
    good = PROTOBUF | {"authorization": "Bearer secret"}
    assert guarded.post("/v1/traces", content=body, headers=good).status_code == 200
    assert guarded.get("/healthz").status_code == 200
    assert client(log).post("/v1/traces", headers=PROTOBUF | {"host": "evil.example"}).status_code == 400


def test_readiness_says_what_is_wrong(log: MemoryLog) -> None:
    app = create_app(log, lambda: NOW, GatewaySettings(), lambda: ["redact is 9 entries behind"])
    response = TestClient(app).get("/readyz")
    assert response.status_code == 503
    assert response.json()["problems"] == ["redact is 9 entries behind"]


def test_no_body_makes_a_server_error(log: MemoryLog) -> None:
    rng, app = random.Random(3), client(log)
    whole = request(5).SerializeToString()
    text = json.dumps({"resourceSpans": [{"scopeSpans": [{"spans": [{"traceId": "00" * 16}]}]}]}).encode()
    for _ in range(300):
        seed = rng.choice([whole, text])
        body = bytearray(seed[: rng.randrange(len(seed) + 1)])
        for _ in range(rng.randrange(4)):
            if body:
                body[rng.randrange(len(body))] = rng.randrange(256)
        kind = rng.choice(["application/x-protobuf", "application/json"])
        response = app.post("/v1/traces", content=bytes(body), headers={"content-type": kind})
        assert response.status_code in (200, 400), (response.status_code, bytes(body))
