"""Placeholders for what was found, and the proof that it is gone: a second scan with rules of its own.

A placeholder such as ``<PERSON_4821>`` is numbered by a keyed hash of session, type and value: the same value is the
same placeholder throughout one session and another one elsewhere, without any table that could leak.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from processors.redact.detect import Find, Finds
from processors.redact.policy import Policy
from processors.redact.settings import HARD, keyed
from processors.redact.surrogates import surrogate

PLACEHOLDER = re.compile(r"<[A-Z][A-Z_]*_(?:\d{1,4}|h[0-9a-f]{16})>")
NUMBERS = 10_000

_DIGIT_TYPES = {"PHONE_NUMBER", "CREDIT_CARD", "US_SSN"}
_MAIL = re.compile(r"[^\s@<>\"'(),;:]+(?:@|%40)[^\s@<>\"'(),;:/]+\.[A-Za-z]{2,}")
_DIGITS = re.compile(r"(?<!\d)(?<!\d\.)\d(?:[ \-]?\d){12,18}(?!\d)")
_ABROAD = re.compile(r"(?<![\w+])\+[1-9]\d{0,2}[ \-.]?(?:\(\d{1,4}\)[ \-.]?)?\d{2,4}(?:[ \-.]?\d{2,4}){1,4}(?!\w)")
_NORTH_AMERICA = re.compile(r"(?<![\w.\-])(?:\(\d{3}\) ?|\d{3}([\-.]))\d{3}(?:\1|[\-.])\d{4}(?![\w\-])")
_IBAN = re.compile(r"(?<![A-Za-z0-9])[A-Z]{2}\d{2}[A-Z0-9]{11,30}(?![A-Za-z0-9])")
_SSN = re.compile(r"(?<![\w\-])(?!000|666|9)\d{3}-(?!00)\d{2}-(?!0000)\d{4}(?![\w\-])")
_KEY = re.compile(
    r"\beyJ[\w\-]{8,}\.[\w\-]{4,}\.[\w\-]{4,}|\b(?:AKIA|ASIA)[0-9A-Z]{16}\b|BEGIN [A-Z ]*PRIVATE KEY|\bsk-[\w\-]{16,}"
)


class Masker:
    """What takes the place of finds in one session of one tenant. ``made``: the surrogates so far."""

    def __init__(self, key: bytes, session: str, policy: Policy | None = None) -> None:
        self._key, self._session, self._policy = key, session, policy or Policy()
        self.made: set[str] = set()

    def instead(self, entity: str, value: str) -> str:
        """What stands in a value's place: by the policy a placeholder, a surrogate, a keyed hash or nothing."""
        action = self._policy.action_for(entity)
        if action == "drop":
            return ""
        if action == "hmac":  # the same in every session of the tenant
            return f"<{entity}_h{keyed(self._key, entity, _plain(entity, value))[:16]}>"
        number = int(keyed(self._key, self._session, entity, _plain(entity, value))[:12], 16)
        invented = surrogate(entity, value, number) if action == "surrogate" else None
        if invented is not None:
            self.made.add(invented)
            return invented
        return f"<{entity}_{number % NUMBERS}>"

    def mask(self, text: str, finds: Iterable[Find], counts: dict[str, int]) -> str:
        """The text with every find replaced; finds that overlap count as one, of the surer one's type."""
        out: list[str] = []
        place = 0
        for find in self.wanted(text, finds):
            counts[find.entity] = counts.get(find.entity, 0) + 1
            out += [text[place : find.start], self.instead(find.entity, text[find.start : find.end])]
            place = find.end
        return "".join([*out, text[place:]])

    def wanted(self, text: str, finds: Iterable[Find]) -> list[Find]:
        """What is replaced: the finds as one, without what the policy allows."""
        return [find for find in resolved(text, finds) if not self._policy.allows(text[find.start : find.end])]

    def proof(self, text: str) -> str:
        """A masked text for those who look for what is left: without what was invented or is allowed."""
        for invented in self.made:
            text = text.replace(invented, " | ")
        return self._policy.without_allowed(text)


def _plain(entity: str, value: str) -> str:
    """A value as it is told apart from others: digits alone where only they matter, without case."""
    digits = "".join(c for c in value if c.isdigit()) if entity in _DIGIT_TYPES else ""
    return digits or " ".join(value.casefold().split())


def resolved(text: str, finds: Iterable[Find]) -> list[Find]:
    """The union of the finds, without overlaps and without placeholders that the text had already."""
    taken = [match.span() for match in PLACEHOLDER.finditer(text)] if "<" in text else []
    out: list[Find] = []
    for find in sorted(finds):
        if any(start <= find.start and find.end <= end for start, end in taken):
            continue
        if out and find.start < out[-1].end:
            last = out[-1]
            surer = max(last, find, key=lambda f: (f.score, f.end - f.start))
            out[-1] = Find(last.start, max(last.end, find.end), surer.entity, surer.score)
        else:
            out.append(find)
    return out


def values(text: str, finds: Finds) -> dict[str, str]:
    """The found values that must be masked wherever else they stand, with their types."""
    found = ((text[f.start : f.end], f.entity) for f in resolved(text, finds))
    return {value: entity for value, entity in found if len(value) >= 4 and _identifies(value, entity)}


def _identifies(value: str, entity: str) -> bool:
    return entity in HARD or (entity == "PERSON" and " " in value)


def spread(text: str, known: dict[str, str]) -> list[Find]:
    """Where values found elsewhere in the same record stand in this text, whatever their case."""
    low = text.casefold()
    present = {value: entity for value, entity in known.items() if value.casefold() in low}
    return [
        Find(match.start(), match.end(), entity, 0.5)
        for value, entity in present.items()
        for match in re.finditer(re.escape(value), text, re.IGNORECASE)
    ]


def survivor(texts: Iterable[str], known: dict[str, str]) -> str:
    """The type of a known hard value that is still in one of the texts; '' when all are gone."""
    hard = [(value.casefold(), entity) for value, entity in known.items() if entity in HARD]
    for text in texts:
        low = PLACEHOLDER.sub(" ", text).casefold()
        for value, entity in hard:
            if value in low:
                return entity
    return ""


def leak(text: str) -> str:
    """The hard type of which something is in the text, by rules that the detector does not share; '' for none.

    >>> leak("write to me@example.com"), leak("call (212) 555-0187"), leak("order 4711 of 2026-01-05")
    ('EMAIL_ADDRESS', 'PHONE_NUMBER', '')
    """
    rest = PLACEHOLDER.sub(" | ", text)
    checks = (
        ("EMAIL_ADDRESS", _MAIL.search(rest)),
        ("SECRET", _KEY.search(rest)),
        ("CREDIT_CARD", any(_check_digit(match.group()) for match in _DIGITS.finditer(rest))),
        ("IBAN_CODE", any(_check_iban(match.group()) for match in _IBAN.finditer(rest))),
        ("US_SSN", _SSN.search(rest)),
        ("PHONE_NUMBER", any(8 <= sum(map(str.isdigit, m.group())) <= 15 for m in _ABROAD.finditer(rest))),
        ("PHONE_NUMBER", _NORTH_AMERICA.search(rest)),
    )
    return next((entity for entity, hit in checks if hit), "")


def _check_digit(text: str) -> bool:
    total = 0
    digits = [int(c) for c in text if c.isdigit()]
    for place, digit in enumerate(reversed(digits)):
        total += digit if place % 2 == 0 else (digit * 2 - 9 if digit > 4 else digit * 2)
    return total % 10 == 0 and len(set(digits)) > 1


def _check_iban(text: str) -> bool:
    return int("".join(str(int(c, 36)) for c in text[4:] + text[:4])) % 97 == 1
