"""What Langfuse's SDKs send: scores, batches, and their authentication."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from connectors.api_keys import KeyRing, as_text, new_key
from connectors.log import MemoryLog
from driftwheel.gateway import GatewaySettings, create_app
from schemas import codec
from schemas.events import LedgerEntry, RawSignal
from tests.asgi import TestClient

NOW = datetime(2026, 1, 5, 8, 0, 30, tzinfo=UTC)
TRACE = "0af7651916cd43dd8448eb211c80319c"
GOOD: dict[str, Any] = {"name": "helpfulness", "value": 0.9, "traceId": TRACE}


@pytest.fixture
def log() -> MemoryLog:
    return MemoryLog()


def client(log: MemoryLog, **settings: Any) -> TestClient:
    return TestClient(create_app(log, lambda: NOW, GatewaySettings(**settings), list))


def payloads(log: MemoryLog) -> list[dict[str, Any]]:
    records = [codec.decode(entry.value) for entry in log.entries]
    return [json.loads(record.payload) for record in records if isinstance(record, RawSignal)]


def counted(log: MemoryLog) -> int:
    records = [codec.decode(entry.value) for entry in log.entries]
    return sum(record.count for record in records if isinstance(record, LedgerEntry))


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, {"score": 0.9, "data_type": "NUMERIC"}),
        ({"value": 3}, {"score": 3.0, "data_type": "NUMERIC"}),
        ({"value": True}, {"score": 1.0, "data_type": "BOOLEAN"}),
        ({"value": 0, "dataType": "BOOLEAN"}, {"score": 0.0, "data_type": "BOOLEAN"}),
        ({"value": "partially correct"}, {"label": "partially correct", "data_type": "CATEGORICAL"}),
        ({"value": "so so", "dataType": "TEXT", "comment": "c"}, {"text": "so so\nc", "data_type": "TEXT"}),
        ({"value": "Berlin", "dataType": "CORRECTION"}, {"correction": "Berlin", "data_type": "CORRECTION"}),
        ({"metadata": {"annotator_kind": "LLM", "agent": "desk"}}, {"judge": "LLM", "agent": "desk"}),
        ({"observationId": "b7ad6b7169203331", "configId": "c", "comment": "x"}, {"span_id": "b7ad6b7169203331"}),
        ({"traceId": None, "sessionId": "s"}, {"session_id": "s"}),
    ],
)
def test_a_score_in_every_form(log: MemoryLog, change: dict[str, Any], expected: dict[str, Any]) -> None:
    response = client(log).post("/api/public/scores", json=GOOD | {"id": "one", "queueId": "q"} | change)
    assert (response.status_code, response.json()) == (200, {"id": "one"})
    (payload,) = payloads(log)
    assert expected.items() <= payload.items()
    assert (payload["name"], payload["score_id"], counted(log)) == ("score", "one", 1)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"traceId": None}, "traceId: missing"),
        ({"traceId": None, "datasetRunId": "d"}, "dataset runs are not taken"),
        ({"value": None}, "value"),
        ({"value": "jane@example.com", "dataType": "NUMERIC"}, "value: must be text for CATEGORICAL"),
        ({"value": 0.5, "dataType": "BOOLEAN"}, "0 or 1"),
        ({"name": ""}, "name"),
        ({"dataType": "jane@example.com"}, "dataType"),
        ({"comment": "x" * 100_001}, "comment"),
        ({"metadata": {"a": "x" * 100_001}}, "metadata"),
    ],
)
def test_a_wrong_score_is_named_and_not_quoted(log: MemoryLog, change: dict[str, Any], words: str) -> None:
    response = client(log).post("/api/public/scores", json=GOOD | change)
    assert response.status_code == 400
    assert words in response.json()["message"]
    assert "jane" not in response.text
    assert log.entries == []


def test_a_score_without_an_id_gets_one(log: MemoryLog) -> None:
    name = client(log).post("/api/public/scores", json=GOOD).json()["id"]
    assert payloads(log)[0]["score_id"] == name
    assert len(name) == 32


def test_a_list_of_scores_is_taken_as_far_as_it_can_be(log: MemoryLog) -> None:
    stamp = {"timestamp": "2026-01-05T07:59:00+00:00"}
    response = client(log).post("/api/public/scores", json=[GOOD | stamp, GOOD | {"id": "one", "source": "ANNOTATION"}])
    assert (response.status_code, response.json()) == (202, {"message": "Accepted"})
    assert [(one.get("judge"), one.get("time")) for one in payloads(log)] == [
        (None, "2026-01-05T07:59:00Z"),
        ("HUMAN", None),
    ]
    response = client(log).post("/api/public/scores", json=[GOOD, GOOD | {"value": None}, 7])
    assert response.status_code == 207
    assert (response.json()["accepted"], response.json()["rejected"]) == (1, 2)
    assert response.json()["errors"][0]["message"].startswith("score 1: value")
    assert len({one["score_id"] for one in payloads(log)}) == counted(log) == 3
    assert client(log).post("/api/public/scores", json=[GOOD] * 1001).status_code == 400


def event(number: int, **body: Any) -> dict[str, Any]:
    stamp = "2026-01-05T07:59:00.123Z"
    return {"id": f"e{number}", "type": "score-create", "timestamp": stamp, "body": GOOD | body}


def test_a_batch_is_taken_as_far_as_it_can_be(log: MemoryLog) -> None:
    batch = [
        event(0, id="one"), event(1), event(2, value=None), {"id": "e3", "type": "sdk-log", "body": {}},
        {"id": "e4", "type": "trace-create", "timestamp": "x", "body": {}}, {"id": "e5", "type": "trace-create"}, 7,
    ]  # fmt: skip
    response = client(log).post("/api/public/ingestion", json={"batch": batch, "metadata": {"sdk_name": "python"}})
    told = response.json()
    assert response.status_code == 207
    assert [one["id"] for one in told["successes"]] == ["e0", "e1", "e3"]
    assert [one["id"] for one in told["errors"]] == ["e2", "e4", "e5", "6"]
    assert "OpenTelemetry" in told["errors"][2]["message"]
    assert [one["score_id"] for one in payloads(log)] == ["one", "e1"]
    assert payloads(log)[0]["time"] == "2026-01-05T07:59:00.123000Z"
    assert counted(log) == 2


@pytest.mark.parametrize("body", [b"[]", b"{}", b'{"batch": 3}', b"{", b'{"batch": [' + b"7," * 1000 + b"7]}"])
def test_what_is_no_batch(log: MemoryLog, body: bytes) -> None:
    response = client(log).post("/api/public/ingestion", content=body, headers={"content-type": "application/json"})
    assert response.status_code == 400
    assert log.entries == []


def basic(user: str, password: str) -> dict[str, str]:
    return {"authorization": "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()}


def test_the_secret_key_is_a_token_or_an_api_key(log: MemoryLog, tmp_path: Path) -> None:
    text, key = new_key(NOW, "acme", agents=("desk",))
    path = tmp_path / "keys.json"
    path.write_text(as_text([key]))
    app = client(log, token="tökén", keys=KeyRing(path, lambda: NOW))
    post = lambda headers, path="/api/public/scores": app.post(path, json=GOOD, headers=headers).status_code  # noqa: E731
    assert post(basic("pk-lf-1", text)) == 200
    (payload,) = payloads(log)
    assert (log.entries[0].headers["tenant"], payload["agent"]) == ("acme", "desk")
    assert post({"authorization": f"Bearer {text}"}) == 200
    assert [post(wrong) for wrong in (basic("pk", "no"), basic(text, ""), {"authorization": "Basic ###"}, {})] == [
        401
    ] * 4
    assert post(basic("pk", text), "/v1/signals") == 401, "elsewhere a bearer is asked for"
    other = GOOD | {"metadata": {"agent": "another"}}
    assert app.post("/api/public/scores", json=other, headers=basic("pk", text)).status_code == 403
    traces = app.post(
        "/api/public/otel/v1/traces",
        content=b"",
        headers=basic("pk", text) | {"content-type": "application/x-protobuf"},
    )
    assert traces.status_code == 200


def test_pressure_is_503() -> None:
    response = client(MemoryLog(capacity=0)).post("/api/public/scores", json=GOOD)
    assert response.status_code == 503
    assert "retry-after" in response.headers
