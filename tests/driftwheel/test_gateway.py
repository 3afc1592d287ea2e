"""The server and the client against each other, over a real socket."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

import pytest

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
    made = Server(create_app(log, lambda: NOW, GatewaySettings(), list), "127.0.0.1", 0)
    yield made
    made.close()


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


def test_nobody_there() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with Client(f"http://127.0.0.1:{port}", attempts=2) as client, pytest.raises(DeliveryError, match="2 attempts"):
        client.signal("copy", agent="a", session_id="s")


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
