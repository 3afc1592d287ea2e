"""Pieces that every HTTP face shares: bounded bodies, gzip without bombs, sound JSON, tokens, host checks, tenants."""

from __future__ import annotations

import base64
import binascii
import gzip
import hmac
import io
import json
import math
import zlib
from collections.abc import Collection, Iterable, Sequence
from typing import Any

from anyio import to_thread
from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from connectors.api_keys import ApiKey, KeyRing
from schemas.errors import Invalid, Reject
from schemas.tenants import TENANT, TENANT_RULE, is_canary

LOOPBACK = ("localhost", "127.0.0.1", "::1")
OPEN_PATHS = ("/healthz", "/readyz")
TENANT_HEADER = "x-driftwheel-tenant"
LANGFUSE = "/api/public/"
"""Where Langfuse's SDKs send to, with Basic authentication."""
INGEST = ("/v1/", LANGFUSE)
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
    """The tenant of a request. Raises HttpError as ``tenant_for`` does."""
    return tenant_for(key_of(request), request.headers.get(TENANT_HEADER))


def tenant_for(key: ApiKey | None, given: str | None) -> str:
    """The tenant of a sender: its API key's, else the one it names. Raises HttpError 400 or 403 for a wrong name."""
    tenant = given if given is not None else key.tenant if key else "default"
    if key and tenant != key.tenant:
        raise HttpError(403, "x-driftwheel-tenant: the API key is another tenant's")
    if not TENANT.fullmatch(tenant):
        raise HttpError(400, f"x-driftwheel-tenant: {TENANT_RULE}")
    if is_canary(tenant):
        raise HttpError(403, "x-driftwheel-tenant: this name is kept for the product's own canaries")
    return tenant


def key_of(request: Request) -> ApiKey | None:
    """The API key that a request came with."""
    return request.scope.get("driftwheel.key")


def check_agents(request: Request, agents: Iterable[str]) -> None:
    """Raises HttpError 403 when the request's API key is not for one of these agents."""
    check_key(key_of(request), agents)


def check_key(key: ApiKey | None, agents: Iterable[str]) -> None:
    """Raises HttpError 403 when the API key is not for one of these agents."""
    if key is None or not key.agents:
        return
    for agent in agents:
        if agent not in key.agents:
            raise HttpError(403, f"the API key is not for this agent; it is for {', '.join(key.agents)}")


class Access:
    """Who may come in: with one of ``tokens``, or with an API key of ``keys``; neither: nothing is asked for.

    A token is good for everything, an API key for sending alone, at its rate. ``owner``: a token that holds as well,
    where one is asked for.
    """

    def __init__(self, tokens: Sequence[str], keys: KeyRing | None = None, owner: str = "") -> None:
        self._asks, self._keys = bool(tokens), keys
        self._tokens = [token.encode() for token in (*tokens, owner) if token]

    def admit(self, presented: str, *, sends: bool = True) -> ApiKey | None:
        """The API key that was presented; None for a token, or when nothing is asked for.

        Raises HttpError: 401 without a credential that holds here, 429 beyond a key's rate. Compares in fixed time.
        """
        if not (self._asks or (self._keys is not None and self._keys.asked_for)):
            return None
        secret = presented.encode("latin-1")  # a header's bytes, as they came
        fits = [hmac.compare_digest(secret, token) for token in self._tokens]  # every one, whichever fits
        if any(fits):
            return None
        key = self._keys.key(presented) if self._keys is not None else None
        if self._keys is None or key is None or not sends:
            raise HttpError(401, "authorization: a bearer token is needed")
        wait = self._keys.wait(key)
        if wait > 0:
            raise HttpError(429, f"the API key may send {key.rate:g} requests a second", wait)
        return key


def bearer(header: str) -> str:
    """The credential in an Authorization header; '' for none."""
    scheme, _, given = header.partition(" ")
    return given.strip() if scheme.lower() == "bearer" else ""


def _presented(header: str, path: str) -> str:
    """The credential of a request: a bearer's, or on Langfuse's paths also the password; '' for none."""
    scheme, _, given = header.partition(" ")
    if scheme.lower() != "basic" or not path.startswith(LANGFUSE):
        return bearer(header)
    try:
        return base64.b64decode(given.strip(), validate=True).decode("latin-1").partition(":")[2]
    except (binascii.Error, ValueError):
        return ""


class Guard:
    """ASGI middleware: the Host header must be one of ours (DNS rebinding), and ``access`` must let the request in.

    Health paths and ``own_paths`` need no token. ``hosts`` empty: any host. An API key is good below ``INGEST`` alone.
    """

    def __init__(self, app: ASGIApp, hosts: Sequence[str], access: Access, own_paths: Sequence[str] = ()) -> None:
        self._app, self._hosts = app, frozenset(host.lower() for host in hosts)
        self._access, self._open = access, (*OPEN_PATHS, *own_paths)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let the request through, or answer 400, 401 or 429."""
        if scope["type"] == "http":
            try:
                self._check(scope, Headers(scope=scope))
            except HttpError as error:
                return await _refusal(error)(scope, receive, send)
        return await self._app(scope, receive, send)

    def _check(self, scope: Scope, headers: Headers) -> None:
        if self._hosts and host_of(headers.get("host", "")) not in self._hosts:
            raise HttpError(400, "host: not a name of this server")
        if not is_below(scope["path"], self._open):
            sends, given = scope["path"].startswith(INGEST), _presented(headers.get("authorization", ""), scope["path"])
            scope["driftwheel.key"] = self._access.admit(given, sends=sends)


def is_below(path: str, paths: Collection[str]) -> bool:
    """Whether a path is one of ``paths``; one that ends with a slash stands for all below it."""
    return path in paths or path.startswith(tuple(one for one in paths if one.endswith("/")))


def _refusal(error: HttpError) -> JSONResponse:
    headers = {"www-authenticate": "Bearer"} if error.status == 401 else {}
    if error.retry_after is not None:
        headers["retry-after"] = str(max(1, math.ceil(error.retry_after)))
    return JSONResponse({"detail": error.message}, error.status, headers)


def host_of(header: str) -> str:
    """The name in a Host header, without its port."""
    if header.startswith("["):
        return header[1:].partition("]")[0].lower()
    return header.rpartition(":")[0].lower() if ":" in header else header.lower()
