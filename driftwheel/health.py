"""What a process without a gateway answers on its own port: is it alive, is it ready, how does it do.

``/livez`` fails when the process should be started again, ``/readyz`` when it does not work yet, ``/metrics`` are
Prometheus text. ``/due?at=TIME`` counts timers that have run out at a time: who waits for all work to be done asks it.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from datetime import datetime

from anyio import to_thread
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from connectors.http import LOOPBACK, Access, Guard
from driftwheel.gateway import Server
from driftwheel.network import is_loopback

Problems = Callable[[], list[str]]
"""What is wrong, in words; nothing when all is well."""


@contextmanager
def health_server(
    host: str,
    port: int,
    live: Problems,
    ready: Problems,
    metrics: Callable[[], str],
    due: Callable[[datetime], int] = lambda _: 0,
) -> Generator[str]:
    """Serve them on ``host``; gives the address. Port 0: a free one. Raises Refused when it cannot be used."""

    async def livez(request: Request) -> Response:
        del request
        return _answer("live", await to_thread.run_sync(live))

    async def readyz(request: Request) -> Response:
        del request
        return _answer("ready", await to_thread.run_sync(ready))

    async def exposition(request: Request) -> Response:
        del request
        return PlainTextResponse(await to_thread.run_sync(metrics))

    async def due_at(request: Request) -> Response:
        try:
            at = datetime.fromisoformat(request.query_params.get("at", ""))
        except ValueError:
            at = None
        if at is None or at.tzinfo is None:
            return JSONResponse({"detail": "at: expected a time such as 2026-01-01T12:00:00+00:00"}, 400)
        return JSONResponse({"due": due(at)})

    routes = [
        Route("/livez", livez),
        Route("/readyz", readyz),
        Route("/metrics", exposition),
        Route("/due", due_at),
    ]
    hosts = LOOPBACK if is_loopback(host) else ()
    app = Starlette(routes=routes, middleware=[Middleware(Guard, hosts=hosts, access=Access([]))])
    with Server(app, host, port) as server:
        yield server.url


def _answer(name: str, problems: list[str]) -> Response:
    return JSONResponse({name: not problems, "problems": problems}, 503 if problems else 200)
