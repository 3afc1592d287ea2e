"""The client for agents: two lines to send a signal. It needs httpx and nothing else of Driftwheel.

from driftwheel.client import Client
Client("http://127.0.0.1:4318").signal("rating", agent="support-router", session_id="s-1", value=-1.0)
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from types import TracebackType
from typing import Any

import httpx

DEFAULT_URL = "http://127.0.0.1:4318"
MAX_WAIT_SECONDS = 30.0
BUSY = 503


class DeliveryError(Exception):
    """The gateway did not take the data; the text names the field, or says how long it was tried."""


class Client:
    """Sends signals, labels and traces. Calls return when the gateway has the data durably.

    A 503 or a lost connection is tried again, ``attempts`` times in all and no longer than Retry-After asks; a signal
    keeps its ``id``, so that a second delivery is recognised as the same signal.
    """

    def __init__(
        self, url: str = DEFAULT_URL, *, token: str | None = None, tenant: str | None = None, attempts: int = 5
    ) -> None:
        headers = {"authorization": f"Bearer {token}"} if token else {}
        if tenant:
            headers["x-driftwheel-tenant"] = tenant
        self._http = httpx.Client(base_url=url, headers=headers, timeout=60)
        self._attempts = attempts

    def signal(self, name: str, *, agent: str, **fields: Any) -> None:
        """One signal. ``fields``: session_id, trace_id or turn_id (one is needed), value, text, user_id, time, ..."""
        self.signals([{"name": name, "agent": agent, **fields}])

    def signals(self, signals: Sequence[dict[str, Any]]) -> None:
        """Many signals at once: all are taken or none."""
        named = [{"id": uuid.uuid4().hex, **signal} for signal in signals]
        self._post("/v1/signals", json={"signals": named})

    def labels(self, labels: Sequence[dict[str, Any]]) -> None:
        """Labels: agent, sample_id, value, rater."""
        self._post("/v1/labels", json={"labels": list(labels)})

    def traces(self, request: bytes) -> None:
        """An OTLP ``ExportTraceServiceRequest`` in protobuf."""
        self._post("/v1/traces", content=request, headers={"content-type": "application/x-protobuf"})

    def _post(self, path: str, **options: Any) -> None:
        problem = ""
        for attempt in range(self._attempts):
            try:
                response = self._http.post(path, **options)
            except httpx.TransportError as error:
                problem, pause = f"{type(error).__name__}: {error}", 0.2 * 2**attempt
            else:
                if response.is_success:
                    return
                problem = f"HTTP {response.status_code}: {_reason(response)}"
                if response.status_code != BUSY:
                    raise DeliveryError(f"{path}: {problem}")
                pause = _retry_after(response)
            if attempt + 1 < self._attempts:
                time.sleep(min(pause, MAX_WAIT_SECONDS))
        raise DeliveryError(f"{path}: not delivered after {self._attempts} attempts; the last said {problem}")

    def close(self) -> None:
        """Let go of the connection."""
        self._http.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _retry_after(response: httpx.Response) -> float:
    value = response.headers.get("retry-after", "1")
    return float(value) if value.replace(".", "", 1).isdigit() else 1.0


def _reason(response: httpx.Response) -> str:
    try:
        body = response.json()
    except ValueError:
        return response.content[:300].decode("utf-8", "replace")
    errors = body.get("errors")
    if not errors:
        return str(body.get("message") or body.get("detail") or body)
    return "; ".join(_item(error) for error in errors)


def _item(error: dict[str, Any]) -> str:
    place = f"item {error['index']}, {error['field']}: " if "field" in error else ""
    return f"{place}{error['message']}"
