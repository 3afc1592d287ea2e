"""What a secured Kafka needs in a test: a throw-away CA, a token server, one broker with a listener for each way in."""

from __future__ import annotations

import base64
import json
import ssl
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import parse_qs

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from tests.cluster import Listener

USER, PASSWORD = "driftwheel", "correct-horse battery staple"
STRANGER, STRANGER_PASSWORD = "stranger", "let me in"
WORKER, WORKER_PASSWORD = "worker", "of the worker"
CLIENT, SECRET = "driftwheel-client", "s3cret of the client"
ISSUER, AUDIENCE = "https://issuer.test", "kafka"
KEY_PASSWORD = "of the key"
_NOW = datetime.now(UTC)


class Authority:
    """A certificate authority of one test run; ``file`` is its certificate."""

    def __init__(self, folder: Path, name: str) -> None:
        self._folder, self._key = folder, ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self._own = self._certificate(self._name, self._key.public_key(), [], ca=True)
        self.file = folder / f"{name}.pem"
        self.file.write_bytes(self._own.public_bytes(serialization.Encoding.PEM))

    def issue(self, name: str, *, password: str = "", hosts: Sequence[str] = ()) -> tuple[Path, Path]:
        """The files of a certificate and of its key (PKCS 8), which is encrypted if there is a password."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        names: list[x509.GeneralName] = [x509.IPAddress(ip_address(host)) for host in hosts]
        certificate = self._certificate(subject, key.public_key(), names)
        lock = serialization.BestAvailableEncryption(password.encode()) if password else serialization.NoEncryption()
        cert_file, key_file = self._folder / f"{name}.cert.pem", self._folder / f"{name}.key.pem"
        cert_file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        key_file.write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, lock))
        return cert_file, key_file

    def _certificate(
        self,
        subject: x509.Name,
        key: ec.EllipticCurvePublicKey,
        names: Sequence[x509.GeneralName],
        *,
        ca: bool = False,
    ) -> x509.Certificate:
        usages = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
        made = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(_NOW - timedelta(hours=1))
            .not_valid_after(_NOW + timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        )
        # Python 3.13 asks for all of these.
        issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        made = made.add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
        made = made.add_extension(issuer, critical=False)
        made = made.add_extension(_usage(ca=ca), critical=True)
        if not ca:
            made = made.add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        if names:
            made = made.add_extension(x509.SubjectAlternativeName(names), critical=False)
        return made.sign(self._key, hashes.SHA256())


def _usage(*, ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not ca, key_cert_sign=ca, crl_sign=ca, content_commitment=False, key_encipherment=False,
        data_encipherment=False, key_agreement=False, encipher_only=False, decipher_only=False,
    )  # fmt: skip


class Signer:
    """Signs tokens (RS256) as an OpenID provider does; ``jwks`` is what a broker checks them by."""

    def __init__(self) -> None:
        self._key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        numbers = self._key.public_key().public_numbers()
        n = _base64(numbers.n.to_bytes(256, "big"))
        e = _base64(numbers.e.to_bytes(3, "big"))
        self.jwks = json.dumps({"keys": [{"kty": "RSA", "kid": "k", "use": "sig", "alg": "RS256", "n": n, "e": e}]})

    def token(self, subject: str, seconds: int = 3600) -> str:
        now = int(time.time())
        claims = {"sub": subject, "iss": ISSUER, "aud": AUDIENCE, "iat": now, "exp": now + seconds, "scope": "kafka"}
        head = _base64(json.dumps({"alg": "RS256", "kid": "k", "typ": "JWT"}).encode())
        signed = f"{head}.{_base64(json.dumps(claims).encode())}"
        return f"{signed}.{_base64(self._key.sign(signed.encode(), padding.PKCS1v15(), hashes.SHA256()))}"


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


@dataclass
class TokenServer:
    """The token endpoint of a test; ``answer`` overrides what it says, ``asked`` is what it was sent."""

    signer: Signer
    url: str = ""
    lifetime: int = 3600
    answer: tuple[int, str] | None = None
    asked: list[dict[str, str]] = field(default_factory=list)

    def respond(self, authorization: str, form: dict[str, list[str]]) -> tuple[int, str]:
        self.asked.append({name: values[0] for name, values in form.items()})
        if self.answer is not None:
            return self.answer
        scheme, _, given = authorization.partition(" ")
        if scheme != "Basic" or base64.b64decode(given).decode() != f"{CLIENT}:{SECRET}":
            return 401, json.dumps({"error": "invalid_client", "error_description": "no such client"})
        token = self.signer.token(CLIENT, self.lifetime)
        return 200, json.dumps({"access_token": token, "token_type": "Bearer", "expires_in": self.lifetime})


@contextmanager
def token_server(signer: Signer, certificate: tuple[Path, Path] | None = None) -> Iterator[TokenServer]:
    """A token endpoint on loopback, with TLS if it has a certificate."""
    served = TokenServer(signer)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            form = parse_qs(self.rfile.read(int(self.headers["content-length"])).decode())
            status, text = served.respond(self.headers.get("authorization", ""), form)
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(text)))
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        scheme = "http"
        if certificate is not None:
            scheme, context = "https", ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*certificate)
            server.socket = context.wrap_socket(server.socket, server_side=True)
        server.handle_error = lambda *_: None  # a client that does not trust it hangs up
        served.url = f"{scheme}://127.0.0.1:{server.server_port}/token"
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield served
        finally:
            server.shutdown()
            thread.join()


def listeners(folder: Path, authority: Authority, jwks: Path) -> tuple[Listener, ...]:
    """A listener for each way in: TLS, TLS with client certificates, passwords, tokens."""
    certificate, key = authority.issue("broker", hosts=["127.0.0.1"])
    store = folder / "broker.store.pem"
    store.write_bytes(key.read_bytes() + certificate.read_bytes())
    tls = {
        "ssl.keystore.type": "PEM",
        "ssl.keystore.location": str(store),
        "ssl.truststore.type": "PEM",
        "ssl.truststore.location": str(authority.file),
    }
    scram = "org.apache.kafka.common.security.scram.ScramLoginModule required;"
    tokens = {
        "sasl.enabled.mechanisms": "OAUTHBEARER",
        "oauthbearer.sasl.jaas.config": (
            "org.apache.kafka.common.security.oauthbearer.OAuthBearerLoginModule required;"
        ),
        "oauthbearer.sasl.server.callback.handler.class": (
            "org.apache.kafka.common.security.oauthbearer.OAuthBearerValidatorCallbackHandler"
        ),
        # Kafka 4.1 does not verify signatures unless it is told to: its default validator is the one of clients.
        "sasl.oauthbearer.jwt.validator.class": "org.apache.kafka.common.security.oauthbearer.BrokerJwtValidator",
        "sasl.oauthbearer.jwks.endpoint.url": jwks.as_uri(),
        "sasl.oauthbearer.expected.audience": AUDIENCE,
        "sasl.oauthbearer.expected.issuer": ISSUER,
    }
    plain = (
        "org.apache.kafka.common.security.plain.PlainLoginModule required "
        f'user_{USER}="{PASSWORD}" user_{STRANGER}="{STRANGER_PASSWORD}" user_{WORKER}="{WORKER_PASSWORD}";'
    )
    passwords = {
        "sasl.enabled.mechanisms": "PLAIN,SCRAM-SHA-256,SCRAM-SHA-512",
        "plain.sasl.jaas.config": plain,
        "scram-sha-256.sasl.jaas.config": scram,
        "scram-sha-512.sasl.jaas.config": scram,
    }
    return (
        Listener("TLS", "SSL", tls),
        Listener("MUTUAL", "SSL", {**tls, "ssl.client.auth": "required"}),
        Listener("PASSWORDS", "SASL_PLAINTEXT", passwords),
        Listener("SECURE", "SASL_SSL", {**tls, **passwords}),
        Listener("TOKENS", "SASL_SSL", {**tls, **tokens}),
    )


def scram_users() -> list[str]:
    """Arguments of ``StorageTool format`` that make the SCRAM users."""
    made: list[str] = []
    for mechanism in ("SCRAM-SHA-256", "SCRAM-SHA-512"):
        made += ["--add-scram", f'{mechanism}=[name={USER},password="{PASSWORD}"]']
    return made
