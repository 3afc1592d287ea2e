"""Recorded conversations (JSON Lines, also .gz) as OTLP traces, the way a well-instrumented agent would emit them.

Every user message that the agent acted on is one trace: a root ``invoke_agent`` span with the user's message and the
agent's answer, and below it a ``chat`` span for each model answer and an ``execute_tool`` span for each tool call of
the agent. Tools that the user calls are not the agent's and are left out. Ids come from the conversation's id, so
that a file imported twice is stored once.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import ScopeSpans, Span, Status

from schemas.errors import Invalid, UsageError
from schemas.events import identity

BASE = datetime(2025, 1, 1, tzinfo=UTC)
STEP = timedelta(seconds=5)
REQUIRED = ("conversation_id", "messages")


@dataclass(frozen=True, slots=True)
class Step:
    """One thing that the agent did: an answer (``text``) or a tool call with its result."""

    time: datetime
    text: str = ""
    tool: str = ""
    call_id: str = ""
    arguments: str = ""
    result: str = ""
    failed: bool = False


@dataclass(slots=True)
class Exchange:
    """One user message and what the agent did about it; ``text`` '' for what it did before any user spoke."""

    time: datetime
    text: str
    steps: list[Step] = field(default_factory=list[Step])

    @property
    def answer(self) -> str:
        """The agent's last text, or '' when it only called tools."""
        return next((step.text for step in reversed(self.steps) if step.text), "")


@dataclass(frozen=True, slots=True)
class Conversation:
    """One recorded conversation."""

    conversation_id: str
    agent: str
    model: str
    exchanges: list[Exchange]


def import_file(
    path: Path, send: Callable[[bytes], None], progress: Callable[[int], None] | None = None
) -> dict[str, int]:
    """Send every conversation of a file; returns counts of conversations, turns (answered) and tool calls."""
    counts = {"conversations": 0, "turns": 0, "tool_calls": 0, "spans": 0}
    for conversation in iter_conversations(path):
        request = to_request(conversation)
        spans = request.resource_spans[0].scope_spans[0].spans
        if spans:
            send(request.SerializeToString())
        counts["conversations"] += 1
        counts["spans"] += len(spans)
        counts["turns"] += sum(bool(exchange.text and exchange.answer) for exchange in conversation.exchanges)
        counts["tool_calls"] += sum(bool(step.tool) for e in conversation.exchanges for step in e.steps)
        if progress:
            progress(counts["conversations"])
    return counts


def iter_conversations(path: Path) -> Iterator[Conversation]:
    """The conversations of a file. Raises UsageError naming file, line and field."""
    for number, line in _lines(path):
        try:
            yield _conversation(json.loads(line))
        except json.JSONDecodeError as error:
            raise UsageError(f"{path}, line {number}: not JSON: {error.msg} at column {error.colno}") from error
        except Invalid as error:
            raise UsageError(f"{path}, line {number}: {error.detail}") from error


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    opener = gzip.open if path.suffix == ".gz" else open
    try:
        with opener(path, "rt", encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield number, line
    except (OSError, EOFError) as error:
        raise UsageError(f"{path} cannot be read: {error}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not UTF-8 text: byte {error.start} is wrong") from error


def _conversation(row: Any) -> Conversation:
    if not isinstance(row, dict):
        raise Invalid("not_object", "a JSON object was expected")
    for name in REQUIRED:
        if name not in row:
            raise Invalid("missing_field", f"no field {name!r}")
    if not isinstance(row["messages"], list):
        raise Invalid("wrong_field", "messages: must be a list")
    start = _time(row.get("start_time"), "start_time") or BASE
    exchanges = _exchanges(row["messages"], start)
    agent, model = str(row.get("domain") or "agent"), str(row.get("model") or "unknown")
    return Conversation(str(row["conversation_id"]), agent, model, exchanges)


def _exchanges(messages: list[Any], start: datetime) -> list[Exchange]:
    results = {
        m["tool_call_id"]: m
        for m in messages
        if isinstance(m, dict) and m.get("role") == "tool" and m.get("tool_call_id")
    }
    exchanges = [Exchange(start, "")]
    now = start
    for index, message in enumerate(messages):
        if not isinstance(message, dict) or "role" not in message:
            raise Invalid("wrong_field", f"messages[{index}]: no role")
        now = max(
            now + timedelta(milliseconds=1),
            _time(message.get("timestamp"), f"messages[{index}].timestamp") or now + STEP,
        )
        text = message.get("content") or ""
        if message["role"] == "user" and text:
            exchanges.append(Exchange(now, str(text)))
        elif message["role"] == "assistant":
            exchanges[-1].steps += _steps(message, results, now, index)
    return [exchange for exchange in exchanges if exchange.steps]


def _steps(message: dict[str, Any], results: dict[str, Any], now: datetime, index: int) -> Iterator[Step]:
    if message.get("content"):
        yield Step(now, text=str(message["content"]))
    for n, call in enumerate(message.get("tool_calls") or []):
        try:
            function, call_id = call["function"], str(call.get("id", ""))
            name, arguments = str(function["name"]), str(function.get("arguments", ""))
        except (KeyError, TypeError, AttributeError) as error:
            raise Invalid("wrong_field", f"messages[{index}].tool_calls[{n}]: no function with a name") from error
        result: dict[str, Any] = results.get(call_id, {})
        yield Step(
            now + timedelta(microseconds=n), tool=name, call_id=call_id, arguments=arguments,
            result=str(result.get("content") or ""), failed=bool(result.get("error")),
        )  # fmt: skip


def _time(value: Any, place: str) -> datetime | None:
    if not value:
        return None
    try:
        time = datetime.fromisoformat(str(value))
    except ValueError as error:
        raise Invalid("wrong_field", f"{place}: not an ISO 8601 time") from error
    return time if time.tzinfo else time.replace(tzinfo=UTC)


def to_request(conversation: Conversation) -> ExportTraceServiceRequest:
    """The conversation as one export request, a trace for each exchange."""
    request = ExportTraceServiceRequest()
    resource = request.resource_spans.add()
    resource.resource.attributes.append(_attribute("service.name", conversation.agent))
    scope = resource.scope_spans.add()
    scope.scope.name = "driftwheel.import"
    for index, exchange in enumerate(conversation.exchanges):
        _trace(scope, conversation, index, exchange)
    return request


@dataclass(frozen=True, slots=True)
class _Draft:
    """One span before it is one; ids in hexadecimal."""

    trace: str
    span_id: str
    parent: str
    name: str
    start: datetime
    end: datetime
    attributes: dict[str, str]
    failed: bool = False


def _trace(scope: ScopeSpans, conversation: Conversation, index: int, exchange: Exchange) -> None:
    trace = identity("conversation", conversation.conversation_id, str(index))
    root = identity("span", trace, "root")[:16]
    end = exchange.steps[-1].time + timedelta(milliseconds=1)
    said = {"gen_ai.operation.name": "invoke_agent", "gen_ai.response.model": conversation.model}
    if exchange.text:
        said["gen_ai.input.messages"] = _messages("user", exchange.text)
    if exchange.answer:
        said["gen_ai.output.messages"] = _messages("assistant", exchange.answer)
    _add(scope, conversation, _Draft(trace, root, "", "invoke_agent", exchange.time, end, said))
    for number, step in enumerate(exchange.steps):
        span_id = identity("span", trace, str(number))[:16]
        name, made = _tool(step) if step.tool else _chat(step, conversation, exchange)
        _add(scope, conversation, _Draft(trace, span_id, root, name, step.time, step.time, made, step.failed))


def _chat(step: Step, conversation: Conversation, exchange: Exchange) -> tuple[str, dict[str, str]]:
    return "chat", {
        "gen_ai.operation.name": "chat",
        "gen_ai.response.model": conversation.model,
        "gen_ai.input.messages": _messages("user", exchange.text),
        "gen_ai.output.messages": _messages("assistant", step.text),
    }


def _tool(step: Step) -> tuple[str, dict[str, str]]:
    return f"execute_tool {step.tool}", {
        "gen_ai.operation.name": "execute_tool",
        "gen_ai.tool.name": step.tool,
        "gen_ai.tool.call.id": step.call_id,
        "gen_ai.tool.call.arguments": step.arguments,
        "gen_ai.tool.call.result": step.result,
    }


def _add(scope: ScopeSpans, conversation: Conversation, draft: _Draft) -> None:
    common = {"gen_ai.conversation.id": conversation.conversation_id, "gen_ai.agent.name": conversation.agent}
    scope.spans.append(
        Span(
            trace_id=bytes.fromhex(draft.trace),
            span_id=bytes.fromhex(draft.span_id),
            parent_span_id=bytes.fromhex(draft.parent),
            name=draft.name,
            start_time_unix_nano=_nanos(draft.start),
            end_time_unix_nano=_nanos(draft.end),
            attributes=[_attribute(key, value) for key, value in (common | draft.attributes).items()],
            status=Status(code=Status.STATUS_CODE_ERROR if draft.failed else Status.STATUS_CODE_OK),
        )
    )


def _attribute(key: str, value: str) -> KeyValue:
    return KeyValue(key=key, value=AnyValue(string_value=value.encode("utf-8", "replace").decode()))


def _messages(role: str, text: str) -> str:
    return json.dumps([{"role": role, "parts": [{"type": "text", "content": text}]}])


def _nanos(time: datetime) -> int:
    return int(time.timestamp() * 1_000_000) * 1000
