"""What a secured Kafka needs in a test: a token server, one broker with a listener for each way in."""

from __future__ import annotations

import base64
import json
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from tests.certificates import Authority
from tests.cluster import Listener

USER, PASSWORD = "driftwheel", "correct-horse battery staple"
STRANGER, STRANGER_PASSWORD = "stranger", "let me in"
WORKER, WORKER_PASSWORD = "worker", "of the worker"
CLIENT, SECRET = "driftwheel-client", "s3cret of the client"
ISSUER, AUDIENCE = "https://issuer.test", "kafka"
KEY_PASSWORD = "of the key"


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
