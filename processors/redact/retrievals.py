"""What retrievals found, and which tools a model was offered: lists that every family of names spells its own way."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple, cast

from processors.redact.bodies import Values, as_text, numbered, parsed

MAX_DOCUMENTS = 50
"""Ids and scores are kept of so many documents of one retrieval, the first ones."""
_MAX_TEXTS = 10
_MAX_TOOLS = 200
_IDS = ("id", "document_id", "doc_id", "metadata.id")
_TOOLS = (
    "llm.tools", "gen_ai.tool.definitions", "ai.prompt.tools", "langfuse.observation.tool_definitions",
    "gen_ai.request.tools", "model_request_parameters", "llm.invocation_parameters", "gcp.vertex.agent.llm_request",
)  # fmt: skip
TOOL_ATTRIBUTES = (*_TOOLS, "llm.request.functions")
_NESTED = (
    "tools", "function_tools", "output_tools", "functions", "config", "function_declarations", "functionDeclarations",
)  # fmt: skip
_DEPTH = 12

Events = Iterable[tuple[str, Values]]


class Document(NamedTuple):
    """One document that was found; ``id`` '' and ``score`` None where the source has none."""

    id: str
    score: float | None
    text: str


def number(value: Any) -> float | None:
    """A finite number, also one written as text; None for anything else."""
    try:
        found = float(value) if isinstance(value, (int, float, str)) and not isinstance(value, bool) else math.nan
    except (ValueError, OverflowError):
        return None
    return found if math.isfinite(found) else None


def found_documents(values: Values, events: Events = ()) -> list[Document]:
    """The documents that a retrieval found, in their order."""
    flat = numbered(values, "retrieval.documents")
    if flat:
        return [_document({key.removeprefix("document."): one[key] for key in one}) for one in flat.values()]
    for name in ("retrieval.documents", "gen_ai.retrieval.documents"):
        body = parsed(values.get(name))
        if isinstance(body, list):
            return [_document(cast("Values", one)) for one in cast("list[Any]", body) if isinstance(one, dict)]
    rows = [held for name, held in events if name == "db.query.result"]
    return [_document({key.removeprefix("db.query.result."): one[key] for key in one}) for one in rows]


def _document(held: Values) -> Document:
    inner = held.get("document")
    held = cast("Values", inner) if isinstance(inner, dict) else {k.removeprefix("document."): held[k] for k in held}
    name = next((held[key] for key in _IDS if isinstance(held.get(key), (str, int)) and held[key] != ""), "")
    text = next((held[key] for key in ("content", "document", "text", "page_content") if held.get(key)), "")
    return Document(str(name), number(held.get("score")), as_text(text))


def texts_found(values: Values, events: Events = ()) -> str:
    """The texts of the first documents."""
    return "\n\n".join(one.text for one in found_documents(values, events)[:_MAX_TEXTS] if one.text)


def offered_tools(values: Values) -> list[str]:
    """The names of the tools that a model could call, each once, in their order."""
    names = [name for one in numbered(values, "llm.tools").values() for name in _names(list(one.values()), _DEPTH)]
    names += [str(one["name"]) for one in numbered(values, "llm.request.functions").values() if one.get("name")]
    for attribute in _TOOLS:
        if names:
            break
        value = values.get(attribute)
        if value not in (None, ""):
            names = list(_names(value, _DEPTH))
    return list(dict.fromkeys(names))[:_MAX_TOOLS]


def _names(value: Any, depth: int) -> Iterator[str]:
    body = parsed(value)
    if depth <= 0:
        return
    if isinstance(body, list):
        for one in cast("list[Any]", body):
            yield from _names(one, depth - 1)
    elif isinstance(body, dict):
        held = cast("Values", body)
        inner = held.get("function", held.get("toolSpec", held.get("tool.json_schema")))
        nested = [held[name] for name in _NESTED if isinstance(held.get(name), (list, dict))]
        name = held.get("name", held.get("tool.name"))
        if isinstance(inner, (dict, str)):
            yield from _names(inner, depth - 1)
        elif nested:
            yield from _names(nested, depth - 1)
        elif isinstance(name, str) and name:
            yield name
