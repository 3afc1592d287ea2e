"""The client against a real server: retries, ids, clear refusals, and the thread that sends in the background."""

from __future__ import annotations

import ast
import json
import socket
import sys
import threading
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from connectors.log import Entry, MemoryLog
from driftwheel import client as module
from driftwheel.client import Background, Client, DeliveryError
from driftwheel.gateway import GatewaySettings, Server, create_app
from schemas import codec
from schemas.errors import Reject
from schemas.events import RawSignal

NOW = datetime(2026, 1, 5, 8, tzinfo=UTC)


class MoodyLog(MemoryLog):
    """Rejects the first appends; one in ``lost`` is taken but its answer says that it was not."""

    def __init__(self) -> None:
        super().__init__()
        self.rejections, self.lost, self.tries = 0, 0, 0

    def append(self, entries: Sequence[Entry]) -> None:
        self.tries += 1
        if self.rejections:
            self.rejections -= 1
            raise Reject("not now", retry_after=0.1)
        super().append(entries)
        if self.lost:
            self.lost -= 1
            raise Reject("the answer got lost", retry_after=0.1)


@pytest.fixture
def log() -> MoodyLog:
    return MoodyLog()


@pytest.fixture
def server(log: MoodyLog) -> Iterator[Server]:
    with Server(create_app(log, lambda: NOW, GatewaySettings(), list), "127.0.0.1", 0) as made:
        yield made


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What the client wanted to wait, which it then does not."""
    noted: list[float] = []
    monkeypatch.setattr(module.time, "sleep", noted.append)
    return noted


def payloads(log: MemoryLog) -> list[dict[str, Any]]:
    records = [codec.decode(entry.value) for entry in log.entries if entry.topic == "agent.signals.raw"]
    return [json.loads(record.payload) for record in records if isinstance(record, RawSignal)]


def test_it_imports_httpx_and_the_standard_library_only() -> None:
    tree = ast.parse(Path(module.__file__).read_text())
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    names |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {name.partition(".")[0] for name in names} - sys.stdlib_module_names == {"httpx"}


def test_a_signal_keeps_its_id_when_it_is_sent_again(server: Server, log: MoodyLog) -> None:
    log.lost = 1
    with Client(server.url) as client:
        client.signal("copy", agent="a", session_id="s")
    assert len(payloads(log)) == 2
    assert len({payload["id"] for payload in payloads(log)}) == 1


def test_two_signals_have_two_ids_and_a_given_id_is_kept(server: Server, log: MoodyLog) -> None:
    with Client(server.url) as client:
        client.signals([{"name": "copy", "agent": "a", "session_id": "s"}] * 2)
        client.signal("copy", agent="a", session_id="s", id="mine")
    ids = [payload["id"] for payload in payloads(log)]
    assert len(set(ids)) == 3
    assert ids[2] == "mine"


def test_pressure_is_waited_out_a_bounded_number_of_times(server: Server, log: MoodyLog, pauses: list[float]) -> None:
    log.rejections = 99
    with Client(server.url, attempts=3) as client, pytest.raises(DeliveryError, match=r"3 attempts; .*503: not now"):
        client.signal("copy", agent="a", session_id="s")
    assert (log.tries, pauses) == (3, [1.0, 1.0])


def test_texts_and_times_that_json_does_not_have(server: Server, log: MoodyLog) -> None:
    with Client(server.url) as client:
        client.signal("correction", agent="a", session_id="s", text="a\ud800b", time=NOW)
        with pytest.raises(ValueError, match="not JSON compliant"):
            client.signal("rating", agent="a", session_id="s", value=float("nan"))
        with pytest.raises(TypeError, match="set is neither JSON nor a datetime"):
            client.signal("copy", agent="a", session_id="s", attributes={1})
    assert [(payload["text"], payload["time"]) for payload in payloads(log)] == [("a?b", "2026-01-05T08:00:00Z")]


def test_labels_and_traces(server: Server, log: MoodyLog) -> None:
    request = ExportTraceServiceRequest()
    request.resource_spans.add().scope_spans.add().spans.add(trace_id=b"t" * 16, span_id=b"s" * 8)
    with Client(server.url, tenant="acme") as client:
        client.labels([{"agent": "a", "sample_id": "x", "value": "v", "rater": "r"}])
        client.traces(request.SerializeToString())
    assert [entry.topic for entry in log.entries[::2]] == ["agent.signals.raw", "otlp_spans"]
    assert {entry.headers["tenant"] for entry in log.entries[::2]} == {"acme"}


def test_refusals_say_what_is_wrong(server: Server) -> None:
    with Client(server.url) as client:
        with pytest.raises(DeliveryError, match=r"^/v1/traces: HTTP 400: body: not a whole ExportTraceServiceRequest"):
            client.traces(b"\x0a\xff")
        with pytest.raises(DeliveryError, match=r"HTTP 422: item 1, value: .* less than or equal to 1") as told:
            client.signals([{"name": "copy", "agent": "a", "session_id": "s", "value": v} for v in (1, 2)])
        with pytest.raises(DeliveryError, match=r"HTTP 400: signals: must hold 1 to 1000 items, not 0"):
            client.signals([])
    assert told.value.wrong == (1,)
    with pytest.raises(ValueError, match="must start with http://"):
        Client("127.0.0.1:4318")


def test_tokens(log: MoodyLog) -> None:
    app = create_app(log, lambda: NOW, GatewaySettings(token="key"), list)
    with Server(app, "127.0.0.1", 0) as server:
        with Client(server.url, token="key") as client:
            client.signal("copy", agent="a", session_id="s")
        with Client(server.url) as client, pytest.raises(DeliveryError, match="401: authorization: a bearer token"):
            client.signal("copy", agent="a", session_id="s")


def test_nobody_there(pauses: list[float]) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with Client(f"http://127.0.0.1:{port}", attempts=3) as client, pytest.raises(DeliveryError, match="3 attempts"):
        client.signal("copy", agent="a", session_id="s")
    assert pauses == [0.2, 0.4]


def test_in_the_background_every_signal_arrives_once(server: Server, log: MoodyLog) -> None:
    with Client(server.url) as client, Background(client) as background:
        for n in range(1200):
            background.signal("copy", agent="a", session_id=str(n))
        background.flush()
        assert len(payloads(log)) == 1200
        background.signal("copy", agent="a", session_id="last")
    assert sorted(payload["session_id"] for payload in payloads(log)) == sorted([*map(str, range(1200)), "last"])
    assert log.tries < 600


def test_a_wrong_signal_does_not_hold_up_its_neighbours(server: Server, log: MoodyLog) -> None:
    with Client(server.url) as client:
        background = Background(client)
        for n in range(50):
            background.signal("copy", agent="a", session_id=str(n), value=9 if n in (7, 30) else 1)
        with pytest.raises(DeliveryError, match="value"):
            background.flush()
        background.flush()
        background.close()
    assert len(payloads(log)) == 48
    with pytest.raises(DeliveryError, match="closed"):
        background.signal("copy", agent="a", session_id="s")


def test_a_full_queue_says_so(server: Server, log: MoodyLog, monkeypatch: pytest.MonkeyPatch) -> None:
    held, waiting = threading.Event(), threading.Event()

    def wait(self: MemoryLog, entries: Sequence[Entry]) -> None:
        waiting.set()
        held.wait(10)
        MemoryLog.append(self, entries)

    monkeypatch.setattr(MoodyLog, "append", wait)
    with Client(server.url) as client, Background(client, capacity=2) as background:
        background.signal("copy", agent="a", session_id="0")
        assert waiting.wait(10)
        for n in (1, 2):
            background.signal("copy", agent="a", session_id=str(n))
        with pytest.raises(DeliveryError, match="2 signals wait already"):
            background.signal("copy", agent="a", session_id="3")
        held.set()
    assert [payload["session_id"] for payload in payloads(log)] == ["0", "1", "2"]


def test_what_was_given_up_is_told_when_it_closes(server: Server, log: MoodyLog, pauses: list[float]) -> None:
    log.rejections = 99
    with Client(server.url, attempts=2) as client:
        background = Background(client)
        background.signal("copy", agent="a", session_id="s")
        with pytest.raises(DeliveryError, match=r"1 deliveries failed; the first: .*2 attempts"):
            background.close()
        background.close()
