"""A recorded conversation, checked, as what its user was told and said."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, cast

from processors.dissatisfaction import Heard
from schemas.errors import Invalid

ROLES = ("system", "developer", "user", "assistant", "tool", "function")


@dataclass(frozen=True, slots=True)
class Conversation:
    """``heard``: every message of the user, in order. ``last_word``: what the agent said after the last of them."""

    conversation_id: str | int
    heard: list[Heard]
    last_word: str = ""


def conversation_of(body: Any) -> Conversation:
    """From ``{"conversation_id", "messages": [{"role", "content", "timestamp"?}]}``; other fields are passed over.

    ``content`` is text, null, or a list of parts with ``text``; ``timestamp`` is ISO 8601 (UTC when it names no zone)
    or seconds since 1970. Raises Invalid that names the field that is wrong, never its value.
    """
    if not isinstance(body, dict):
        raise Invalid("not_object", f"expected a JSON object with conversation_id and messages, not {_kind(body)}")
    row = cast("dict[str, Any]", body)
    name = row.get("conversation_id")
    if isinstance(name, bool) or not isinstance(name, (str, int)) or name == "":
        raise Invalid("wrong_field", f"conversation_id: must be text or a whole number, not {_kind(name)}")
    messages = row.get("messages")
    if not isinstance(messages, list):
        raise Invalid("wrong_field", f"messages: must be a list, not {_kind(messages)}")
    checked = [_message(one, f"messages[{n}]") for n, one in enumerate(cast("list[Any]", messages))]
    return Conversation(name, heard_of(checked), last_word_of(checked))


def heard_of(messages: Iterable[Mapping[str, Any]]) -> list[Heard]:
    """Every message of the user, in order, with all that the agent said since the one before it.

    Messages of other roles (system, tool) are passed over.
    """
    found: list[Heard] = []
    answers: list[str] = []
    for message in messages:
        text = text_of(message.get("content"))
        if message["role"] == "user":
            found.append(Heard(text, "\n".join(answers), _seconds(message.get("timestamp"), "timestamp")))
            answers = answers if not text.strip() else []
        elif message["role"] == "assistant" and text.strip():
            answers.append(text)
    return found


def last_word_of(messages: Iterable[Mapping[str, Any]]) -> str:
    """What the agent said after the user's last message, '' when nothing."""
    answers: list[str] = []
    for message in messages:
        if message["role"] == "user":
            answers = []
        elif message["role"] == "assistant":
            answers.append(text_of(message.get("content")))
    return "\n".join(one for one in answers if one.strip())


def text_of(content: Any) -> str:
    """A message's text: its content, or the texts among the parts of its content."""
    if isinstance(content, list):
        parts = (part.get("text") if isinstance(part, Mapping) else part for part in cast("list[Any]", content))
        return "\n".join(part for part in parts if isinstance(part, str) and part)
    return content if isinstance(content, str) else ""


def _message(message: Any, place: str) -> dict[str, Any]:
    if not isinstance(message, dict):
        raise Invalid("wrong_field", f"{place}: must be an object with role and content, not {_kind(message)}")
    row = cast("dict[str, Any]", message)
    role, content = row.get("role"), row.get("content")
    if role not in ROLES:
        raise Invalid("wrong_field", f"{place}.role: must be one of {', '.join(ROLES)}")
    if content is not None and not isinstance(content, (str, list)):
        raise Invalid("wrong_field", f"{place}.content: must be text, a list of parts or null, not {_kind(content)}")
    _seconds(row.get("timestamp"), f"{place}.timestamp")
    return row


def _seconds(timestamp: Any, place: str) -> float | None:
    if timestamp is None or timestamp == "":
        return None
    if isinstance(timestamp, (int, float)) and not isinstance(timestamp, bool) and abs(timestamp) < 1e15:
        return float(timestamp)
    try:
        time = datetime.fromisoformat(cast("str", timestamp))
        return (time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp()
    except (ValueError, TypeError, OverflowError) as error:
        raise Invalid("wrong_field", f"{place}: must be ISO 8601, such as 2026-01-05T09:00:00Z, or seconds") from error


def _kind(value: Any) -> str:
    return "missing" if value is None else type(value).__name__
