"""Recorded conversations (JSON Lines, also .gz) as OTLP traces, the way a well-instrumented agent would emit them.

Every user message that the agent acted on is one trace: a root ``invoke_agent`` span with the user's message and the
agent's answer, and below it a ``chat`` span for each model answer and an ``execute_tool`` span for each tool call of
the agent. Tools that the user calls are not the agent's and are left out. Ids come from the conversation's id, so
that a file imported twice is stored once. What the agent did before any user spoke, or without a word in answer, is a
trace too, but no turn: its root lacks the input or the output.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import ScopeSpans, Span, Status

from connectors.imports.rows import lines_of
from connectors.imports.spans import REQUEST_BYTES, attribute
from schemas.errors import Invalid, UsageError
from schemas.events import identity

BASE = datetime(2025, 1, 1, tzinfo=UTC)
STEP = timedelta(seconds=5)
YEARS = range(1971, 2200)
"""Times outside are mistakes; OTLP counts nanoseconds from 1970 in 64 bits."""
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
    """One recorded conversation. ``tools`` are the names of those that the agent could call.

    ``usage`` and ``choices`` are those of an OpenAI completion, whose answer is the last of the conversation.
    """

    conversation_id: str
    agent: str
    model: str
    exchanges: list[Exchange]
    user: str = ""
    tools: tuple[str, ...] = ()
    usage: dict[str, Any] = field(default_factory=dict[str, Any])
    choices: list[Any] = field(default_factory=list[Any])


def import_file(
    path: Path, send: Callable[[bytes], None], progress: Callable[[int], None] | None = None, agent: str = ""
) -> dict[str, int]:
    """Send every conversation of a file; returns counts of conversations, turns (answered) and tool calls.

    ``send`` takes an ExportTraceServiceRequest in protobuf, several for a long conversation. ``agent``: see
    ``iter_conversations``. Delivery is at least once: the same file makes the same spans, with the same ids.
    """
    counts = {"conversations": 0, "turns": 0, "tool_calls": 0, "spans": 0}
    for conversation in iter_conversations(path, agent):
        for request in to_requests(conversation):
            send(request.SerializeToString())
            counts["spans"] += len(request.resource_spans[0].scope_spans[0].spans)
        counts["conversations"] += 1
        counts["turns"] += sum(bool(exchange.text and exchange.answer) for exchange in conversation.exchanges)
        counts["tool_calls"] += sum(bool(step.tool) for e in conversation.exchanges for step in e.steps)
        if progress:
            progress(counts["conversations"])
    return counts


def iter_conversations(path: Path, agent: str = "") -> Iterator[Conversation]:
    """The conversations of a file, of ``agent`` or else the agent that each one's ``domain`` names.

    Raises UsageError naming file, line and field.
    """
    for number, line in lines_of(path):
        try:
            yield conversation_of(json.loads(line), agent)
        except json.JSONDecodeError as error:
            raise UsageError(f"{path}, line {number}: not JSON: {error.msg} at column {error.colno}") from error
        except (ValueError, RecursionError) as error:
            raise UsageError(f"{path}, line {number}: JSON with too many digits or levels to be read") from error
        except Invalid as error:
            raise UsageError(f"{path}, line {number}: {error.detail}") from error


def conversation_of(row: Any, agent: str) -> Conversation:
    """The conversation that a row holds. Raises Invalid naming the field."""
    if not isinstance(row, dict):
        raise Invalid("not_object", "a JSON object was expected")
    for name in REQUIRED:
        if row.get(name) in (None, ""):
            raise Invalid("missing_field", f"no field {name!r}")
    if not isinstance(row["messages"], list):
        raise Invalid("wrong_field", "messages: must be a list")
    start = _time(row.get("start_time"), "start_time") or BASE
    exchanges = _exchanges(row["messages"], start)
    named, model = agent or str(row.get("domain") or "agent"), str(row.get("model") or "unknown")
    return Conversation(
        conversation_id=str(row["conversation_id"]),
        agent=named,
        model=model,
        exchanges=exchanges,
        user=str(row.get("user_id") or ""),
        tools=tuple(_tool_names(row.get("tools"))),
        usage=row["usage"] if isinstance(row.get("usage"), dict) else {},
        choices=row["choices"] if isinstance(row.get("choices"), list) else [],
    )


def _tool_names(tools: Any) -> Iterator[str]:
    for one in tools if isinstance(tools, list) else []:
        inner: Any = one.get("function", one) if isinstance(one, dict) else None
        if isinstance(inner, dict) and inner.get("name"):
            yield str(inner["name"])


def _exchanges(messages: list[Any], start: datetime) -> list[Exchange]:
    for index, message in enumerate(messages):
        if not isinstance(message, dict) or "role" not in message:
            raise Invalid("wrong_field", f"messages[{index}]: no role")
    results = _results(messages)
    exchanges = [Exchange(start, "")]
    now = start
    for index, message in enumerate(messages):
        given = _time(message.get("timestamp"), f"messages[{index}].timestamp")
        now = max(now + timedelta(milliseconds=1), given or now + STEP)
        if message["role"] == "user" and (text := _text(message)):
            exchanges.append(Exchange(now, text))
        elif message["role"] == "assistant":
            exchanges[-1].steps += _steps(message, results, now, index)
    return [exchange for exchange in exchanges if exchange.steps]


Results = dict[tuple[int, int], dict[str, Any]]
"""The tool's message by the assistant message and the call in it that it answers."""


def _results(messages: list[dict[str, Any]]) -> Results:
    """Agents use the same call id again in one conversation: a result answers the newest calls of its id, in order."""
    waiting: dict[str, list[tuple[int, int]]] = {}
    results: Results = {}
    for index, message in enumerate(messages):
        if message["role"] == "assistant":
            ids = [str(call.get("id")) for call in _calls(message, index)]
            waiting.update({call_id: [(index, n) for n, i in enumerate(ids) if i == call_id] for call_id in ids})
        elif message["role"] == "tool" and message.get("requestor") != "user":
            waits = waiting.get(str(message.get("tool_call_id")), [])
            results.update({waits.pop(0): message} if waits else {})
    return results


def _calls(message: dict[str, Any], index: int) -> list[dict[str, Any]]:
    calls: Any = message.get("tool_calls") or []
    if not isinstance(calls, list):
        raise Invalid("wrong_field", f"messages[{index}].tool_calls: must be a list")
    for n, call in enumerate(calls):
        function: Any = call.get("function") if isinstance(call, dict) else None
        if not isinstance(function, dict) or not function.get("name"):
            raise Invalid("wrong_field", f"messages[{index}].tool_calls[{n}]: no function with a name")
    return calls


def _steps(message: dict[str, Any], results: Results, now: datetime, index: int) -> Iterator[Step]:
    if text := _text(message):
        yield Step(now, text=text)
    for n, call in enumerate(_calls(message, index)):
        function: dict[str, Any] = call["function"]
        arguments, result = function.get("arguments", ""), results.get((index, n), {})
        yield Step(
            now + timedelta(microseconds=n),
            tool=str(function["name"]),
            call_id=str(call.get("id") or ""),
            arguments=arguments if isinstance(arguments, str) else json.dumps(arguments),
            result=_text(result),
            failed=bool(result.get("error")),
        )


def _text(message: dict[str, Any]) -> str:
    """A message's text: its content, or the texts among the parts of its content."""
    content: Any = message.get("content")
    if not isinstance(content, list):
        return str(content or "")
    texts = [part.get("text") if isinstance(part, dict) else part for part in content]
    return "\n".join(text for text in texts if text and isinstance(text, str))


def _time(value: Any, place: str) -> datetime | None:
    if not value:
        return None
    try:
        time = datetime.fromisoformat(str(value))
    except ValueError as error:
        raise Invalid("wrong_field", f"{place}: not an ISO 8601 time, such as 2026-01-05T09:00:00Z") from error
    if time.year not in YEARS:
        raise Invalid("wrong_field", f"{place}: not between the years {YEARS.start} and {YEARS.stop - 1}")
    return time if time.tzinfo else time.replace(tzinfo=UTC)


def to_requests(conversation: Conversation, limit: int = REQUEST_BYTES) -> Iterator[ExportTraceServiceRequest]:
    """The conversation as export requests, a trace for each exchange; none for one in which the agent did nothing.

    A request is closed with the trace that makes it ``limit`` bytes or more.
    """
    request = _empty(conversation)
    for index, exchange in enumerate(conversation.exchanges):
        _trace(request.resource_spans[0].scope_spans[0], conversation, index, exchange)
        if request.ByteSize() >= limit:
            yield request
            request = _empty(conversation)
    if request.resource_spans[0].scope_spans[0].spans:
        yield request


def _empty(conversation: Conversation) -> ExportTraceServiceRequest:
    request = ExportTraceServiceRequest()
    resource = request.resource_spans.add()
    resource.resource.attributes.append(attribute("service.name", conversation.agent))
    resource.scope_spans.add().scope.name = "driftwheel.import"
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
    attributes: dict[str, Any]
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
        if index + 1 == len(conversation.exchanges) and number + 1 == len(exchange.steps):
            made |= _completion(conversation)
        _add(scope, conversation, _Draft(trace, span_id, root, name, step.time, step.time, made, step.failed))


def _completion(conversation: Conversation) -> dict[str, Any]:
    """What a completion says about the answer that it gave."""
    usage, first = conversation.usage, conversation.choices[0] if conversation.choices else None
    said: dict[str, Any] = {
        "gen_ai.usage.input_tokens": usage.get("prompt_tokens"),
        "gen_ai.usage.output_tokens": usage.get("completion_tokens"),
        "gen_ai.response.logprobs": first.get("logprobs") if isinstance(first, dict) else None,
    }
    return {name: value for name, value in said.items() if value}


def _chat(step: Step, conversation: Conversation, exchange: Exchange) -> tuple[str, dict[str, Any]]:
    tools = [{"type": "function", "name": name} for name in conversation.tools]
    return "chat", {
        **({"gen_ai.tool.definitions": json.dumps(tools)} if tools else {}),
        "gen_ai.operation.name": "chat",
        "gen_ai.response.model": conversation.model,
        "gen_ai.input.messages": _messages("user", exchange.text),
        "gen_ai.output.messages": _messages("assistant", step.text),
    }


def _tool(step: Step) -> tuple[str, dict[str, Any]]:
    return f"execute_tool {step.tool}", {
        "gen_ai.operation.name": "execute_tool",
        "gen_ai.tool.name": step.tool,
        "gen_ai.tool.call.id": step.call_id,
        "gen_ai.tool.call.arguments": step.arguments,
        "gen_ai.tool.call.result": step.result,
    }


def _add(scope: ScopeSpans, conversation: Conversation, draft: _Draft) -> None:
    common = {"gen_ai.conversation.id": conversation.conversation_id, "gen_ai.agent.name": conversation.agent}
    common |= {"user.id": conversation.user} if conversation.user else {}
    scope.spans.append(
        Span(
            trace_id=bytes.fromhex(draft.trace),
            span_id=bytes.fromhex(draft.span_id),
            parent_span_id=bytes.fromhex(draft.parent),
            name=draft.name,
            start_time_unix_nano=_nanos(draft.start),
            end_time_unix_nano=_nanos(draft.end),
            attributes=[attribute(key, value) for key, value in (common | draft.attributes).items()],
            status=Status(code=Status.STATUS_CODE_ERROR if draft.failed else Status.STATUS_CODE_OK),
        )
    )


def _messages(role: str, text: str) -> str:
    return json.dumps([{"role": role, "parts": [{"type": "text", "content": text}]}])


def _nanos(time: datetime) -> int:
    return int(time.timestamp() * 1_000_000) * 1000
