"""OTLP/gRPC over a real socket: OpenTelemetry's own exporter, and callers who do it wrong."""

from __future__ import annotations

import gzip
import logging
import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc.error_details_pb2 import RetryInfo
from google.rpc.status_pb2 import Status
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest, ExportLogsServiceResponse
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor

from connectors import otlp_grpc
from connectors.api_keys import ApiKey, KeyRing, as_text, new_key
from connectors.http import Access
from connectors.log import Entry, MemoryLog
from connectors.otlp_grpc import Receiver
from driftwheel.grpc_server import GrpcServer
from schemas import codec
from schemas.errors import Refused, Reject
from schemas.events import LedgerEntry

NOW = datetime(2026, 1, 5, 8, 0, 30, tzinfo=UTC)
LIMIT = 1_000_000
METHOD = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
SECRET = "correct-horse-battery"


class MoodyLog(MemoryLog):
    """Rejects the first appends, or waits until it may."""

    def __init__(self, rejections: int = 0) -> None:
        super().__init__()
        self.rejections, self.asked = rejections, 0
        self.open, self.entered = threading.Event(), threading.Event()
        self.open.set()

    def append(self, entries: Sequence[Entry]) -> None:
        self.asked += 1
        self.entered.set()
        self.open.wait(30)
        if self.rejections:
            self.rejections -= 1
            raise Reject("the log is 9 entries behind", retry_after=0.25)
        super().append(entries)

    def topics(self) -> list[str]:
        return [entry.topic for entry in self.entries]


@pytest.fixture
def log() -> MoodyLog:
    return MoodyLog()


def serve(log: MemoryLog, access: Access | None = None, port: int = 0) -> GrpcServer:
    return GrpcServer(Receiver(log, lambda: NOW, access or Access([])), "127.0.0.1", port, LIMIT)


@pytest.fixture
def server(log: MoodyLog) -> Iterator[GrpcServer]:
    with serve(log) as made:
        yield made


def request(spans: int = 2, bad: int | None = None, agent: str = "") -> ExportTraceServiceRequest:
    made = ExportTraceServiceRequest()
    resource = made.resource_spans.add()
    if agent:
        resource.resource.attributes.add(key="service.name").value.string_value = agent
    scope = resource.scope_spans.add()
    for n in range(spans):
        scope.spans.add(trace_id=b"t" * (3 if n == bad else 16), span_id=bytes([n + 1]) * 8, name="chat")
    return made


def export(server: GrpcServer, body: bytes, method: str = METHOD, **options: Any) -> ExportTraceServiceResponse:
    """One call; ``options`` are those of gRPC."""
    with grpc.insecure_channel(server.address, options=[("grpc.max_send_message_length", -1)]) as channel:
        return ExportTraceServiceResponse.FromString(channel.unary_unary(method)(body, timeout=20, **options))


def refusal(server: GrpcServer, body: bytes, **options: Any) -> grpc.RpcError:
    with pytest.raises(grpc.RpcError) as raised:
        export(server, body, **options)
    return raised.value


def bearer(token: str, **more: str) -> list[tuple[str, str]]:
    return [("authorization", f"Bearer {token}"), *more.items()]


def emit(server: GrpcServer, **options: Any) -> OTLPSpanExporter:
    """One span by an instrumented agent."""
    exporter = OTLPSpanExporter(endpoint=server.address, insecure=True, **options)
    provider = TracerProvider(resource=Resource.create({"service.name": "support-router"}), shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    with provider.get_tracer("agent").start_as_current_span("invoke_agent"):
        pass
    provider.shutdown()
    return exporter


@pytest.mark.parametrize("compression", [None, grpc.Compression.Gzip])
def test_opentelemetrys_exporter(server: GrpcServer, log: MoodyLog, compression: grpc.Compression | None) -> None:
    emit(server, compression=compression, headers={"x-driftwheel-tenant": "acme"})
    assert log.topics() == ["otlp_spans", "flywheel.ledger"]
    stored = ExportTraceServiceRequest.FromString(log.entries[0].value)
    assert stored.resource_spans[0].scope_spans[0].spans[0].name == "invoke_agent"
    assert log.entries[0].headers == {"tenant": "acme", "agent": "support-router", "ledger": "gateway"}
    counted = codec.decode(log.entries[1].value)
    assert isinstance(counted, LedgerEntry)
    assert (counted.tenant, counted.entry, counted.count) == ("acme", "accepted", 1)


def test_bytes_are_appended_unchanged(server: GrpcServer, log: MoodyLog) -> None:
    body = request().SerializeToString() + b"\xfa\x3e\x03abc"  # field 1007, which no version has
    assert export(server, body, compression=grpc.Compression.Gzip) == ExportTraceServiceResponse()
    assert log.entries[0].value == body


def test_a_bad_span_does_not_take_its_neighbours_along(server: GrpcServer, log: MoodyLog) -> None:
    partial = export(server, request(3, bad=1).SerializeToString()).partial_success
    assert partial.rejected_spans == 1
    assert "resource_spans[0].scope_spans[0].spans[1].trace_id" in partial.error_message
    assert log.topics() == ["otlp_spans", "flywheel.ledger"]


def test_back_pressure_says_when_to_come_back_and_takes_nothing(server: GrpcServer, log: MoodyLog) -> None:
    log.rejections = 1
    error = refusal(server, request().SerializeToString())
    assert (error.code(), error.details()) == (grpc.StatusCode.UNAVAILABLE, "the log is 9 entries behind")
    trailing = dict(error.trailing_metadata())
    status = Status.FromString(trailing["grpc-status-details-bin"])
    told, again = RetryInfo(), RetryInfo.FromString(trailing["google.rpc.retryinfo-bin"])
    assert status.details[0].Unpack(told)
    assert (status.code, status.message) == (14, error.details())
    assert told == again
    assert told.retry_delay.ToMilliseconds() == 250
    assert log.entries == []


def test_a_retry_by_the_exporter_is_stored_once(server: GrpcServer, log: MoodyLog) -> None:
    log.rejections = 2
    emit(server, timeout=20)
    assert log.asked == 3
    assert log.topics() == ["otlp_spans", "flywheel.ledger"]


def test_without_retry_info_the_exporter_gives_up(server: GrpcServer, log: MoodyLog) -> None:
    """Control: what is final is not sent again."""
    emit(server, headers={"x-driftwheel-tenant": "No Tenant"})
    assert (log.asked, log.entries) == (0, [])


@pytest.mark.parametrize("compression", [None, grpc.Compression.Gzip, grpc.Compression.Deflate])
def test_large_messages_are_refused_before_and_after_decompression(
    server: GrpcServer, log: MoodyLog, compression: grpc.Compression | None
) -> None:
    bomb = b"\0" * 50_000_000
    assert len(gzip.compress(bomb)) < LIMIT
    error = refusal(server, bomb, compression=compression)
    assert error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "larger than max" in (error.details() or "")
    assert "google.rpc.retryinfo-bin" not in dict(error.trailing_metadata())
    emit(server)
    assert log.topics() == ["otlp_spans", "flywheel.ledger"]


@pytest.mark.parametrize("body", [request().SerializeToString()[:-3], b"\xff" * 40, SECRET.encode()])
def test_garbage_is_an_invalid_argument_and_is_not_quoted(
    server: GrpcServer, log: MoodyLog, body: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    error = refusal(server, body)
    assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert "ExportTraceServiceRequest" in (error.details() or "")
    assert SECRET not in str(error)
    assert (log.entries, caplog.records) == ([], [])


@pytest.mark.parametrize("name", ["No Tenant", "", "a" * 64])
def test_a_wrong_tenant_is_an_invalid_argument(server: GrpcServer, log: MoodyLog, name: str) -> None:
    error = refusal(server, request().SerializeToString(), metadata=[("x-driftwheel-tenant", name)])
    assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert log.entries == []


def test_a_call_without_a_message(server: GrpcServer, log: MoodyLog) -> None:
    with grpc.insecure_channel(server.address) as channel, pytest.raises(grpc.RpcError) as raised:
        channel.stream_unary(METHOD)(iter(()), timeout=20)
    assert raised.value.code() == grpc.StatusCode.INVALID_ARGUMENT


def test_logs_are_taken_as_traces_are(server: GrpcServer, log: MoodyLog) -> None:
    made = ExportLogsServiceRequest()
    records = made.resource_logs.add().scope_logs.add().log_records
    for trace_id in (b"t" * 16, b"short", b""):
        records.add(trace_id=trace_id, event_name="x")
    method = "/opentelemetry.proto.collector.logs.v1.LogsService/Export"
    with grpc.insecure_channel(server.address) as channel:
        answer = channel.unary_unary(method)(made.SerializeToString(), timeout=20)
    partial = ExportLogsServiceResponse.FromString(answer).partial_success
    assert (partial.rejected_log_records, "log_records[1].trace_id" in partial.error_message) == (1, True)
    assert log.topics() == ["otlp_logs", "flywheel.ledger"]


def test_other_methods_are_unimplemented(server: GrpcServer, log: MoodyLog) -> None:
    error = refusal(server, b"", method=METHOD.replace("Trace", "Metrics").replace("trace", "metrics"))
    assert error.code() == grpc.StatusCode.UNIMPLEMENTED


def test_a_message_that_does_not_come_is_not_waited_for_for_ever(
    server: GrpcServer, log: MoodyLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(otlp_grpc, "PATIENCE_SECONDS", 0.05)
    never = threading.Event()

    def messages() -> Iterator[bytes]:
        never.wait(20)
        yield b""

    with grpc.insecure_channel(server.address) as channel, pytest.raises(grpc.RpcError) as raised:
        channel.stream_unary(METHOD)(messages(), timeout=20)
    never.set()
    assert raised.value.code() == grpc.StatusCode.CANCELLED
    assert log.entries == []


# Who may send.


@pytest.fixture
def keys(tmp_path: Path) -> tuple[KeyRing, dict[str, str]]:
    """One key for an agent of acme, one that may send once in a long while, and one that has ended."""
    made: dict[str, tuple[str, ApiKey]] = {
        "bot": new_key(NOW, "acme", agents=("bot",)),
        "slow": new_key(NOW, "acme", rate=0.001, burst=1),
        "ended": new_key(NOW, "acme", expires=NOW),
    }
    path = tmp_path / "keys.json"
    path.write_text(as_text([key for _, key in made.values()]))
    return KeyRing(path, lambda: NOW, lambda: 0.0), {name: text for name, (text, _) in made.items()}


@pytest.mark.parametrize(
    ("metadata", "code"),
    [
        ([], grpc.StatusCode.UNAUTHENTICATED),
        (bearer("wrong"), grpc.StatusCode.UNAUTHENTICATED),
        (bearer(""), grpc.StatusCode.UNAUTHENTICATED),
        ([("authorization", f"Basic {SECRET}")], grpc.StatusCode.UNAUTHENTICATED),
        ([("authorization", SECRET)], grpc.StatusCode.UNAUTHENTICATED),
        ([("authorization-bin", f"Bearer {SECRET}".encode())], grpc.StatusCode.UNAUTHENTICATED),
        (bearer("wrong") + bearer(SECRET), grpc.StatusCode.UNAUTHENTICATED),
        (bearer(SECRET), None),
        (bearer(SECRET, **{"x-driftwheel-tenant": "acme"}), None),
    ],
)
def test_the_token(log: MoodyLog, metadata: list[tuple[str, Any]], code: grpc.StatusCode | None) -> None:
    with serve(log, Access([SECRET])) as server:
        body = request().SerializeToString()
        if code is None:
            export(server, body, metadata=metadata)
            assert log.topics() == ["otlp_spans", "flywheel.ledger"]
        else:
            error = refusal(server, body, metadata=metadata)
            assert (error.code(), log.entries) == (code, [])
            assert SECRET not in str(error)


def test_a_stranger_is_refused_before_the_message_is_read(log: MoodyLog) -> None:
    with serve(log, Access([SECRET])) as server:
        error = refusal(server, b"\0" * (LIMIT + 1))
    assert error.code() == grpc.StatusCode.UNAUTHENTICATED


def test_api_keys(log: MoodyLog, keys: tuple[KeyRing, dict[str, str]]) -> None:
    ring, texts = keys
    body = request(agent="bot").SerializeToString()
    with serve(log, Access([], ring)) as server:
        export(server, body, metadata=bearer(texts["bot"]))
        assert log.entries[0].headers["tenant"] == "acme"
        wrong = [
            (body, bearer(texts["ended"]), grpc.StatusCode.UNAUTHENTICATED, "authorization"),
            (body, [], grpc.StatusCode.UNAUTHENTICATED, "authorization"),
            (
                body,
                bearer(texts["bot"], **{"x-driftwheel-tenant": "other"}),
                grpc.StatusCode.PERMISSION_DENIED,
                "tenant",
            ),
            (
                request(agent="cat").SerializeToString(),
                bearer(texts["bot"]),
                grpc.StatusCode.PERMISSION_DENIED,
                "agent",
            ),
        ]
        for data, metadata, code, words in wrong:
            error = refusal(server, data, metadata=metadata)
            assert error.code() == code
            assert words in (error.details() or "")
        assert len(log.entries) == 2


def test_the_rate_of_a_key(log: MoodyLog, keys: tuple[KeyRing, dict[str, str]]) -> None:
    ring, texts = keys
    with serve(log, Access([], ring)) as server:
        export(server, request().SerializeToString(), metadata=bearer(texts["slow"]))
        error = refusal(server, request().SerializeToString(), metadata=bearer(texts["slow"]))
    assert error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    wait = RetryInfo.FromString(dict(error.trailing_metadata())["google.rpc.retryinfo-bin"]).retry_delay
    assert wait.ToSeconds() == 1000
    assert len(log.entries) == 2


# How it starts and ends.


def test_a_port_in_use_is_named(server: GrpcServer, log: MoodyLog) -> None:
    with pytest.raises(Refused, match=rf"port {server.port} on 127.0.0.1 .*gateway.grpc_port"):
        serve(log, port=server.port)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(Refused, match=r"gateway.grpc to false"):
            serve(log, port=taken.getsockname()[1])


def test_what_is_under_way_is_answered_before_it_closes(log: MoodyLog, caplog: pytest.LogCaptureFixture) -> None:
    log.open.clear()
    answers: list[ExportTraceServiceResponse] = []
    with caplog.at_level(logging.WARNING), ExitStack() as stack:
        server = stack.enter_context(serve(log))
        body = request().SerializeToString()
        sender = threading.Thread(target=lambda: answers.append(export(server, body)))
        sender.start()
        assert log.entered.wait(20)
        closer = threading.Thread(target=server.close)
        closer.start()
        log.open.set()
        sender.join(20)
        closer.join(20)
    assert answers == [ExportTraceServiceResponse()]
    assert log.topics() == ["otlp_spans", "flywheel.ledger"]
    assert refusal(server, b"").code() == grpc.StatusCode.UNAVAILABLE
    with serve(log, port=server.port) as again:
        export(again, request().SerializeToString())
