"""Which web pages may send (CORS): those of the origins that were named, to the ingest paths, and no others.

A page of another origin gets 403 on every path, preflight or not, and no header that would let it read the answer. No
wildcard: any page that somebody on this network opens could then send made-up feedback, and find out what is here.
Cookies are never asked for; a page that has a token sends it itself. Source: the Fetch standard, "CORS protocol".
"""

from __future__ import annotations

from collections.abc import Sequence

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from connectors.http import INGEST, TENANT_HEADER, is_below

ALLOWED_HEADERS = ("authorization", "content-type", "content-encoding", TENANT_HEADER)
MAX_AGE_SECONDS = 600
"""How long a browser may remember a preflight's answer: how long an origin that was taken back still has one."""


class Origins:
    """ASGI middleware: requests of web pages from ``origins`` may pass and be read, others get 403.

    Requests without Origin are not a page's, and one whose Origin is this server itself is of the same origin: both
    pass. ``own_paths`` are for no other origin. An answer to a preflight needs no token; what follows it does.
    """

    def __init__(self, app: ASGIApp, origins: Sequence[str], own_paths: Sequence[str] = ()) -> None:
        self._app, self._origins, self._own = app, frozenset(origins), frozenset(own_paths)
        self._shared = CORSMiddleware(
            app,
            allow_origins=sorted(origins),
            allow_methods=("POST",),
            allow_headers=ALLOWED_HEADERS,
            expose_headers=("retry-after",),
            allow_private_network=True,
            max_age=MAX_AGE_SECONDS,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let the request pass, as a page's or as anybody's, or answer 403."""
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        headers = Headers(scope=scope)
        origin, path = headers.get("origin"), scope.get("path", "")
        if origin is None or origin.lower() in _origins_of(headers.get("host", "").lower()):
            return await self._app(scope, receive, send)
        if origin in self._origins and path.startswith(INGEST) and not is_below(path, self._own):
            return await self._shared(scope, receive, send)
        refused = JSONResponse({"detail": "origin: not one of gateway.cors_origins"}, 403, {"vary": "Origin"})
        return await refused(scope, receive, send)


def _origins_of(host: str) -> tuple[str, str]:
    """A server's own origins, by the name that a request calls it; whether it may be called so, ``Guard`` checks."""
    return f"http://{host}", f"https://{host}"
