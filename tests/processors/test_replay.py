"""What replayed messages say about themselves, and redaction of one that is delivered twice."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from processors.redact import Redact, RedactSettings
from processors.replay import Letter, Replay, letter_of, replay_headers, replay_of
from processors.stage import Message, as_first, is_for
from processors.state import MemoryState
from schemas.events import DeadLetter, Record, Span
from tests.processors.redacting import otlp, otlp_message
from tests.world import START

ASKED = {"openinference.span.kind": "LLM", "session.id": "s1"}
REPLAY = Replay((Letter("a", 1), Letter("b")), 2, 7, START, (Letter("c"),), ("redact", "clickhouse"), "a")


def test_headers_come_back() -> None:
    assert replay_of(replay_headers(REPLAY)) == REPLAY
    assert replay_of({"tenant": "t"}) is None


@pytest.mark.parametrize(
    "wrong",
    [
        {"replay.at": "1"}, {"replay.at": "a/b"}, {"replay.at": ""}, {"replay.time": "soon"},
        {"replay.time": "0001-01-01T00:00:00+23:00"}, {"replay": "a b"}, {"replay": "a@x"}, {"replay.others": "@"},
    ],
)  # fmt: skip
def test_what_is_no_replay_is_a_message_like_any_other(wrong: dict[str, str]) -> None:
    headers = replay_headers(REPLAY) | wrong
    message = Message("otlp_spans", 90, "k", b"", START + timedelta(days=1), headers)
    assert replay_of(headers) is None
    assert as_first(message) == message
    assert is_for("assemble", message)


def test_a_replay_stands_where_its_message_stood_and_is_for_some() -> None:
    message = Message("otlp_spans", 90, "k", b"", START + timedelta(days=1), replay_headers(REPLAY), 1)
    first = as_first(message)
    assert (first.origin, first.time) == ("otlp_spans/2/7", START)
    assert [is_for(name, message) for name in ("redact", "clickhouse", "assemble")] == [True, True, False]


@pytest.mark.parametrize(
    ("topic", "detail", "place"),
    [
        ("otlp_spans", "item 12: field input: 9 characters", 12),
        ("otlp_spans", "span 0 of the request: span_id must be", 0),
        ("otlp_spans", "12 bytes hold no span", None),
        ("otlp_logs", "item 3, an evaluation event: about neither", 3),
        ("agent.signals.raw", "item 0: field text: 9 characters", None),
    ],
)
def test_a_letters_place_is_in_its_detail(topic: str, detail: str, place: int | None) -> None:
    letter = DeadLetter.model_construct(event_id="a", topic=topic, detail=detail)
    assert letter_of(letter) == Letter("a", place)


def test_redaction_says_the_place_that_replays_ask_for() -> None:
    """Letters of both kinds, cleaning and reading, have the place that their item has in its message."""
    spans = [{"attributes": ASKED}, {"attributes": ASKED | {"input.value": "x" * 200}}, {"span": "00" * 8}]
    letters = [one for one in redacted(otlp_message(otlp(*spans)), MemoryState(), 100) if isinstance(one, DeadLetter)]
    assert [letter_of(one).place for one in letters] == [1, 2]


def redacted(message: Message, state: MemoryState, limit: int) -> list[Record]:
    return Redact(RedactSettings(max_text=limit)).process([message], state)


@pytest.mark.parametrize("limit", [100, 150, 1000], ids=["refused", "another reason", "passed"])
def test_a_replay_that_is_delivered_twice_emits_the_same(limit: int) -> None:
    state = MemoryState()
    spans: list[dict[str, Any]] = [{"attributes": ASKED}, {"attributes": ASKED | {"input.value": "x" * 200}}]
    message = otlp_message(otlp(*spans), 7)
    first = redacted(message, state, 100)
    (letter,) = [one for one in first if isinstance(one, DeadLetter)]
    replay = Replay((letter_of(letter),), 0, 7, message.time, (), ("redact",), letter.event_id)
    again = replace(message, offset=90, time=START + timedelta(days=3), headers=replay_headers(replay))
    once = redacted(again, state, limit)
    twice = redacted(replace(again, offset=91), state, limit)
    fresh = redacted(again, MemoryState(), limit)
    assert once == twice == fresh
    assert len(once) == {100: 1, 150: 3, 1000: 3}[limit]
    assert [one.span_id for one in once if isinstance(one, Span)] == (["0" * 15 + "2"] if limit == 1000 else [])
    fates = [one for one in once if isinstance(one, DeadLetter)]
    assert [(one.offset, one.quarantine) for one in fates] == ([(7, letter.event_id)] if limit == 150 else [])
