"""What was asked and what was answered, from any family of attribute names.

OpenInference wins and the GenAI conventions fill gaps (the rule of OpenInference's own consumers); older GenAI forms
(numbered attributes, span events), Langfuse, Traceloop and plain ``input.value`` follow. Agent spans repeat the whole
conversation: only the last user message and the final answer are taken, since earlier ones have turns of their own.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple, cast

Values = dict[str, Any]
"""Attributes of a span or event, as plain values."""


class Said(NamedTuple):
    """One message."""

    role: str
    text: str


_USERS = {"user", "human"}
_AGENTS = {"assistant", "ai", "model", "agent"}
_SILENT = {"system", "developer", "tool", "function"}
_NUMBERED = re.compile(r"\.(\d+)\.(.+)")
_ONE_TEXT = (
    "input",
    "question",
    "query",
    "prompt",
    "text",
    "content",
    "output",
    "answer",
    "response",
    "result",
    "message",
)
_INPUTS = (
    "input.value",
    "langfuse.observation.input",
    "langfuse.trace.input",
    "traceloop.entity.input",
    "gen_ai.input",
)
_OUTPUTS = (
    "output.value", "langfuse.observation.output", "langfuse.trace.output", "traceloop.entity.output", "gen_ai.output",
)  # fmt: skip
_MAX_DOCUMENTS = 10


def input_of(kind: str, values: Values, events: Iterable[tuple[str, Values]]) -> str:
    """The last user message; for tools their arguments, for retrievals the query."""
    if kind == "tool":
        return _first(values, "gen_ai.tool.call.arguments", *_INPUTS, "tool.parameters")
    if kind == "retrieval":
        return _first(values, "gen_ai.retrieval.query.text", *_INPUTS)
    raw = _first(values, *_INPUTS)
    sources = (
        _numbered(values, "llm.input_messages", "message."),
        _listed(values.get("gen_ai.input.messages")),
        _numbered(values, "gen_ai.prompt", ""),
        _from_events(events, asked=True),
    )
    if kind in {"agent", "chain"} and raw:
        return _asked(_listed(raw)) or _plain(raw)
    found = (_asked(list(source)) for source in sources)
    return next((text for text in found if text), "") or _asked(_listed(raw)) or _plain(raw)


def output_of(kind: str, values: Values, events: Iterable[tuple[str, Values]]) -> str:
    """The answer's text; for tools their result, for retrievals the documents."""
    if kind == "tool":
        return _first(values, "gen_ai.tool.call.result", *_OUTPUTS)
    if kind == "retrieval":
        return _first(values, *_OUTPUTS) or _documents(values)
    raw = _first(values, *_OUTPUTS)
    if kind in {"agent", "chain"} and raw:
        return _answered(_listed(raw)) or _plain(raw)
    sources = (
        _numbered(values, "llm.output_messages", "message."),
        _listed(values.get("gen_ai.output.messages")),
        _numbered(values, "gen_ai.completion", ""),
        _from_events(events, asked=False),
    )
    found = (_answered(list(source)) for source in sources)
    return next((text for text in found if text), "") or _answered(_listed(raw)) or _plain(raw)


def _first(values: Values, *names: str) -> str:
    return next((as_text(values[name]) for name in names if values.get(name) not in (None, "")), "")


def as_text(value: Any) -> str:
    """A value as text: structures as JSON."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def _asked(said: list[Said]) -> str:
    users = [one.text for one in said if one.role in _USERS and one.text]
    others = [one.text for one in said if one.role not in _SILENT | _AGENTS and one.text]
    return next(iter(users[-1:] or others[-1:]), "")


def _answered(said: list[Said]) -> str:
    agents = [one.text for one in said if one.role in _AGENTS and one.text]
    others = [one.text for one in said if one.role not in _SILENT | _USERS and one.text]
    return next(iter(agents[-1:] or others[-1:]), "")


def numbered(values: Values, prefix: str) -> dict[int, Values]:
    """Flattened lists put together: ``prefix.0.x``, ``prefix.1.x`` to ``{0: {x: ...}, 1: {x: ...}}``."""
    out: dict[int, Values] = {}
    for key, value in values.items():
        match = _NUMBERED.fullmatch(key[len(prefix) :]) if key.startswith(prefix) else None
        if match is not None and len(match.group(1)) < 7:
            out.setdefault(int(match.group(1)), {})[match.group(2)] = value
    return dict(sorted(out.items()))


def _numbered(values: Values, prefix: str, inner: str) -> list[Said]:
    return [Said(str(one.get(f"{inner}role", "")), _content(one, inner)) for one in numbered(values, prefix).values()]


def _content(one: Values, inner: str) -> str:
    content = one.get(f"{inner}content")
    if content not in (None, ""):
        return _parts(_json(content) if isinstance(content, str) and content.startswith("[") else content)
    parts = numbered(one, f"{inner}contents")
    return "\n".join(str(part["message_content.text"]) for part in parts.values() if "message_content.text" in part)


def _json(text: str) -> Any:
    """What JSON text says; the text itself when it is not JSON."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _listed(value: Any) -> list[Said]:
    """Messages in a JSON list, or in an object that holds one under a usual name."""
    body = _json(value) if isinstance(value, str) else value
    if isinstance(body, dict):
        held = cast("dict[str, Any]", body)
        inside = next((held[name] for name in ("messages", "choices") if isinstance(held.get(name), list)), None)
        body = inside if inside is not None else [held]
    if not isinstance(body, list):
        return []
    return list(_messages(cast("list[Any]", body)))


def _messages(body: list[Any]) -> Iterator[Said]:
    for one in body:
        if isinstance(one, list):
            yield from _messages(cast("list[Any]", one))
        elif isinstance(one, dict):
            held = cast("dict[str, Any]", one)
            inner = held.get("message")
            message = cast("dict[str, Any]", inner) if isinstance(inner, dict) else held
            role = message.get("role") or message.get("type")
            text = _parts(message.get("parts", message.get("content", message.get("text"))))
            if isinstance(role, str) and text:
                yield Said(role.lower(), text)


def _parts(content: Any) -> str:
    """The text of a message's content: a string, or parts of which the textual ones count."""
    if isinstance(content, str):
        return content
    if isinstance(content, dict):
        content = [content]
    if not isinstance(content, list):
        return ""
    found: list[str] = []
    for part in cast("list[Any]", content):
        if isinstance(part, str):
            found.append(part)
        elif isinstance(part, dict):
            held = cast("dict[str, Any]", part)
            text = held.get("content", held.get("text"))
            if held.get("type", "text") in {"text", "input_text", "output_text"} and isinstance(text, str):
                found.append(text)
    return "\n".join(found)


def _plain(raw: str) -> str:
    """A plain text; of a JSON object with one well-known text, that text; else the JSON as it is."""
    body = _json(raw) if raw[:1] in {"{", '"'} else raw
    if isinstance(body, str):
        return body
    if isinstance(body, dict):
        held = cast("dict[str, Any]", body)
        texts = [held[name] for name in _ONE_TEXT if isinstance(held.get(name), str) and held[name]]
        if len(texts) == 1:
            return texts[0]
    return raw


def _from_events(events: Iterable[tuple[str, Values]], *, asked: bool) -> Iterator[Said]:
    whole = ("gen_ai.content.prompt", "gen_ai.prompt") if asked else ("gen_ai.content.completion", "gen_ai.completion")
    lists = "gen_ai.input.messages" if asked else "gen_ai.output.messages"
    for name, values in events:
        if values.get(lists):
            yield from _listed(values[lists])
        elif name == whole[0]:
            raw = as_text(values.get(whole[1], ""))
            yield from _listed(raw) or [Said("user" if asked else "assistant", _plain(raw))]
        elif name.startswith("gen_ai.") and name.endswith((".message", ".choice")):
            yield from _from_event(name, values, asked)


def _from_event(name: str, values: Values, asked: bool) -> Iterator[Said]:
    if name == "gen_ai.choice":
        message = values.get("message", values.get("content"))
        said = _listed(message) or [Said("assistant", _parts(_json(message) if isinstance(message, str) else message))]
        text = said[-1].text or (message if isinstance(message, str) else "")
        if not asked:
            yield Said("assistant", text)
        return
    role = name.split(".")[1]
    if asked or role == "assistant":
        yield Said(role, _parts(values.get("content", values.get("gen_ai.event.content", ""))))


def retrieved(values: Values) -> list[Values]:
    """The documents that a retrieval found, each with ``score`` and ``content`` where it has them."""
    flat = numbered(values, "retrieval.documents")
    if flat:
        return [{key.removeprefix("document."): value for key, value in one.items()} for one in flat.values()]
    body = values.get("gen_ai.retrieval.documents")
    listed = _json(body) if isinstance(body, str) else body
    return (
        [cast("Values", one) for one in cast("list[Any]", listed) if isinstance(one, dict)]
        if isinstance(listed, list)
        else []
    )


def _documents(values: Values) -> str:
    texts = (as_text(one["content"]) for one in retrieved(values)[:_MAX_DOCUMENTS] if one.get("content"))
    return "\n\n".join(texts)
