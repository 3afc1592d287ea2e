"""Objects of OpenAI's Responses API as chat rows: the request's ``input`` and the response's ``output`` are messages.

A row is ``{"request": {...}, "response": {...}}`` (either may lie in ``body``), a response with ``input`` beside it, or
a response alone, which has an answer and no question: a trace, but no turn.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

from schemas.errors import Invalid

Values = dict[str, Any]

_CALL = "_call"
_SYSTEM = "developer"


def is_response(request: Values, response: Values) -> bool:
    """Whether a row's parts are those of a response and what was asked."""
    output = response.get("output")
    if not isinstance(output, list) or "messages" in request:
        return False
    listed = cast("list[Any]", output)
    return response.get("object") == "response" or any(
        isinstance(one, dict) and "type" in cast("Values", one) for one in listed
    )


def messages_of(request: Values, response: Values) -> list[Values]:
    """Question and answer as messages of a chat. Raises Invalid naming the field."""
    told = request.get("instructions") or response.get("instructions")
    system = [{"role": "system", "content": told}] if isinstance(told, str) else []
    given = request.get("input", response.get("input"))
    asked = [{"role": "user", "content": given}] if isinstance(given, str) else list(_items(given, "input"))
    return [*system, *asked, *_items(response["output"], "output")]


def usage_of(response: Values) -> Values:
    """Its tokens, in the names of a completion."""
    usage: Any = response.get("usage")
    held = cast("Values", usage) if isinstance(usage, dict) else {}
    return {"prompt_tokens": held.get("input_tokens"), "completion_tokens": held.get("output_tokens")}


def _items(given: Any, place: str) -> Iterator[Values]:
    if given is None:
        return
    if not isinstance(given, list):
        raise Invalid("wrong_field", f"{place}: must be text or a list")
    for number, one in enumerate(cast("list[Any]", given)):
        if not isinstance(one, dict):
            raise Invalid("wrong_field", f"{place}[{number}]: an object was expected")
        yield from _item(cast("Values", one), f"{place}[{number}]")


def _item(item: Values, place: str) -> Iterator[Values]:
    """A message; a call, by a function's name or by that of the platform's tool; its result. Reasoning is neither."""
    kind = str(item.get("type") or "message")
    if kind == "message":
        if not isinstance(item.get("role"), str):
            raise Invalid("wrong_field", f"{place}: no role")
        role = "system" if item["role"] == _SYSTEM else item["role"]
        yield {"role": role, "content": _said(item.get("content"))}
    elif kind.endswith(_CALL):
        call = {"name": item.get("name") or kind.removesuffix(_CALL), "arguments": _arguments(item)}
        yield {"role": "assistant", "tool_calls": [{"id": _call_id(item), "function": call}]}
        if item.get("output") is not None:
            yield {"role": "tool", "tool_call_id": _call_id(item), "content": item["output"]}
    elif kind.endswith(f"{_CALL}_output"):
        yield {"role": "tool", "tool_call_id": _call_id(item), "content": _said(item.get("output"))}


def _call_id(item: Values) -> str:
    return str(item.get("call_id") or item.get("id") or "")


def _arguments(item: Values) -> Any:
    return next((item[name] for name in ("arguments", "input", "action", "queries", "code") if item.get(name)), "")


def _said(content: Any) -> Any:
    """Content as a chat has it: a refusal is a text."""
    if not isinstance(content, list):
        return content
    parts = cast("list[Any]", content)
    return [
        {"text": part["refusal"]} if isinstance(part, dict) and "refusal" in cast("Values", part) else part
        for part in parts
    ]
