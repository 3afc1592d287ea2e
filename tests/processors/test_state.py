"""Keyed state as text: it comes back as it went."""

from __future__ import annotations

import json
import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from processors.stage import Event, Stage
from processors.state import KeyState, plain
from schemas import codec
from schemas.errors import Invalid
from schemas.events import EPOCH, Record, Score, identity
from schemas.subjects import Subject

numbers = st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(2**63), 2**63 - 1)
values = st.recursive(
    st.none() | st.booleans() | numbers | st.text(st.characters()),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(st.dictionaries(st.text(), values))
def test_state_comes_back_bit_for_bit(data: dict[str, object]) -> None:
    state = KeyState(data, {"id": ["topic/0/1", [["Turn", "{}"]]]})
    again = KeyState.load(state.dump())
    assert again == state
    assert repr(again.data) == repr(data)


names = st.text() | st.text("0123456789abcdef", min_size=32, max_size=32) | st.text("0a F", min_size=30, max_size=34)


@given(st.dictionaries(names, st.just([]) | st.just(["topic/0/1", []]), max_size=60))
def test_a_memo_comes_back_in_its_order(memo: dict[str, list[object]]) -> None:
    again = KeyState.load(KeyState({}, memo).dump())
    assert list(again.memo.items()) == list(memo.items())


def test_ids_alone_are_kept_short() -> None:
    memo = {identity("event", str(number)): list[object]() for number in range(48)}
    state = KeyState({}, memo)
    assert len(state.dump()) < 48 * 22
    state.memo[next(iter(memo))].append("topic/0/1")
    assert KeyState.load(state.dump()) == state


def test_a_memo_of_an_earlier_release_is_read() -> None:
    memo = {"0" * 32: [], "b": ["topic/0/1", [["Turn", "{}"]]]}
    assert KeyState.load(json.dumps({"v": 1, "data": {}, "memo": memo})) == KeyState({}, memo)


class Total(Stage):
    """Something about all people of an agent."""

    name, by = "total", "agent"

    def step(self, event: Event, state: KeyState) -> list[Record]:
        raise NotImplementedError


def test_a_state_of_an_earlier_release_that_holds_nobody_is_left_alone_by_an_erasure() -> None:
    kept = [["Turn", '{"subject_hash": "me"}']]
    for emitted, left in ([], True), (kept, False):
        old = json.dumps({"v": 1, "data": {"total": 7}, "memo": {"b": ["topic/0/1", emitted]}})
        found = Total().erased("acme/agent", old, Subject("acme", "me"))
        assert (found is None) == left


WORDS = [f"{identity('word', str(number))[:7]} " for number in range(900)]


def test_long_state_is_deflated_and_short_is_json() -> None:
    said = "".join(random.Random(5).choices(WORDS, k=6_000))
    for part, size in (said[:7_000], 7_100), (said[:30_000], 16_000), (said, 24_000):
        state = KeyState({"said": part})
        text = state.dump()
        assert len(text) < size
        assert json.loads(plain(text))["data"] == state.data
        assert (text == plain(text)) == (len(part) < 8_000)
        assert KeyState.load(text) == state


@pytest.mark.parametrize("words", ["", "a word. " * 2_000])
def test_an_erasure_looks_into_deflated_state(words: str) -> None:
    about = {"memo": {"b": ["topic/0/1", [["Turn", '{"subject_hash": "me"}']]]}}
    text = KeyState({"words": words}, **about).dump()
    assert ("me" in text) == (not words)
    session = Total()
    session.by = "session"  # type: ignore[misc]
    found = session.erased("acme/s1", text, Subject("acme", "me"))
    assert found is not None
    assert found[0].memo == {"b": ["topic/0/1", []]}
    assert session.erased("acme/s1", text, Subject("acme", "you")) is None


def test_half_a_character_comes_back() -> None:
    for text in "\ud83d broken", "\ud83d broken" * 2_000:
        assert KeyState.load(KeyState({"text": text}).dump()) == KeyState({"text": text})


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_no_record_brings_a_number_that_is_none(value: float) -> None:
    score = Score(
        event_id="e", tenant="t", agent="a", event_time=EPOCH, session_id="s", turn_id="u", turn_index=0, trace_id="r",
        end_time=EPOCH, uncertainty=0.5, p_failure=0.5, scorer="x",
    )  # fmt: skip
    body = score.model_dump()
    assert codec.validate(Score, body) == score
    with pytest.raises(Invalid, match="uncertainty"):
        codec.validate(Score, body | {"uncertainty": value})
