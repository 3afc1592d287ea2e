"""The HTTP API of a Schema Registry, as far as it is used: Confluent's, Karapace's, Apicurio's ``ccompat``, others'.

Raises Retry while the registry is away, Refused when it says no: wrong address, wrong credentials, an incompatible
schema. Safe for threads.
"""

from __future__ import annotations

import json
import ssl
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, Literal
from urllib.parse import quote
from uuid import UUID

import httpx

from schemas.errors import Refused, Retry, UsageError

MEDIA = "application/vnd.schemaregistry.v1+json"
_NOT_FOUND = range(40400, 40500)
_LATER = frozenset({HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_EARLY, HTTPStatus.TOO_MANY_REQUESTS})
_NOT_ALLOWED = frozenset({HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN})

Ref = int | UUID
"""How a value names its schema: by the registry's id, or by a GUID, which is the same in every registry."""


@dataclass(frozen=True, slots=True)
class RegistrySettings:
    """``prefix``: what topics' names on the cluster begin with. ``header``: which form is written.

    ``prefix``: the id stands before the value. ``headers``: the GUID stands in a header of the record.
    ``ca_file``: a path to PEM; empty: the certificates that come with httpx. ``timeout`` in seconds, of each step.
    """

    url: str
    username: str = ""
    password: str = field(default="", repr=False)
    ca_file: str = ""
    header: Literal["prefix", "headers"] = "prefix"
    topic_prefix: str = ""
    timeout: float = 10.0


@dataclass(frozen=True, slots=True)
class Registered:
    """What a registry calls a schema. ``guid`` None: this registry gives none."""

    id: int
    guid: UUID | None


class Incompatible(Refused):
    """The registry's compatibility check says no to a schema."""


class RegistryClient:
    """A connection to the registry. ``transport``: another one than the network, for tests."""

    def __init__(self, settings: RegistrySettings, transport: httpx.BaseTransport | None = None) -> None:
        url = _url(settings.url)
        self._name = f"the schema registry at {url.scheme}://{url.netloc.decode()}{url.path}"
        self._http = httpx.Client(
            base_url=url,
            auth=(settings.username, settings.password) if settings.username else None,
            verify=_context(settings.ca_file) if settings.ca_file else True,
            headers={"accept": f"{MEDIA}, application/json", "content-type": MEDIA},
            timeout=settings.timeout,
            trust_env=False,
            transport=transport,
        )

    def close(self) -> None:
        """Let go of the connections."""
        self._http.close()

    def schema(self, ref: Ref) -> str | None:
        """The text of the Avro schema; None when the registry has none by this name, or one of another kind."""
        if isinstance(ref, int):
            found = self._found("GET", f"schemas/ids/{ref}")
        else:
            found = self._found("GET", f"schemas/guids/{ref}", gone_is_none=True)
        if found is None or found.get("schemaType", "AVRO") != "AVRO" or found.get("references"):
            return None
        return str(found["schema"])

    def lookup(self, subject: str, schema: str) -> Registered | None:
        """What the registry calls a schema of a subject; None when it is not registered."""
        return _registered(self._found("POST", f"subjects/{_quoted(subject)}", {"schema": schema}))

    def register(self, subject: str, schema: str) -> None:
        """Register a schema under a subject; nothing changes when it is already. Raises Incompatible."""
        self._call("POST", f"subjects/{_quoted(subject)}/versions", {"schema": schema})

    def schemas(self, subject: str) -> list[str]:
        """The texts of all versions of a subject, newest first."""
        path = f"subjects/{_quoted(subject)}/versions"
        versions: list[int] = self._found("GET", path) or []
        found = [self._found("GET", f"{path}/{version}") for version in sorted(versions, reverse=True)]
        return [str(one["schema"]) for one in found if one]

    def compatibility(self, subject: str) -> str:
        """The subject's own compatibility level; '' when it has none."""
        found = self._found("GET", f"config/{_quoted(subject)}") or {}
        return str(found.get("compatibilityLevel", ""))

    def set_compatibility(self, subject: str, level: str) -> None:
        """Set the subject's own compatibility level."""
        self._call("PUT", f"config/{_quoted(subject)}", {"compatibility": level})

    def _found(self, method: str, path: str, body: Any = None, *, gone_is_none: bool = False) -> Any:
        """None for what does not exist. ``gone_is_none``: also when the answer does not say what it is that is not."""
        response = self._send(method, path, body)
        if response.status_code == HTTPStatus.NOT_FOUND and (gone_is_none or _code(response) in _NOT_FOUND):
            return None
        return self._answer(response, path)

    def _call(self, method: str, path: str, body: Any) -> Any:
        return self._answer(self._send(method, path, body), path)

    def _send(self, method: str, path: str, body: Any) -> httpx.Response:
        try:
            return self._http.request(method, path, content=None if body is None else json.dumps(body))
        except httpx.TransportError as error:
            if "CERTIFICATE_VERIFY_FAILED" in str(error):
                raise Refused(
                    f"{self._name}: its certificate is not trusted ({error}); set registry.ca_file"
                ) from error
            raise Retry(f"{self._name} is away: {str(error) or type(error).__name__}") from error

    def _answer(self, response: httpx.Response, path: str) -> Any:
        status = response.status_code
        if status >= HTTPStatus.INTERNAL_SERVER_ERROR or status in _LATER:
            raise Retry(f"{self._name} is away: it answers {status} to {path}")
        if status in _NOT_ALLOWED:
            raise Refused(f"{self._name} answers {status} to {path}: see registry.username and registry.password")
        if status == HTTPStatus.CONFLICT:
            raise Incompatible(f"{self._name}: {_message(response)}")
        if status == HTTPStatus.NOT_FOUND or response.has_redirect_location:
            raise Refused(f"{self._name} answers {status} to {path}; is registry.url right?")
        if status != HTTPStatus.OK:
            raise Refused(f"{self._name} answers {status} to {path}: {_message(response)}")
        try:
            return response.json()
        except ValueError as error:
            raise Refused(f"{self._name} does not answer {path} with JSON; is registry.url right?") from error


def _url(text: str) -> httpx.URL:
    try:
        url = httpx.URL(text)
    except httpx.InvalidURL as error:
        raise UsageError(f"registry.url is no address: {error}") from error
    if url.scheme not in ("http", "https") or not url.host:
        raise UsageError("registry.url is no address: it has to begin with http:// or https:// and a host")
    if url.userinfo:
        raise UsageError("registry.url: name and password belong into registry.username and registry.password")
    return url


def _context(ca_file: str) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=ca_file)
    except OSError as error:
        raise UsageError(f"registry.ca_file: {ca_file} cannot be read: {error}") from error


def _quoted(subject: str) -> str:
    return quote(subject, safe="")


def _registered(found: Any) -> Registered | None:
    if found is None:
        return None
    guid = found.get("guid")
    return Registered(int(found["id"]), UUID(guid) if guid else None)


def _code(response: httpx.Response) -> int:
    body = _body(response)
    return int(body.get("error_code", 0)) if isinstance(body, dict) else 0


def _message(response: httpx.Response) -> str:
    body = _body(response)
    return str(body.get("message", ""))[:1000] if isinstance(body, dict) else "(no message)"


def _body(response: httpx.Response) -> Any:
    try:
        return response.json()
    except ValueError:
        return None
