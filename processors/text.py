"""Cheap likeness of short texts: no model, no corpus, the same on every machine."""

from __future__ import annotations

import math
import re
import zlib
from collections import Counter
from functools import lru_cache

from schemas.events import identity

LIMIT = 4_000
"""Characters of a text that are compared; what follows does not change the answer."""

_WORD = re.compile(r"[^\W_]+(?:'[^\W_]+)?")
_ASCII_WORD = re.compile(r"[a-z0-9]+(?:'[a-z0-9]+)?")
"""The same in plain English text, where it takes two thirds of the time."""
_STOP = {
    "a", "an", "and", "are", "as", "at", "be", "been", "but", "by", "can", "could", "did", "do", "does",
    "for", "from", "get", "had", "has", "have", "hello", "hey", "hi", "how", "i", "i'd", "i'm", "if", "in",
    "is", "it", "its", "just", "like", "me", "my", "need", "not", "of", "on", "or", "our", "please",
    "should", "so", "that", "the", "their", "there", "this", "to", "want", "was", "we", "were", "what",
    "when", "where", "which", "who", "why", "will", "with", "would", "you", "your",
}  # fmt: skip


def words(text: str) -> list[str]:
    """The words of a text, in lower case.

    >>> words("Don't reset MY vpn!")
    ["don't", 'reset', 'my', 'vpn']
    """
    return list(_words(text[:LIMIT]))


@lru_cache(64)
def _words(text: str) -> list[str]:
    text = text.lower().replace("\u2019", "'")
    return (_ASCII_WORD if text.isascii() else _WORD).findall(text)


def content_words(text: str) -> list[str]:
    """The words that carry meaning.

    >>> content_words("How do I reset the VPN?")
    ['reset', 'vpn']
    """
    return [word for word in words(text) if word not in _STOP]


def different_words(text: str) -> set[str]:
    """The words that carry meaning, each once."""
    return set(_words(text[:LIMIT])) - _STOP


def normal(text: str) -> str:
    """A text with case, spacing and punctuation taken away: equal for what a reader calls the same text.

    >>> normal(" VPN,  please! ") == normal("vpn please")
    True
    """
    return " ".join(words(text))


def grams(text: str) -> Counter[str]:
    """Three-letter pieces of the words that carry meaning (of all words when none does)."""
    every = words(text)
    found = [word for word in every if word not in _STOP] or every
    padded = [f" {word} " for word in found]
    return Counter([word[i : i + 3] for word in padded for i in range(len(word) - 2)])


@lru_cache(64)
def _damped(text: str) -> tuple[dict[str, float], float]:
    """The damped counts of a text's pieces, and their length."""
    weights = {gram: 1 + math.log(count) if count > 1 else 1.0 for gram, count in grams(text).items()}
    return weights, math.hypot(*weights.values())


def similarity(first: str, second: str) -> float:
    """Cosine of the damped counts of three-letter pieces: 0 nothing in common, 1 the same pieces.

    >>> similarity("how do I reset my vpn password", "vpn password reset please") > 0.9
    True
    >>> similarity("how do I reset my vpn password", "when is lunch served") < 0.1
    True
    """
    (one, length), (two, other) = _damped(first), _damped(second)
    shared = sum([weight * two[gram] for gram, weight in one.items() if gram in two])
    norm = length * other
    return min(shared / norm, 1.0) if norm else 0.0


def sketch(text: str, size: int = 32) -> list[int]:
    """The ``size`` smallest hashes of a text's pieces (a bottom-k sketch, Cohen 1997)."""
    body = normal(text)
    pieces = {body[i : i + 4] for i in range(max(len(body) - 3, 1))}
    return sorted({zlib.crc32(piece.encode("utf-8", "replace")) for piece in pieces})[:size]


def resemblance(first: list[int], second: list[int]) -> float:
    """The Jaccard likeness of two texts, estimated from their sketches.

    >>> resemblance(sketch("reset my vpn password"), sketch("Reset my VPN password!"))
    1.0
    """
    size = max(len(first), len(second))
    union = sorted({*first, *second})[:size]
    both = {*first} & {*second}
    return sum(value in both for value in union) / len(union) if union else 0.0


def chance(*parts: str) -> float:
    """A number in [0, 1) that is a record's for ever: chance without randomness.

    >>> chance("turn-1") == chance("turn-1") != chance("turn-2")
    True
    """
    return int(identity("chance", *parts)[:13], 16) / 16**13
