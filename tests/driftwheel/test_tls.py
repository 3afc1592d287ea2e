"""TLS on both ports: OpenTelemetry's exporters with a CA of the test, and files that are wrong."""

from __future__ import annotations

import logging
import shutil
import ssl
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import grpc
import httpx
import pytest
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter as GrpcExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter as HttpExporter
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter

from connectors.log import MemoryLog
from driftwheel.client import Client, DeliveryError
from driftwheel.clock import utc_now
from driftwheel.config import Config, load
from driftwheel.doctor import examine
from driftwheel.ports import Face, Ports, Where, configured
from driftwheel.tls import Certificate, Files, notice, read_client_ca, read_pair
from schemas.errors import Refused, UsageError
from tests.certificates import Authority

LONG_AGO = (timedelta(days=-9), timedelta(days=-1))
HOSTS = ("127.0.0.1",)


@pytest.fixture(autouse=True)
def no_other_trust(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the machine says whom to trust would stand over what a test says."""
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def ca(tmp_path: Path) -> Authority:
    return Authority(tmp_path, "ca")


@pytest.fixture
def files(ca: Authority) -> Files:
    return Files(*ca.issue("server", hosts=HOSTS))


def config_of(tmp_path: Path, files: Files | None, **more: object) -> Config:
    tls = {"tls_cert": files.cert, "tls_key": files.key, "tls_client_ca": files.client_ca} if files else {}
    return load(data_dir=tmp_path / "data", gateway={"port": 0, "grpc_port": 0, **tls, **more})


def opened(config: Config, log: MemoryLog, face: Face | None = None) -> Ports:
    return Ports(config, configured(config), log, utc_now, face or Face(list))


@pytest.fixture
def log() -> MemoryLog:
    return MemoryLog()


@pytest.fixture
def ports(tmp_path: Path, files: Files, log: MemoryLog) -> Iterator[Ports]:
    made = opened(config_of(tmp_path, files), log)
    yield made
    made.close()


def emit(exporter: SpanExporter) -> None:
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    with provider.get_tracer("agent").start_as_current_span("invoke_agent"):
        pass
    provider.shutdown()


def topics(log: MemoryLog) -> list[str]:
    return [entry.topic for entry in log.entries]


def served(ports: Ports, ca: Path) -> bytes:
    """The certificate that a new connection gets."""
    host, _, port = ports.url.removeprefix("https://").partition(":")
    return ssl.get_server_certificate((host, int(port)), ca_certs=str(ca), timeout=20).encode()


# Traces over TLS.


def test_opentelemetrys_exporter_by_http(ports: Ports, ca: Authority, log: MemoryLog) -> None:
    assert ports.url.startswith("https://")
    emit(HttpExporter(endpoint=f"{ports.url}/v1/traces", certificate_file=str(ca.file)))
    assert topics(log) == ["otlp_spans", "flywheel.ledger"]


def test_opentelemetrys_exporter_by_grpc(ports: Ports, ca: Authority, log: MemoryLog) -> None:
    assert ports.grpc is not None
    credentials = grpc.ssl_channel_credentials(ca.file.read_bytes())
    emit(GrpcExporter(endpoint=ports.grpc.address, credentials=credentials))
    assert topics(log) == ["otlp_spans", "flywheel.ledger"]


def test_our_own_client_trusts_the_ca_that_is_named(
    ports: Ports, ca: Authority, log: MemoryLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SSL_CERT_DIR", raising=False)
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    with Client(ports.url, attempts=1) as client, pytest.raises(DeliveryError, match="CERTIFICATE_VERIFY_FAILED"):
        client.signal("copy", agent="a", session_id="s")
    monkeypatch.setenv("SSL_CERT_FILE", str(ca.file))
    with Client(ports.url) as client:
        client.signal("copy", agent="a", session_id="s")
    assert topics(log) == ["agent.signals.raw", "flywheel.ledger"]


def test_nothing_gets_in_without_tls_or_from_who_trusts_another_ca(
    ports: Ports, tmp_path: Path, log: MemoryLog
) -> None:
    assert ports.grpc is not None
    with pytest.raises(httpx.TransportError):
        httpx.get(ports.url.replace("https", "http") + "/healthz")
    other = Authority(tmp_path, "other")
    with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
        httpx.get(f"{ports.url}/healthz", verify=ssl.create_default_context(cafile=other.file))
    emit(GrpcExporter(endpoint=ports.grpc.address, insecure=True, timeout=0.5))
    credentials = grpc.ssl_channel_credentials(other.file.read_bytes())
    emit(GrpcExporter(endpoint=ports.grpc.address, credentials=credentials, timeout=0.5))
    assert log.entries == []


def test_old_versions_of_tls_are_refused(ports: Ports, ca: Authority, files: Files) -> None:
    context = ssl.create_default_context(cafile=ca.file)
    assert httpx.get(f"{ports.url}/healthz", verify=context).text == "ok"
    assert Certificate(files, utc_now).ssl_context().minimum_version == ssl.TLSVersion.TLSv1_2


def test_senders_need_a_certificate_of_the_clients_ca(tmp_path: Path, ca: Authority, log: MemoryLog) -> None:
    clients, others = Authority(tmp_path, "clients"), Authority(tmp_path, "others")
    cert, key = clients.issue("agent")
    wrong_cert, wrong_key = others.issue("stranger")
    files = Files(*ca.issue("server", hosts=HOSTS), clients.file)
    ports = opened(config_of(tmp_path, files), log)
    assert ports.grpc is not None
    url, root = f"{ports.url}/v1/traces", ca.file.read_bytes()
    try:
        emit(HttpExporter(url, str(ca.file), timeout=1))
        emit(HttpExporter(url, str(ca.file), str(wrong_key), str(wrong_cert), timeout=1))
        for pair in ((None, None), (wrong_key.read_bytes(), wrong_cert.read_bytes())):
            credentials = grpc.ssl_channel_credentials(root, *pair)
            emit(GrpcExporter(endpoint=ports.grpc.address, credentials=credentials, timeout=0.5))
        assert log.entries == []
        emit(HttpExporter(url, str(ca.file), str(key), str(cert)))
        credentials = grpc.ssl_channel_credentials(root, key.read_bytes(), cert.read_bytes())
        emit(GrpcExporter(endpoint=ports.grpc.address, credentials=credentials))
        assert topics(log) == ["otlp_spans", "flywheel.ledger"] * 2
    finally:
        ports.close()


def test_the_owner_has_a_door_of_its_own(tmp_path: Path, files: Files, log: MemoryLog) -> None:
    """Plain, on loopback, and never without the owner's token."""
    ports = opened(config_of(tmp_path, files), log, Face(list, owner_token="own"))
    try:
        assert ports.near_url.startswith("http://127.0.0.1:")
        url, body = f"{ports.near_url}/v1/traces", {"resourceSpans": []}
        assert httpx.get(f"{ports.near_url}/healthz").text == "ok"
        assert httpx.post(url, json=body).status_code == 401
        assert httpx.post(url, json=body, headers={"authorization": "Bearer wrong"}).status_code == 401
        assert httpx.post(url, json=body, headers={"authorization": "Bearer own"}).status_code == 200
        wrong = {"authorization": "Bearer own", "host": "evil.example"}
        assert httpx.post(url, json=body, headers=wrong).status_code == 400
    finally:
        ports.close()


# Renewal.


def test_a_renewed_certificate_is_used_without_a_restart(
    ports: Ports, ca: Authority, files: Files, log: MemoryLog, caplog: pytest.LogCaptureFixture
) -> None:
    assert ports.grpc is not None
    before = served(ports, ca.file)
    cert, key = ca.issue("renewed", hosts=HOSTS)
    shutil.copy(cert, files.cert)  # half of the pair: the old one stays
    assert served(ports, ca.file) == before
    assert "is not the key of" in caplog.text
    shutil.copy(key, files.key)
    served(ports, ca.file)  # each handshake looks at the files for the next
    assert served(ports, ca.file).strip() == cert.read_bytes().strip()
    credentials = grpc.ssl_channel_credentials(ca.file.read_bytes())
    emit(GrpcExporter(endpoint=ports.grpc.address, credentials=credentials))
    assert topics(log) == ["otlp_spans", "flywheel.ledger"]


# Files that are wrong.


def test_missing_mismatched_ended_and_early_files_are_named(tmp_path: Path, ca: Authority, files: Files) -> None:
    _, other_key = ca.issue("other")
    locked = ca.issue("locked", password="of the key")
    ended = ca.issue("ended", holds=LONG_AGO)
    early = ca.issue("early", holds=(timedelta(days=1), timedelta(days=2)))
    nothing = tmp_path / "nothing.pem"
    nothing.write_text("no PEM at all\n")
    wrong = {
        rf"gateway.tls_cert: {tmp_path}/none.pem cannot be read: No such file": Files(tmp_path / "none.pem", files.key),
        r"gateway.tls_key: .* cannot be read: Is a directory": Files(files.cert, tmp_path),
        r"gateway.tls_cert: .* no certificate in PEM": Files(nothing, files.key),
        r"gateway.tls_key: .* no private key in PEM": Files(files.cert, nothing),
        r"gateway.tls_key: .*other.key.pem is not the key of .*server.cert.pem": Files(files.cert, other_key),
        r"gateway.tls_key: .* is locked with a password": Files(*locked),
        r"gateway.tls_cert: .* ended on \d{4}-\d\d-\d\d: renew it": Files(*ended),
        r"gateway.tls_cert: .* holds only from .*clock": Files(*early),
    }
    for words, these in wrong.items():
        with pytest.raises(Refused, match=words):
            read_pair(these, utc_now())
    assert read_pair(files, utc_now()).expires > utc_now()


def test_a_clients_ca_that_is_wrong_is_named(tmp_path: Path, files: Files) -> None:
    cert, _ = Authority(tmp_path, "clients").issue("ended", holds=LONG_AGO)
    for path, words in ((files.key, "no certificate"), (cert, "ended on"), (tmp_path / "none", "cannot be read")):
        with pytest.raises(Refused, match=f"gateway.tls_client_ca: .*{words}"):
            read_client_ca(path, utc_now())


def test_nothing_listens_when_a_file_is_wrong(tmp_path: Path, ca: Authority, log: MemoryLog) -> None:
    with pytest.raises(Refused, match="ended on"):
        opened(config_of(tmp_path, Files(*ca.issue("ended", holds=LONG_AGO))), log)


def test_half_a_setting_is_a_usage_error(tmp_path: Path, files: Files) -> None:
    for gateway in ({"tls_cert": files.cert}, {"tls_key": files.key}):
        with pytest.raises(UsageError, match="belong together"):
            load(data_dir=tmp_path, gateway=gateway)
    with pytest.raises(UsageError, match="tls_client_ca needs"):
        load(data_dir=tmp_path, gateway={"tls_client_ca": files.cert})


# What is said.


def test_an_open_address_without_tls_is_warned_of_once(
    tmp_path: Path, files: Files, log: MemoryLog, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened(config_of(tmp_path, None, token="key"), log).close()
    assert caplog.records == []
    monkeypatch.setattr("driftwheel.ports.is_loopback", lambda host: False)  # so that no test opens such an address
    opened(config_of(tmp_path, None, token="key"), log).close()
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert caplog.text.count("without TLS") == 1
    caplog.clear()
    opened(config_of(tmp_path, files, token="key"), log).close()
    assert "without TLS" not in caplog.text
    assert "renew it" in caplog.text  # the test's certificate holds for a day


def test_a_certificate_that_ends_soon(files: Files) -> None:
    pair = read_pair(files, utc_now())
    assert notice(pair, pair.expires - timedelta(days=13, hours=1)).endswith("in 13 days: renew it")
    assert notice(pair, pair.expires - timedelta(days=15)) == ""


def doctored(config: Config, name: str) -> tuple[bool, str]:
    [found] = [finding for finding in examine(config) if finding.name == name]
    return found.ok, found.seen


def test_the_doctor_knows(tmp_path: Path, ca: Authority, monkeypatch: pytest.MonkeyPatch) -> None:
    assert doctored(config_of(tmp_path, None), "TLS") == (True, "off; 127.0.0.1 is this machine alone")
    with monkeypatch.context() as patch:
        patch.setattr("driftwheel.ports.is_loopback", lambda host: False)
        ok, seen = doctored(config_of(tmp_path, None), "TLS")
    assert (ok, "without TLS" in seen) == (True, True)
    ok, seen = doctored(config_of(tmp_path, Files(*ca.issue("ended", holds=LONG_AGO))), "TLS")
    assert (ok, "ended on" in seen) == (False, True)
    assert doctored(config_of(tmp_path, None, grpc=False), "gRPC port") == (True, "off: gateway.grpc is false")


def test_the_doctor_knows_a_running_gateway(tmp_path: Path, files: Files, log: MemoryLog) -> None:
    ports = opened(config_of(tmp_path, files), log)
    assert ports.grpc is not None
    try:
        port = int(ports.url.rpartition(":")[2])
        config = config_of(tmp_path, files, port=port, grpc_port=ports.grpc.port)
        for name in ("port", "gRPC port"):
            assert doctored(config, name)[0]
        ok, seen = doctored(config_of(tmp_path, None, port=port), "port")  # it speaks TLS: not what was configured
        assert (ok, "cannot be used" in seen) == (False, True)
    finally:
        ports.close()


def test_options_stand_over_the_settings(tmp_path: Path) -> None:
    config = load(data_dir=tmp_path, gateway={"host": "::1", "port": 1, "grpc_port": 2})
    assert configured(config) == Where("::1", 1, 2, tls=True)
    assert configured(config, "127.0.0.1", 3, 4) == Where("127.0.0.1", 3, 4, tls=True)
    off = load(data_dir=tmp_path, gateway={"grpc": False})
    assert configured(off).grpc_port is None
    assert configured(off, grpc_port=5).grpc_port == 5
