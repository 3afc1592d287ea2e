"""Keeping state bounded."""

from __future__ import annotations

from typing import Any


def shorten(kept: dict[str, Any], limit: int) -> None:
    """Let the oldest entries go, in place, until at most ``limit`` are left.

    >>> kept = {"a": 1, "b": 2, "c": 3}
    >>> shorten(kept, 2)
    >>> kept
    {'b': 2, 'c': 3}
    """
    while len(kept) > limit:
        del kept[next(iter(kept))]
