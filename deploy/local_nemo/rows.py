"""Rows of a dataset file: what was asked, and the label that answers it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from deploy.local_nemo.wire import Doc
from schemas.errors import Invalid


def parse_rows(name: str, data: bytes) -> list[Doc]:
    """The JSON objects of a ``.jsonl`` file. Errors name file and line, never the text."""
    rows: list[Doc] = []
    for number, line in enumerate(data.split(b"\n"), start=1):
        if line.strip():
            try:
                row = json.loads(line)
            except ValueError:
                row = None
            if not isinstance(row, dict):
                raise Invalid("bad_row", f"{name}, line {number}: not a JSON object")
            rows.append(row)
    return rows


def pairs(name: str, rows: list[Doc]) -> Iterator[tuple[str, str]]:
    """Question and label of every row: the last user message and the answer after it, or prompt and completion."""
    for number, row in enumerate(rows, start=1):
        asked, label = (
            (question(row["messages"]), answer(row)) if "messages" in row else (row.get("prompt"), answer(row))
        )
        if not isinstance(asked, str) or not label:
            raise Invalid(
                "bad_row",
                f"{name}, row {number}: needs messages that end with user and assistant, or prompt and completion",
            )
        yield asked, label


def question(messages: Any) -> str | None:
    """The text of the last user message: a string, or the text parts of a list."""
    if not isinstance(messages, list):
        return None
    asked = [m.get("content") for m in messages if isinstance(m, dict) and m.get("role") == "user"]
    content = asked[-1] if asked else None
    if isinstance(content, list):
        return " ".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    return content if isinstance(content, str) else None


def answer(row: Doc) -> str | None:
    """The label of a row: its last assistant message or its completion, trimmed; None when it has none."""
    messages = row.get("messages")
    last = messages[-1] if isinstance(messages, list) and messages else None
    text = row.get("completion")
    if isinstance(last, dict) and last.get("role") == "assistant":
        text = last.get("content")
    return text.strip() or None if isinstance(text, str) else None
