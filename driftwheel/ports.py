"""The gateway's ports, HTTP and gRPC, with one authentication and one certificate: opened and closed together."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import datetime

from starlette.routing import BaseRoute

from connectors.log import Log
from connectors.otlp_grpc import Receiver
from driftwheel.config import Config
from driftwheel.gateway import GatewaySettings, Server, create_app
from driftwheel.grpc_server import GrpcServer
from driftwheel.keys import key_ring
from driftwheel.network import is_loopback
from driftwheel.tls import Certificate, notice, tls_files

logger = logging.getLogger(__name__)

NEAR = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class Where:
    """Addresses to listen on; ports 0: free ones. ``grpc_port`` None: no gRPC. ``tls``: as it is configured."""

    host: str = NEAR
    port: int = 0
    grpc_port: int | None = None
    tls: bool = False


PRIVATE = Where()
"""For a product that this process alone talks to."""


def configured(config: Config, host: str | None = None, port: int | None = None, grpc_port: int | None = None) -> Where:
    """What the configuration says, and the options of the command line over it."""
    gateway = config.gateway
    second = gateway.grpc_port if grpc_port is None else grpc_port
    return Where(
        host or gateway.host,
        gateway.port if port is None else port,
        second if gateway.grpc or grpc_port is not None else None,
        tls=True,
    )


@dataclass(frozen=True, slots=True)
class Face:
    """What a product shows beside the ingest paths: its readiness, its own routes, and those with their own lock."""

    ready: Callable[[], list[str]]
    routes: Sequence[BaseRoute] = ()
    own_paths: tuple[str, ...] = ()
    owner_token: str = ""


class Ports:
    """Everything that listens, from its making until ``close``.

    With TLS and an ``owner_token`` the owner's commands get a door of their own: plain HTTP on a free port of this
    machine alone, where that token is always asked for (the certificate need not fit this machine's loopback name).
    Raises Refused when something cannot be used, or when others could send without a credential.
    """

    def __init__(self, config: Config, where: Where, log: Log, clock: Callable[[], datetime], face: Face) -> None:
        files = tls_files(config.gateway) if where.tls else None
        certificate = Certificate(files, clock) if files else None
        settings = _settings(config, where, clock, face)
        app = create_app(log, clock, settings, face.ready, face.routes)
        with ExitStack() as stack:
            self.grpc: GrpcServer | None = None
            if where.grpc_port is not None:
                receiver = Receiver(log, clock, settings.access())
                limit = config.gateway.max_body_bytes
                self.grpc = stack.enter_context(GrpcServer(receiver, where.host, where.grpc_port, limit, certificate))
            server = stack.enter_context(Server(app, where.host, where.port, certificate))
            self.url = self.near_url = server.url
            if certificate and face.owner_token:
                near = replace(settings, more_tokens=(face.owner_token,), loopback=True)
                door = create_app(log, clock, near, face.ready, face.routes)
                self.near_url = stack.enter_context(Server(door, NEAR, 0)).url
            self._open = stack.pop_all()
        _tell(where, certificate, clock())

    @property
    def told(self) -> str:
        """Where to send to, in words."""
        return f"{self.url}, OTLP/gRPC to {self.grpc.address}" if self.grpc else self.url

    def close(self) -> None:
        """Answer what is under way, then end."""
        self._open.close()


def _settings(config: Config, where: Where, clock: Callable[[], datetime], face: Face) -> GatewaySettings:
    loopback = is_loopback(where.host)
    return GatewaySettings(
        token=config.gateway.token.get_secret_value(),
        max_body=config.gateway.max_body_bytes,
        loopback=loopback,
        hosts=config.gateway.hosts,
        own_paths=face.own_paths,
        keys=key_ring(config, clock, loopback),
        origins=config.gateway.cors_origins,
        owner_token=face.owner_token,
    )


def _tell(where: Where, certificate: Certificate | None, now: datetime) -> None:
    warning = notice(certificate.pair(), now) if certificate else exposed(where.host)
    if warning:
        logger.warning("the gateway: %s", warning)


def exposed(host: str) -> str:
    """What is wrong with an address without TLS; '' on loopback."""
    if is_loopback(host):
        return ""
    return (
        f"{host} without TLS: tokens and traces cross the network in the clear unless a proxy before it ends TLS; else "
        "set gateway.tls_cert and gateway.tls_key"
    )
