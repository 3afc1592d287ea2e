"""Telephone numbers as Presidio finds them, at a fraction of its cost.

Presidio asks the library ``phonenumbers`` once for each of eight regions, and most of what a text of a machine offers
(prices, dates, ids) is parsed as a number eight times. Whatever cannot be a number of a region is not parsed for it:
one without a ``+`` where the region has no code, and one with fewer digits than the region's shortest numbers have.
What was not a number once is remembered under a keyed hash, with what stood around it. The finds are the same.
"""

from __future__ import annotations

import hashlib
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
        found = [
            self._get_recognizer_result(match, text, region, None)
            for region in self.supported_regions
            for match in _Matcher(text, region, self.leniency or 0, self._key, self._no)
        ]
        return EntityRecognizer.remove_duplicates(found)


class _Matcher(PhoneNumberMatcher):
    """The library's search, which looks before it parses."""

    def __init__(self, text: str, region: str, leniency: int, key: bytes, no: set[bytes]) -> None:
        super().__init__(text, region, leniency=leniency)
        self._region, self._least, self._key, self._no = region, _least(region), key, no

    def _parse_and_verify(self, candidate: str, offset: int) -> PhoneNumberMatch | None:
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
