"""The support desk world keeps its promises: size, variety, and planted personal data that is safe and exact."""

from __future__ import annotations

import csv
import re
from collections import Counter, defaultdict
from itertools import combinations
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
EMAIL = re.compile(r"[\w.+-]+@[\w-]+(?:\.[\w-]+)+")
EXAMPLE_DOMAIN = re.compile(r"@(?:[\w-]+\.)*example\.(?:com|org|net)$")
CARD = re.compile(r"\b\d(?:[ -]?\d){12,15}\b")
PHONE = re.compile(r"(?:\+1[ -]?)?\(?\b\d{3}\)?[ .-]?555[ .-]?\d{4}\b|\+1\d{10}\b")
TYPES = {"name", "email", "phone", "card"}

Row = dict[str, str]


def read(name: str) -> list[Row]:
    with (EXAMPLES / name).open(newline="", encoding="utf-8") as lines:
        return list(csv.DictReader(lines))


def tokens(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


def jaccard(left: frozenset[str], right: frozenset[str]) -> float:
    return len(left & right) / len(left | right)


def luhn(number: str) -> bool:
    digits = [int(character) for character in reversed(number) if character.isdigit()]
    doubled = [sum(divmod(2 * digit, 10)) for digit in digits[1::2]]
    return (sum(digits[::2]) + sum(doubled)) % 10 == 0


def fictional(phone: str) -> bool:
    """A US number in the block 555-0100 to 555-0199, with or without the country code."""
    return re.fullmatch(r"1?\d{3}55501\d{2}", re.sub(r"\D", "", phone)) is not None


def planted(row: Row) -> list[tuple[str, str]]:
    parts = (entry.partition(":") for entry in row["personal"].split(";") if entry)
    return [(kind, value) for kind, _, value in parts]


def of_type(rows: list[Row], wanted: str) -> list[str]:
    return [value for row in rows for kind, value in planted(row) if kind == wanted]


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    return read("support_desk.csv")


def test_columns(rows: list[Row]) -> None:
    assert list(rows[0]) == ["text", "label", "intent", "personal"]
    assert all(row["text"] == row["text"].strip() != "" and row["label"] and row["intent"] for row in rows)


def test_texts_are_many_and_distinct(rows: list[Row]) -> None:
    counts = Counter(" ".join(tokens(row["text"])) for row in rows)
    assert len(counts) >= 1280
    assert [text for text, count in counts.items() if count > 1] == []


def test_every_label_is_big_and_varied(rows: list[Row]) -> None:
    sizes = Counter(row["label"] for row in rows)
    intents: dict[str, set[str]] = defaultdict(set)
    for row in rows:
        intents[row["label"]].add(row["intent"])
    assert len(sizes) == 8
    assert min(sizes.values()) >= 150, sizes
    assert min(map(len, intents.values())) >= 8, intents


def test_every_label_is_described_once(rows: list[Row]) -> None:
    described = read("support_desk_labels.csv")
    assert sorted(row["label"] for row in described) == sorted({row["label"] for row in rows})
    assert all(len(tokens(row["description"])) >= 8 for row in described)


def test_no_near_duplicates(rows: list[Row]) -> None:
    texts = [(frozenset(tokens(row["text"])), row["text"]) for row in rows]
    pairs = ((jaccard(left[0], right[0]), left[1], right[1]) for left, right in combinations(texts, 2))
    assert [pair for pair in pairs if pair[0] > 0.9] == []


def test_personal_data_occurs_verbatim(rows: list[Row]) -> None:
    entries = [(kind, value, row["text"]) for row in rows for kind, value in planted(row)]
    assert {kind for kind, _, _ in entries} == TYPES
    assert [entry for entry in entries if not entry[1] or entry[1] not in entry[2]] == []


def test_personal_data_is_spread_over_labels(rows: list[Row]) -> None:
    sizes = Counter(row["label"] for row in rows)
    personal = Counter(row["label"] for row in rows if row["personal"])
    shares = {label: personal[label] / size for label, size in sizes.items()}
    assert 0.08 <= personal.total() / len(rows) <= 0.20
    assert all(0.05 <= share <= 0.20 for share in shares.values()), shares
    for label in sizes:
        assert {kind for row in rows if row["label"] == label for kind, _ in planted(row)} == TYPES, label


def test_contact_data_belongs_to_nobody(rows: list[Row]) -> None:
    assert [email for email in of_type(rows, "email") if not EXAMPLE_DOMAIN.search(email)] == []
    assert [phone for phone in of_type(rows, "phone") if not fictional(phone)] == []
    assert [card for card in of_type(rows, "card") if not luhn(card)] == []


@pytest.mark.parametrize(("kind", "pattern"), [("email", EMAIL), ("phone", PHONE), ("card", CARD)])
def test_nothing_is_left_out_of_the_answer_key(rows: list[Row], kind: str, pattern: re.Pattern[str]) -> None:
    found = [match for row in rows for match in pattern.findall(row["text"])]
    assert sorted(found) == sorted(of_type(rows, kind))


def test_the_checks_can_fail() -> None:
    assert [luhn(card) for card in ("4111 1111 1111 1111", "4111 1111 1111 1112")] == [True, False]
    phones = ["+1 415 555 0132", "(415) 555-0232", "415-554-0132"]
    assert [fictional(phone) for phone in phones] == [True, False, False]
    domains = ["a@mail.example.org", "a@notexample.org"]
    assert [EXAMPLE_DOMAIN.search(email) is not None for email in domains] == [True, False]
    assert jaccard(frozenset("abc"), frozenset("abc")) == 1.0 > jaccard(frozenset("abc"), frozenset("abd"))
