"""How far somebody's text is from the answer that they had: the normalised edit distance, and what it is called."""

from __future__ import annotations

from typing import Literal

Size = Literal["none", "light", "medium", "rewrite"]
LIMIT = 4_000
"""Characters between the first and the last difference that are compared; more of them are taken to differ alike."""
LIGHT, MEDIUM = 0.15, 0.5


def distance(before: str, after: str) -> float:
    """Levenshtein's distance by the length of the longer text, 0 (the same) to 1; spaces at the ends do not count.

    >>> distance("until three", "until four"), distance("", ""), distance("facilities", "")
    (0.45454545454545453, 0.0, 1.0)
    """
    first, second = before.strip(), after.strip()
    longest = max(len(first), len(second))
    start = _alike(first, second)
    first, second = first[start:], second[start:]
    end = _alike(first[::-1], second[::-1])
    first, second = first[: len(first) - end], second[: len(second) - end]
    compared = max(len(first[:LIMIT]), len(second[:LIMIT]))
    if not compared:
        return 0.0
    return _edits(first[:LIMIT], second[:LIMIT]) / compared * max(len(first), len(second)) / longest


def size(part: float) -> Size:
    """What a distance is called: up to 0.15 light, up to a half medium.

    >>> [size(part) for part in (0.0, 0.1, 0.15, 0.5, 0.51)]
    ['none', 'light', 'medium', 'medium', 'rewrite']
    """
    if part <= 0:
        return "none"
    return "light" if part < LIGHT else "medium" if part <= MEDIUM else "rewrite"


def _alike(first: str, second: str) -> int:
    """How many letters both begin with."""
    pairs = enumerate(zip(first, second, strict=False))
    return next((place for place, (one, other) in pairs if one != other), min(len(first), len(second)))


def _edits(first: str, second: str) -> int:
    """Insertions, deletions and replacements: a column of the table at a time, as bits (Myers 1999, Hyyrö 2003)."""
    if not first:
        return len(second)
    places: dict[str, int] = {}
    for place, letter in enumerate(first):
        places[letter] = places.get(letter, 0) | 1 << place
    full, last = (1 << len(first)) - 1, 1 << (len(first) - 1)
    more, less, edits = full, 0, len(first)
    for letter in second:
        same = places.get(letter, 0)
        down = same | less
        along = (((same & more) + more) ^ more) | same
        rises, falls = less | (full & ~(along | more)), more & along
        edits += bool(rises & last) - bool(falls & last)
        rises, falls = rises << 1 | 1, falls << 1
        more, less = (falls | ~(down | rises)) & full, rises & down & full
    return edits
