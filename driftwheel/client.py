"""The client for agents: two lines to send a signal. It needs httpx and nothing else of Driftwheel.

from driftwheel.client import Client
Client("http://127.0.0.1:4318").signal("rating", agent="support-router", session_id="s-1", value=-1.0)
"""

from __future__ import annotations

import json
import queue
import re
import threading
import time
import uuid
from collections.abc import Sequence
from datetime import datetime
from types import TracebackType
from typing import Any

import httpx

DEFAULT_URL = "http://127.0.0.1:4318"
MAX_WAIT_SECONDS = 30.0
AGAIN = (429, 502, 503, 504)
WRONG_FIELD = 422
BATCH_ITEMS, BATCH_BYTES = 500, 1_000_000
Item = dict[str, Any]


class DeliveryError(Exception):
    """The gateway did not take the data; the text names the field, or says how long it was tried.

    ``wrong``: the numbers of the items that were refused, when the gateway named them.
    """

    def __init__(self, message: str, wrong: Sequence[int] = ()) -> None:
        super().__init__(message)
        self.wrong = tuple(wrong)


class Client:
    """Sends signals, labels and traces. Calls return when the gateway has the data durably; threads may share it.

    A lost connection or an answer of ``AGAIN`` is tried again, ``attempts`` times in all, after as many seconds as
    Retry-After asks, at most ``MAX_WAIT_SECONDS``. A signal keeps its ``id``, so that a second delivery is recognised
    as the same signal. Raises DeliveryError when the data was not taken.
    """

    def __init__(
        self, url: str = DEFAULT_URL, *, token: str | None = None, tenant: str | None = None, attempts: int = 5
    ) -> None:
        if not url.startswith(("http://", "https://")):
            raise ValueError(f"url: must start with http:// or https://, such as {DEFAULT_URL}")
        headers = {"authorization": f"Bearer {token}"} if token else {}
        if tenant:
            headers["x-driftwheel-tenant"] = tenant
        self._http = httpx.Client(base_url=url, headers=headers, timeout=60)
        self._attempts = max(1, attempts)

    def signal(self, name: str, *, agent: str, **fields: Any) -> None:
        """One signal. ``fields``: session_id, trace_id or turn_id (one is needed), value, text, user_id, time, ..."""
        self.signals([{"name": name, "agent": agent, **fields}])

    def signals(self, signals: Sequence[Item]) -> None:
        """Many signals at once, 1 to 1000: all are taken or none."""
        self.deliver([encoded_signal(signal) for signal in signals])

    def labels(self, labels: Sequence[Item]) -> None:
        """Labels: agent, sample_id, value, rater. All are taken or none."""
        self._post("/v1/labels", _batch("labels", [_json(label) for label in labels]), "application/json")

    def traces(self, request: bytes) -> None:
        """An OTLP ``ExportTraceServiceRequest`` in protobuf. Spans with malformed ids are left out by the gateway."""
        self._post("/v1/traces", request, "application/x-protobuf")

    def deliver(self, signals: Sequence[bytes]) -> None:
        """Signals that ``encoded_signal`` has made ready: all are taken or none."""
        self._post("/v1/signals", _batch("signals", signals), "application/json")

    def _post(self, path: str, content: bytes, kind: str) -> None:
        problem = ""
        for attempt in range(self._attempts):
            try:
                response = self._http.post(path, content=content, headers={"content-type": kind})
            except httpx.TransportError as error:
                problem, pause = f"{type(error).__name__}: {error}", 0.2 * 2**attempt
            else:
                if response.is_success:
                    return
                problem = f"HTTP {response.status_code}: {_reason(response)}"
                if response.status_code not in AGAIN:
                    raise DeliveryError(f"{path}: {problem}", _wrong_items(response))
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


class Background:
    """Sends signals from a thread of its own, many at a time, so that an agent never waits for feedback.

    ``signal`` returns at once; up to ``capacity`` signals wait in memory, and are lost with the process: ``flush`` or
    ``close`` (or leave the ``with``) before it ends. A signal that the gateway refuses does not hold up its neighbours.
    What could not be delivered is raised by the next ``flush`` or ``close``, as one DeliveryError. ``close`` leaves the
    client open.
    """

    def __init__(self, client: Client, capacity: int = 10_000) -> None:
        self._client = client
        self._waiting: queue.Queue[bytes | None] = queue.Queue(capacity)
        self._problems: list[str] = []
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="driftwheel-client", daemon=True)
        self._thread.start()

    def signal(self, name: str, *, agent: str, **fields: Any) -> None:
        """One signal, as of ``Client.signal``. Raises DeliveryError when ``capacity`` signals are waiting already."""
        if self._closed:
            raise DeliveryError("closed: this signal was not taken")
        try:
            self._waiting.put_nowait(encoded_signal({"name": name, "agent": agent, **fields}))
        except queue.Full as error:
            raise DeliveryError(f"{self._waiting.maxsize} signals wait already: this one was not taken") from error

    def flush(self) -> None:
        """Wait until everything so far was delivered or given up. Raises DeliveryError for what was given up."""
        self._waiting.join()
        problems, self._problems = self._problems, []
        if problems:
            raise DeliveryError(f"{len(problems)} deliveries failed; the first: {problems[0]}")

    def close(self) -> None:
        """Flush, then end the thread."""
        if not self._closed:
            self._closed = True
            self._waiting.put(None)
        self._thread.join()
        self.flush()

    def __enter__(self) -> Background:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _run(self) -> None:
        going = True
        while going:
            batch, size = list[bytes](), 0
            while going and len(batch) < BATCH_ITEMS and size < BATCH_BYTES and (not batch or self._waiting.qsize()):
                signal = self._waiting.get()
                if signal is None:
                    going = False
                else:
                    batch.append(signal)
                    size += len(signal)
            self._deliver(batch)
            for _ in range(len(batch) + (not going)):
                self._waiting.task_done()

    def _deliver(self, batch: list[bytes]) -> None:
        """The batch without the items that the gateway names as wrong, until it takes the rest."""
        while batch:
            try:
                self._client.deliver(batch)
            except DeliveryError as error:
                self._problems.append(str(error))
                right = [signal for n, signal in enumerate(batch) if n not in error.wrong]
                batch = right if len(right) < len(batch) else []
            except RuntimeError as error:  # httpx: the client was closed before this was
                self._problems.append(f"{len(batch)} signals: {error}")
                batch = []
            else:
                batch = []


def encoded_signal(signal: Item) -> bytes:
    """A signal as JSON, with an ``id`` if it had none. Raises ValueError or TypeError for what JSON does not have."""
    return _json({"id": uuid.uuid4().hex, **signal})


def _json(item: Item) -> bytes:
    """In ASCII, so that a broken text cannot break the request."""
    return json.dumps(item, allow_nan=False, default=_time).encode()


def _batch(key: str, items: Sequence[bytes]) -> bytes:
    return b'{"%s": [%s]}' % (key.encode(), b",".join(items))


def _time(value: Any) -> str:
    if isinstance(value, datetime):
        return value.isoformat()
    raise TypeError(f"{type(value).__name__} is neither JSON nor a datetime")


def _retry_after(response: httpx.Response) -> float:
    value = response.headers.get("retry-after", "1")
    return float(value) if re.fullmatch(r"[0-9]+(\.[0-9]+)?", value) else 1.0


def _document(response: httpx.Response) -> Item:
    try:
        body = response.json()
    except ValueError:
        return {}
    return body if isinstance(body, dict) else {}


def _wrong_items(response: httpx.Response) -> list[int]:
    if response.status_code != WRONG_FIELD:
        return []
    return [error["index"] for error in _document(response).get("errors", []) if "index" in error]


def _reason(response: httpx.Response) -> str:
    body = _document(response)
    if errors := body.get("errors"):
        return "; ".join(_item(error) for error in errors)
    return str(body.get("message") or body.get("detail") or _plain(response.content))


def _plain(content: bytes) -> str:
    """The start of an answer that is not JSON; of a google.rpc.Status in protobuf, its message."""
    text = re.sub(rb"\A(?:\x08[\x00-\x7f])?\x12[\x80-\xff]*[\x00-\x7f]", b"", content, count=1)
    return text[:300].decode("utf-8", "replace")


def _item(error: Item) -> str:
    place = f"item {error['index']}, {error['field']}: " if "field" in error else ""
    return f"{place}{error['message']}"
