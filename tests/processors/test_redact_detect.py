"""What is found, what is left alone, and that nothing passes when detection fails."""

from __future__ import annotations

import base64
import json
import random
from dataclasses import replace
from typing import Any

import pytest

from processors.redact import RedactSettings
from processors.redact.clean import Cleaner
from processors.redact.detect import Detector, Query, detector_for
from processors.redact.drafts import Draft
from processors.redact.mask import Masker, leak
from schemas.errors import Invalid, Refused
from schemas.events import Clean, Signal
from tests.world import START

SETTINGS = RedactSettings()
JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl"
PEM = "-----BEGIN RSA PRIVATE KEY-----\nMIIEow\nIBAAKC\n-----END RSA PRIVATE KEY-----"


def cleaned(text: str, cleaner: Cleaner | None = None) -> Clean | Invalid:
    draft = Draft(
        kind=Signal, tenant="t", event_id="e", message="m", item=0, agent="a", event_time=START,
        facts={"name": "rating", "kind": "explicit"}, ids={"session_id": "s"}, words={}, texts={"text": text},
    )  # fmt: skip
    (found,) = (cleaner or Cleaner(SETTINGS)).clean([draft])
    return found


def masked(text: str) -> str:
    found = cleaned(text)
    assert isinstance(found, Signal), found
    return found.text


SECRET_VALUES = [
    ("call me at 555-0132", "555-0132"),
    ("ring (212) 555-0187 please", "(212) 555-0187"),
    ("+1 415 555 0132 is my number", "+1 415 555 0132"),
    ("my number in Lisbon is +351 912 345 678", "912 345 678"),
    ("reach me on 0044 20 7946 0958", "7946"),
    ("4111 1111 1111 1111 was charged", "1111"),
    ("3714-496353-98431 was charged", "98431"),
    ("the card ending in 1907", "1907"),
    ("send it to anna.petrov+x@mail.example.com", "anna"),
    ("?to=anna.petrov%40example.com&x=1", "petrov"),
    ("write anna.petrov (at) example (dot) com", "petrov"),
    ("write anna.petrov @ example.com", "petrov"),
    ("the masked mail f****@domain.com", "f****"),
    ("iban DE89 3704 0044 0532 0130 00 please", "3704"),
    ("my ssn is 536-22-1234", "536-22"),
    ("social security number 536221234", "536221234"),
    ("i live at 831 Elm Street, Suite 304", "831"),
    ("ship it to 12 old mill road", "12 old"),
    ("Washington, DC 20417", "20417"),
    ("postcode is 90210 by the way", "90210"),
    ("deliver to SW1A 1AA", "SW1A"),
    ("born on 1999-05-27", "1999"),
    ("my date of birth is May 27, 1999", "1999"),
    ("my name is anna petrov and i forgot my badge", "petrov"),
    ("please ask Dr. Weber", "Weber"),
    ("user mia_li_3668 cannot log in", "mia_li"),
    ("my username is anna.p88", "anna.p88"),
    ("order no 48151623 is late", "48151623"),
    ("policy number PL-77-1234", "PL-77"),
    ("reservation NQNU5R is mine", "NQNU5R"),
    (f"the header was Bearer {JWT}", "eyJ"),
    ("key AKIAIOSFODNN7EXAMPLE leaked", "AKIA"),
    ("curl -u anna:hunter2 https://x.example", "hunter2"),
    ("postgres://app:s3cr3t@db.example/x", "s3cr3t"),
    ("password: S0mmer!2026", "S0mmer"),
    ("my pin is 4821", "4821"),
    (f"here is the key\n{PEM}\nthanks", "MIIE"),
    ('the tool said {"cardLast4": "1907", "firstName": "Mia"} and stopped', "1907"),
    ('{"customer": {"msisdn": 14155550132}}', "14155550132"),
    (base64.b64encode(b'{"mail": "anna.petrov@example.com"}').decode(), "eyJtYWls"),
    ("ping 192.168.17.4 fails", "192.168.17.4"),
    ("Priya Novak can't log in from hospital, says Thomas Patel", "Novak"),
    ("call \uff14\uff11\uff15-555-0132", "555-0132"),
    ("mail anna\u200b.petrov@example.com", "petrov"),
]


@pytest.mark.parametrize(("text", "value"), SECRET_VALUES)
def test_found(text: str, value: str) -> None:
    out = masked(text)
    assert value not in out
    assert "<" in out


BENIGN = [
    "my laptop does not start", "what is the balance of my account", "i need 3 days to get my way back home",
    "the policy of 2024 says 40 hours a week", "meeting on 2026-01-05 at 10:30 in room 1.15", "error 0x3A after 15 s",
    "upgrade from 5.2.1 to 5.3", "my password is wrong", "my name is spelled wrong", "is the token expired",
    "the vpn drops every hour", "which SDK runs on Python 3.11", "a basic understanding of contracts", "leave_holiday",
    "version 2026.11.15 build 20261115", "order me a new chair", "reset the pin of my badge",
    "100 000 units at 7 000 each",
]  # fmt: skip


@pytest.mark.parametrize("text", BENIGN)
def test_left_alone(text: str) -> None:
    assert masked(text) == text


def test_json_stays_json_and_keeps_what_is_not_personal() -> None:
    body = {"name": "get_weather", "user": {"email": "a@example.com"}, "n": 3, "note": "mail b@example.com", "ok": None}
    out = json.loads(masked(json.dumps(body)))
    assert (out["name"], out["n"], out["ok"]) == ("get_weather", 3, None)
    assert out["user"]["email"].startswith("<EMAIL_ADDRESS_")
    assert out["note"].startswith("mail <EMAIL_ADDRESS_")
    escaped = masked('{"to": "a\\u0040example.com", "n": 1}')
    assert "<EMAIL_ADDRESS_" in escaped
    twice = masked('{"to": "a@example.com", "to": "nobody"}')
    assert "a@example" not in twice, "a repeated key hides nothing"
    inner = masked(json.dumps({"arguments": json.dumps({"zip": "20417"})}))
    assert "20417" not in inner


def test_a_value_found_once_goes_everywhere() -> None:
    out = masked("Priya Novak can't log in from hospital. so, priya novak wants it by noon")
    assert "novak" not in out.lower()
    names = [word.strip(".,") for word in out.split() if word.startswith("<PERSON")]
    assert len(set(names)) == 1


def test_types_can_be_left_out_but_hard_ones_then_fail_closed() -> None:
    text = "fly Anna Petrov to Lisbon, mail anna@example.com"
    soft = cleaned(text, Cleaner(replace(SETTINGS, entities=tuple({*SETTINGS.entities} - {"LOCATION"}))))
    assert isinstance(soft, Signal)
    assert "Lisbon" in soft.text
    assert "Lisbon" not in masked(text)
    hard = cleaned(text, Cleaner(replace(SETTINGS, entities=("PERSON",))))
    assert isinstance(hard, Invalid)
    assert hard.reason == "redaction_leak"
    assert "EMAIL_ADDRESS" in hard.detail
    assert "anna" not in hard.detail


class Blind:
    """A detector that is switched off."""

    def find(self, queries: list[Query]) -> list[tuple[()]]:
        return [() for _ in queries]


@pytest.mark.parametrize(
    ("text", "entity"),
    [
        ("mail anna@example.com", "EMAIL_ADDRESS"),
        ("card 4111-1111-1111-1111", "CREDIT_CARD"),
        ("call +1 415 555 0132", "PHONE_NUMBER"),
        ("call 415-555-0132", "PHONE_NUMBER"),
        ("iban DE89370400440532013000", "IBAN_CODE"),
        ("ssn 536-22-1234", "US_SSN"),
        (f"token {JWT}", "SECRET"),
        ("key AKIAIOSFODNN7EXAMPLE", "SECRET"),
    ],
)
def test_the_second_scan_catches_what_the_detector_lets_pass(text: str, entity: str) -> None:
    blind: Any = Blind()
    found = cleaned(text, Cleaner(SETTINGS, blind))
    assert isinstance(found, Invalid)
    assert found.reason == "redaction_leak"
    assert entity in found.detail
    assert text.rsplit(maxsplit=1)[-1] not in str(found)


@pytest.mark.parametrize("text", BENIGN)
def test_the_second_scan_lets_plain_text_pass(text: str) -> None:
    assert leak(text) == ""


def test_odd_text_is_masked_rather_than_lost() -> None:
    bits = ["+", "(", ")", "-", ".", " ", "1", "41", "415", "555", "0132", "4111", "1234", "2026", "@", "a", "anna",
            "example", ".com", "DE89", "3704", "0044", "%40", "/", "_", ":", "#", "*", ",", "\n"]  # fmt: skip
    chance = random.Random(2)
    texts = ["".join(chance.choice(bits) for _ in range(chance.randint(3, 14))) for _ in range(700)]
    finds = detector_for(SETTINGS).find([Query(text, names=False) for text in texts])
    for text, found in zip(texts, finds, strict=True):
        assert not isinstance(found, Invalid)
        assert leak(Masker(b"k", "s").mask(text, found, {})) == "", text


class Broken(Detector):
    """A recogniser that breaks on one text."""

    def _recognised(self, texts: Any) -> Any:
        if any("boom" in text for text in texts):
            raise ValueError("boom, with a quote of the text")
        return super()._recognised(texts)


def test_a_failing_detector_fails_closed_and_alone() -> None:
    good, bad = Broken(SETTINGS).find([Query("fine text"), Query("boom text")])
    assert good == ()
    assert isinstance(bad, Invalid)
    assert bad.reason == "redaction_failed"
    assert "quote" not in bad.detail
    assert isinstance(cleaned("boom text", Cleaner(SETTINGS, Broken(SETTINGS))), Invalid)


def test_a_pattern_out_of_time_fails_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    def late(*_: object) -> object:
        raise TimeoutError

    monkeypatch.setattr("processors.redact.detect._matches", late)
    (found,) = Detector(SETTINGS).find([Query("any text")])
    assert isinstance(found, Invalid)
    assert found.reason == "redaction_timeout"


def test_a_model_that_is_not_installed_is_refused_not_downloaded() -> None:
    with pytest.raises(Refused, match="en_core_nowhere"):
        Detector(replace(SETTINGS, model="en_core_nowhere"))


def test_the_cache_keeps_offsets_and_never_text() -> None:
    detector = Detector(replace(SETTINGS, cache=3))
    queries = [Query(f"mail person{n}@example.com") for n in range(5)]
    first = detector.find(queries)
    assert len(detector._cache) == 3  # noqa: SLF001: the bound is what is probed
    assert "person" not in repr(detector._cache)  # noqa: SLF001: so is the content
    assert detector.find(queries) == first


def test_finds_do_not_depend_on_the_batch() -> None:
    texts = [text for text, _ in SECRET_VALUES] + BENIGN
    queries = [Query(text) for text in texts]
    alone = Detector(SETTINGS)
    assert [alone.find([query])[0] for query in reversed(queries)][::-1] == Detector(SETTINGS).find(queries)


def test_long_texts_lose_nothing_at_the_cuts() -> None:
    text = " ".join(f"word{n % 7} call 415-555-{n:04}" for n in range(400))
    (finds,) = detector_for(SETTINGS).find([Query(text)])
    assert not isinstance(finds, Invalid)
    assert leak(Masker(b"k", "s").mask(text, finds, {})) == ""
    glued = "x" * 20_000 + " a@example.com " + "y" * 20_000
    (finds,) = detector_for(SETTINGS).find([Query(glued)])
    assert not isinstance(finds, Invalid)
    assert [glued[f.start : f.end] for f in finds if f.entity == "EMAIL_ADDRESS"][:1] == ["a@example.com"]
