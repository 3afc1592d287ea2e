"""HTTP to NeMo: one place that turns what a server or the network says into Retry or Refused."""

from __future__ import annotations

from typing import Any

import httpx

from schemas.errors import Refused, Retry

BUSY = frozenset({408, 425, 429})


class Wire:
    """A client of one host. ``token`` goes as a bearer token when it is set."""

    def __init__(self, url: str, token: str = "", timeout: float = 60.0) -> None:
        headers = {"authorization": f"Bearer {token}"} if token else {}
        self.url = url.rstrip("/")
        self._client = httpx.Client(
            base_url=self.url, headers=headers, timeout=httpx.Timeout(timeout, connect=5.0), trust_env=False
        )

    def close(self) -> None:
        """Let go of the connections."""
        self._client.close()

    def call(self, method: str, path: str, *, fine: frozenset[int] = frozenset(), **options: Any) -> httpx.Response:
        """One request. The response is a success or has a status in ``fine``.

        Raises Retry when the host cannot be reached or answers 408, 425, 429 or 5xx; Refused, with the server's
        own detail, for any other status.
        """
        try:
            response = self._client.request(method, path, **options)
        except httpx.HTTPError as error:
            raise Retry(f"{method} {self.url}{path}: {type(error).__name__}: {error}") from error
        if response.is_success or response.status_code in fine:
            return response
        said = f"{method} {self.url}{path}: {response.status_code}: {detail(response)}"
        if response.is_server_error or response.status_code in BUSY:
            raise Retry(said)
        raise Refused(said)

    def json(self, method: str, path: str, **options: Any) -> dict[str, Any]:
        """The JSON object of a response; an empty one when there was no content."""
        response = self.call(method, path, **options)
        try:
            body = response.json() if response.content else {}
        except ValueError as error:
            raise Refused(f"{method} {self.url}{path}: the answer is not JSON; is this NeMo's address?") from error
        return body if isinstance(body, dict) else {"data": body}

    def put_elsewhere(self, url: str, content: bytes) -> None:
        """Upload to an address that the server gave out; no credentials go there."""
        try:
            response = httpx.put(url, content=content, timeout=300.0, trust_env=False)
        except httpx.HTTPError as error:
            raise Retry(f"upload to {self.url}: {type(error).__name__}: {error}") from error
        if response.is_server_error or response.status_code in BUSY:
            raise Retry(f"upload to {self.url}: {response.status_code}")
        if response.is_error:
            raise Refused(f"upload to {self.url}: {response.status_code}: {detail(response)}")


def detail(response: httpx.Response) -> str:
    """The server's own words: ``detail`` as text, or as FastAPI's list of fields; at most 500 characters."""
    try:
        body = response.json()
    except ValueError:
        return response.text[:500]
    found = body.get("detail", body.get("error", body)) if isinstance(body, dict) else body
    if isinstance(found, list):
        return "; ".join(_field(one) for one in found)[:500]
    return str(found)[:500]


def _field(one: Any) -> str:
    return f"{'.'.join(map(str, one.get('loc', [])))}: {one.get('msg')}" if isinstance(one, dict) else str(one)
