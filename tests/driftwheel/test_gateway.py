"""The server over a real socket: what it takes, what it refuses, and how it starts and ends."""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from http.client import HTTPConnection

import httpx
import pytest
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from connectors.log import Entry, MemoryLog
from driftwheel.client import Client, DeliveryError
from driftwheel.gateway import GatewaySettings, Server, create_app
from schemas.errors import Refused, Reject

NOW = datetime(2026, 1, 5, 8, tzinfo=UTC)


class MoodyLog(MemoryLog):
    """Rejects the first appends."""

    def __init__(self, rejections: int) -> None:
        super().__init__()
        self.rejections = rejections

    def append(self, entries: Sequence[Entry]) -> None:
        if self.rejections:
            self.rejections -= 1
            raise Reject("not now", retry_after=0.1)
        super().append(entries)


@pytest.fixture
def log() -> MoodyLog:
    return MoodyLog(0)


@pytest.fixture
def server(log: MoodyLog) -> Iterator[Server]:
    with Server(create_app(log, lambda: NOW, GatewaySettings(), list), "127.0.0.1", 0) as made:
        yield made


def test_two_lines_send_a_signal(server: Server, log: MoodyLog) -> None:
    with Client(server.url) as client:
        client.signal("rating", agent="a", session_id="s", value=-1.0)
        client.labels([{"agent": "a", "sample_id": "x", "value": "v", "rater": "r"}])
    assert [entry.topic for entry in log.entries].count("agent.signals.raw") == 2


def test_a_503_is_tried_again(server: Server, log: MoodyLog) -> None:
    log.rejections = 1
    with Client(server.url) as client:
        client.signal("copy", agent="a", session_id="s")
    assert [entry.topic for entry in log.entries].count("agent.signals.raw") == 1


def test_a_wrong_field_is_told_at_once(server: Server, log: MoodyLog) -> None:
    with Client(server.url) as client, pytest.raises(DeliveryError, match=r"422: item 0, value"):
        client.signal("rating", agent="a", session_id="s", value=9)
    assert log.entries == []


def test_a_port_in_use_is_named(server: Server, log: MoodyLog) -> None:
    app = create_app(log, lambda: NOW, GatewaySettings(), list)
    with pytest.raises(Refused, match=f"port {server.port} on 127.0.0.1"):
        Server(app, "127.0.0.1", server.port)


def test_many_senders_at_once(server: Server, log: MoodyLog) -> None:
    def send(number: int) -> None:
        with Client(server.url) as client:
            for n in range(10):
                client.signal("copy", agent="a", session_id=f"{number}-{n}")

    threads = [threading.Thread(target=send, args=(n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [entry.topic for entry in log.entries].count("agent.signals.raw") == 60


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize(
    ("path", "kind"), [("/v1/traces", "application/x-protobuf"), ("/v1/signals", "application/json")]
)
def test_fifty_megabytes_are_refused_and_the_server_lives(
    server: Server, log: MoodyLog, path: str, kind: str, chunked: bool
) -> None:
    pieces = [b" " * 1_000_000] * 50
    content = iter(pieces) if chunked else b"".join(pieces)
    response = httpx.post(server.url + path, content=content, headers={"content-type": kind})
    assert response.status_code == 413
    assert b"send smaller batches" in response.content
    assert httpx.get(f"{server.url}/healthz").status_code == 200
    assert log.entries == []


def test_a_connection_that_ends_early_takes_nothing_and_logs_nothing(
    server: Server, log: MoodyLog, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING), socket.create_connection(("127.0.0.1", server.port), timeout=20) as raw:
        raw.sendall(b"POST /v1/signals HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n")
        raw.sendall(b'content-length: 100\r\n\r\n{"name": "ra')
    assert httpx.get(f"{server.url}/healthz").status_code == 200
    server.close()
    assert log.entries == []
    assert [record.message for record in caplog.records] == []


def test_extra_routes_stand_behind_the_token_unless_they_have_their_own(log: MoodyLog) -> None:
    async def hello(request: Request) -> Response:
        return PlainTextResponse("hello")

    settings = GatewaySettings(token="key", own_paths=("/own",))
    routes = [Route("/own", hello), Route("/other", hello)]
    with Server(create_app(log, lambda: NOW, settings, list, routes), "127.0.0.1", 0) as server:
        assert httpx.get(f"{server.url}/own").status_code == 200
        assert httpx.get(f"{server.url}/other").status_code == 401
        assert httpx.get(f"{server.url}/other", headers={"authorization": "Bearer key"}).text == "hello"
        assert httpx.get(f"{server.url}/readyz").json() == {"ready": True, "problems": []}


def test_a_closed_server_lets_go_of_its_port(log: MoodyLog) -> None:
    app = create_app(log, lambda: NOW, GatewaySettings(), list)
    with Server(app, "127.0.0.1", 0) as first:
        port = first.port
    with Server(app, "127.0.0.1", port) as second:
        assert httpx.get(f"{second.url}/healthz").text == "ok"


def test_an_idle_connection_outlives_those_that_clients_keep(server: Server) -> None:
    """httpx uses a connection again that was idle for up to five seconds."""
    connection = HTTPConnection("127.0.0.1", server.port, timeout=30)
    connection.connect()
    opened = connection.sock
    for pause in (0.0, 5.5):
        time.sleep(pause)
        connection.request("GET", "/healthz")
        assert connection.getresponse().read() == b"ok"
    assert connection.sock is opened, "it was closed in between"
    connection.close()
