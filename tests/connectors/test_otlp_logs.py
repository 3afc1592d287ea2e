"""OTLP logs over HTTP: taken, refused and counted as traces are."""

from __future__ import annotations

import gzip
from datetime import UTC, datetime
from typing import Any

import pytest
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest, ExportLogsServiceResponse

from connectors.log import MemoryLog
from driftwheel.gateway import GatewaySettings, create_app
from schemas import codec
from schemas.events import LedgerEntry
from tests.asgi import TestClient

NOW = datetime(2026, 1, 5, 8, 0, 30, tzinfo=UTC)
PROTOBUF = {"content-type": "application/x-protobuf"}
RECORD = {"traceId": "0af7651916cd43dd8448eb211c80319c", "spanId": "b7ad6b7169203331", "eventName": "x"}


@pytest.fixture
def log() -> MemoryLog:
    return MemoryLog()


def client(log: MemoryLog, **settings: Any) -> TestClient:
    return TestClient(create_app(log, lambda: NOW, GatewaySettings(**settings), list))


def request(records: int = 2, bad: int | None = None, agent: str = "") -> ExportLogsServiceRequest:
    made = ExportLogsServiceRequest()
    resource = made.resource_logs.add()
    if agent:
        resource.resource.attributes.add(key="gen_ai.agent.name").value.string_value = agent
    scope = resource.scope_logs.add()
    for n in range(records):
        scope.log_records.add(trace_id=b"t" * (3 if n == bad else 16), event_name=str(n))
    return made


def in_json(*records: dict[str, Any]) -> dict[str, Any]:
    return {"resourceLogs": [{"scopeLogs": [{"logRecords": list(records)}]}]}


def counted(log: MemoryLog) -> int:
    entries = [codec.decode(entry.value) for entry in log.entries if entry.topic != "otlp_logs"]
    return sum(entry.count for entry in entries if isinstance(entry, LedgerEntry))


@pytest.mark.parametrize("packed", [False, True])
def test_protobuf_is_appended_unchanged_with_its_ledger_entry(log: MemoryLog, packed: bool) -> None:
    body = request(3, agent="desk").SerializeToString() + b"\xfa\x3e\x03abc"
    content, more = (gzip.compress(body), {"content-encoding": "gzip"}) if packed else (body, {})
    headers = PROTOBUF | more | {"x-driftwheel-tenant": "acme"}
    response = client(log).post("/v1/logs", content=content, headers=headers)
    assert response.status_code == 200
    assert ExportLogsServiceResponse.FromString(response.content) == ExportLogsServiceResponse()
    assert [entry.topic for entry in log.entries] == ["otlp_logs", "flywheel.ledger"]
    assert log.entries[0].value == body
    assert log.entries[0].headers == {"tenant": "acme", "agent": "desk", "ledger": "gateway"}
    ledger = codec.decode(log.entries[1].value, LedgerEntry)
    assert isinstance(ledger, LedgerEntry)
    assert (ledger.tenant, ledger.source, ledger.entry, ledger.count) == ("acme", "logs", "accepted", 3)


def test_json_with_hexadecimal_ids_or_none(log: MemoryLog) -> None:
    response = client(log).post("/v1/logs", json=in_json(RECORD, {"body": {"stringValue": "x"}, "traceId": ""}))
    assert (response.status_code, response.json()) == (200, {})
    stored = ExportLogsServiceRequest.FromString(log.entries[0].value).resource_logs[0].scope_logs[0].log_records
    assert [(one.trace_id.hex(), one.event_name) for one in stored] == [(RECORD["traceId"], "x"), ("", "")]


def test_a_bad_record_does_not_take_its_neighbours_along(log: MemoryLog) -> None:
    response = client(log).post("/v1/logs", content=request(3, bad=1).SerializeToString(), headers=PROTOBUF)
    partial = ExportLogsServiceResponse.FromString(response.content).partial_success
    assert partial.rejected_log_records == 1
    assert partial.error_message.startswith("resource_logs[0].scope_logs[0].log_records[1].trace_id: must be 16 bytes")
    assert counted(log) == 2
    wrong = client(log).post("/v1/logs", json=in_json(RECORD, RECORD | {"spanId": "jane@example.com"}))
    assert wrong.json()["partialSuccess"]["rejectedLogRecords"] == "1"
    assert wrong.json()["partialSuccess"]["errorMessage"].startswith(
        "resourceLogs[0].scopeLogs[0].logRecords[1].spanId"
    )
    assert "jane" not in wrong.text
    assert counted(log) == 3


@pytest.mark.parametrize(
    ("body", "headers", "status", "words"),
    [
        (request().SerializeToString()[:-3], PROTOBUF, 400, b"ExportLogsServiceRequest"),
        (b"[]", {"content-type": "application/json"}, 400, b"resourceLogs"),
        (b'{"resourceLogs": 7}', {"content-type": "application/json"}, 400, b"resourceLogs"),
        (b"x", {"content-type": "text/plain"}, 415, b"application/x-protobuf"),
        (b"a" * 2000, PROTOBUF, 413, b"smaller batches"),
    ],
)
def test_refusals_name_what_is_wrong(
    log: MemoryLog, body: bytes, headers: dict[str, str], status: int, words: bytes
) -> None:
    response = client(log, max_body=1000).post("/v1/logs", content=body, headers=headers)
    assert response.status_code == status
    assert words in response.content
    assert log.entries == []


def test_the_guard_is_the_same(log: MemoryLog) -> None:
    body = request().SerializeToString()
    assert client(log, token="t").post("/v1/logs", content=body, headers=PROTOBUF).status_code == 401
    allowed = PROTOBUF | {"authorization": "Bearer t"}
    assert client(log, token="t").post("/v1/logs", content=body, headers=allowed).status_code == 200


def test_pressure_is_503_with_a_status() -> None:
    response = client(MemoryLog(capacity=0)).post("/v1/logs", json=in_json(RECORD))
    assert (response.status_code, response.json()["code"]) == (503, 14)
    assert "retry-after" in response.headers
