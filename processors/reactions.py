"""What a user's next message says about the answer before it: implicit signals, by rule."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from processors.text import normal, similarity, words

_CORRECTION = re.compile(
    r"^(?:no|nope|nah)\b(?!,? (?:problem|worries|thanks|thank you|need|more|questions?)\b)"
    r"|\bnot (?:right|correct|what i)\b|\bthat(?:'?s| is) (?:wrong|not)\b|\bi (?:said|meant|asked)\b"
    r"|\bincorrect\b|^actually\b|\btry again\b|\byou (?:missed|ignored|forgot)\b"
    r"|\bwrong (?:answer|team|department|place|one)\b"
)
_ESCALATION = re.compile(
    r"\b(?:speak|talk|connect|transfer|escalate|put|pass|hand)\b.{0,30}"
    r"\b(?:human|agent|person|someone|somebody|representative|manager|supervisor|operator)\b"
    r"|\b(?:human|live|real) (?:agent|person|being|operator|support)\b"
    r"|\b(?:open|raise|create|file) (?:me )?an? (?:\w+ )?ticket\b|\bescalate (?:this|it)\b"
)
_CLOSING = re.compile(
    r"^(?:(?:ok|okay|great|perfect|awesome|cool|super|no)\W+)*(?:thanks|thank you|thx|cheers|ty)\b"
    r"|^(?:that'?s all|that is all|perfect|great|solved|got it|it works|that works|that worked|that helped"
    r"|bye|goodbye)\b"
)
_CLOSING_WORDS = 8


class Reaction(NamedTuple):
    """One implicit signal: ``value`` in [-1, 1], ``weight`` in [0, 1] (how much to believe it)."""

    name: str
    value: float
    weight: float


REPHRASE = Reaction("rephrase", -1.0, 0.6)
REPEAT = Reaction("repeat", -1.0, 0.6)
CORRECTION = Reaction("explicit_correction", -1.0, 0.8)
ESCALATION = Reaction("escalation", -1.0, 0.7)
COMPLETE = Reaction("task_complete", 1.0, 0.6)
PROCEEDED = Reaction("proceeded", 1.0, 0.2)
ABANDONMENT = Reaction("abandonment", -1.0, 0.2)


def is_closing(text: str) -> bool:
    """Whether a message only thanks or says good-bye.

    >>> is_closing("Great, thanks!"), is_closing("Thanks, but how do I book a room for next week?")
    (True, False)
    """
    return len(words(text)) <= _CLOSING_WORDS and bool(_CLOSING.search(_flat(text)))


def reactions(before: str, now: str, gap: float, rephrase_at: float, rephrase_gap: float) -> Iterator[Reaction]:
    """What message ``now``, ``gap`` seconds after message ``before``, says about the answer in between.

    >>> [r.name for r in reactions("reset my vpn", "No, I meant the vpn token reset", 20, 0.5, 300)]
    ['explicit_correction', 'rephrase']
    >>> [r.name for r in reactions("reset my vpn", "when is payday", 20, 0.5, 300)]
    ['proceeded']
    """
    flat = _flat(now)
    found: list[Reaction] = []
    if _CORRECTION.search(flat):
        found.append(CORRECTION)
    if _ESCALATION.search(flat):
        found.append(ESCALATION)
    alike = similarity(before, now)
    if normal(before) and normal(before) == normal(now):
        found.append(REPEAT)
    elif alike >= rephrase_at and gap <= rephrase_gap:
        found.append(REPHRASE)
    if found:
        yield from found
    elif is_closing(now):
        yield COMPLETE
    elif normal(now) and alike < rephrase_at:
        yield PROCEEDED


def _flat(text: str) -> str:
    return " ".join(text.lower().replace("\u2019", "'").split())
