"""State that an engine commits later."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from driftwheel.buffered import BufferedState
from processors.state import KeyState

T0 = datetime(2026, 1, 1, tzinfo=UTC)


def test_puts_stay_inside_until_the_engine_takes_them() -> None:
    stored = {"old": KeyState({"n": 0}).dump()}
    state = BufferedState(stored.get, lambda now: [f"due {now:%Y}"])
    state.put("a", KeyState({"n": 1}, due=T0))
    state.put("b", KeyState({"n": 2}))
    state.delete("b")
    assert (state.get("a"), state.get("b"), stored.get("a")) == (KeyState({"n": 1}, due=T0), None, None)
    assert state.changes == {"a": (KeyState({"n": 1}, due=T0).dump(), T0), "b": None}
    assert state.due(T0) == ["due 2026"]


def test_what_is_put_back_unchanged_is_no_change() -> None:
    stored = {"old": KeyState({"n": 0}).dump()}
    state = BufferedState(stored.get, lambda _: [])
    state.put("old", state.get("old") or KeyState())
    assert not state.changes
    state.put("old", KeyState({"n": 1}))
    assert set(state.changes) == {"old"}


def test_a_timer_that_was_moved_or_cleared_meanwhile_is_not_due() -> None:
    state = BufferedState({}.get, lambda _: ["untouched", "moved", "cleared", "gone", "still"])
    state.put("moved", KeyState({"n": 1}, due=T0 + timedelta(seconds=1)))
    state.put("cleared", KeyState({"n": 1}))
    state.delete("gone")
    state.put("still", KeyState({"n": 1}, due=T0))
    assert state.due(T0) == ["untouched", "still"]
