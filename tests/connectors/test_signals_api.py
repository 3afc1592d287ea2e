"""Signals and labels: fields are checked by name, requests are all or nothing."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from connectors.log import MemoryLog
from driftwheel.gateway import GatewaySettings, create_app
from schemas import codec
from schemas.events import LedgerEntry, RawSignal
from tests.asgi import TestClient

NOW = datetime(2026, 1, 5, 8, 0, 30, tzinfo=UTC)
GOOD: dict[str, Any] = {"name": "rating", "agent": "a", "session_id": "s", "value": 1}


@pytest.fixture
def log() -> MemoryLog:
    return MemoryLog()


@pytest.fixture
def app(log: MemoryLog) -> TestClient:
    return TestClient(create_app(log, lambda: NOW, GatewaySettings(max_body=1_000_000), list))


def payloads(log: MemoryLog) -> list[dict[str, Any]]:
    records = [codec.decode(entry.value) for entry in log.entries]
    return [json.loads(record.payload) for record in records if isinstance(record, RawSignal)]


@pytest.mark.parametrize("wrap", [lambda item: item, lambda item: [item], lambda item: {"signals": [item]}])
def test_one_a_list_or_a_batch(app: TestClient, log: MemoryLog, wrap: Any) -> None:
    response = app.post("/v1/signals", json=wrap(GOOD | {"unknown": {"x": 1}}))
    assert (response.status_code, response.json()) == (202, {"accepted": 1})
    assert payloads(log)[0]["name"] == "rating"
    assert "unknown" not in payloads(log)[0]
    entries = [codec.decode(entry.value) for entry in log.entries]
    assert [r.count for r in entries if isinstance(r, LedgerEntry)] == [1]


def test_a_label(app: TestClient, log: MemoryLog) -> None:
    body = {"agent": "a", "sample_id": "x", "value": "it_help", "rater": "r"}
    assert app.post("/v1/labels", json={"labels": [body]}).status_code == 202
    assert payloads(log)[0]["name"] == "label"


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"name": "applause"}, "name"),
        ({"value": 7}, "value"),
        ({"value": "much"}, "value"),
        ({"time": "2026-01-05T08:00:00"}, "time"),
        ({"agent": None}, "agent"),
        ({"session_id": None}, "(item)"),
        ({"attributes": {"a": 1}}, "attributes.a"),
        ({"text": "x" * 100_001}, "text"),
    ],
)
def test_wrong_fields_are_named_and_nothing_is_taken(
    app: TestClient, log: MemoryLog, change: dict[str, Any], field: str
) -> None:
    response = app.post("/v1/signals", json=[GOOD, GOOD | change])
    assert response.status_code == 422
    assert response.json()["errors"][0]["index"] == 1
    assert response.json()["errors"][0]["field"] == field
    assert response.json()["accepted"] == 0
    assert log.entries == []


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"{", 400),
        (b"[]", 400),
        (b'{"signals": 3}', 400),
        (b"[" * 100_000, 400),
        (b"\xff\xfe", 400),
        (b"a" * 1_000_001, 413),
        (json.dumps([GOOD] * 1001).encode(), 400),
        (b'[{"name": "rating", "agent": "a", "session_id": "s", "value": NaN}]', 422),
        (b'["x"]', 422),
    ],
)
def test_bad_bodies(app: TestClient, log: MemoryLog, body: bytes, status: int) -> None:
    response = app.post("/v1/signals", content=body, headers={"content-type": "application/json"})
    assert response.status_code == status
    assert log.entries == []


def test_wrong_content_type(app: TestClient) -> None:
    assert app.post("/v1/signals", content=b"{}", headers={"content-type": "text/plain"}).status_code == 415


def test_lone_surrogates_and_nul_are_replaced(app: TestClient, log: MemoryLog) -> None:
    body = b'{"name": "correction", "agent": "a", "session_id": "s", "text": "a\\ud800b\\u0000c"}'
    response = app.post("/v1/signals", content=body, headers={"content-type": "application/json"})
    assert response.status_code == 202
    assert payloads(log)[0]["text"] == "a?b\ufffdc"


def test_errors_do_not_quote_values(app: TestClient) -> None:
    response = app.post("/v1/signals", json=GOOD | {"value": "jane@example.com"})
    assert "jane" not in response.text


def test_pressure_is_503() -> None:
    app = TestClient(create_app(MemoryLog(capacity=0), lambda: NOW, GatewaySettings(), list))
    response = app.post("/v1/signals", json=GOOD)
    assert response.status_code == 503
    assert "retry-after" in response.headers
