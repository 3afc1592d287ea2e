"""Telephone numbers, as Presidio's own recogniser finds them, and with less work."""

from __future__ import annotations

import random

import pytest
from phonenumbers import PhoneNumberMatcher
from presidio_analyzer.predefined_recognizers import PhoneRecognizer

from processors.redact.phones import FastPhoneRecognizer

ASKED = ["PHONE_NUMBER"]
NUMBERS = (
    "212-555-0199", "+44 20 7946 0958", "+49 30 901820", "030 901820", "01 42 68 53 00", "03-6123456", "9876543210",
    "011 2687 5309", "(613) 555-0142", "11 96123-4567", "\uff0b4915123456789", "0800 1111", "110", "+1 268 460 1234",
    "460-1234", "1-800-356-9377 ext. 42",
)  # fmt: skip
NOISE = (
    "12.50", "2024-05-15", "17:30", "$1999523885", "order 208425478671,", "a1b2c3", "10.0.0.1", "pp. 12-14", "7/8/2024",
    "(", ")", "x", "+", "4111 1111 1111 1111", "2024-05-15 17:30", "\u00e9", "%",
)  # fmt: skip


def texts(count: int, seed: int) -> list[str]:
    """Numbers among what machines write, with nothing, a blank or a letter between."""
    chance = random.Random(seed)
    return [
        "".join(chance.choice(NUMBERS + NOISE) + chance.choice(("", " ", " ", "\n", "a", "/ ")) for _ in range(12))
        for _ in range(count)
    ]


def found(recognizer: PhoneRecognizer, text: str) -> list[tuple[int, int, float]]:
    return sorted((one.start, one.end, one.score) for one in recognizer.analyze(text, ASKED, None))  # type: ignore[arg-type]


@pytest.mark.parametrize("leniency", [0, 1])
def test_the_finds_are_presidios(leniency: int) -> None:
    slow, fast = PhoneRecognizer(leniency=leniency), FastPhoneRecognizer(b"key", leniency=leniency)
    wanted = {text: found(slow, text) for text in texts(150, 1)}
    assert sum(map(len, wanted.values())) > 300
    assert {text: found(fast, text) for text in wanted} == wanted
    assert {text: found(fast, text) for text in wanted} == wanted, "the second time from what it remembers"


def test_regions_are_those_that_are_asked_for() -> None:
    for regions in (("AR", "ZZ"), ("IT", "VA", "KZ")):
        slow, fast = PhoneRecognizer(supported_regions=regions), FastPhoneRecognizer(b"key", supported_regions=regions)
        for text in texts(60, 2):
            assert found(fast, text) == found(slow, text)


def test_less_is_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    parsed = list[str]()
    whole = PhoneNumberMatcher._parse_and_verify

    def counted(matcher: PhoneNumberMatcher, candidate: str, offset: int) -> object:
        parsed.append(candidate)
        return whole(matcher, candidate, offset)

    monkeypatch.setattr(PhoneNumberMatcher, "_parse_and_verify", counted)
    for text in texts(50, 3):
        found(PhoneRecognizer(), text)
    slow = len(parsed)
    parsed.clear()
    fast = FastPhoneRecognizer(b"key")
    for text in texts(50, 3):
        found(fast, text)
    assert len(parsed) < slow / 2


def test_what_is_remembered_is_no_text() -> None:
    fast = FastPhoneRecognizer(b"key")
    assert not found(fast, "the order 999999999999 is late")
    kept = repr(vars(fast))
    assert len(kept) > 100
    assert "999999" not in kept
