"""Signals and labels: fields are checked by name, requests are all or nothing."""

from __future__ import annotations

import gzip
import json
import random
from datetime import UTC, datetime
from typing import Any

import pytest

from connectors.log import MemoryLog
from connectors.signals_api import MAX_ERRORS
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
    assert app.post("/v1/labels", json=body | {"cause": "tool"}).status_code == 202
    assert payloads(log)[1]["cause"] == "tool"
    wrong = app.post("/v1/labels", json=body | {"cause": "the weather"})
    assert wrong.status_code == 422
    assert "cause" in wrong.text


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"name": "applause"}, "name"),
        ({"value": 7}, "value"),
        ({"value": "much"}, "value"),
        ({"time": "2026-01-05T08:00:00"}, "time"),
        ({"agent": None}, "agent"),
        ({"session_id": None}, "session_id"),
        ({"value": None}, "value"),
        ({"time": "0001-01-01T00:00:00+14:00"}, "time"),
        ({"time": "yesterday"}, "time"),
        ({"consent": {"train": "perhaps"}}, "consent.train"),
        ({"attributes": {"jane@example.com": 1}}, "attributes.(name)"),
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
        (b"", 400),
        (b"null", 400),
        (b'"x"', 400),
        (b"7", 400),
        (b"[" + b"9" * 5000 + b"]", 400),
        (b'{"signals": ' * 5000, 400),
        (b"\xff\xfe{\x00}\x00", 400),
    ],
)
def test_bad_bodies(app: TestClient, log: MemoryLog, body: bytes, status: int) -> None:
    response = app.post("/v1/signals", content=body, headers={"content-type": "application/json"})
    assert response.status_code == status
    assert log.entries == []


@pytest.mark.parametrize("kind", ["text/plain", "application/x-protobuf", ""])
def test_wrong_content_type(app: TestClient, kind: str) -> None:
    response = app.post("/v1/signals", content=b"{}", headers={"content-type": kind})
    assert response.status_code == 415
    assert "application/json" in response.json()["errors"][0]["message"]


def test_gzip(app: TestClient, log: MemoryLog) -> None:
    headers = {"content-type": "application/json", "content-encoding": "gzip"}
    assert app.post("/v1/signals", content=gzip.compress(json.dumps(GOOD).encode()), headers=headers).is_success
    assert len(payloads(log)) == 1
    bomb = gzip.compress(b" " * 50_000_000)
    assert app.post("/v1/signals", content=bomb, headers=headers).status_code == 413


@pytest.mark.parametrize("about", ["session_id", "trace_id", "turn_id"])
def test_one_thing_that_it_is_about_is_enough(app: TestClient, log: MemoryLog, about: str) -> None:
    body = {"name": "copy", "agent": "a", about: "never-comes"}
    assert app.post("/v1/signals", json=body).status_code == 202
    assert payloads(log)[0][about] == "never-comes"


def test_headers_and_times_of_entries(app: TestClient, log: MemoryLog) -> None:
    body = GOOD | {"time": "2026-01-05T09:00:00+02:00"}
    assert app.post("/v1/signals", json=[body, GOOD], headers={"x-driftwheel-tenant": "acme"}).status_code == 202
    assert log.entries[0].headers == {"tenant": "acme", "agent": "a", "ledger": "gateway"}
    records = [codec.decode(entry.value) for entry in log.entries]
    assert [r.event_time.hour for r in records if isinstance(r, RawSignal)] == [7, 8]
    assert payloads(log)[0]["time"] == "2026-01-05T07:00:00Z"
    assert len({record.event_id for record in records}) == 3


def test_many_errors_are_cut_short(app: TestClient) -> None:
    assert len(app.post("/v1/signals", json=[{}] * 1000).json()["errors"]) == MAX_ERRORS


def test_labels_need_their_fields(app: TestClient, log: MemoryLog) -> None:
    response = app.post("/v1/labels", json={"agent": "a", "value": "v"})
    assert {error["field"] for error in response.json()["errors"]} == {"sample_id", "rater"}
    assert log.entries == []


def test_no_body_makes_a_server_error(app: TestClient, log: MemoryLog) -> None:
    rng = random.Random(5)
    whole = json.dumps({"signals": [GOOD | {"attributes": {"k": "v"}, "time": "2026-01-05T08:00:00Z"}, GOOD]}).encode()
    seen = set[int]()
    for _ in range(300):
        body = bytearray(whole[: rng.randrange(len(whole) + 1)] if rng.random() < 0.3 else whole)
        for _ in range(rng.randrange(4)):
            if body:
                body[rng.randrange(len(body))] = rng.choice(b'{}[]":,0aeT\\u\x00\xff')
        path = rng.choice(["/v1/signals", "/v1/labels"])
        seen.add(app.post(path, content=bytes(body), headers={"content-type": "application/json"}).status_code)
    assert seen == {202, 400, 422}


def test_lone_surrogates_and_nul_are_replaced(app: TestClient, log: MemoryLog) -> None:
    body = b'{"name": "correction", "agent": "a", "session_id": "s", "text": "a\\ud800b\\u0000c"}'
    response = app.post("/v1/signals", content=body, headers={"content-type": "application/json"})
    assert response.status_code == 202
    assert payloads(log)[0]["text"] == "a?b\ufffdc"


@pytest.mark.parametrize(
    "change", [{"value": "jane@x.example"}, {"attributes": {"jane@x.example": 1}}, {"name": "jane"}]
)
def test_errors_do_not_quote_what_was_sent(app: TestClient, change: dict[str, Any]) -> None:
    response = app.post("/v1/signals", json=GOOD | change)
    assert response.status_code == 422
    assert "jane" not in response.text


def test_pressure_is_503() -> None:
    app = TestClient(create_app(MemoryLog(capacity=0), lambda: NOW, GatewaySettings(), list))
    response = app.post("/v1/signals", json=GOOD)
    assert response.status_code == 503
    assert "retry-after" in response.headers
