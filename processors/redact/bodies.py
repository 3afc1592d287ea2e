"""Bodies of requests and answers to messages: the shapes of JSON that model APIs and agent frameworks put into spans.

Known are chat completions and responses of OpenAI, Anthropic's and Gemini's contents, parts of the GenAI conventions,
LangChain's messages (serialised too), events of Logfire and calls of the Vercel AI SDK; each also within lists, under
usual names, and as Python prints it. Unknown shapes give no messages, and never an error.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from typing import Any, NamedTuple, cast

Values = dict[str, Any]
"""Attributes of a span or event, or a JSON object, as plain values."""

DEPTH = 8
"""Bodies are looked into so deep."""
MAX_PRINTED = 200_000
"""What Python printed is read back up to so many characters."""
EMPTY = ("", "{}", "[]", "null", '""', "None")
"""What says nothing."""


class Call(NamedTuple):
    """A tool that a model asked for."""

    name: str
    arguments: str


class Said(NamedTuple):
    """One message: ``role`` is user, assistant, system, tool, or another's own word."""

    role: str
    text: str
    calls: tuple[Call, ...] = ()


_ROLES = {
    "user": "user", "human": "user", "humanmessage": "user", "humanmessagechunk": "user",
    "assistant": "assistant", "ai": "assistant", "model": "assistant", "agent": "assistant", "bot": "assistant",
    "aimessage": "assistant", "aimessagechunk": "assistant", "chatbot": "assistant",
    "system": "system", "developer": "system", "systemmessage": "system",
    "tool": "tool", "function": "tool", "toolmessage": "tool", "functionmessage": "tool",
}  # fmt: skip
_LISTS = (
    "messages", "message", "choices", "contents", "candidates", "content", "generations", "new_message", "output",
    "input", "inputs", "outputs", "request", "response", "result", "kwargs", "prompt", "data", "update", "state",
)  # fmt: skip
"""Names under which bodies hold messages, the surest first."""
_TEXTS = (
    "input", "question", "query", "prompt", "text", "content", "contents", "output", "answer", "response", "result",
    "message", "user_input", "user_message", "user_query", "final_output", "combined_chunk_content", "raw",
)  # fmt: skip
"""Names of the one text that an object is about."""
_WRAPPERS = ("input", "inputs", "output", "outputs", "kwargs", "result", "response", "data", "state", "args")
_CALLS = {"tool_call", "tool_use", "tool-call", "function_call", "server_tool_call", "toolcall"}
_TEXT_PARTS = {"text", "input_text", "output_text"}
_NUMBERED = re.compile(r"\.(\d+)\.(.+)")
_INNER_CALLS = ("function_call", "functionCall", "toolUse", "tool_use")


def as_text(value: Any) -> str:
    """A value as text: structures as JSON; '' for one with more levels than can be written."""
    try:
        return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    except RecursionError:
        return ""


def parsed(value: Any) -> Any:
    """What JSON, or a structure as Python prints it, says; anything else as it is."""
    if not isinstance(value, str):
        return value
    text = value.strip()
    if text[:1] not in {"{", "[", '"'}:
        return value
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return _printed(text, value)


def _printed(text: str, value: str) -> Any:
    if text[0] + text[-1] not in {"{}", "[]"} or "'" not in text or len(text) > MAX_PRINTED:
        return value
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
        return value


def messages(value: Any) -> list[Said]:
    """The messages of a body, in order; of a conversation those from the last user message on."""
    body = parsed(value)
    return list(_within(body, DEPTH)) if isinstance(body, (dict, list)) else []


def _within(body: Any, depth: int) -> Iterator[Said]:
    if depth <= 0:
        return
    if isinstance(body, list):
        items = cast("list[Any]", body)
        for one in items[_last_question(items) :]:
            yield from _within(one, depth - 1)
    elif isinstance(body, dict):
        held = _unpacked(cast("Values", body))
        own = _message(held)
        if own is not None:
            yield own
            return
        for name in _LISTS:
            inner = parsed(held.get(name)) if name in held else None
            found = list(_within(inner, depth - 1)) if isinstance(inner, (dict, list)) else []
            if found:
                yield from found
                return


def _last_question(items: list[Any]) -> int:
    """Where the last user message with a text is; 0 when none is."""
    for place in range(len(items) - 1, 0, -1):
        one = items[place]
        if isinstance(one, dict):
            said = _message(_unpacked(cast("Values", one)))
            if said is not None and said.role == "user" and said.text:
                return place
    return 0


def _unpacked(held: Values) -> Values:
    """A message that LangChain serialised, as one that it did not."""
    name, inner = held.get("id"), held.get("kwargs")
    if held.get("type") != "constructor" or not isinstance(inner, dict) or not isinstance(name, list) or not name:
        return held
    return {"type": str(cast("list[Any]", name)[-1]), **cast("Values", inner)}


def _message(held: Values) -> Said | None:
    role = role_of(held.get("role"), held.get("type"))
    if not role and _is_choice(held):
        return Said("assistant", held["text"])
    if not role:
        call = _call(held)
        return Said("assistant", "", (call,)) if call is not None else None
    content = next((held[name] for name in ("parts", "content", "text") if held.get(name) not in (None, "")), "")
    text, calls = text_of(content), (*_calls(held), *_part_calls(content))
    return Said(role, text, calls) if text or calls else None


def answers_call(value: Any) -> bool:
    """Whether a body is the one message of a tool, as LangChain has them."""
    body = parsed(value) if isinstance(value, str) and "tool_call_id" in value else None
    held = _unpacked(cast("Values", body)) if isinstance(body, dict) else {}
    return "tool_call_id" in held and role_of(held.get("role"), held.get("type")) == "tool"


def _is_choice(held: Values) -> bool:
    """An answer of the older completions API, which has no roles."""
    return isinstance(held.get("text"), str) and bool(held["text"]) and "finish_reason" in held


def role_of(role: Any, kind: Any = None) -> str:
    """A role by its usual name; '' when neither says one. ``kind``: the type of a message, which may be its role."""
    if isinstance(role, str) and role:
        plain = role.rpartition(".")[2].lower()
        return _ROLES.get(plain, plain)
    return _ROLES.get(kind.lower(), "") if isinstance(kind, str) else ""


def text_of(content: Any) -> str:
    """The text of a message's content: a string, or parts of which the textual ones count."""
    if isinstance(content, str):
        if not content.startswith("["):
            return content
        body = parsed(content)
        return text_of(body) or ("" if _part_calls(body) else content) if isinstance(body, list) else content
    if isinstance(content, dict):
        held = cast("Values", content)
        content = held["parts"] if isinstance(held.get("parts"), list) else [held]
    if not isinstance(content, list):
        return ""
    return "\n".join(text for text in map(_part, cast("list[Any]", content)) if text)


def _part(part: Any) -> str:
    if isinstance(part, str):
        return part
    if not isinstance(part, dict):
        return ""
    held = cast("Values", part)
    text = held.get("content", held.get("text"))
    textual = str(held.get("type", "text")) in _TEXT_PARTS and not held.get("thought")
    return text if textual and isinstance(text, str) else ""


def _calls(held: Values) -> Iterator[Call]:
    extra = held.get("additional_kwargs")
    for one in (held, cast("Values", extra) if isinstance(extra, dict) else {}):
        listed = parsed(one.get("tool_calls"))
        inner = cast("list[Any]", listed) if isinstance(listed, list) else [one.get("function_call")]
        found = [call for call in map(_call_of, inner) if call is not None]
        if found:
            yield from found
            return


def _part_calls(content: Any) -> Iterator[Call]:
    if isinstance(content, str):
        content = parsed(content) if content.startswith("[") else None
    if isinstance(content, dict):
        content = cast("Values", content).get("parts")
    if isinstance(content, list):
        for part in cast("list[Any]", content):
            call = _call(cast("Values", part)) if isinstance(part, dict) else None
            if call is not None:
                yield call


def _call(held: Values) -> Call | None:
    """A call that says so by its type or by its names."""
    if "toolName" in held and "result" not in held and "output" not in held:
        return _call_of(held)
    if str(held.get("type", "")).lower() in _CALLS:
        return _call_of(held)
    inner = next((held[name] for name in _INNER_CALLS if isinstance(held.get(name), dict)), None)
    return _call_of(inner)


def _call_of(value: Any) -> Call | None:
    if not isinstance(value, dict):
        return None
    held = cast("Values", value)
    inner = held.get("function")
    if isinstance(inner, dict):
        held = cast("Values", inner)
    name = held.get("name", held.get("toolName", inner))
    given = next((held[key] for key in ("arguments", "args", "input") if key in held), "")
    return Call(name, as_text(given)) if isinstance(name, str) and name else None


def plain(raw: str) -> str:
    """A plain text; of a JSON object with one well-known text, that text; '' for other structures."""
    return _one_text(parsed(raw), DEPTH)


def _one_text(body: Any, depth: int) -> str:
    if isinstance(body, str) or depth <= 0:
        return body if isinstance(body, str) else ""
    if isinstance(body, list):
        items = cast("list[Any]", body)
        return _one_text(items[0], depth - 1) if len(items) == 1 else ""
    if not isinstance(body, dict):
        return ""
    held = cast("Values", body)
    texts = [held[name] for name in _TEXTS if isinstance(held.get(name), str) and held[name]]
    if texts:
        return texts[0] if len(texts) == 1 else ""
    inner = [held[name] for name in _WRAPPERS if held.get(name) and isinstance(held[name], (dict, list))]
    return _one_text(inner[0], depth - 1) if len(inner) == 1 else ""


def numbered(values: Values, prefix: str) -> dict[int, Values]:
    """Flattened lists put together: ``prefix.0.x``, ``prefix.1.x`` to ``{0: {x: ...}, 1: {x: ...}}``."""
    out: dict[int, Values] = {}
    for key, value in values.items():
        match = _NUMBERED.fullmatch(key[len(prefix) :]) if key.startswith(prefix) else None
        if match is not None and len(match.group(1)) < 7:
            out.setdefault(int(match.group(1)), {})[match.group(2)] = value
    return dict(sorted(out.items()))


def without_tokens(raw: str) -> str:
    """A structure without the lists of its tokens and their likelihoods.

    A text that lies there piece by piece would pass redaction.
    """
    if "logprobs" not in raw or raw.lstrip()[:1] not in {"{", "["}:
        return raw
    body = parsed(raw)
    try:
        return as_text(_pruned(body)) if isinstance(body, (dict, list)) else raw[: raw.index("logprobs")]
    except RecursionError:
        return raw[: raw.index("logprobs")]


def _pruned(body: Any) -> Any:
    if isinstance(body, dict):
        held = cast("Values", body)
        return {key: _pruned(value) for key, value in held.items() if "logprobs" not in key}
    return [_pruned(one) for one in cast("list[Any]", body)] if isinstance(body, list) else body
