"""The gateway's second port: gRPC, in threads of its own."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from types import TracebackType

import grpc

from connectors.otlp_grpc import Receiver
from driftwheel.gateway import GRACE_SECONDS, address, listen
from driftwheel.tls import Certificate
from schemas.errors import Refused

THREADS = 32
"""Requests that are worked on at once; more wait unread."""


class GrpcServer:
    """A receiver on a port, from its making until ``close``. Port 0: a free one.

    Messages of more than ``max_body`` bytes, before or after decompression, get RESOURCE_EXHAUSTED, and are not held.
    With a ``certificate`` it speaks TLS alone. Raises Refused when the port cannot be used.
    """

    def __init__(
        self, receiver: Receiver, host: str, port: int, max_body: int, certificate: Certificate | None = None
    ) -> None:
        listen(host, port, "gateway.grpc_port, or set gateway.grpc to false").close()  # says why, which gRPC does not
        options = [
            ("grpc.so_reuseport", 0),  # a port that is taken is an error
            ("grpc.max_receive_message_length", max_body),
        ]
        self._threads = ThreadPoolExecutor(THREADS, "grpc")
        self._server = grpc.server(self._threads, [receiver], options=options)
        self._host = host
        self.port = self._bind(address(host, port), certificate)
        self._server.start()

    def _bind(self, where: str, certificate: Certificate | None) -> int:
        try:
            if certificate is None:
                return self._server.add_insecure_port(where)
            return self._server.add_secure_port(where, _credentials(certificate))
        except RuntimeError as error:
            raise Refused(f"gRPC cannot listen on {where}: name another gateway.grpc_port") from error

    @property
    def address(self) -> str:
        """Host and port."""
        return address(self._host, self.port)

    def close(self) -> None:
        """Answer what is under way, for ``GRACE_SECONDS`` at most, then end. New calls get UNAVAILABLE."""
        self._server.stop(GRACE_SECONDS).wait()
        self._threads.shutdown()

    def __enter__(self) -> GrpcServer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _credentials(certificate: Certificate) -> grpc.ServerCredentials:
    """They are asked for again at each handshake."""

    def now() -> grpc.ServerCertificateConfiguration:
        pair = certificate.pair()
        return grpc.ssl_server_certificate_configuration([(pair.key, pair.cert)], certificate.client_ca)

    return grpc.dynamic_ssl_server_credentials(now(), now, certificate.client_ca is not None)
