"""Signals are a function of the turns that are known: given, and taken back when a late turn contradicts them."""

from __future__ import annotations

import random
from collections.abc import Sequence
from datetime import timedelta

import pytest

from processors.assemble import Assemble, AssembleSettings
from processors.attribute import Attribute
from processors.likeness import LETTERS, Likeness
from processors.reactions import ReactionRules
from processors.state import MemoryState, plain
from schemas.events import Outcome, Record, Score, Signal, Span
from schemas.subjects import Subject
from tests.processors.test_assemble import Bench, asked, at, child, names
from tests.world import START, message, score, span


class Meaning:
    """A measure that knows which texts mean the same."""

    name, meaning, at, apart = "stub", True, 0.6, 0.3

    def __init__(self, *alike: tuple[str, str], other: float = 0.1) -> None:
        self._alike, self._other = {*alike, *((two, one) for one, two in alike)}, other

    def __call__(self, first: str, second: str) -> float:
        return 1.0 if first == second else 0.9 if (first, second) in self._alike else self._other


def signals(records: Sequence[Record]) -> list[Signal]:
    return [one for one in records if isinstance(one, Signal)]


def standing(records: Sequence[Record]) -> set[tuple[str, str]]:
    """What holds in the end: by name and turn, less what was taken back."""
    taken = {one.attributes["retracts"] for one in signals(records) if "retracts" in one.attributes}
    return {(one.name, one.turn_id) for one in signals(records) if one.weight and one.event_id not in taken}


def run(texts: Sequence[tuple[str, str, float]], alike: Likeness = LETTERS) -> list[Record]:
    """Turns (name, text, start in seconds), each emitted before the next is sent, in the order given."""
    bench = Bench()
    bench.stage = Assemble(alike=alike)
    found: list[Record] = []
    for number, (name, text, start) in enumerate(texts):
        received = {"received_time": START + timedelta(seconds=1_000 + number)}
        found += bench.send(asked(name, text, start, **received))
        found += bench.tick(1_000.5 + number)
        found += bench.tick(1_000 + number + 1)
    return found


TALK = [
    ("t1", "reset my vpn password", 0.0),
    ("t2", "vpn password reset please", 20.0),
    ("t3", "when is payday", 40.0),
    ("t4", "no, that is wrong", 60.0),
    ("t5", "let me talk to a human", 80.0),
]


@pytest.mark.parametrize("seed", range(8))
def test_turns_in_any_order_leave_the_same_signals_standing(seed: int) -> None:
    expected = standing(run(TALK))
    assert expected == {
        ("rephrase", "t1.r-t1"), ("proceeded", "t2.r-t2"), ("explicit_correction", "t3.r-t3"),
        ("escalation", "t4.r-t4"),
    }  # fmt: skip
    shuffled = random.Random(seed).sample(TALK, len(TALK))
    assert standing(run(shuffled)) == expected


def test_a_late_turn_in_between_takes_a_signal_back_and_names_it() -> None:
    found = signals(run([TALK[0], ("t2", "reset my vpn password!", 50.0), ("mid", "when is payday", 20.0)]))
    first, *rest = found
    assert (first.name, first.turn_id, first.attributes["turns"]) == ("repeat", "t1.r-t1", "t1.r-t1 t2.r-t2")
    (back,) = [one for one in rest if "retracts" in one.attributes]
    assert (back.name, back.turn_id, back.weight, back.value, back.text) == ("repeat", "t1.r-t1", 0.0, 0.0, "")
    assert back.attributes["retracts"] == first.event_id != back.event_id
    assert back.event_time > first.event_time
    assert standing(found) == {("proceeded", "t1.r-t1"), ("proceeded", "mid.r-mid")}


def test_a_text_that_a_late_span_corrects_changes_its_signals() -> None:
    bench = Bench()
    later = {"trace_id": "t1", "parent_span_id": "r-t1"}
    bench.send(asked("t0", "reset my vpn", 0), asked("t1", "", 20, output="done"))
    bench.send(child("l2", "llm", 21, input="thanks", **later))
    found = bench.tick(30)
    assert names(found) == [("task_complete", "t0.r-t0")]
    found += bench.send(child("l1", "llm", 20.5, input="no, wrong", **later))
    assert standing(found) == {("explicit_correction", "t0.r-t0")}


def test_an_early_abandonment_is_taken_back_when_the_user_returns() -> None:
    bench = Bench()
    bench.send(asked("t1", "reset my vpn", 0))
    found = bench.tick(3)
    assert bench.tick(600) == []
    found += bench.tick(601)
    assert names(found) == [("abandonment", "t1.r-t1")]
    found += bench.send(asked("t2", "when is payday", 900))
    found += bench.tick(905)
    assert standing(found) == {("proceeded", "t1.r-t1")}
    assert signals(found)[-1].event_time >= signals(found)[0].event_time


def test_who_returns_after_the_gap_had_left() -> None:
    bench = Bench()
    bench.send(asked("t1", "reset my vpn", 0))
    found = [*bench.tick(3), *bench.tick(601), *bench.tick(1_801)]
    found += bench.send(asked("t2", "reset my vpn", 2_000))
    found += bench.tick(2_005)
    assert standing(found) == {("abandonment", "t1.r-t1")}, "and what comes next is another window of the session"


def test_windows_follow_the_turns_own_times_even_when_all_arrive_at_once() -> None:
    found = run([("t1", "reset my vpn", 0.0), ("t2", "reset my vpn", 5_000.0)])
    assert standing(found) == {("abandonment", "t1.r-t1")}


def test_a_late_turn_shows_that_nobody_had_left() -> None:
    found = run([("t1", "reset my vpn", 0.0), ("t3", "book a train", 2_500.0), ("t2", "when is payday", 1_200.0)])
    assert standing(found) == {("proceeded", "t1.r-t1"), ("proceeded", "t2.r-t2")}
    again = run([("t1", "reset my vpn", 0.0), ("t3", "book a train", 2_500.0)])
    assert standing(again) == {("abandonment", "t1.r-t1")}


def test_a_rephrase_in_other_words_needs_a_model_of_meaning() -> None:
    pair = ("my screen stays black all day", "the monitor shows no picture at all")
    talk = [("t1", pair[0], 0.0), ("t2", pair[1], 20.0)]
    assert standing(run(talk)) == {("proceeded", "t1.r-t1")}
    found = signals(run(talk, Meaning(pair)))
    assert [(one.name, one.attributes["measure"], one.attributes["similarity"]) for one in found] == [
        ("rephrase", "stub", "0.9")
    ]


def test_the_same_text_at_once_is_the_button_and_later_a_repeat() -> None:
    for start, expected in ((20.0, "regenerate"), (200.0, "repeat")):
        found = run([("t1", "reset my vpn", 0.0), ("t2", "reset my vpn", start)])
        assert standing(found) == {(expected, "t1.r-t1")}


def test_long_texts_that_differ_only_at_their_end_are_not_the_same() -> None:
    long = "please sum up what follows " + "lorem ipsum " * 100
    assert {name for name, _ in standing(run([("t1", f"{long} one", 0.0), ("t2", f"{long} two", 20.0)]))} == {
        "rephrase"
    }
    assert {name for name, _ in standing(run([("t1", long, 0.0), ("t2", long, 20.0)]))} == {"regenerate"}


def test_an_agent_that_asks_for_what_was_said_has_forgotten_it() -> None:
    bench = Bench()
    bench.send(
        asked("t1", "my order number is W4711823", 0, output="How can I help?"),
        asked("t2", "cancel the blue jacket", 20, output="What is your order number?"),
        asked("t3", "order number W4711823", 40),
    )
    found = signals(bench.tick(60))
    (forgot,) = [one for one in found if one.name == "forgetfulness"]
    assert (forgot.turn_id, forgot.attributes["first_said"]) == ("t2.r-t2", "t1.r-t1")


def test_a_pause_out_of_line_with_the_users_own_is_dwell() -> None:
    calm = [
        (f"t{n}", f"{word} matter", 20.0 * n) for n, word in enumerate(["one", "two", "three", "four", "five", "six"])
    ]
    assert not [one for one in standing(run(calm)) if one[0] == "dwell"]
    slow = [*calm, ("late", "something else entirely", 20.0 * 5 + 550)]
    (found,) = [one for one in signals(run(slow)) if one.name == "dwell"]
    assert (found.turn_id, found.weight) == ("t5.r-t5", 0.1)
    assert float(found.attributes["z"]) > 3


def test_a_session_that_has_left_its_first_request_behind_is_divergence() -> None:
    talk = [(f"t{n}", text, 20.0 * n) for n, text in enumerate(["book a train", "to Lyon", "poems", "about cats"])]
    near = Meaning(*[("book a train", text) for _, text, _ in talk])
    for alike, expected in ((Meaning(), True), (near, False), (LETTERS, False)):
        bench = Bench()
        bench.stage = Assemble(alike=alike)
        bench.send(*[asked(*one) for one in talk])
        found = [*bench.tick(70), *bench.tick(700), *bench.tick(4_000)]
        assert (("divergence", "t3.r-t3") in standing(found)) == expected


def test_an_operation_that_was_cancelled_is_a_turn_that_was_stopped() -> None:
    bench = Bench()
    bench.send(
        asked("t1", "write a long poem", 0),
        child("l1", "llm", status="error", status_message="asyncio.CancelledError()"),
    )
    (found,) = signals(bench.tick(5))
    assert (found.name, found.turn_id, found.attributes["operation"]) == ("stopped", "t1.r-t1", "llm")


@pytest.mark.parametrize(
    ("tool", "seconds", "parent", "expected"),
    [("book", 300.0, "", True), ("book", 900.0, "", False), ("find", 300.0, "", False), ("book", 300.0, "x", False)],
)
def test_a_user_who_does_the_agents_work_takes_over(tool: str, seconds: float, parent: str, expected: bool) -> None:
    bench = Bench()
    bench.send(asked("t1", "book a room", 0), child("a1", "tool", tool_name="book", status="error"))
    found = bench.tick(5)
    own = span(trace_id="own", span_id="u1", parent_span_id=parent, kind="tool", tool_name=tool, **at(seconds))
    found += bench.send(own)
    assert (("manual_takeover", "t1.r-t1") in standing(found)) == expected


def test_evidence_names_turns_and_quotes_nobody() -> None:
    secret = "correcthorsebattery"
    found = signals(run([("t1", f"reset {secret}", 0.0), ("t2", f"no, {secret} reset", 20.0)]))
    assert found
    for one in found:
        assert one.attributes["rule"]
        assert secret not in str(one.attributes)


def test_a_session_that_an_earlier_release_left_open_goes_on() -> None:
    bench = Bench()
    bench.send(asked("t1", "reset my vpn", 0))
    bench.tick(3)
    ((key, state),) = list(bench.store)
    for name in ("acts", "paces", "first", "dropped", "quiet"):
        del state.data[name]
    state.data["turns"] = [{"turn_id": "t1.r-t1", "trace_id": "t1", "input": "reset my vpn", "start": 0, "end": 1}]
    bench.store.put(key, state)
    bench.send(asked("t2", "when is payday", 10), asked("t3", "no, that is wrong", 20))
    assert names(bench.tick(30)) == [("explicit_correction", "t2.r-t2")]


def test_nothing_of_a_person_who_is_erased_stays() -> None:
    bench = Bench()
    theirs, other = {"subject_hash": "theirs"}, {"subject_hash": "other"}
    bench.send(asked("t1", "reset my vpn", 0, **theirs), asked("t2", "when is payday", 20, **other))
    bench.send(span(trace_id="own", span_id="u1", kind="tool", tool_name="book", **at(5), **theirs))
    bench.tick(30)
    ((key, state),) = list(bench.store)
    found = bench.stage.erased(key, state.dump(), Subject("acme", "theirs", frozenset({"t1", "own"})))
    assert found is not None
    left = plain(found[0].dump())
    assert "theirs" not in left
    assert "reset my vpn" not in left
    assert "when is payday" in left
    bench.store.put(key, found[0])
    bench.send(asked("t3", "no, that is wrong", 40, **other))
    assert ("explicit_correction", "t2.r-t2") in names(bench.tick(50))


def test_state_of_an_open_session_is_small() -> None:
    """A hundred turns with ten spans each and long texts, and the last spans of all come late."""
    stage, store, worst = Assemble(AssembleSettings(rules=ReactionRules())), MemoryState(), 0
    text = "the quick brown fox jumps over the lazy dog and asks about its order again " * 12
    for turn in range(100):
        trace = f"{turn:032x}"
        spans: list[Span] = [asked(trace, f"{text} {turn}", 60.0 * turn, output=text, trace_id=trace)]
        spans += [
            child(f"{turn:08x}{n:08x}", "llm" if n % 2 else "tool", 60.0 * turn + 0.1 * n, trace_id=trace,
                  parent_span_id=f"r-{trace}", input=text, output=text, tool_name="find_order")
            for n in range(10)
        ]  # fmt: skip
        stage.process([message(one, 20 * turn + n) for n, one in enumerate(spans)], store)
        stage.expire(store, START + timedelta(seconds=60.0 * turn + 10))
        worst = max(worst, *(len(plain(state.dump())) for _, state in store))
    assert worst < 20_000


def test_a_retraction_revises_the_verdict() -> None:
    """Attribution hears the newest of each name: what was taken back no longer counts."""
    talk = [TALK[0], ("t2", "reset my vpn password!", 50.0), ("mid", "when is payday", 20.0)]
    stage, store = Attribute(), MemoryState()
    verdicts: list[str] = []
    scores = {name: scored(f"{name}.r-{name}", start) for name, _, start in talk}
    found = signals(run(talk))
    records = (scores["t1"], scores["t2"], found[0], scores["mid"], *found[1:])
    for offset, record in enumerate(records):
        made = stage.process([message(record, offset)], store)
        verdicts += [one.verdict for one in made if isinstance(one, Outcome) and one.turn_id == "t1.r-t1"]
    assert verdicts[0] != "failure"
    assert "failure" in verdicts
    assert verdicts[-1] != "failure"


def scored(turn_id: str, start: float) -> Score:
    trace = turn_id.partition(".")[0]
    time = START + timedelta(seconds=start)
    return score(turn_id=turn_id, trace_id=trace, event_time=time, end_time=time, p_failure=0.3)
