"""The gateway's ports around a whole product on the embedded engine."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from pathlib import Path

import httpx
import pytest
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from rich.console import Console

from connectors.log import Entry, MemoryLog
from driftwheel import services
from driftwheel.client import Client, DeliveryError
from driftwheel.clock import utc_now
from driftwheel.config import load
from driftwheel.keys_command import create_key
from driftwheel.ports import PRIVATE, Face, Ports, configured
from driftwheel.product import Product
from driftwheel.telemetry import Metrics
from schemas.errors import Reject, UsageError

MAIL = "ana.lima@example.com"


def said(role: str, text: str) -> str:
    return json.dumps([{"role": role, "parts": [{"type": "text", "content": text}]}])


EXCHANGE = {
    "gen_ai.operation.name": "invoke_agent",
    "gen_ai.input.messages": said("user", f"write to {MAIL}"),
    "gen_ai.output.messages": said("assistant", "done"),
}


class Clock:
    """The real one, until it is set ahead."""

    def __init__(self) -> None:
        self.ahead = timedelta()

    def __call__(self) -> datetime:
        return utc_now() + self.ahead


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def product(tmp_path: Path, clock: Clock) -> Iterator[Product]:
    gateway = {"port": 0, "grpc_port": 0}
    config = load(data_dir=tmp_path / "data", gateway=gateway, engine={"workers": 0})
    made = Product(config, clock=clock, wheel=False, models=False)
    yield made
    made.close()


def send_turns(endpoint: str, turns: int) -> None:
    """Turns of an instrumented agent, each span sent by itself."""
    exporter = OTLPSpanExporter(endpoint=endpoint, insecure=True, timeout=30)
    provider = TracerProvider(resource=Resource.create({"service.name": "support-router"}), shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    tracer = provider.get_tracer("agent")
    for n in range(turns):
        known = EXCHANGE | {"gen_ai.conversation.id": f"s-{n}"}
        with tracer.start_as_current_span("invoke_agent", attributes=known):
            tracer.start_span("chat", attributes={"gen_ai.operation.name": "chat"}).end()
    provider.shutdown()


def test_traces_by_grpc_reach_the_store_once_and_the_ledger_is_at_zero(
    product: Product, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first request is turned away before anything is taken, and the exporter's retry is what is stored."""
    take, turned_away = product.log.append, [True]

    def append(entries: Sequence[Entry]) -> None:
        if turned_away:
            turned_away.pop()
            raise Reject("redact is 9 entries behind", retry_after=0.1)
        take(entries)

    monkeypatch.setattr(product.log, "append", append)
    assert product.ports.grpc is not None
    assert product.ports.told == f"{product.url}, OTLP/gRPC to {product.ports.grpc.address}"
    send_turns(product.ports.grpc.address, 3)
    assert turned_away == []
    assert httpx.get(f"{product.url}/readyz").json() == {"ready": True, "problems": []}
    product.settle()
    clock.ahead = timedelta(hours=3)
    product.settle()
    assert product.sql("SELECT count() AS n FROM spans").rows == [[6]]
    assert product.sql("SELECT count() AS n FROM turns_current").rows == [[3]]
    totals = product.ledger_totals()
    assert (totals["accepted"], totals["stored"], totals["difference"]) == (6, 6, 0)
    stored = str(product.sql("SELECT * FROM spans").rows)
    assert "<EMAIL" in stored
    assert MAIL not in stored


def test_the_owners_token_sends_where_one_is_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config, log = load(data_dir=tmp_path / "data"), MemoryLog()
    create_key(config, "acme", None, True)
    ports = Ports(config, PRIVATE, log, utc_now, Face(list, owner_token="own"))
    try:
        assert ports.grpc is None
        with Client(ports.url, attempts=1) as stranger, pytest.raises(DeliveryError, match="401"):
            stranger.signal("copy", agent="a", session_id="s")
        assert log.entries == []
        with Client(ports.url, token="own") as owner:
            owner.signal("copy", agent="a", session_id="s")
        assert len(log.entries) == 2
    finally:
        ports.close()


@pytest.mark.parametrize(
    "origin",
    [
        "*",
        "https://*.example.com",
        "https://app.example.com/",
        "app.example.com",
        "null",
        "https://App.example.com",
        "",
    ],
)
def test_origins_are_exact(tmp_path: Path, origin: str) -> None:
    good = ("https://app.example.com", "http://localhost:3000", "http://[::1]:8080", "chrome-extension://abc")
    assert load(data_dir=tmp_path, gateway={"cors_origins": good}).gateway.cors_origins == good
    with pytest.raises(UsageError, match=r"cors_origins\.0: .*no wildcard"):
        load(data_dir=tmp_path, gateway={"cors_origins": [origin]})


def test_the_configured_ports_are_the_usual_ones(tmp_path: Path) -> None:
    where = configured(load(data_dir=tmp_path))
    assert (where.host, where.port, where.grpc_port) == ("127.0.0.1", 4318, 4317)


def test_the_gateway_of_the_kafka_engine_takes_both(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """``driftwheel gateway`` without its broker: what it opens, where requests go, and that it closes."""
    log, opened = MemoryLog(), list[str]()

    class Taker(MemoryLog):
        def __init__(self, *_: object) -> None:
            super().__init__()
            self.append, self.ready, self.close = log.append, list, lambda: opened.append("log closed")

    class Nothing:
        def __init__(self, *_: object) -> None:
            self.kafka, self.framing, self.metrics = None, None, Metrics()
            self.key, self.clock = b"key", utc_now

        def check(self) -> None:
            """The topics are there."""

    def send() -> None:
        told = capsys.readouterr().err
        found = re.search(r"(http://\S+), OTLP/gRPC to (\S+)", told)
        assert found, told
        opened.extend(found.groups())
        send_turns(found[2], 1)
        assert httpx.get(f"{found[1]}/readyz").is_success

    for name, double in (("Cluster", Nothing), ("KafkaLog", Taker), ("wait_for_interrupt", send)):
        monkeypatch.setattr(services, name, double)
    monkeypatch.setattr(services, "_log_to_stderr", lambda: None)
    config = load(data_dir=tmp_path / "data", gateway={"port": 0, "grpc_port": 0}, redact={"canaries": 0})
    services.run_gateway(config, configured(config), Console(stderr=True))
    assert [entry.topic for entry in log.entries] == ["otlp_spans", "flywheel.ledger"] * 2
    assert opened[-1] == "log closed"
    for url in (opened[0], f"http://{opened[1]}"):
        with pytest.raises(httpx.ConnectError):
            httpx.get(url)
