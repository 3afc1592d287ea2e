"""Pieces that every HTTP face shares: bounded bodies, gzip without bombs, tokens, host checks, tenants."""

from __future__ import annotations

import hmac
import re
import zlib
from collections.abc import Sequence

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

TENANT = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
LOOPBACK = ("localhost", "127.0.0.1", "::1")
OPEN_PATHS = ("/healthz", "/readyz")


class HttpError(Exception):
    """A refusal with its status and a text that names what is wrong; it never quotes the body."""

    def __init__(self, status: int, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.retry_after = status, message, retry_after


async def read_body(request: Request, limit: int) -> bytes:
    """The decoded body, at most ``limit`` bytes before and after decompression.

    Raises HttpError 413 when it is larger, 415 for another content encoding than gzip, 400 for damaged gzip.
    """
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("identity", "", "gzip"):
        raise HttpError(415, f"content-encoding: {encoding[:40]!r} is not supported; send gzip or none")
    length = request.headers.get("content-length", "0")
    if length.isdigit() and int(length) > limit:
        raise _too_large(limit)
    data = bytearray()
    async for piece in request.stream():
        data += piece
        if len(data) > limit:
            raise _too_large(limit)
    return _inflate(bytes(data), limit) if encoding == "gzip" else bytes(data)


def _inflate(data: bytes, limit: int) -> bytes:
    inflater = zlib.decompressobj(16 + zlib.MAX_WBITS)
    try:
        out = inflater.decompress(data, limit + 1)
    except zlib.error as error:
        raise HttpError(400, "body: not valid gzip") from error
    if len(out) > limit:
        raise _too_large(limit)
    if not inflater.eof:
        raise HttpError(400, "body: the gzip stream is cut off")
    return out


def _too_large(limit: int) -> HttpError:
    return HttpError(413, f"body: larger than {limit} bytes; send smaller batches")


def media_type(request: Request) -> str:
    """The content type without its parameters."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def tenant_of(request: Request) -> str:
    """The tenant of a request. Raises HttpError 400 for a malformed name."""
    tenant = request.headers.get("x-driftwheel-tenant", "default")
    if not TENANT.fullmatch(tenant):
        raise HttpError(
            400, "x-driftwheel-tenant: must be 1 to 63 of a-z, 0-9 and '-', starting with a letter or digit"
        )
    return tenant


class Guard:
    """ASGI middleware: the Host header must be one of ours (DNS rebinding), the bearer token must fit.

    Health paths need no token. ``hosts`` empty: any host. ``token`` empty: no token.
    """

    def __init__(self, app: ASGIApp, hosts: Sequence[str], token: str, own_paths: Sequence[str] = ()) -> None:
        self._app, self._hosts, self._token = app, tuple(hosts), token.encode()
        self._open = (*OPEN_PATHS, *own_paths)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let the request through, or answer 400 or 401."""
        if scope["type"] == "http":
            headers = Headers(scope=scope)
            if self._hosts and _host(headers.get("host", "")) not in self._hosts:
                response = JSONResponse({"detail": "host: not a name of this server"}, 400)
                return await response(scope, receive, send)
            if self._token and scope["path"] not in self._open and not self._allowed(headers):
                response = JSONResponse(
                    {"detail": "authorization: a bearer token is needed"}, 401, {"www-authenticate": "Bearer"}
                )
                return await response(scope, receive, send)
        return await self._app(scope, receive, send)

    def _allowed(self, headers: Headers) -> bool:
        given = headers.get("authorization", "").removeprefix("Bearer ").encode()
        return hmac.compare_digest(given, self._token)


def _host(header: str) -> str:
    if header.startswith("["):
        return header[1:].partition("]")[0].lower()
    return header.rpartition(":")[0].lower() if ":" in header else header.lower()
