"""OpenAI chat rows as recorded conversations: training files, and requests stored with their completions.

A row is ``{"messages": [...]}`` with ``tools``, ``model``, ``metadata`` and an id if it has them; or a completion with
its request: ``{"messages", "choices"}`` or ``{"request": {...}, "response": {...}}``, where either may lie in ``body``
as in files of the batch API. Objects of the Responses API are rows as well (``connectors.imports.openai_responses``).
Without an id of its own a row is known by its content: the same row twice is one conversation.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any, cast

from connectors.imports.openai_responses import is_response, messages_of, usage_of
from schemas.errors import Invalid
from schemas.events import identity

Values = dict[str, Any]

_IDS = ("conversation_id", "session_id", "thread_id", "id", "custom_id", "request_id")
_USERS = ("user_id", "user")
_TIMES = ("start_time", "timestamp", "created_at", "created")
_MADE = ("created_at", "created")
_REQUEST, _RESPONSE = ("request", "body", "input"), ("response", "output", "completion")


def is_openai_chat(row: Any) -> bool:
    """Whether a row looks like one of these."""
    if not isinstance(row, dict) or "conversation_id" in row:
        return False
    request, response = _parts(cast("Values", row))
    return isinstance(request.get("messages"), list) or is_response(request, response)


def as_conversation(row: Any) -> Values:
    """The row as a recorded conversation. Raises Invalid naming the field."""
    if not isinstance(row, dict):
        raise Invalid("not_object", "a JSON object was expected")
    held = cast("Values", row)
    request, response = _parts(held)
    if is_response(request, response):
        messages: list[Any] = messages_of(request, response)
        usage: Any = usage_of(response)
    else:
        given = request.get("messages")
        if not isinstance(given, list):
            raise Invalid("missing_field", "messages: must be a list")
        messages = [_message(one) for one in [*cast("list[Any]", given), *_answers(response)]]
        usage = response.get("usage")
    metadata = held.get("metadata") or request.get("metadata")
    told = held | (cast("Values", metadata) if isinstance(metadata, dict) else {})
    return {
        "conversation_id": _text(told, _IDS) or f"chat-{identity('chat', json.dumps(held, sort_keys=True))}",
        "messages": messages,
        "model": _text(response, ("model",)) or _text(request, ("model",)) or _text(held, ("model",)),
        "domain": _text(told, ("agent", "domain")),
        "user_id": _text(told, _USERS) or _text(request, ("user",)),
        "start_time": _time(told, response),
        "tools": request.get("tools") or held.get("tools") or response.get("tools"),
        "usage": usage,
        "choices": response.get("choices"),
    }


def _parts(held: Values) -> tuple[Values, Values]:
    return _part(held, *_REQUEST), _part(held, *_RESPONSE)


def _part(held: Values, *names: str) -> Values:
    """The first part of a row that is there, or its body; the row itself when there is none."""
    for name in names:
        inner = held.get(name)
        if isinstance(inner, dict):
            body = cast("Values", inner)
            return cast("Values", body["body"]) if isinstance(body.get("body"), dict) else body
    return held


def _answers(response: Values) -> list[Any]:
    """The message of the first choice: the others were not said."""
    choices: Any = response.get("choices")
    first = cast("list[Any]", choices)[0] if isinstance(choices, list) and choices else None
    message = cast("Values", first).get("message") if isinstance(first, dict) else None
    return [message] if isinstance(message, dict) else []


def _message(message: Any) -> Any:
    """A message with the older ``function_call`` as a tool call."""
    if not isinstance(message, dict):
        return message
    held = cast("Values", message)
    if isinstance(held.get("function_call"), dict) and not held.get("tool_calls"):
        call = {"id": held["function_call"].get("name"), "function": held["function_call"]}
        return held | {"tool_calls": [call]}
    return held | {"role": "tool", "tool_call_id": held.get("name")} if held.get("role") == "function" else held


def _text(held: Values, names: tuple[str, ...]) -> str:
    found = (held.get(name) for name in names)
    return next((str(one) for one in found if isinstance(one, (str, int)) and one != ""), "")


def _time(told: Values, response: Values) -> str | None:
    given = _text(told, _TIMES) or _text(response, _MADE)
    if given.isdigit() and len(given) in (10, 13):
        return datetime.fromtimestamp(int(given) / (1 if len(given) == 10 else 1000), UTC).isoformat()
    return given or None
