"""Postal addresses as people write them down: over several lines or commas, in any country, often with a name above.

A pattern finds ``12 High Street``; it does not find ``58 Storgata 140 / Suite 763 / Kvaløysletta / Norway 52199``. Here
a text is cut at commas and line ends, and pieces that look like parts of an address are put together around one that
hardly anything else has: a unit (``Apt. 4``), a postcode after words, a military box. Linear in the text.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

WORDS = 6
"""Words that a street or a town may have."""
TAIL = 5
"""Pieces after the street: unit, town, region, country, postcode."""
ABOVE = 3
"""Lines over an address that may say whose it is."""

_CUT = re.compile(r"[,\n]")
_EDGE = " \t>|*\u2022\r"
_WORD = r"[^\W\d_][\w.'\u2019()\-]*"
_UNIT = re.compile(r"(?<!\w)(?:apt|apartment|suite|ste|unit|flat)\b\.? ?#?\d{1,5}[a-z]?(?!\w)", re.IGNORECASE)
_MILITARY = re.compile(
    rf"(?<!\w)(?:(?:psc|cmr|unit) \d{{1,5}}(?: box \d{{1,5}})?|(?:uss|usns|uscgc|hms) {_WORD}(?: {_WORD})?)$",
    re.IGNORECASE,
)
_BOX = re.compile(r"box \d{1,5}", re.IGNORECASE)
_MILITARY_TOWN = re.compile(r"(?:[adf]po),? a[aep] \d{5}(?!\w)", re.IGNORECASE)
_POSTCODE = re.compile(rf"(?:{_WORD} ){{0,5}}(?:[A-Z]{{1,2}}-)?\d{{5}}(?:-\d{{4}})?(?!\w)")
_STREET = re.compile(
    rf"(?<![\w.#/-])(?:\d{{1,6}}[a-z]?(?: \d{{1,5}})?(?: {_WORD}){{1,{WORDS}}}(?: \d{{1,5}}[a-z]?\.?)?"
    rf"|{_WORD}(?: {_WORD}){{0,{WORDS - 1}}} \d{{1,5}}[a-z]?\.?)$",
    re.IGNORECASE,
)
_TOWN = re.compile(rf"{_WORD}(?: {_WORD}){{0,4}}")
_SHORT = re.compile(rf"{_WORD}(?:,? (?:{_WORD}|&)){{0,6}}")
_PROSE = re.compile(
    r"\b(?:is|are|was|were|the|and i|please|you|your|my|i|at|for|from|to|with|by|per|id|no|number|order|code|total"
    r"|costs?|room|page|line|version|error|status|days?|hours?|minutes?|ms|items?|people|passengers?|bags?|dollars?|usd|eur"
    r"|soc|iso|iec|nist|rfc|pci|fips)\b",
    re.IGNORECASE,
)


class Piece(NamedTuple):
    """Part of a text between commas and line ends, without what is around it; ``line``: it begins one."""

    start: int
    end: int
    text: str
    line: bool


class Block(NamedTuple):
    """An address at ``start`` to ``end``; ``above``: lines over it that belong to it."""

    start: int
    end: int
    above: tuple[tuple[int, int], ...]


def blocks(text: str) -> Iterator[Block]:
    """The postal addresses in a text, in order, without overlaps."""
    if not any(char.isdigit() for char in text):
        return
    pieces = _pieces(text)
    done = 0
    for place in range(len(pieces)):
        if place < done:
            continue
        found = _address(pieces, place)
        if found is not None:
            start, last, end = found
            yield Block(start, end, tuple(_above(text, pieces, place, start, done)))
            done = last + 1


def _pieces(text: str) -> list[Piece]:
    pieces: list[Piece] = []
    start, line = 0, True
    for cut in [*(match.start() for match in _CUT.finditer(text)), len(text)]:
        raw = text[start:cut]
        plain = raw.strip(_EDGE)
        if plain:
            first = start + raw.index(plain)
            pieces.append(Piece(first, first + len(plain), plain, line))
            line = False
        line = line or text[cut : cut + 1] == "\n"
        start = cut + 1
    return pieces


def _address(pieces: Sequence[Piece], place: int) -> tuple[int, int, int] | None:
    """An address whose street is in the piece at ``place``: its start, its last piece, its end; None: there is none."""
    piece = pieces[place]
    street = _street_of(piece.text)
    if street is None:
        return None
    begin, sure = street
    last, end = place, piece.end
    for number in range(place + 1, min(place + 1 + TAIL, len(pieces))):
        tail = _tail_of(pieces[number].text)
        if tail is None:
            break
        length, closes = tail
        if closes:
            last, end, sure = number, pieces[number].start + length, True
        elif sure and length == len(pieces[number].text):
            last, end = number, pieces[number].end
        if closes and closes != "unit":
            break
    return (piece.start + begin, last, end) if sure else None


def _street_of(text: str) -> tuple[int, bool] | None:
    """Where a street begins that ends with the text, and whether it is sure to be one; None: there is none."""
    military = _MILITARY.search(text)
    if military is not None:
        return military.start(), True
    unit = _UNIT.search(text)
    head = text if unit is None else text[: unit.start()].rstrip()
    rest = "" if unit is None else _UNIT.sub("", text[unit.end() :]).strip()
    if rest and not _TOWN.fullmatch(rest):
        return None
    found = _first_street(head)
    if found is None:
        return (unit.start(), True) if unit is not None else None
    return found, unit is not None


def _first_street(text: str) -> int | None:
    tail = " ".join(text.split(" ")[-(WORDS + 3) :])
    found = _STREET.search(tail)
    while found is not None and _PROSE.search(found.group()):
        found = _STREET.search(tail, found.start() + 1)
    return None if found is None else len(text) - len(tail) + found.start()


def _tail_of(text: str) -> tuple[int, str] | None:
    """How much of a piece belongs to an address, and what it proves; None: it does not."""
    military = _MILITARY_TOWN.match(text)
    if military is not None:
        return military.end(), "town"
    if _BOX.fullmatch(text):
        return len(text), "unit"
    unit = _UNIT.fullmatch(text)
    if unit is not None:
        return len(text), "unit"
    postcode = _POSTCODE.match(text)
    if _PROSE.search(text if postcode is None else postcode.group()):
        return None
    if postcode is not None:
        return postcode.end(), "postcode"
    return (len(text), "") if _TOWN.fullmatch(text) else None


def _above(text: str, pieces: Sequence[Piece], place: int, start: int, done: int) -> Iterator[tuple[int, int]]:
    """Short lines directly over an address that begins its line: whose it is."""
    if not pieces[place].line or pieces[place].start != start:
        return
    below = start
    for number in range(place - 1, max(place - 1 - ABOVE, done - 1), -1):
        piece = pieces[number]
        if not piece.line or text.count("\n", piece.end, below) not in (1, 2):
            return
        if not _SHORT.fullmatch(piece.text) or _PROSE.search(piece.text):
            return
        yield piece.start, piece.end
        below = piece.start
