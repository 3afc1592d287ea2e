"""The simulated agent: it asks the served model, and emits traces and its users' signals as any agent would."""

from __future__ import annotations

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import httpx
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import ScopeSpans, Span, Status

from driftwheel.demo.world import Ask
from schemas.errors import Retry
from schemas.events import identity

AGENT = "support-router"
THINKING = timedelta(milliseconds=350)
READING = timedelta(seconds=25)


@dataclass(frozen=True, slots=True)
class Answer:
    """What the served model said to one message, and which model it was."""

    text: str
    model: str
    top1: float
    top2: float


@dataclass(frozen=True, slots=True)
class Exchange:
    """One message and its answer: one trace."""

    ask: Ask
    number: int
    time: datetime
    message: str
    answer: Answer

    @property
    def trace_id(self) -> bytes:
        """16 bytes, the same in every run of a seed."""
        return bytes.fromhex(identity("trace", self.ask.session_id, str(self.number)))


class Agent:
    """Asks a chat completions endpoint that speaks OpenAI's protocol; ``model`` may be a release group."""

    def __init__(self, base_url: str, token: str = "", parallel: int = 8) -> None:
        headers = {"authorization": f"Bearer {token}"} if token else {}
        self._client = httpx.Client(base_url=base_url, headers=headers, timeout=60, trust_env=False)
        self._pool = ThreadPoolExecutor(parallel)

    def answers(self, model: str, messages: Sequence[tuple[str, str, str]]) -> list[Answer]:
        """Answers to (session id, turn id, text), in order."""
        futures = [self._pool.submit(self._answer, model, *message) for message in messages]
        return [future.result() for future in futures]

    def _answer(self, model: str, session_id: str, turn_id: str, text: str) -> Answer:
        body: dict[str, Any] = {
            "model": model,
            "messages": [{"role": "user", "content": text}],
            "logprobs": True,
            "top_logprobs": 2,
            "user": session_id,
            "metadata": {"session_id": session_id, "turn_id": turn_id},
        }
        response = self._client.post("/v1/chat/completions", json=body)
        if response.is_error:
            raise Retry(f"the model server answered {response.status_code}: {response.text[:300]}")
        made = response.json()
        tops = [top["logprob"] for top in made["choices"][0]["logprobs"]["content"][0]["top_logprobs"]]
        top2 = tops[1] if len(tops) > 1 else -99.0
        return Answer(made["choices"][0]["message"]["content"], made["model"], tops[0], top2)

    def close(self) -> None:
        """Let go of threads and connections."""
        self._pool.shutdown()
        self._client.close()


def turn_id_of(session_id: str, number: int) -> str:
    """The product's turn id of a message: trace id and root span id."""
    trace = identity("trace", session_id, str(number))
    return f"{trace}.{_span_id(trace, 'root').hex()}"


def traces(exchanges: Sequence[Exchange]) -> bytes:
    """One OTLP request with a root span and a model call for each exchange."""
    request = ExportTraceServiceRequest()
    resource = request.resource_spans.add()
    resource.resource.attributes.extend(_attributes({"service.name": AGENT}))
    scope = resource.scope_spans.add()
    scope.scope.name = "driftwheel.demo"
    for exchange in exchanges:
        _spans_of(exchange, scope)
    return request.SerializeToString()


def _spans_of(exchange: Exchange, scope: ScopeSpans) -> None:
    trace = exchange.trace_id
    root, call = _span_id(trace.hex(), "root"), _span_id(trace.hex(), "call")
    common = {
        "gen_ai.conversation.id": exchange.ask.session_id,
        "user.id": exchange.ask.user_id,
        "gen_ai.agent.name": AGENT,
    }
    texts = {
        "gen_ai.input.messages": _messages("user", exchange.message),
        "gen_ai.output.messages": _messages("assistant", exchange.answer.text),
    }
    answer = exchange.answer
    model = {
        "gen_ai.response.model": answer.model,
        "driftwheel.logprobs.top1": answer.top1,
        "driftwheel.logprobs.top2": answer.top2,
    }
    category = {"driftwheel.category": answer.text}
    _span(scope, exchange, call, root, "chat", {"gen_ai.operation.name": "chat"} | common | texts | model)
    root_attributes = {"gen_ai.operation.name": "invoke_agent"} | common | texts | category | model
    _span(scope, exchange, root, b"", "invoke_agent", root_attributes)


def _span(
    scope: ScopeSpans,
    exchange: Exchange,
    span_id: bytes,
    parent: bytes,
    name: str,
    attributes: dict[str, Any],
) -> None:
    start = exchange.time
    scope.spans.append(
        Span(
            trace_id=exchange.trace_id,
            span_id=span_id,
            parent_span_id=parent,
            name=name,
            start_time_unix_nano=_nanos(start),
            end_time_unix_nano=_nanos(start + THINKING),
            attributes=_attributes(attributes),
            status=Status(code=Status.STATUS_CODE_OK),
        )
    )


def _span_id(trace_hex: str, name: str) -> bytes:
    return bytes.fromhex(identity("span", trace_hex, name)[:16])


def _nanos(time: datetime) -> int:
    return int(time.timestamp() * 1_000_000) * 1000


def _messages(role: str, content: str) -> str:
    return json.dumps([{"role": role, "parts": [{"type": "text", "content": content}]}])


def _attributes(values: dict[str, Any]) -> list[KeyValue]:
    return [
        KeyValue(
            key=key,
            value=AnyValue(double_value=value) if isinstance(value, float) else AnyValue(string_value=value),
        )
        for key, value in values.items()
    ]
