"""The gateway: OTLP traces and logs, signals, labels and health on one port; and the server that runs it."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from types import TracebackType

import uvicorn
from anyio import to_thread
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import BaseRoute, Route

from connectors.api_keys import KeyRing
from connectors.cors import Origins
from connectors.http import LOOPBACK, Access, Guard
from connectors.langfuse import IngestionEndpoint, ScoresEndpoint
from connectors.log import Log
from connectors.otlp import LOGS, TRACES, OtlpEndpoint
from connectors.signals_api import FeedbackEndpoint, LabelBody, SignalBody
from driftwheel.tls import Certificate
from schemas.errors import Refused

START_SECONDS = 30
GRACE_SECONDS = 10
"""How long what is under way may take when the server closes."""
KEEP_ALIVE_SECONDS = 75
"""How long an idle connection stays open: clients let go of theirs sooner (httpx after 5 s), so that none sends into
one that is being closed."""


@dataclass(frozen=True, slots=True)
class GatewaySettings:
    """``token`` empty, no ``more_tokens`` and no ``keys``: none is asked for; several hold while they are rotated.

    ``max_body`` in bytes, before and after decompression. ``loopback``: the Host header must be a loopback name or one
    of ``hosts``. ``own_paths`` have an authentication of their own. ``origins``: whose web pages may send.
    ``owner_token`` holds as well, where one is asked for.
    """

    token: str = ""
    more_tokens: tuple[str, ...] = ()
    max_body: int = 16 * 1024 * 1024
    loopback: bool = True
    hosts: tuple[str, ...] = ()
    own_paths: tuple[str, ...] = ()
    keys: KeyRing | None = None
    origins: tuple[str, ...] = ()
    owner_token: str = ""

    def access(self) -> Access:
        """Who may come in."""
        return Access([token for token in (self.token, *self.more_tokens) if token], self.keys, self.owner_token)


def create_app(
    log: Log,
    clock: Callable[[], datetime],
    settings: GatewaySettings,
    ready: Callable[[], list[str]],
    extra_routes: Sequence[BaseRoute] = (),
) -> Starlette:
    """The ASGI application. ``ready`` says what is wrong, or nothing; it is called in a worker thread."""

    async def health(request: Request) -> Response:
        del request
        return PlainTextResponse("ok")

    async def readiness(request: Request) -> Response:
        del request
        problems = await to_thread.run_sync(ready)
        return JSONResponse({"ready": not problems, "problems": problems}, 503 if problems else 200)

    signals = FeedbackEndpoint(log, clock, settings.max_body, SignalBody, "signals")
    labels = FeedbackEndpoint(log, clock, settings.max_body, LabelBody, "labels")
    traces, logs = (OtlpEndpoint(export, log, clock, settings.max_body) for export in (TRACES, LOGS))
    routes = [
        Route("/v1/traces", traces.__call__, methods=["POST"]),
        Route("/v1/logs", logs.__call__, methods=["POST"]),
        Route("/v1/signals", signals.__call__, methods=["POST"]),
        Route("/v1/labels", labels.__call__, methods=["POST"]),
        *_langfuse(log, clock, settings.max_body),
        Route("/healthz", health),
        Route("/readyz", readiness),
        *extra_routes,
    ]
    hosts = (*LOOPBACK, *settings.hosts) if settings.loopback or settings.hosts else ()
    pages = Middleware(Origins, origins=settings.origins, own_paths=settings.own_paths)
    guard = Middleware(Guard, hosts=hosts, access=settings.access(), own_paths=settings.own_paths)
    return Starlette(routes=routes, middleware=[pages, guard])


def _langfuse(log: Log, clock: Callable[[], datetime], max_body: int) -> list[BaseRoute]:
    """What Langfuse's SDKs ask for, so that they may be pointed here."""
    scores, batches = ScoresEndpoint(log, clock, max_body), IngestionEndpoint(log, clock, max_body)
    return [
        Route("/api/public/scores", scores.__call__, methods=["POST"]),
        Route("/api/public/ingestion", batches.__call__, methods=["POST"]),
        Route("/api/public/otel/v1/traces", OtlpEndpoint(TRACES, log, clock, max_body).__call__, methods=["POST"]),
    ]


class Server:
    """An ASGI application on a port, in a thread of its own, from its making until ``close``. Port 0: a free one.

    With a ``certificate`` it speaks TLS alone. Raises Refused when the port or the certificate cannot be used.
    """

    def __init__(self, app: Starlette, host: str, port: int, certificate: Certificate | None = None) -> None:
        context = certificate.ssl_context() if certificate else None
        self._socket = listen(host, port)
        self._host, self._scheme = host, "https" if certificate else "http"
        config = uvicorn.Config(
            app,
            log_level="warning",
            access_log=False,
            lifespan="off",
            server_header=False,
            timeout_graceful_shutdown=GRACE_SECONDS,
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
            ssl_context_factory=(lambda _config, _default: context) if context else None,
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, args=([self._socket],), daemon=True, name="gateway")
        self._thread.start()
        deadline = time.monotonic() + START_SECONDS
        while not self._server.started:
            if not self._thread.is_alive() or time.monotonic() > deadline:
                self._server.should_exit = True
                self._socket.close()
                raise Refused(f"the gateway did not start on {host}:{port}")
            time.sleep(0.005)

    @property
    def port(self) -> int:
        """The port that it listens on."""
        return int(self._socket.getsockname()[1])

    @property
    def url(self) -> str:
        """Its base address."""
        return f"{self._scheme}://{address(self._host, self.port)}"

    def close(self) -> None:
        """Answer what is under way, then end."""
        self._server.should_exit = True
        self._thread.join()
        self._socket.close()

    def __enter__(self) -> Server:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def address(host: str, port: int) -> str:
    """Host and port in one text.

    >>> address("::1", 4317)
    '[::1]:4317'
    """
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def listen(host: str, port: int, option: str = "--port") -> socket.socket:
    """A listening socket. Raises Refused, which names ``option``, when the port cannot be had."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)  # named TCP, asyncio sets TCP_NODELAY
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        why = f"port {port} on {host} cannot be used ({error.strerror})"
        raise Refused(f"{why}: stop what listens there, or name another {option}") from error
    listener.listen(1024)
    return listener
