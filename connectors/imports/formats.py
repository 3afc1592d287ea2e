"""The formats that can be imported, which one a file has, and its spans as requests.

Ids come from what the file says, so that a file imported twice is stored once. Whatever is wrong with a row raises
UsageError naming file, line and field.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from connectors.conversations import Conversation, conversation_of, to_requests
from connectors.imports.langfuse import is_langfuse, langfuse_spans
from connectors.imports.openai_chat import as_conversation, is_openai_chat
from connectors.imports.otlp_json import is_otlp, otlp_requests
from connectors.imports.phoenix import is_phoenix, phoenix_spans
from connectors.imports.rows import Row, rows_of
from connectors.imports.spans import requests_of
from schemas.errors import Invalid, UsageError

Format = Literal["otlp-json", "openai-chat", "langfuse", "phoenix", "conversations"]
FORMATS: tuple[Format, ...] = get_args(Format)
Request = ExportTraceServiceRequest
T = TypeVar("T")
Count = Callable[[str, int], None]
"""Is told how many there were of what."""


def format_of(path: Path) -> Format:
    """The format of a file, by its first row. Raises UsageError when no format has such rows."""
    row = next(rows_of(path), Row("", None))
    for name, fits in _KNOWN.items():
        if fits(row.value):
            return name
    raise UsageError(f"{path}, {row.where}: the format cannot be told; name it: --format {'|'.join(FORMATS)}")


def requests_in(path: Path, format_: Format, agent: str, count: Count) -> Iterator[Request]:
    """The file as export requests, of ``agent`` when it is not ''."""
    if format_ == "otlp-json":
        yield from _each(path, lambda row: otlp_requests(row, agent))
    elif format_ in ("langfuse", "phoenix"):
        spans = langfuse_spans if format_ == "langfuse" else phoenix_spans
        yield from requests_of(_each(path, lambda row: spans(row, agent)))
    else:
        for conversation in _each(path, lambda row: iter([_conversation(format_, row, agent)])):
            _counted(conversation, count)
            yield from to_requests(conversation)


def _conversation(format_: Format, row: Any, agent: str) -> Conversation:
    return conversation_of(as_conversation(row) if format_ == "openai-chat" else row, agent)


def _counted(conversation: Conversation, count: Count) -> None:
    count("conversations", 1)
    count("turns", sum(bool(one.text and one.answer) for one in conversation.exchanges))
    count("tool_calls", sum(bool(step.tool) for one in conversation.exchanges for step in one.steps))


def _each(path: Path, read: Callable[[Any], Iterator[T]]) -> Iterator[T]:
    for row in rows_of(path):
        try:
            yield from read(row.value)
        except Invalid as error:
            raise UsageError(f"{path}, {row.where}: {error.detail}") from error


def _is_conversation(row: Any) -> bool:
    return isinstance(row, dict) and "conversation_id" in row


_KNOWN: dict[Format, Callable[[Any], bool]] = {
    "otlp-json": is_otlp,
    "conversations": _is_conversation,
    "langfuse": is_langfuse,
    "phoenix": is_phoenix,
    "openai-chat": is_openai_chat,
}
