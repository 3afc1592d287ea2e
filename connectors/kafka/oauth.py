"""Tokens for OAUTHBEARER, for clients that do not fetch them by themselves (librdkafka does).

The client credentials grant of OAuth 2 (RFC 6749, 4.4), with the client's name and secret by HTTP Basic, as librdkafka
sends them.
"""

from __future__ import annotations

import ssl
import threading
import time
from collections.abc import Callable
from typing import Any

import httpx

from connectors.kafka.settings import OAuth
from schemas.errors import Refused, Retry, UsageError

SECONDS = 10.0
"""How long the token endpoint may take."""
_MARGIN = 0.2
"""The share of a token's life at whose end a new one is fetched; at most a minute."""
_UNSAID = 300.0
"""The life of a token whose endpoint does not say (expires_in is only recommended)."""
_BUSY = frozenset({408, 425, 429})


class OAuthTokens:
    """Fetches tokens and keeps each until shortly before it expires. Thread-safe. ``clock`` counts seconds."""

    def __init__(self, oauth: OAuth, clock: Callable[[], float] = time.monotonic) -> None:
        self._oauth, self._clock = oauth, clock
        self._token, self._until = "", 0.0
        self._lock = threading.Lock()

    def token(self) -> str:
        """A token that is good for a while yet.

        Raises Retry when the endpoint is away or busy, Refused when it says no, UsageError when none is configured.
        """
        with self._lock:
            if not self._token or self._clock() >= self._until:
                asked = self._clock()
                self._token, life = _read(self._oauth, _fetch(self._oauth))
                self._until = asked + life - min(life * _MARGIN, 60.0)
            return self._token


def _fetch(oauth: OAuth) -> httpx.Response:
    if not oauth.token_url or not oauth.client_id or not oauth.client_secret:
        raise UsageError("kafka.oauth: OAUTHBEARER needs token_url, client_id and client_secret")
    form = {"grant_type": "client_credentials"} | ({"scope": oauth.scope} if oauth.scope else {})
    verify = ssl_of(oauth.ca_file)
    try:
        with httpx.Client(timeout=SECONDS, trust_env=False, verify=verify) as client:
            return client.post(oauth.token_url, data=form, auth=(oauth.client_id, oauth.client_secret))
    except (httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
        raise UsageError(f"kafka.oauth.token_url: {oauth.token_url} is no address: {error}") from error
    except httpx.HTTPError as error:
        if "CERTIFICATE_VERIFY_FAILED" in str(error):
            raise Refused(f"{oauth.token_url}: {error}. See kafka.oauth.ca_file") from error
        raise Retry(
            f"no token from {oauth.token_url} (kafka.oauth.token_url): {error or type(error).__name__}"
        ) from error


def ssl_of(ca_file: str) -> ssl.SSLContext | bool:
    """What httpx verifies by."""
    if not ca_file:
        return True
    try:
        return ssl.create_default_context(cafile=ca_file)
    except OSError as error:
        raise UsageError(f"kafka.oauth.ca_file: {ca_file} cannot be read: {error}") from error


def _read(oauth: OAuth, response: httpx.Response) -> tuple[str, float]:
    """The token and its life in seconds."""
    try:
        body = response.json()
    except ValueError:
        body = None
    said: dict[str, Any] = body if isinstance(body, dict) else {}
    if not response.is_success:
        raise _no(oauth, response.status_code, said)
    token, life = said.get("access_token"), said.get("expires_in", _UNSAID)
    if not isinstance(token, str) or not token:
        raise Refused(f"{oauth.token_url} answers without an access_token; is it an OpenID token endpoint?")
    try:
        return token, max(float(life), 0.0)
    except (TypeError, ValueError):
        return token, _UNSAID


def _no(oauth: OAuth, status: int, said: dict[str, Any]) -> Retry | Refused:
    words = ": ".join(str(said[name])[:200] for name in ("error", "error_description") if said.get(name))
    text = f"{oauth.token_url} gives the client {oauth.client_id} no token: {status} {words}".strip()
    if status >= 500 or status in _BUSY:
        return Retry(text)
    return Refused(f"{text}. See kafka.oauth.client_id, client_secret and scope")
