"""Keyed state as text: it comes back as it went."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from processors.state import KeyState
from schemas import codec
from schemas.errors import Invalid
from schemas.events import EPOCH, Score

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


def test_half_a_character_comes_back() -> None:
    state = KeyState({"text": "\ud83d broken"})
    assert KeyState.load(state.dump()) == state


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
