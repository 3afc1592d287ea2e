"""Turns from spans in any order; implicit signals from what users do next; sessions that close."""

from __future__ import annotations

import base64
import random
import zlib
from datetime import timedelta

import numpy as np
import pytest

from processors.assemble import Assemble, AssembleSettings
from processors.mmd import sketch
from processors.stage import Message
from processors.state import MemoryState, plain
from processors.traces import members, node_of, roots, turn_of
from processors.vectors import Array
from schemas.events import Record, Signal, Span, Turn
from schemas.subjects import Subject
from schemas.topics import TURNS
from tests.world import START, TENANT, World, message, run_in_memory, span


def at(seconds: float) -> dict[str, object]:
    """Times of a span that starts so many seconds in and is accepted one second later."""
    return {"event_time": START + timedelta(seconds=seconds), "received_time": START + timedelta(seconds=seconds + 1)}


def asked(name: str, text: str, seconds: float, **given: object) -> Span:
    body = {"trace_id": name, "span_id": f"r-{name}", "input": text, "output": "an answer", "duration_us": 2_000_000}
    return span(**{**body, **at(seconds), **given})


class Bench:
    """An Assemble with its state, spoken to span by span."""

    def __init__(self) -> None:
        self.stage, self.store, self.offset = Assemble(), MemoryState(), 0

    def send(self, *spans: Span) -> list[Record]:
        batch = [message(one, self.offset + n) for n, one in enumerate(spans)]
        self.offset += len(spans)
        return self.stage.process(batch, self.store)

    def tick(self, seconds: float) -> list[Record]:
        return self.stage.expire(self.store, START + timedelta(seconds=seconds))


def turns(records: list[Record]) -> list[Turn]:
    return [one for one in records if isinstance(one, Turn)]


def names(records: list[Record]) -> list[tuple[str, str]]:
    return [(one.name, one.turn_id) for one in records if isinstance(one, Signal)]


def child(name: str, kind: str, seconds: float = 0.5, **given: object) -> Span:
    body = {"trace_id": "t1", "span_id": name, "parent_span_id": "r-t1", "kind": kind}
    return span(**{**body, **at(seconds), **given})


def test_a_turn_gathers_what_its_trace_says() -> None:
    bench = Bench()
    parts = [
        child("l1", "llm", 0.2, input="q", output="plan", model="m", model_version="m-7", input_tokens=5),
        child("a1", "tool", 0.3, tool_name="find", status="error"),
        child("a2", "tool", 0.4, tool_name="book", status="error"),
        child("a3", "tool", 0.5, tool_name="find", status="ok"),
        child("d1", "retrieval", 0.6, retrieval_score=0.4),
        child("d2", "retrieval", 0.7, retrieval_score=0.6),
        child("l2", "llm", 0.8, output="done", logprob_top1=-0.1, logprob_top2=-2.0, input_tokens=7, output_tokens=3),
        asked("t1", "book a room", 0, category="rooms"),
    ]
    random.Random(4).shuffle(parts)
    assert bench.send(*parts) == []
    (turn,) = turns(bench.tick(3.5))
    assert (turn.turn_id, turn.turn_index, turn.input, turn.output) == ("t1.r-t1", 0, "book a room", "an answer")
    assert (turn.tool_calls, turn.tool_errors, turn.failed_tool) == (3, 2, "book")
    assert (turn.retrievals, turn.retrieval_score) == (2, 0.6)
    assert (turn.model_version, turn.category) == ("m-7", "rooms")
    assert (turn.input_tokens, turn.output_tokens) == (12, 3)
    assert (turn.logprob_top1, turn.logprob_top2) == (-0.1, -2.0)
    assert turn.end_time == START + timedelta(seconds=2)


def turn_from(*parts: Span) -> Turn:
    bench = Bench()
    bench.send(*parts)
    (turn,) = turns(bench.tick(3.5))
    return turn


def test_costs_prompts_and_called_tools() -> None:
    parts = [
        child("l1", "llm", 0.2, cost=0.25, input_tokens=5, prompt_name="greet", called_tools=["find"]),
        child("l2", "llm", 0.8, cost=0.5, input_tokens=7, prompt_name="route", prompt_version="2"),
        asked("t1", "book a room", 0, cost=9.0),
    ]
    turn = turn_from(*parts)
    assert (turn.cost, turn.input_tokens) == (0.75, 12)
    assert (turn.prompt_name, turn.prompt_version) == ("route", "2")
    assert (turn.tool_calls, turn.called_tools) == (1, ["find"])
    tool = child("a1", "tool", 0.3, tool_name="book")
    assert turn_from(*parts, tool).called_tools == ["book"], "what has a span was called"
    assert turn_from(asked("t1", "book a room", 0, cost=9.0)).cost == 9.0
    assert turn_from(asked("t1", "book a room", 0)).cost is None


def test_a_call_that_wraps_another_counts_once() -> None:
    outer = child("l1", "llm", 0.2, cost=0.5, input_tokens=7, output_tokens=2)
    inner = child("l2", "llm", 0.3, cost=0.5, input_tokens=7, output_tokens=2, parent_span_id="l1")
    turn = turn_from(asked("t1", "book a room", 0), outer, inner)
    assert (turn.cost, turn.input_tokens, turn.output_tokens) == (0.5, 7, 2)
    silent = child("l2", "llm", 0.3, parent_span_id="l1")
    assert turn_from(asked("t1", "book a room", 0), outer, silent).input_tokens == 7, "one that says nothing hides none"


@pytest.mark.parametrize(
    ("called", "made"),
    [
        ([["a"], ["b"], []], ["a", "b"]),
        ([["a"], ["b"], ["a", "b"]], ["a", "b"]),
        ([[], []], []),
        ([["a", "a"]], ["a", "a"]),
    ],
)
def test_calls_that_a_history_repeats_count_once(called: list[list[str]], made: list[str]) -> None:
    calls = [child(f"l{n}", "llm", 0.1 * n, called_tools=some) for n, some in enumerate(called)]
    turn = turn_from(asked("t1", "book a room", 0), *calls)
    assert (turn.called_tools, turn.tool_calls) == (made, len(made))


def test_spans_that_an_older_version_kept_are_read() -> None:
    new = ("cost", "prompt_name", "prompt_version", "called_tools")
    spans = (asked("t1", "book a room", 0), child("l1", "llm", 0.2, input_tokens=5))
    nodes = {one.span_id: {k: v for k, v in node_of(one).items() if k not in new} for one in spans}
    (top,) = roots(nodes)
    turn = turn_of(top, members([top], nodes)[top["span_id"]], 0, "t")
    assert turn is not None
    assert (turn.cost, turn.called_tools, turn.input_tokens) == (None, [], 5)


def test_a_root_waits_for_late_spans() -> None:
    bench = Bench()
    bench.send(asked("t1", "hello", 0))
    assert bench.tick(1.9) == []
    assert len(turns(bench.tick(2.0))) == 1
    assert bench.tick(2.1) == []


def test_a_span_after_its_turn_emits_the_turn_again_under_the_same_id() -> None:
    bench = Bench()
    bench.send(asked("t1", "hello", 0))
    (first,) = turns(bench.tick(3))
    (again,) = turns(bench.send(child("a1", "tool", tool_name="find")))
    assert (again.event_id, again.turn_index) == (first.event_id, first.turn_index)
    assert (first.tool_calls, again.tool_calls) == (0, 1)
    assert bench.send(child("c1", "chain")) == [], "nothing about the turn changed"


def test_a_trace_whose_texts_an_earlier_release_deflated_is_read() -> None:
    bench, text = Bench(), "a long answer. " * 200
    bench.send(asked("t1", "hello", 0, output=text), child("l1", "llm", 0.2, output=text))
    (first,) = turns(bench.tick(3))
    ((key, state),) = list(bench.store)
    trace = state.data["traces"]["t1"]
    packed = {"z": base64.b64encode(zlib.compress(text.encode("utf-8", "surrogatepass"))).decode(), "n": len(text)}
    trace.update(form=3, texts=[packed if one == text else one for one in trace["texts"]])
    assert packed in trace["texts"]
    bench.store.put(key, state)
    (again,) = turns(bench.send(child("a1", "tool", tool_name="find")))
    assert first.output == again.output == text
    assert again.model_copy(update={"called_tools": [], "tool_calls": 0}) == first


@pytest.mark.parametrize("kept", [[], ["", []]], ids=["now", "as an earlier release wrote it"])
def test_a_span_that_comes_twice_says_nothing_more(kept: list[object]) -> None:
    bench = Bench()
    one = asked("t1", "hello", 0)
    bench.send(one)
    ((key, state),) = list(bench.store)
    assert state.memo == {one.event_id: []}
    state.memo[one.event_id] = kept
    bench.store.put(key, state)
    assert bench.send(one) == []
    assert bench.stage.erased(key, state.dump(), Subject(TENANT, "somebody else")) is None
    assert len(turns(bench.tick(3))) == 1


class Lengths:
    """Vectors that say how long a text is."""

    name, meaning, near = "lengths", True, 0.5

    def __call__(self, text: str) -> Array:
        return np.eye(8)[len(text) % 8]


def test_a_sessions_first_turn_has_a_sketch_of_its_message() -> None:
    bench = Bench()
    bench.stage = Assemble(vectors=Lengths())
    bench.send(asked("t1", "hello", 0), asked("t2", "again", 60))
    first, second = turns(bench.tick(63))
    assert first.sketch == sketch(np.eye(8)[5])
    assert second.sketch == ""
    corrected = asked("t1", "hello, you", 0, event_id="corrected")
    assert [one.sketch for one in turns(bench.send(corrected))] == [sketch(np.eye(8)[2])]
    plain = Bench()
    plain.send(asked("t1", "hello", 0))
    assert [one.sketch for one in turns(plain.tick(3))] == [""], "spelling is not what a text is about"


def test_text_and_metadata_come_from_the_model_call_when_the_root_has_none() -> None:
    bench = Bench()
    bench.send(
        asked("t1", "", 0, output="", category=""),
        child("l1", "llm", 0.1, input="first question", output="thinking", category="a"),
        child("l2", "llm", 0.2, input="first question", output="the answer", category="b"),
    )
    (turn,) = turns(bench.tick(3))
    assert (turn.input, turn.output, turn.category) == ("first question", "the answer", "b")


@pytest.mark.parametrize("output", ["", "answer"])
def test_only_what_was_answered_is_a_turn(output: str) -> None:
    bench = Bench()
    bench.send(asked("t1", "hello", 0, output=output))
    assert len(turns(bench.tick(3))) == bool(output)


def test_an_answer_that_comes_late_still_makes_the_turn() -> None:
    bench = Bench()
    bench.send(asked("t1", "hello", 0, output=""))
    assert bench.tick(3) == []
    bench.send(child("l1", "llm", output="here"))
    assert [one.output for one in turns(bench.tick(10))] == ["here"]


def test_agents_under_an_agent_are_not_turns() -> None:
    bench = Bench()
    sub = child("sub", "agent", 0.1, output="part of it", input="do a part")
    below = child("a1", "tool", 0.2, parent_span_id="sub", tool_name="find")
    bench.send(sub, below)
    assert bench.tick(3) == [], "its parent may still be at work"
    bench.send(asked("t1", "whole", 0))
    found = turns(bench.tick(31))
    assert [(one.input, one.tool_calls) for one in found] == [("whole", 1)]


def test_an_agent_whose_parent_never_comes_is_a_turn() -> None:
    bench = Bench()
    bench.send(asked("t1", "hello", 0, parent_span_id="elsewhere"))
    assert bench.tick(30.9) == []
    assert len(turns(bench.tick(31))) == 1


@pytest.mark.parametrize(
    ("kinds", "expected"),
    [
        (["llm"], 1),
        (["chain"], 1),
        (["tool"], 0),
        (["llm", "llm"], 2),
        (["chain>llm"], 1),
        (["other>llm"], 1),
        (["other>tool"], 0),
        (["other>llm", "tool"], 1),
    ],
)
def test_roots_of_traces_without_an_agent(kinds: list[str], expected: int) -> None:
    bench = Bench()
    for number, kind in enumerate(kinds):
        top, _, below = kind.partition(">")
        one = child(f"x{number}", top, number, parent_span_id="", input="q", output="a")
        bench.send(one)
        if below:
            bench.send(child(f"y{number}", below, number, parent_span_id=f"x{number}", input="q", output="a"))
    assert len(turns(bench.tick(10))) == expected


def test_spans_in_a_circle_are_no_trap() -> None:
    bench = Bench()
    bench.send(child("x", "llm", parent_span_id="y", output="a"), child("y", "llm", parent_span_id="x", output="b"))
    bench.send(child("z", "agent", parent_span_id="z", input="q", output="c"))
    assert len(turns(bench.tick(60))) == 1


@pytest.mark.parametrize(
    ("second", "gap", "expected"),
    [
        ("vpn password reset please", 20, ["rephrase"]),
        ("vpn password reset please", 400, []),
        ("Reset my VPN password!", 20, ["repeat"]),
        ("no, that is wrong", 20, ["explicit_correction"]),
        ("no, I meant the vpn password", 20, ["explicit_correction", "rephrase"]),
        ("let me talk to a human", 20, ["escalation"]),
        ("perfect, thank you", 20, ["task_complete"]),
        ("no thanks, that's all", 20, ["task_complete"]),
        ("when is payday", 20, ["proceeded"]),
        ("my manager is on holiday, who signs?", 20, ["proceeded"]),
    ],
)
def test_the_next_message_speaks_of_the_answer_before(second: str, gap: float, expected: list[str]) -> None:
    bench = Bench()
    bench.send(asked("t1", "reset my vpn password", 0), asked("t2", second, 2 + gap))
    found = bench.tick(gap + 5)
    assert names(found) == [(name, "t1.r-t1") for name in expected]
    for one in found:
        if isinstance(one, Signal):
            assert (one.kind, one.source, one.trace_id) == ("implicit", "assemble", "t1")
            assert one.redaction.policy_version
            assert (one.value < 0) == bool(one.text)


def test_a_session_closes_after_its_gap_and_is_then_forgotten() -> None:
    bench = Bench()
    bench.send(asked("t1", "reset my vpn", 0))
    bench.tick(3)
    assert bench.tick(600) == []
    assert names(bench.tick(601)) == [("abandonment", "t1.r-t1")]
    assert bench.tick(1_800) == bench.tick(1_801) == bench.tick(1_802) == []
    assert bench.tick(1_801 + 301) == []
    assert list(bench.store) == []


def test_who_said_thanks_has_not_abandoned() -> None:
    bench = Bench()
    bench.send(asked("t1", "reset my vpn", 0), asked("t2", "thanks!", 10))
    bench.tick(14)
    assert names(bench.tick(4_000)) == []


def test_a_clock_a_day_off_neither_closes_nor_holds_a_session() -> None:
    for days in (-1, 1):
        bench = Bench()
        there = START + timedelta(days=days)
        bench.send(asked("t1", "reset my vpn", 0, event_time=there))
        assert len(turns(bench.tick(3))) == 1
        assert bench.tick(600) == []
        assert len(names(bench.tick(601))) == 1


def test_consent_is_the_strictest_of_the_trace() -> None:
    bench = Bench()
    bench.send(asked("t1", "hello", 0), child("l1", "llm", consent_train=False))
    assert [one.consent_train for one in turns(bench.tick(3))] == [False]
    bench = Bench()
    bench.send(asked("t1", "hello", 0), child("l1", "llm", consent_evaluate=False))
    assert [(one.consent_train, one.consent_evaluate) for one in turns(bench.tick(3))] == [(True, False)]


def test_state_stays_bounded_in_an_endless_session() -> None:
    bench = Bench()
    sizes: list[int] = []
    for number in range(300):
        bench.send(
            asked(f"t{number}", f"question {number}", 10 * number), child("x", "tool", trace_id=f"lost-{number}")
        )
        bench.tick(10 * number + 5)
        sizes.append(len(next(state.dump() for _, state in bench.store)))
    assert max(sizes[250:]) < 1.3 * max(sizes[130:170])


def test_a_trace_without_end_is_cut() -> None:
    bench = Bench()
    bench.stage = Assemble(AssembleSettings(trace_spans=10))
    bench.send(*[child(f"x{number}", "tool") for number in range(50)])
    bench.send(asked("t1", "hello", 0))
    assert [one.tool_calls for one in turns(bench.tick(40))] == [10]


def test_old_turns_do_not_come_back() -> None:
    bench = Bench()
    for number in range(10):
        bench.send(asked(f"t{number}", f"question {number}", 10 * number))
        bench.tick(10 * number + 5)
    late = child("a1", "tool", trace_id="t0", parent_span_id="r-t0")
    assert bench.send(late) == []
    assert turns(bench.tick(500)) == []


def test_any_order_gives_the_same_turns() -> None:
    world = World(seed=5, sessions=8)
    spans = [one for one in world.clean() if one.topic == "agent.spans"]

    def run(messages: list[Message]) -> dict[str, Turn]:
        last = max(one.time for one in messages)
        moved = [Message(m.topic, m.offset, m.key, m.value, last) for m in messages]
        done = run_in_memory([Assemble()], moved, [last + timedelta(seconds=60)])
        return {t.turn_id: t for t in (one for one in done.records(TURNS))}

    first = run(spans)
    assert len(first) == len({op.trace for op in world.ops})
    for seed in range(3):
        shuffled = random.Random(seed).sample(spans, len(spans))
        assert run(shuffled) == first


def test_what_an_evaluator_does_is_no_turn() -> None:
    bench = Bench()
    bench.send(asked("a", "reset my vpn", 0))
    judge = span(trace_id="e", span_id="judge", kind="evaluator", input="is it right?", output="no", **at(5))
    model = span(trace_id="e", span_id="model", parent_span_id="judge", kind="llm", input="judge", output="no", **at(5))
    inline = span(trace_id="a", span_id="check", parent_span_id="r-a", kind="evaluator", output="fine", **at(1))
    below = span(trace_id="a", span_id="m2", parent_span_id="check", kind="llm", output_tokens=7, **at(1))
    bench.send(judge, model, inline, below)
    (found,) = turns(bench.tick(60))
    assert (found.trace_id, found.output_tokens) == ("a", 0)


def test_what_a_session_has_in_common_leaves_with_a_person() -> None:
    """The first turn's facts stand for those of later turns: an erasure takes none from the others."""
    bench = Bench()
    for number, who in enumerate(["me", "me", "you", "you"]):
        bench.send(asked(f"t{number}", f"question {number}", 20 * number, subject_hash=who, consent_train=who == "me"))
        bench.tick(20 * number + 5)
    ((key, state),) = list(bench.store)
    after, _ = bench.stage.erased(key, state.dump(), Subject(TENANT, "me")) or (state, [])
    assert '"me"' not in plain(after.dump())
    bench.store.put(key, after)
    bench.send(asked("t4", "no, that is wrong", 80, subject_hash="you", consent_train=True))
    found = [one for one in bench.tick(85) if isinstance(one, Signal) and one.name == "explicit_correction"]
    assert [(one.turn_id, one.subject_hash, one.consent_train) for one in found] == [("t3.r-t3", "you", False)]
