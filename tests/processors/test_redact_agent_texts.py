"""Texts as agents meet them, each with the values that have to go: how many do, and how many harmless lines suffer.

The texts ``frozen-*`` were written before the rules that they led to, ``later-*`` after those and scored once: 95 of
114 and 64 of 71 values then. Both sets are kept as they were.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from processors.redact import RedactSettings
from processors.redact.policy import Policy
from processors.redact.rules import RULES
from processors.redact.texts import Redacted, TextRedactor

ROWS = [json.loads(line) for line in (Path(__file__).parent / "agent_texts.jsonl").read_text("utf-8").splitlines()]
TOKEN = re.compile(r"[^\W_]+")


def kind(row: dict[str, Any]) -> str:
    return row["id"].split("-")[0]


def covered(row: dict[str, Any], found: Redacted) -> list[bool]:
    """For each value, whether every letter and digit of it has gone."""
    spans = [(find.start, find.end) for find in found.findings]

    def gone(value: str) -> bool:
        start = row["text"].index(value)
        tokens = [(match.start() + start, match.end() + start) for match in TOKEN.finditer(value)]
        return all(any(first <= begin and end <= last for first, last in spans) for begin, end in tokens)

    return [gone(value) for value in row["values"]]


@pytest.fixture(scope="module")
def found() -> dict[str, Redacted]:
    redactor = TextRedactor(RedactSettings(), Policy())
    done = redactor.redact([(row["id"], row["text"]) for row in ROWS])
    return {row["id"]: one for row, one in zip(ROWS, done, strict=True) if isinstance(one, Redacted)}


def test_there_are_enough_and_none_fails(found: dict[str, Redacted]) -> None:
    counts = {name: sum(kind(row) == name for row in ROWS) for name in ("frozen", "later", "benign")}
    assert counts == {"frozen": 93, "later": 64, "benign": 92}
    assert set(found) == {row["id"] for row in ROWS}


@pytest.mark.parametrize(("name", "share"), [("frozen", 0.97), ("later", 0.92)])
def test_values_are_covered(found: dict[str, Redacted], name: str, share: float) -> None:
    hits = [hit for row in ROWS if kind(row) == name for hit in covered(row, found[row["id"]])]
    assert sum(hits) / len(hits) >= share


def test_harmless_lines_are_left_alone(found: dict[str, Redacted]) -> None:
    touched = [row["text"] for row in ROWS if kind(row) == "benign" and found[row["id"]].findings]
    assert len(touched) <= 0.03 * sum(kind(row) == "benign" for row in ROWS), touched


def test_what_a_rule_needs_is_in_whatever_it_matches() -> None:
    gated = [rule for rule in RULES if rule.needs]
    assert len(gated) > 20
    for rule in gated:
        for row in ROWS:
            low = row["text"].lower()
            assert rule.may_match(low, True) or rule.pattern.search(row["text"]) is None, (rule.needs, row["text"])
