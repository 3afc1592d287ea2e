"""The gateway: OTLP traces, signals, labels and health on one port; and the server that runs it."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

import uvicorn
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import BaseRoute, Route

from connectors.http import LOOPBACK, Guard
from connectors.log import Log
from connectors.otlp import TracesEndpoint
from connectors.signals_api import FeedbackEndpoint, LabelBody, SignalBody
from schemas.errors import Refused

START_SECONDS = 30


@dataclass(frozen=True, slots=True)
class GatewaySettings:
    """``token`` empty: none is asked for. ``hosts`` beside loopback names that may stand in the Host header.

    ``own_paths`` have an authentication of their own.
    """

    token: str = ""
    max_body: int = 16 * 1024 * 1024
    loopback: bool = True
    hosts: tuple[str, ...] = ()
    own_paths: tuple[str, ...] = ()


def create_app(
    log: Log,
    clock: Callable[[], datetime],
    settings: GatewaySettings,
    ready: Callable[[], list[str]],
    extra_routes: Sequence[BaseRoute] = (),
) -> Starlette:
    """The ASGI application. ``ready`` says what is wrong, or nothing."""

    async def health(request: Request) -> Response:
        del request
        return PlainTextResponse("ok")

    async def readiness(request: Request) -> Response:
        del request
        problems = ready()
        return JSONResponse({"ready": not problems, "problems": problems}, 503 if problems else 200)

    signals = FeedbackEndpoint(log, clock, settings.max_body, SignalBody, "signals")
    labels = FeedbackEndpoint(log, clock, settings.max_body, LabelBody, "labels")
    traces = TracesEndpoint(log, clock, settings.max_body)
    routes = [
        Route("/v1/traces", traces.__call__, methods=["POST"]),
        Route("/v1/signals", signals.__call__, methods=["POST"]),
        Route("/v1/labels", labels.__call__, methods=["POST"]),
        Route("/healthz", health),
        Route("/readyz", readiness),
        *extra_routes,
    ]
    hosts = (*LOOPBACK, *settings.hosts) if settings.loopback or settings.hosts else ()
    guard = Middleware(Guard, hosts=hosts, token=settings.token, own_paths=settings.own_paths)
    return Starlette(routes=routes, middleware=[guard])


class Server:
    """An ASGI application on a port, in a thread of its own. Port 0: a free one."""

    def __init__(self, app: Starlette, host: str, port: int) -> None:
        self._socket = _listen(host, port)
        self._host = host
        config = uvicorn.Config(app, log_level="warning", access_log=False, lifespan="off", server_header=False)
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, args=([self._socket],), daemon=True, name="gateway")
        self._thread.start()
        deadline = time.monotonic() + START_SECONDS
        while not self._server.started:
            if not self._thread.is_alive() or time.monotonic() > deadline:
                raise Refused(f"the gateway did not start on {host}:{port}")
            time.sleep(0.005)

    @property
    def port(self) -> int:
        """The port that it listens on."""
        return int(self._socket.getsockname()[1])

    @property
    def url(self) -> str:
        """Its base address."""
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"http://{host}:{self.port}"

    def close(self) -> None:
        """Answer what is under way, then end."""
        self._server.should_exit = True
        self._thread.join()
        self._socket.close()


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)  # named TCP, asyncio sets TCP_NODELAY
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise Refused(
            f"port {port} on {host} cannot be used ({error.strerror}): stop what listens there, or name another --port"
        ) from error
    listener.listen(1024)
    return listener
