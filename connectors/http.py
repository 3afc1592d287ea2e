"""Pieces that every HTTP face shares: bounded bodies, gzip without bombs, sound JSON, tokens, host checks, tenants."""

from __future__ import annotations

import gzip
import hmac
import io
import json
import math
import zlib
from collections.abc import Iterable, Sequence
from typing import Any

from anyio import to_thread
from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from connectors.api_keys import TENANT, ApiKey, KeyRing
from schemas.errors import Invalid, Reject

LOOPBACK = ("localhost", "127.0.0.1", "::1")
OPEN_PATHS = ("/healthz", "/readyz")
INGEST = "/v1/"
"""What API keys are good for."""


class HttpError(Exception):
    """A refusal with its status and a text that names what is wrong; it never quotes the body."""

    def __init__(self, status: int, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.retry_after = status, message, retry_after


async def read_body(request: Request, limit: int) -> bytes:
    """The decoded body, at most ``limit`` bytes before and after decompression.

    Raises HttpError 413 when it is larger, 415 for another content encoding than gzip, 400 for damaged gzip or a
    connection that ended too early.
    """
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("identity", "", "gzip"):
        raise HttpError(415, f"content-encoding: {encoding[:40]!r} is not supported; send gzip or none")
    length = request.headers.get("content-length", "0")
    if length.isdecimal() and int(length) > limit:
        raise _too_large(limit)
    data = bytearray()
    try:
        async for piece in request.stream():
            data += piece
            if len(data) > limit:
                raise _too_large(limit)
    except ClientDisconnect as error:
        raise HttpError(400, "body: the connection ended before it was whole") from error
    return await to_thread.run_sync(_inflate, bytes(data), limit) if encoding == "gzip" else bytes(data)


def _inflate(data: bytes, limit: int) -> bytes:
    """All members of the gzip stream; never holds more than ``limit`` bytes and one."""
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(data)) as file:
            out = file.read(limit + 1)
    except EOFError as error:
        raise HttpError(400, "body: the gzip stream is cut off") from error
    except (OSError, zlib.error) as error:
        raise HttpError(400, "body: not valid gzip") from error
    if len(out) > limit:
        raise _too_large(limit)
    return out


def _too_large(limit: int) -> HttpError:
    return HttpError(413, f"body: larger than {limit} bytes; send smaller batches")


def json_of(body: bytes) -> Any:
    """The document in a UTF-8 body, its texts made sound: see ``sound``. Raises Invalid that says where it breaks."""
    try:
        document = json.loads(body.decode("utf-8-sig"))
        return sound(document) if rb"\u" in body else document
    except UnicodeDecodeError as error:
        raise Invalid("not_json", f"body: not UTF-8 at byte {error.start}") from error
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}"
        raise Invalid("not_json", f"body: not JSON at {place}; was it cut?") from error
    except RecursionError as error:
        raise Invalid("not_json", "body: not JSON that can be read, nested too deeply") from error
    except ValueError as error:
        raise Invalid("not_json", "body: not JSON that can be read, a number has too many digits") from error


def sound(value: Any) -> Any:
    """Lone surrogates and NUL, which cannot be stored or sent, replaced in every text of a JSON value."""
    match value:
        case str():
            return value.encode("utf-8", "replace").decode().replace("\x00", "\ufffd")
        case list():
            return [sound(item) for item in value]
        case dict():
            return {sound(key): sound(item) for key, item in value.items()}
        case _:
            return value


def retry_after(error: Reject) -> dict[str, str]:
    """The header that tells a sender when to come back: whole seconds, at least one."""
    return {"retry-after": str(max(1, math.ceil(error.retry_after)))}


def media_type(request: Request) -> str:
    """The content type without its parameters."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def tenant_of(request: Request) -> str:
    """The tenant of a request: its API key's, else the header's. Raises HttpError 400 or 403 for a wrong name."""
    key = key_of(request)
    tenant = request.headers.get("x-driftwheel-tenant", key.tenant if key else "default")
    if key and tenant != key.tenant:
        raise HttpError(403, "x-driftwheel-tenant: the API key is another tenant's")
    if not TENANT.fullmatch(tenant):
        raise HttpError(
            400, "x-driftwheel-tenant: must be 1 to 63 of a-z, 0-9 and '-', starting with a letter or digit"
        )
    return tenant


def key_of(request: Request) -> ApiKey | None:
    """The API key that a request came with."""
    return request.scope.get("driftwheel.key")


def check_agents(request: Request, agents: Iterable[str]) -> None:
    """Raises HttpError 403 when the request's API key is not for one of these agents."""
    key = key_of(request)
    if key is None or not key.agents:
        return
    for agent in agents:
        if agent not in key.agents:
            raise HttpError(403, f"the API key is not for this agent; it is for {', '.join(key.agents)}")


class Guard:
    """ASGI middleware: the Host header must be one of ours (DNS rebinding), the bearer token one of ``tokens``.

    Health paths need no token. ``hosts`` empty: any host. ``tokens`` empty and no ``keys``: no token is asked for. An
    API key of ``keys`` is good for sending alone, at its rate: 429 says when to come again.
    """

    def __init__(
        self,
        app: ASGIApp,
        hosts: Sequence[str],
        tokens: Sequence[str],
        own_paths: Sequence[str] = (),
        keys: KeyRing | None = None,
    ) -> None:
        self._app, self._hosts = app, frozenset(host.lower() for host in hosts)
        self._tokens = [token.encode() for token in tokens]
        self._open = (*OPEN_PATHS, *own_paths)
        self._keys = keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let the request through, or answer 400 or 401."""
        if scope["type"] == "http":
            headers = Headers(scope=scope)
            if self._hosts and _host(headers.get("host", "")) not in self._hosts:
                response = JSONResponse({"detail": "host: not a name of this server"}, 400)
                return await response(scope, receive, send)
            response = self._refusal(scope, headers)
            if response is not None:
                return await response(scope, receive, send)
        return await self._app(scope, receive, send)

    def _refusal(self, scope: Scope, headers: Headers) -> JSONResponse | None:
        if scope["path"] in self._open or not (self._tokens or (self._keys is not None and self._keys.asked_for)):
            return None
        scheme, _, given = headers.get("authorization", "").partition(" ")
        presented = given.strip().encode("latin-1")  # a header's bytes, as they came
        fits = [hmac.compare_digest(presented, token) for token in self._tokens]
        if scheme.lower() == "bearer" and any(fits):
            return None
        key = self._keys.key(given.strip()) if self._keys is not None and scheme.lower() == "bearer" else None
        if self._keys is None or key is None or not scope["path"].startswith(INGEST):
            detail = {"detail": "authorization: a bearer token is needed"}
            return JSONResponse(detail, 401, {"www-authenticate": "Bearer"})
        wait = self._keys.wait(key)
        if wait > 0:
            after = {"retry-after": str(max(1, math.ceil(wait)))}
            return JSONResponse({"detail": f"the API key may send {key.rate:g} requests a second"}, 429, after)
        scope["driftwheel.key"] = key
        return None


def _host(header: str) -> str:
    if header.startswith("["):
        return header[1:].partition("]")[0].lower()
    return header.rpartition(":")[0].lower() if ":" in header else header.lower()
