"""Texts as people or programs wrote them: JSON is looked at value by value, with its keys, and anything else whole."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any, NamedTuple, cast

DEPTH = 40
"""JSON nested deeper than this is looked at as text."""

_SLUG = re.compile(r"[a-z0-9]+(?:[_\-./:][a-z0-9]+)*")
_TITLED = re.compile(r"[A-Z\u00c0-\u00de][a-z\u00df-\u00ff][\w'\u2019\-]* [A-Z\u00c0-\u00de]")
_CAPITALISED = re.compile(r"[A-Z\u00c0-\u00de][a-z\u00df-\u00ff'\u2019\-]+")


class Leaf(NamedTuple):
    """One text to look at: the key that it stands under, if any, and whether names may be in it."""

    key: str
    text: str
    names: bool


Rewrite = Callable[[Leaf], str]


def rewrite(text: str, key: str, prose: bool, leaf: Rewrite) -> str:
    """The text with every leaf replaced by what ``leaf`` makes of it; the same text when nothing changes.

    ``prose``: people or agents wrote it, so that any words may hold names.
    """
    body = _structure(text)
    if body is None:
        return leaf(Leaf(key, text, may_name(text) if prose else _titled(text)))
    new = _walk(body, key, leaf)
    return text if new == body else json.dumps(new, ensure_ascii=False)


def may_name(text: str) -> bool:
    """Whether a text of people can hold names: it has letters, and is not an identifier such as ``leave_holiday``."""
    return any(c.isalpha() for c in text) and not _SLUG.fullmatch(text)


def _titled(text: str) -> bool:
    """Whether machine text can hold names: two capitalised words, or a sentence."""
    return _TITLED.search(text) is not None or text.count(" ") >= 4


def _structure(text: str) -> Any:
    """The JSON object, list or string that a text is; None when it is none, or would lose something by being read."""
    stripped = text.strip()
    if len(stripped) < 2 or stripped[0] + stripped[-1] not in {"{}", "[]", '""'}:
        return None
    try:
        body = json.loads(stripped, object_pairs_hook=_unrepeated)
    except (ValueError, RecursionError):
        return None
    return body if _depth(body) < DEPTH else None


def _unrepeated(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    body = dict(pairs)
    if len(body) < len(pairs):
        raise ValueError("a key twice: reading would lose a value")
    return body


def _depth(body: Any) -> int:
    depth, level = 0, [body]
    while level:
        depth += 1
        inner: list[Any] = []
        for one in level:
            if isinstance(one, dict):
                inner += cast("dict[str, Any]", one).values()
            elif isinstance(one, list):
                inner += cast("list[Any]", one)
        level = inner
    return depth


def _walk(body: Any, key: str, leaf: Rewrite) -> Any:
    if isinstance(body, dict):
        held = cast("dict[str, Any]", body)
        return {leaf(Leaf("", name, False)): _walk(value, name, leaf) for name, value in held.items()}
    if isinstance(body, list):
        return [_walk(value, key, leaf) for value in cast("list[Any]", body)]
    if body is None or isinstance(body, bool):
        return body
    if isinstance(body, str):
        clean = body.encode("utf-8", "replace").decode()
        if _structure(clean) is not None:
            return rewrite(clean, key, True, leaf)
        return leaf(Leaf(key, clean, _worth_reading(clean)))
    told = str(body)
    new = leaf(Leaf(key, told, False))
    return body if new == told else new


def _worth_reading(text: str) -> bool:
    return may_name(text) and (" " in text or _CAPITALISED.fullmatch(text) is not None)
