"""Sends a load to the gateway, and poison beside it: every request again and again until it is accepted."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import cast

import httpx
from confluent_kafka import KafkaError, Message, Producer
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from benchmarks.chaos.load import AGENTS, TENANTS, Load, Part, Turn, signal_request, trace_request
from connectors.kafka.settings import KafkaSettings, client_options
from schemas import codec
from schemas.events import RawSignal, identity
from schemas.topics import OTLP_SPANS, SIGNALS_RAW

AGAIN = (429, 500, 502, 503, 504)
PATIENCE = 900.0
"""Seconds for which one request is tried before the run is given up."""


@dataclass
class Sent:
    """What has been sent: events and requests accepted, how often a request had to be sent again."""

    events: int = 0
    requests: int = 0
    again: int = 0
    last: float = field(default_factory=time.time)
    trouble: str = ""


class Senders:
    """Threads that send a load at ``rate`` events a second in all, from ``start`` to ``join``."""

    def __init__(self, load: Load, url: Callable[[], str], rate: float) -> None:
        self.sent = Sent()
        self._load, self._url, self._rate = load, url, rate
        self._lock, self._stop = threading.Lock(), threading.Event()
        self._began = time.monotonic()
        self._threads = [threading.Thread(target=self._run, args=(n,), daemon=True) for n in range(load.senders)]

    def start(self) -> None:
        """Begin."""
        self._began = time.monotonic()
        for thread in self._threads:
            thread.start()

    @property
    def busy(self) -> bool:
        """Whether there is still something to send."""
        return any(thread.is_alive() for thread in self._threads)

    def stop(self) -> None:
        """Give up."""
        self._stop.set()
        for thread in self._threads:
            thread.join(60)

    def _run(self, sender: int) -> None:
        with httpx.Client(timeout=30, trust_env=False) as client:
            for step in self._load.steps(sender):
                path, body, kind, events = _request(step)
                tenant = _first(step).tenant
                self._await_turn()
                if not self._deliver(client, path, body, {"content-type": kind, "x-driftwheel-tenant": tenant}):
                    return
                with self._lock:
                    self.sent.events += events
                    self.sent.requests += 1
                    self.sent.last = time.time()

    def _await_turn(self) -> None:
        """At most ``rate`` events a second; what was held up is caught up with."""
        due = self._began + self.sent.events / self._rate
        self._stop.wait(max(0.0, due - time.monotonic()))

    def _deliver(self, client: httpx.Client, path: str, body: bytes, headers: dict[str, str]) -> bool:
        until = time.monotonic() + PATIENCE
        while not self._stop.is_set():
            try:
                answer = client.post(self._url() + path, content=body, headers=headers)
            except httpx.TransportError as error:
                problem, pause = type(error).__name__, 0.5
            else:
                if answer.is_success:
                    return True
                problem = f"{answer.status_code} {answer.text[:200]}"
                pause = float(answer.headers.get("retry-after", 1))
                if answer.status_code not in AGAIN:
                    self.sent.trouble = problem
                    return False
            with self._lock:
                self.sent.again += 1
            if time.monotonic() > until:
                self.sent.trouble = f"not accepted for {PATIENCE:.0f} s: {problem}"
                return False
            self._stop.wait(min(pause, 5.0))
        return False


def _request(step: list[Part] | list[Turn]) -> tuple[str, bytes, str, int]:
    if isinstance(step[0], Part):
        parts = cast("list[Part]", step)
        count = sum(len(part.spans) for part in parts)
        return "/v1/traces", trace_request(parts, time.time_ns()), "application/x-protobuf", count
    turns = cast("list[Turn]", step)
    return "/v1/signals", signal_request(turns, datetime.now(UTC).isoformat()), "application/json", len(turns)


def _first(step: Sequence[Part | Turn]) -> Turn:
    return step[0].turn if isinstance(step[0], Part) else step[0]


class Poison:
    """Messages that redaction must refuse, straight into the raw topics, as other producers write there."""

    def __init__(self, kafka: KafkaSettings, seed: int) -> None:
        self._kafka, self._seed = kafka, seed
        self.extra: list[dict[str, str]] = []
        """Good spans that shared a request with a bad one: each makes a turn of its own."""
        self._count = 0
        options = {"enable.idempotence": True, "partitioner": "murmur2_random", "message.timeout.ms": 300_000}
        self._producer = Producer(client_options(kafka) | options)

    def send(self) -> None:
        """One of each kind."""
        self._count += 1
        tenant, agent = TENANTS[self._count % 2], AGENTS[self._count % len(AGENTS)]
        key = f"{tenant}/{agent}"
        self._produce(OTLP_SPANS.name, key, b"\xff\xfenot protobuf %d" % self._count, tenant)
        self._produce(SIGNALS_RAW.name, key, b"not avro %d" % self._count, tenant)
        raw = RawSignal(
            event_id=identity("poison", str(self._seed), str(self._count)), tenant=tenant, agent=agent,
            event_time=datetime.now(UTC), payload=json.dumps({"name": "rating", "value": "much"}),
        )  # fmt: skip
        self._produce(SIGNALS_RAW.name, key, codec.encode(raw), tenant)
        self._produce(OTLP_SPANS.name, key, self._half_good(tenant, agent), tenant)

    def close(self) -> None:
        """Wait until all of it is there."""
        self._producer.flush(120)

    def _half_good(self, tenant: str, agent: str) -> bytes:
        """A request of two spans, one of them without a trace id."""
        trace = identity("poisoned trace", str(self._seed), str(self._count))
        session = identity("poisoned session", trace)
        turn = Turn(session, 0, tenant, agent, "how do I reset the vpn", "it", 0.1, False, None, False)
        request = ExportTraceServiceRequest.FromString(trace_request([Part(turn, ("tool", "call"))], time.time_ns()))
        spans = request.resource_spans[0].scope_spans[0].spans
        spans[0].trace_id = b""
        spans[1].parent_span_id = b""
        turn_id = f"{turn.trace}.{turn.span('call')}"
        self.extra.append({"event_id": turn.span_ids()["call"], "turn_id": turn_id, "session": session})
        return request.SerializeToString()

    def _produce(self, topic: str, key: str, value: bytes, tenant: str) -> None:
        self._producer.produce(
            self._kafka.topic(topic), value, key, headers=[("tenant", tenant.encode())],
            on_delivery=_delivered,
        )  # fmt: skip
        self._producer.poll(0)


def _delivered(error: KafkaError | None, message: Message) -> None:
    del message
    if error is not None:
        raise RuntimeError(f"poison was not taken: {error}")
