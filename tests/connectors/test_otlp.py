"""OTLP/HTTP: what is taken, what is refused, and with which words."""

from __future__ import annotations

import gzip
import json
import random
from datetime import UTC, datetime
from typing import Any

import pytest
from google.rpc.status_pb2 import Status
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


def test_json_with_the_names_of_older_versions(log: MemoryLog) -> None:
    spans = [{"traceId": "ab" * 16, "spanId": "cd" * 8, "name": "chat"}, {"traceId": "zz", "spanId": "cd" * 8}]
    older = {"instrumentationLibrary": {"name": "lib"}, "spans": spans}
    body = {"resourceSpans": [{"instrumentationLibrarySpans": [older]}, {"instrumentationLibrarySpans": "text"}]}
    answer = client(log).post("/v1/traces", json={"resourceSpans": body["resourceSpans"][:1]})
    assert answer.json()["partialSuccess"]["rejectedSpans"] == "1"
    (entry,) = (one for one in log.entries if one.topic == "otlp_spans")
    (resource,) = ExportTraceServiceRequest.FromString(entry.value).resource_spans
    assert (resource.scope_spans[0].scope.name, resource.scope_spans[0].spans[0].name) == ("lib", "chat")
    assert client(log).post("/v1/traces", json=body).status_code == 400


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
        (gzip.compress(b"a" * 99, mtime=0)[:-9], PROTOBUF | {"content-encoding": "gzip"}, 400, b"cut off"),
        (b"", PROTOBUF | {"x-driftwheel-tenant": "No Tenant"}, 400, b"x-driftwheel-tenant"),
        (b"a" * 2000, PROTOBUF, 413, b"smaller batches"),
        (gzip.compress(b"a" * 50_000_000, mtime=0), PROTOBUF | {"content-encoding": "gzip"}, 413, b"larger"),
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


GOOD_IDS = {"traceId": "0af7651916cd43dd8448eb211c80319c", "spanId": "b7ad6b7169203331"}


def in_json(*spans: dict[str, Any]) -> dict[str, Any]:
    return {"resourceSpans": [{"scopeSpans": [{"spans": list(spans)}]}]}


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"traceId": "zz"}, "traceId"),
        ({"traceId": "00" * 16}, "traceId"),
        ({"spanId": "b7ad6b71"}, "spanId"),
        ({"spanId": 7}, "spanId"),
        ({"spanId": None}, "spanId"),
        ({"parentSpanId": "jane@example.com"}, "parentSpanId"),
    ],
)
def test_a_bad_json_id_costs_its_span_only_and_is_named(log: MemoryLog, change: dict[str, Any], field: str) -> None:
    response = client(log).post("/v1/traces", json=in_json(GOOD_IDS, GOOD_IDS | change))
    partial = response.json()["partialSuccess"]
    assert (response.status_code, partial["rejectedSpans"]) == (200, "1")
    assert partial["errorMessage"].startswith(f"resourceSpans[0].scopeSpans[0].spans[1].{field}: must be")
    assert "jane" not in response.text
    assert counted(log) == 1


def test_a_wrong_json_field_is_named_and_not_quoted(log: MemoryLog) -> None:
    response = client(log).post("/v1/traces", json=in_json(GOOD_IDS | {"startTimeUnixNano": "jane@example.com"}))
    assert response.status_code == 400
    assert "resourceSpans.scopeSpans.spans.startTimeUnixNano" in response.json()["message"]
    assert "jane" not in response.text


def test_lone_surrogates_in_json_are_replaced(log: MemoryLog) -> None:
    body = json.dumps(in_json(GOOD_IDS | {"name": "a\ud800b"})).encode()
    response = client(log).post("/v1/traces", content=body, headers={"content-type": "application/json"})
    assert response.status_code == 200
    stored = ExportTraceServiceRequest.FromString(log.entries[0].value)
    assert stored.resource_spans[0].scope_spans[0].spans[0].name == "a?b"


def test_only_the_good_spans_are_appended(log: MemoryLog) -> None:
    body = request(5, bad=0)
    body.resource_spans[0].scope_spans[0].spans[3].parent_span_id = b"short"
    response = client(log).post("/v1/traces", content=body.SerializeToString(), headers=PROTOBUF)
    partial = ExportTraceServiceResponse.FromString(response.content).partial_success
    assert partial.rejected_spans == 2
    assert partial.error_message.startswith("resource_spans[0].scope_spans[0].spans[0].trace_id: must be 16 bytes")
    stored = ExportTraceServiceRequest.FromString(log.entries[0].value).resource_spans[0].scope_spans[0].spans
    assert [span.span_id[0] for span in stored] == [2, 3, 5]


def test_nothing_good_is_no_entry(log: MemoryLog) -> None:
    response = client(log).post("/v1/traces", content=request(1, bad=0).SerializeToString(), headers=PROTOBUF)
    assert ExportTraceServiceResponse.FromString(response.content).partial_success.rejected_spans == 1
    assert log.entries == []


@pytest.mark.parametrize(
    ("attributes", "agent"),
    [
        ({"service.name": "web"}, "web"),
        ({"service.name": "web", "gen_ai.agent.name": "router"}, "router"),
        ({"service.name": "web", "gen_ai.agent.name": "router", "driftwheel.agent": "desk"}, "desk"),
        ({}, "unknown"),
    ],
)
def test_tenant_and_agent_of_an_entry(log: MemoryLog, attributes: dict[str, str], agent: str) -> None:
    body = request()
    for key, value in attributes.items():
        body.resource_spans[0].resource.attributes.add(key=key).value.string_value = value
    headers = PROTOBUF | {"x-driftwheel-tenant": "acme"}
    assert client(log).post("/v1/traces", content=body.SerializeToString(), headers=headers).status_code == 200
    assert log.entries[0].headers == {"tenant": "acme", "agent": agent, "ledger": "gateway"}
    ledger = codec.decode(log.entries[1].value, LedgerEntry)
    assert isinstance(ledger, LedgerEntry)
    assert (ledger.tenant, ledger.agent, ledger.source, ledger.entry) == ("acme", agent, "traces", "accepted")
    assert ledger.event_time == NOW.replace(second=0)


def test_a_gzip_stream_of_several_members_is_taken_whole(log: MemoryLog) -> None:
    body = request(4).SerializeToString()
    content = gzip.compress(body[:30]) + gzip.compress(body[30:])
    response = client(log).post("/v1/traces", content=content, headers=PROTOBUF | {"content-encoding": "gzip"})
    assert response.status_code == 200
    assert log.entries[0].value == body


def test_refusals_are_a_status_in_the_encoding_of_the_request(log: MemoryLog) -> None:
    in_protobuf = client(log).post("/v1/traces", content=b"\x0a\xff", headers=PROTOBUF)
    status = Status.FromString(in_protobuf.content)
    assert (in_protobuf.headers["content-type"], status.code) == ("application/x-protobuf", 3)
    assert "ExportTraceServiceRequest" in status.message
    refused = client(log).post("/v1/traces", content=b"[", headers={"content-type": "application/json; charset=utf-8"})
    assert refused.headers["content-type"] == "application/json"
    assert refused.json() == {"code": 3, "message": "body: not JSON at line 1, column 2; was it cut?"}


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


@pytest.mark.parametrize(
    ("given", "status"),
    [
        ("Bearer old", 200),
        ("bearer new", 200),
        ("Bearer n\u00e9w", 401),
        ("Bearer old2", 401),
        ("Bearer ", 401),
        ("old", 401),
        ("Basic old", 401),
    ],
)
def test_several_tokens_hold_while_they_are_rotated(log: MemoryLog, given: str, status: int) -> None:
    guarded = client(log, token="new", more_tokens=("old",))
    headers = {**PROTOBUF, "authorization": given.encode()}
    assert guarded.post("/v1/traces", content=b"", headers=headers).status_code == status


@pytest.mark.parametrize(
    ("host", "settings", "status"),
    [
        ("LOCALHOST:4318", {}, 200),
        ("127.0.0.1", {}, 200),
        ("[::1]:4318", {}, 200),
        ("evil.example:4318", {}, 400),
        ("127.0.0.1.evil.example", {}, 400),
        ("", {}, 400),
        ("wheel.example", {"hosts": ("Wheel.example",)}, 200),
        ("wheel.example", {"loopback": False}, 200),
    ],
)
def test_only_our_own_names_in_the_host_header(
    log: MemoryLog, host: str, settings: dict[str, Any], status: int
) -> None:
    assert client(log, **settings).get("/healthz", headers={"host": host}).status_code == status


def test_readiness_says_what_is_wrong(log: MemoryLog) -> None:
    app = create_app(log, lambda: NOW, GatewaySettings(), lambda: ["redact is 9 entries behind"])
    response = TestClient(app).get("/readyz")
    assert response.status_code == 503
    assert response.json()["problems"] == ["redact is 9 entries behind"]


def damaged(rng: random.Random, seeds: list[bytes]) -> bytes:
    seed = rng.choice(seeds)
    body = bytearray(seed[: rng.randrange(len(seed) + 1)] if rng.random() < 0.5 else seed)
    for _ in range(rng.randrange(6)):
        if body:
            body[rng.randrange(len(body))] = rng.randrange(256)
    return bytes(body) if rng.random() < 0.9 else rng.randbytes(rng.randrange(200))


def test_no_body_makes_a_server_error(log: MemoryLog) -> None:
    rng, app = random.Random(3), client(log)
    link = {"links": [GOOD_IDS | {"traceId": 3}], "attributes": [{"key": "k", "value": {"intValue": "7"}}]}
    seeds = [request(5).SerializeToString(), json.dumps(in_json(GOOD_IDS | link, GOOD_IDS)).encode()]
    seen = set[int]()
    for _ in range(300):
        body = damaged(rng, seeds)
        headers = {"content-type": rng.choice(["application/x-protobuf", "application/json"])}
        if rng.random() < 0.2:
            body, headers["content-encoding"] = damaged(rng, [gzip.compress(body)]), "gzip"
        seen.add(app.post("/v1/traces", content=body, headers=headers).status_code)
    assert seen == {200, 400}


@pytest.mark.parametrize(
    "body",
    [
        b'{"resourceSpans": 5}',
        b'{"resourceSpans": ["x", null, 7]}',
        b'{"resourceSpans": [{"scopeSpans": [{"spans": [[], "x", {"links": {}}]}]}]}',
        b'{"resourceSpans": [{"resource": {"attributes": [{"key": "k", "value": {"intValue": 1e999}}]}}]}',
        b'{"resourceSpans": [{"resource": {"attributes": [{"key": "k", "value": {"doubleValue": NaN}}]}}]}',
        b'{"resourceSpans": [{"schemaUrl": ' + b"9" * 5000 + b"}]}",
        b'{"resourceSpans": ' + b"[" * 100_000,
        b'{"a": ' * 50_000,
        b'{"resourceSpans": [{"resource": {"attributes": [{"key": "k", "value": '
        + b'{"arrayValue": {"values": [' * 300 + b'{}' + b"]}}" * 300 + b"}]}}]}",
        b"\xff\xfe{\x00}\x00",
    ],
)  # fmt: skip
def test_odd_json_is_no_server_error(log: MemoryLog, body: bytes) -> None:
    response = client(log).post("/v1/traces", content=body, headers={"content-type": "application/json"})
    assert response.status_code in (200, 400)
    assert log.entries == []
    assert len(response.content) < 400
