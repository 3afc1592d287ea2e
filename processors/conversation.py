"""A recorded conversation, checked, as what its user was told and said."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, cast

from processors.dissatisfaction import Heard
from schemas.errors import Invalid

ROLES = {
    **dict.fromkeys(("user", "human", "customer", "caller", "client", "visitor", "seeker"), "user"),
    **dict.fromkeys(
        ("assistant", "ai", "bot", "chatbot", "agent", "model", "operator", "wizard", "support"), "assistant"
    ),
    **dict.fromkeys(("tool", "function", "observation"), "tool"),
    **dict.fromkeys(("system", "developer"), "system"),
}
"""Who speaks, by what they are called, in any case."""
_NANOS = 1e17
_UNITS = ((_NANOS, 1e9), (1e14, 1e6), (1e11, 1e3))
"""From where on a number counts parts of a second, and how many of them there are in one."""


@dataclass(frozen=True, slots=True)
class Conversation:
    """``heard``: every message of the user, in order. ``last_word``: what the agent said after the last of them."""

    conversation_id: str | int
    heard: list[Heard]
    last_word: str = ""


def conversation_of(body: Any) -> Conversation:
    """From ``{"conversation_id", "messages": [{"role", "content", "timestamp"?}]}``; other fields are passed over.

    ``content`` is text, null, or a list of parts with ``text``; ``timestamp`` is ISO 8601 (UTC when it names no zone)
    or seconds since 1970, or thousandths and so on of them. Where no agent speaks, but ``system`` does after the user,
    that is the agent. Raises Invalid that names the field that is wrong, never its value.
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
    _name_agent(checked)
    return Conversation(name, heard_of(checked), last_word_of(checked))


def _name_agent(messages: list[dict[str, Any]]) -> None:
    roles = [one["role"] for one in messages]
    if "assistant" in roles or "user" not in roles or "system" not in roles[roles.index("user") :]:
        return
    for one in messages:
        one["role"] = "assistant" if one["role"] == "system" else one["role"]


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
    """A message's text: its content, or the texts among the parts of its content, which may have parts themselves."""
    if isinstance(content, list):
        return "\n".join(text for part in cast("list[Any]", content) if (text := text_of(part)))
    if isinstance(content, Mapping):
        part = cast("Mapping[str, Any]", content)
        return next((text for name in ("text", "content", "value") if (text := text_of(part.get(name)))), "")
    return content if isinstance(content, str) else ""


def _message(message: Any, place: str) -> dict[str, Any]:
    if not isinstance(message, dict):
        raise Invalid("wrong_field", f"{place}: must be an object with role and content, not {_kind(message)}")
    row = cast("dict[str, Any]", message)
    role, content = row.get("role"), row.get("content")
    known = ROLES.get(role.strip().lower()) if isinstance(role, str) else None
    if known is None:
        raise Invalid("wrong_field", f"{place}.role: must be one of {', '.join(ROLES)}")
    if content is not None and not isinstance(content, (str, list)):
        raise Invalid("wrong_field", f"{place}.content: must be text, a list of parts or null, not {_kind(content)}")
    _seconds(row.get("timestamp"), f"{place}.timestamp")
    return row | {"role": known}


def _seconds(timestamp: Any, place: str) -> float | None:
    if timestamp is None or timestamp == "":
        return None
    if isinstance(timestamp, str) and timestamp.strip().replace(".", "", 1).isdecimal():
        timestamp = float(timestamp)
    if isinstance(timestamp, (int, float)) and not isinstance(timestamp, bool) and abs(timestamp) < 10 * _NANOS:
        return timestamp / next((unit for at, unit in _UNITS if abs(timestamp) >= at), 1.0)
    try:
        time = datetime.fromisoformat(cast("str", timestamp))
        return (time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp()
    except (ValueError, TypeError, OverflowError) as error:
        raise Invalid("wrong_field", f"{place}: must be ISO 8601, such as 2026-01-05T09:00:00Z, or seconds") from error


def _kind(value: Any) -> str:
    return "missing" if value is None else type(value).__name__
