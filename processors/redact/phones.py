"""Telephone numbers as Presidio finds them, at a fraction of its cost.

Presidio asks the library ``phonenumbers`` once for each of eight regions, and most of what a text of a machine offers
(prices, dates, ids) is searched for and parsed as a number eight times. Here a text is searched once for what to parse,
and again only for the regions that take some of it for a number. Whatever cannot be a number of a region is not parsed
for it: one without a ``+`` where the region has no code, and one with fewer digits than its shortest numbers have.
What was not a number once is remembered under a keyed hash, with what stood around it. The finds are the same.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from functools import cache
from typing import Any

from phonenumbers import (
    COUNTRY_CODE_TO_REGION_CODE,
    Leniency,
    PhoneMetadata,
    PhoneNumberMatch,
    PhoneNumberMatcher,
    country_code_for_region,
)
from presidio_analyzer import EntityRecognizer, RecognizerResult
from presidio_analyzer.predefined_recognizers import PhoneRecognizer

_KNOWN = 65_536
"""How many candidates that are no numbers are remembered; 16 bytes each."""
_PLUS = ("+", "\uff0b")


class FastPhoneRecognizer(PhoneRecognizer):
    """Presidio's recogniser, with its regions, leniency and score. ``key``: of the hash (up to 64 bytes)."""

    def __init__(self, key: bytes, **options: Any) -> None:
        super().__init__(**options)
        self.name = PhoneRecognizer.__name__
        self._key, self._no = key[:64], set[bytes]()

    def analyze(self, text: str, entities: list[str], nlp_artifacts: Any = None) -> list[RecognizerResult]:
        """The numbers in a text, by the first region that has them."""
        del entities, nlp_artifacts
        if len(self._no) > _KNOWN:
            self._no.clear()
        tries = _Tries(text, self.leniency or 0)
        found = [
            self._get_recognizer_result(match, text, region, None)
            for region in (self.supported_regions if tries.made else ())
            if any(one is not None for one in self._told(text, region, tries))
            for match in self._matcher(text, region)
        ]
        return EntityRecognizer.remove_duplicates(found)

    def _matcher(self, text: str, region: str) -> _Matcher:
        return _Matcher(text, region, self.leniency or 0, self._key, self._no)

    def _told(self, text: str, region: str, tries: _Tries) -> Iterator[PhoneNumberMatch | None]:
        """What a region says to every candidate: where it has none, its search need not begin."""
        matcher = self._matcher(text, region)
        return (matcher.verified(candidate, offset) for candidate, offset in tries.made)


class _Tries(PhoneNumberMatcher):
    """Every candidate that a search asks about when it finds nothing: the same in every region."""

    def __init__(self, text: str, leniency: int) -> None:
        super().__init__(text, None, leniency=leniency)
        self.made: list[tuple[str, int]] = []
        self.has_next()

    def _parse_and_verify(self, candidate: str, offset: int) -> PhoneNumberMatch | None:
        self.made.append((candidate, offset))
        return None


class _Matcher(PhoneNumberMatcher):
    """The library's search, which looks before it parses."""

    def __init__(self, text: str, region: str, leniency: int, key: bytes, no: set[bytes]) -> None:
        super().__init__(text, region, leniency=leniency)
        self._region, self._least, self._key, self._no = region, _least(region), key, no

    def _parse_and_verify(self, candidate: str, offset: int) -> PhoneNumberMatch | None:
        return self.verified(candidate, offset)

    def verified(self, candidate: str, offset: int) -> PhoneNumberMatch | None:
        """The number that a candidate is; it depends on the characters beside it too, and on nothing else."""
        if not any(mark in candidate for mark in _PLUS) and self._too_short(candidate):
            return None
        end = offset + len(candidate)
        seen = "\0".join((self._region, self.text[max(offset - 1, 0) : offset], candidate, self.text[end : end + 1]))
        mark = hashlib.blake2b(seen.encode("utf-8", "replace"), key=self._key, digest_size=16).digest()
        if mark in self._no:
            return None
        match = super()._parse_and_verify(candidate, offset)
        if match is None:
            self._no.add(mark)
        return match

    def _too_short(self, candidate: str) -> bool:
        if self.leniency < Leniency.VALID:
            return False
        return self._least is None or sum(char.isdigit() for char in candidate) < self._least


@cache
def _least(region: str) -> int | None:
    """The digits of the shortest number of all regions with this one's country code; None when it has no code."""
    regions = COUNTRY_CODE_TO_REGION_CODE.get(country_code_for_region(region), ())
    known = [PhoneMetadata.metadata_for_region(one) for one in regions]
    lengths = [
        min(one.general_desc.possible_length) for one in known if one is not None and one.general_desc is not None
    ]
    return min(lengths, default=None)
