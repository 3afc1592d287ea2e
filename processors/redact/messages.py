"""What was asked and what was answered, from any family of attribute names.

OpenInference wins and the GenAI conventions fill gaps (the rule of OpenInference's own consumers); older GenAI forms
(numbered attributes, span events) follow, then the names of Langfuse, Vercel, Google, Logfire and others, and last
attributes whose names end in a word for one or the other. Agent spans repeat the whole conversation: only the last
user message and the final answer are taken, since earlier ones have turns of their own. An answer that only calls
tools is the list of calls.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from typing import NamedTuple

from processors.redact.bodies import (
    EMPTY,
    Call,
    Said,
    Values,
    as_text,
    messages,
    numbered,
    plain,
    role_of,
    text_of,
    without_tokens,
)
from processors.redact.keys import words_of
from processors.redact.retrievals import texts_found

Events = Iterable[tuple[str, Values]]

_INPUTS = (
    "langfuse.observation.input", "langfuse.trace.input", "ai.prompt.messages", "ai.prompt",
    "gcp.vertex.agent.llm_request", "events", "all_messages_events", "pydantic_ai.all_messages", "prompt",
    "lk.user_input", "lk.chat_ctx", "mlflow.spanInputs", "genkit:input", "traceloop.entity.input", "gen_ai.input",
    "input",
)  # fmt: skip
_OUTPUTS = (
    "langfuse.observation.output", "langfuse.trace.output", "ai.response.text", "ai.result.text", "ai.response.object",
    "ai.result.object", "ai.response.toolCalls", "ai.result.toolCalls", "gcp.vertex.agent.llm_response",
    "final_result", "events", "all_messages_events", "pydantic_ai.all_messages", "lk.response.text",
    "mlflow.spanOutputs", "genkit:output", "traceloop.entity.output", "gen_ai.output", "output",
)  # fmt: skip
_ARGUMENTS = (
    "input.value", "gen_ai.tool.call.arguments", "ai.toolCall.args", "gcp.vertex.agent.tool_call_args",
    "tool_arguments", "lk.function_tool.arguments", "langfuse.observation.input", "mlflow.spanInputs", "genkit:input",
    "traceloop.entity.input", "gen_ai.input", "input", "gen_ai.prompt",
)  # fmt: skip
_RESULTS = (
    "output.value", "gen_ai.tool.call.result", "ai.toolCall.result", "gcp.vertex.agent.tool_response",
    "tool_response", "lk.function_tool.output", "langfuse.observation.output", "mlflow.spanOutputs", "genkit:output",
    "traceloop.entity.output", "gen_ai.output", "output", "gen_ai.completion",
)  # fmt: skip
_LISTS = {
    "gen_ai.input.messages", "gen_ai.output.messages", "llm.input_messages", "llm.output_messages", "events",
    "all_messages_events", "pydantic_ai.all_messages",
}  # fmt: skip
"""Attributes that are messages or nothing: one that has no text says nothing."""
_ASKING = {"input", "inputs", "prompt", "query", "question", "arguments", "args", "request"}
_SAYING = {"output", "outputs", "response", "result", "completion", "answer", "reply"}
_ELSE = {
    "settings", "config", "schema", "headers", "http", "url", "db", "rpc", "messaging", "exception", "code", "process",
    "host", "telemetry", "openinference", "driftwheel", "usage", "cost", "token",
}  # fmt: skip
CONTENT = (
    *_INPUTS, *_OUTPUTS, *_ARGUMENTS, *_RESULTS,
    "llm.input_messages", "llm.output_messages", "llm.prompts", "llm.completions", "llm.choices",
)  # fmt: skip
"""Attributes, or the beginnings of their names, whose text is in ``input`` and ``output``."""


class _Source(NamedTuple):
    """One place that may hold messages, or else a text."""

    said: list[Said]
    raw: str = ""


class Told(NamedTuple):
    """What a span says was asked and answered, and the names of the tools that its model asked for."""

    input: str
    output: str
    calls: list[str]


def told(kind: str, values: Values, events: Events) -> Told:
    """The last user message and the answer; of tools arguments and result, of retrievals query and documents.

    Only model calls ask for tools: in the answer, or else since the user's message. Other spans repeat theirs.
    """
    if kind == "tool":
        given = _first(values, *_ARGUMENTS) or _of_tool(events, "gen_ai.tool.message") or _guess(values, "input")
        found = _first(values, *_RESULTS) or _of_tool(events, "gen_ai.choice") or _guess(values, "output")
        return Told(given, without_tokens(found), [])
    if kind == "retrieval":
        query = _first(values, "input.value", "gen_ai.retrieval.query.text", *_INPUTS)
        found = without_tokens(_first(values, "output.value", *_OUTPUTS)) or texts_found(values, events)
        return Told(plain(query) or query, found, [])
    asking, saying = _Kept(_asking(values, events)), _Kept(_saying(values, events))
    calls = (_calls_in(saying, _latest) or _calls_in(asking, _since_question)) if kind == "llm" else ()
    return Told(_told(asking, _asked), _told(saying, _answered), [call.name for call in calls])


class _Kept:
    """Sources that are read once, and only as far as somebody looks."""

    def __init__(self, sources: Iterator[_Source]) -> None:
        self._sources = sources
        self._read: list[_Source] = []

    def __iter__(self) -> Iterator[_Source]:
        yield from self._read
        for source in self._sources:
            self._read.append(source)
            yield source


def _calls_in(sources: Iterable[_Source], find: Callable[[list[Said]], tuple[Call, ...]]) -> tuple[Call, ...]:
    """The calls in the first source that has messages."""
    return next((find(source.said) for source in sources if source.said), ())


def _since_question(said: list[Said]) -> tuple[Call, ...]:
    return tuple(call for one in _since_user(said) for call in one.calls)


def _told(sources: Iterable[_Source], find: Callable[[list[Said]], str]) -> str:
    """The first source that has it; else the first structure, as it is."""
    structure = ""
    for source in sources:
        found = find(source.said) if source.said else plain(source.raw)
        if found:
            return without_tokens(found)
        structure = structure or (source.raw if source.raw.strip() not in EMPTY else "")
    return without_tokens(structure)


def _asking(values: Values, events: Events) -> Iterator[_Source]:
    yield _Source(_numbered(values, "llm.input_messages", "message."))
    yield from _sources(values, "llm.input_messages", "input.value", "gen_ai.input.messages")
    yield _Source(_numbered(values, "gen_ai.prompt", ""))
    yield from _sources(values, "gen_ai.prompt")
    yield _Source(list(_from_events(events, asked=True)))
    yield from _sources(values, *_INPUTS)
    yield _Source([], _guess(values, "input"))


def _saying(values: Values, events: Events) -> Iterator[_Source]:
    yield _Source(_numbered(values, "llm.output_messages", "message."))
    yield from _sources(values, "llm.output_messages", "output.value", "gen_ai.output.messages")
    yield _Source(_numbered(values, "gen_ai.completion", ""))
    yield from _sources(values, "gen_ai.completion")
    yield _Source(list(_from_events(events, asked=False)))
    yield from _sources(values, *_OUTPUTS)
    yield _Source([], _guess(values, "output"))


def _sources(values: Values, *names: str) -> Iterator[_Source]:
    for name in names:
        value = values.get(name)
        if value not in (None, ""):
            raw = as_text(value)
            said = messages(value if isinstance(value, (list, dict)) else raw)
            yield _Source(said, "" if name in _LISTS and raw[:1] in {"[", "{"} else raw)


def _first(values: Values, *names: str) -> str:
    """The first that says something; else the first that is there, such as ``{}``."""
    texts = [as_text(values[name]) for name in names if values.get(name) not in (None, "")]
    return next((text for text in texts if text.strip() not in EMPTY), texts[0] if texts else "")


def _asked(said: list[Said]) -> str:
    users = [one.text for one in said if one.role == "user" and one.text]
    others = [one.text for one in said if one.role not in {"user", "assistant", "system", "tool"} and one.text]
    return next(iter(users[-1:] or others[-1:]), "")


def _answered(said: list[Said]) -> str:
    """The last text after the last user message; else the calls."""
    new = _since_user(said)
    agents = [one.text for one in new if one.role == "assistant" and one.text]
    others = [one.text for one in new if one.role not in {"user", "assistant", "system", "tool"} and one.text]
    calls = [{"name": call.name, "arguments": call.arguments} for call in _latest(said)]
    return next(iter(agents[-1:] or others[-1:]), json.dumps(calls, ensure_ascii=False) if calls else "")


def _latest(said: list[Said]) -> tuple[Call, ...]:
    """What the newest messages of the model call: a list may have one message for each call."""
    calls: list[Call] = []
    for one in reversed(said):
        if one.role != "assistant":
            break
        calls = [*one.calls, *calls]
    return tuple(calls)


def _since_user(said: list[Said]) -> list[Said]:
    users = [n for n, one in enumerate(said) if one.role == "user"]
    return said[users[-1] + 1 :] if users else said


def _numbered(values: Values, prefix: str, inner: str) -> list[Said]:
    """Flattened messages, from the last one of the user on."""
    said: list[Said] = []
    for one in reversed(numbered(values, prefix).values()):
        calls = tuple(_calls(one, f"{inner}tool_calls"))
        said.append(Said(role_of(one.get(f"{inner}role")), _content(one, inner), calls))
        if said[-1].role == "user" and said[-1].text:
            break
    return said[::-1]


def _content(one: Values, inner: str) -> str:
    content = one.get(f"{inner}content")
    if content not in (None, ""):
        return text_of(content)
    parts = numbered(one, f"{inner}contents")
    return "\n".join(str(part["message_content.text"]) for part in parts.values() if "message_content.text" in part)


def _calls(one: Values, prefix: str) -> Iterator[Call]:
    for call in numbered(one, prefix).values():
        for inner in ("tool_call.function.", "function.", ""):
            if call.get(f"{inner}name"):
                yield Call(str(call[f"{inner}name"]), as_text(call.get(f"{inner}arguments", "")))
                break


def _from_events(events: Events, *, asked: bool) -> Iterator[Said]:
    whole = ("gen_ai.content.prompt", "gen_ai.prompt") if asked else ("gen_ai.content.completion", "gen_ai.completion")
    lists = "gen_ai.input.messages" if asked else "gen_ai.output.messages"
    for name, values in events:
        if values.get(lists):
            yield from messages(values[lists])
        elif name == whole[0]:
            raw = as_text(values.get(whole[1], ""))
            yield from messages(raw) or [Said("user" if asked else "assistant", plain(raw) or raw)]
        elif name.startswith("gen_ai.") and name.endswith((".message", ".choice")):
            yield from _from_event(name, values, asked)


def _from_event(name: str, values: Values, asked: bool) -> Iterator[Said]:
    if name == "gen_ai.choice":
        if not asked:
            yield from _choice(values)
        return
    role = role_of(name.split(".")[1])
    if asked or role == "assistant":
        yield Said(role, text_of(values.get("content", values.get("gen_ai.event.content", ""))))


def _choice(values: Values) -> Iterator[Said]:
    message = values.get("message", values.get("content", ""))
    said = [one for one in messages(message) if one.text] or [Said("assistant", text_of(message))]
    calls = [call for one in messages([message, values]) for call in one.calls]
    yield Said("assistant", said[-1].text, tuple(calls))


def _of_tool(events: Events, name: str) -> str:
    """What a tool was called with, or gave back, by the events of agents that put it there."""
    found = (_first(values, "content", "message") for event, values in events if event == name)
    return next((text for text in found if text), "")


@lru_cache(8_192)
def word_for(name: str) -> str:
    """What an attribute that no convention knows holds, by the last word of its name: input, output or ''.

    >>> word_for("acme.agent.userInput"), word_for("acme.reply"), word_for("http.response")
    ('input', 'output', '')
    """
    words = words_of(name)
    if not words or _ELSE & set(words) or words[:2] == ("gen", "ai") or words[0] == "llm":
        return ""
    return "input" if words[-1] in _ASKING else "output" if words[-1] in _SAYING else ""


def _guess(values: Values, wanted: str) -> str:
    return _first(values, *(name for name in values if word_for(name) == wanted))
