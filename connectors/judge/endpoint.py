"""A chat endpoint of the OpenAI kind (``POST <url>/chat/completions``): OpenAI, vLLM, NIM, Ollama, LiteLLM and others.

Nothing that was sent or answered goes into a log or an error, neither the key nor a text: a refusal names the host and
the status alone. Proxies of the environment are not used, and redirects are not followed.

Source: OpenAI API reference, "Create chat completion"; RFC 9110, 10.2.3 (Retry-After).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import httpx

from connectors.judge.prompts import Messages, tokens_of
from schemas.errors import Invalid, Refused, Retry

_BUSY = frozenset({408, 409, 425, 429})
_UNFIT = frozenset({400, 413, 422})
"""What servers answer to one prompt that they will not take: too long, or against their rules."""
_FIRST_PAUSE = 1.0


@dataclass(frozen=True, slots=True)
class EndpointSettings:
    """``url`` up to and with ``/v1``. ``timeout`` seconds for one call; ``attempts`` at one answer.

    ``longest_wait``: seconds that are waited between two attempts at most; who asks for more is away. ``json_mode``:
    ask for ``response_format`` JSON, which some servers do not know. ``extra`` goes into every request's body.
    """

    url: str
    model: str
    key: str = field(default="", repr=False)
    timeout: float = 30.0
    attempts: int = 3
    longest_wait: float = 20.0
    max_tokens: int = 400
    json_mode: bool = True
    extra: Mapping[str, Any] = field(default_factory=dict[str, Any])


@dataclass(frozen=True, slots=True)
class Reply:
    """What the model said, and the tokens of question and answer: as the server counts them, else estimated."""

    text: str
    tokens: int


class Endpoint:
    """One client of one endpoint. Thread-safe. ``wait`` pauses between attempts; ``now`` is for Retry-After's dates."""

    def __init__(
        self,
        settings: EndpointSettings,
        wait: Callable[[float], object] = time.sleep,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self.settings, self.wait, self._now = settings, wait, now
        headers = {"authorization": f"Bearer {settings.key}"} if settings.key else {}
        limits = httpx.Timeout(settings.timeout, connect=min(5.0, settings.timeout))
        self._client = httpx.Client(headers=headers, timeout=limits, trust_env=False, follow_redirects=False)
        self._url = settings.url.rstrip("/") + "/chat/completions"
        self._place = f"the judge's endpoint {httpx.URL(settings.url).host}"
        self.calls = 0
        """Requests that were sent."""

    def close(self) -> None:
        """Let go of the connections."""
        self._client.close()

    def ask(self, messages: Messages) -> Reply:
        """One answer.

        Raises Retry when the endpoint is away or busy after all attempts; Invalid when it does not take this prompt;
        Refused when it says no to any.
        """
        pause = _FIRST_PAUSE
        for attempt in range(1, self.settings.attempts + 1):
            last = attempt == self.settings.attempts
            try:
                return self._once(messages)
            except _Again as again:
                wait = pause if again.after is None else again.after
                if last or wait > self.settings.longest_wait:
                    raise Retry(f"{self._place} {again}") from again.__cause__
                self.wait(wait)
                pause = min(2 * pause, self.settings.longest_wait)
        raise Retry(f"{self._place} was not asked: judge.attempts is {self.settings.attempts}")

    def _once(self, messages: Messages) -> Reply:
        self.calls += 1
        try:
            response = self._client.post(self._url, json=self._body(messages))
        except httpx.HTTPError as error:
            raise _Again(f"does not answer: {type(error).__name__}") from error
        status = response.status_code
        if status in _BUSY or response.is_server_error:
            raise _Again(f"answers {status}", self._retry_after(response))
        if status in _UNFIT:
            why = "the prompt is too long, or judge.json_mode or judge.extra is more than it knows"
            raise Invalid("refused", f"{self._place} answers {status}: {why}")
        if not response.is_success:
            raise Refused(f"{self._place} answers {status}: look at judge.url, judge.model and judge.key")
        return self._reply(response, messages)

    def _body(self, messages: Messages) -> dict[str, Any]:
        settings = self.settings
        body: dict[str, Any] = {"model": settings.model, "messages": messages, "temperature": 0}
        body["max_tokens"] = settings.max_tokens
        if settings.json_mode:
            body["response_format"] = {"type": "json_object"}
        return body | dict(settings.extra)

    def _retry_after(self, response: httpx.Response) -> float | None:
        said = response.headers.get("retry-after", "").strip()
        if not said:
            return None
        try:
            return max(0.0, float(said))
        except ValueError:
            pass
        try:
            moment = parsedate_to_datetime(said)
        except ValueError:
            return None
        aware = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
        return max(0.0, (aware - self._now()).total_seconds())

    def _reply(self, response: httpx.Response, messages: Messages) -> Reply:
        try:
            body = response.json()
            content = body["choices"][0]["message"]["content"]
        except (ValueError, LookupError, TypeError) as error:
            raise Refused(f"{self._place} answers no chat completion: judge.url has to end with /v1") from error
        text = content if isinstance(content, str) else ""
        used: Any = body.get("usage")
        counted = used.get("total_tokens") if isinstance(used, dict) else None
        if isinstance(counted, int) and counted > 0:
            return Reply(text, counted)
        return Reply(text, tokens_of(messages) + tokens_of([{"role": "assistant", "content": text}]))


class _Again(Exception):
    """Worth another attempt, ``after`` so many seconds if that was said."""

    def __init__(self, text: str, after: float | None = None) -> None:
        super().__init__(text)
        self.after = after
