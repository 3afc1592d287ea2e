"""Postcodes with their towns, and streets, as the countries of the world write them beside each other.

A postcode counts where its shape is its country's alone, or where a house number or a town stands beside it. Addresses
of several parts are put together in ``processors.redact.blocks``; scores are as in ``processors.redact.rules``.
"""

from __future__ import annotations

import regex

from processors.redact.rules import Rule

_PART = r"[A-Z\u00c0-\u00de\u0141\u015a-\u017d][\w'\u2019.\-]+"
_OF = r"(?:am|an der|bei|im|de|del|de la|la|le|les|sur|upon|on|of|di|do|da|dos|den|op|aan)"
_TOWN = rf"{_PART}(?: (?:{_OF} )?{_PART}){{0,3}}"
_NO_YEAR = r"(?!(?:19|20)\d\d\b)"
_HOUSE = r"\d{1,5} ?[a-zA-Z]?(?:[/\-]\d{1,4}[a-z]?)?"
_CODE = (
    r"(?:[A-Z]{1,2}-)?(?:\d{5}(?:-\d{3,4})?|\d{2}-\d{3}|\d{3} \d{2}|\d{4}-\d{3}|"
    rf"{_NO_YEAR}\d{{4}} [A-Z]{{2}}|{_NO_YEAR}\d{{4}}|\d{{6}})"
)
_STREETS = r"(?:road|rd|street|st|marg|nagar|lane|avenue|ave|colony|layout|sector|cross|main|drive|way|close|terrace)"


def _rule(pattern: str, score: float = 0.7, needs: str = "") -> Rule:
    return Rule("ADDRESS", regex.compile(pattern, regex.MULTILINE), score, True, tuple(filter(None, needs.split("|"))))


PLACES: tuple[Rule, ...] = (
    _rule(rf"(?<=[^\W\d_]{{3}},? {_HOUSE}(?:, ?[\w\u00ba\u00aa. ]{{1,12}})?,\s){_CODE},? {_TOWN}"),
    _rule(rf"\b{_NO_YEAR}[1-9]\d{{3}} [A-Z]{{2}},? {_TOWN}"),  # Netherlands
    _rule(rf"(?<=,\s){_TOWN}(?: ?[-\u2013])? [1-8]\d{{2}} ?\d{{3}}\b(?!-)", 0.6),  # India
    _rule(rf"(?:{_TOWN},? )?\b(?:NSW|VIC|QLD|SA|WA|TAS|ACT|NT),? \d{{4}}\b", 0.8),  # Australia
    _rule(r"\b[ABCEGHJ-NPRSTVXY]\d[A-Z] ?\d[A-Z]\d\b", 0.6),  # Canada
    _rule(rf"(?:{_TOWN} ?[-/,] ?[A-Z]{{2}}\b,? ?)?(?<![\d\-])\d{{5}}-\d{{3}}\b(?!-)", 0.6),  # Brazil
    _rule(rf"\b\d{{2}}-\d{{3}} {_TOWN}"),  # Poland
    _rule(r"\u3012? ?\b\d{3}-\d{4}(?: [^\n]{1,60}?\d{1,4}(?:-\d{1,4}){1,2})?\b", 0.8, "\u3012"),  # Japan
    _rule(rf"(?i:\bp\.? ?o\.? ?box )\d+,? (?:{_TOWN},? )?(?:[A-Z]{{2,3}},? )?\d{{4,6}}\b", 0.8, "box"),
    _rule(rf"\b\d{{1,4}}[/\-]\d{{1,4}}[a-zA-Z]?,?(?: {_PART}){{1,4}} (?i:{_STREETS})\b", 0.7),
    _rule(
        rf"\b(?i:ul\.|ulica|ulice|al\.|os\.|n\u00e1m\.|str\.|bd\.|bulevardul|rua|avenida|av\.|jalan|jl\.)"
        rf" (?:(?:{_OF} )?{_PART} ?){{1,4}},? {_HOUSE}\b",
        0.8,
    ),
    _rule(
        rf"\b{_PART}(?:straat|gracht|kade|laan|plein|weg|dijk|singel|gatan|v\u00e4gen|gata|gate|gade|vei|vej|katu|utca)"
        rf" {_HOUSE}\b"
    ),
)
"""Every rule for such parts of addresses."""
