"""Very many spans in one turn: what it counts stays right, and its state small."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from processors import folding, traces
from processors.assemble import Assemble
from processors.state import MemoryState, plain
from processors.traces import node_of, put, whole
from schemas.events import Span, Turn
from tests.world import START, message, span

EXACT = (
    "input", "output", "tool_calls", "tool_errors", "failed_tool", "retrievals", "retrieval_score", "input_tokens",
    "output_tokens", "consent_train", "consent_evaluate", "model", "end_time",
)  # fmt: skip
WORDS = " ".join(f"order{number} shipped{number}" for number in range(150))


def call(number: int) -> Span:
    """A call of a model, of one of two tools or a search, by turns; tool ``b`` fails often, and the last time."""
    kind = ("llm", "tool", "tool", "retrieval")[number % 4]
    tool = "ab"[number % 2] if kind == "tool" else ""
    when = START + timedelta(milliseconds=100 * number)
    return span(
        trace_id="t1", span_id=f"{number:016x}", parent_span_id="r" * 16, kind=kind, tool_name=tool, event_time=when,
        received_time=when + timedelta(seconds=1), input='{"same": 1}' if number % 3 else f'{{"n": {number}}}',
        output=f"{WORDS} {number}" if kind != "llm" else f"answer {number}", input_tokens=10 + number,
        output_tokens=number, cost=0.25, called_tools=["a"] if kind == "llm" else [],
        status="error" if (tool == "b" and number % 5 == 2) or number == 157 else "ok",
        retrieval_score=number / 1000 if kind == "retrieval" else None, consent_train=number != 7,
    )  # fmt: skip


def run(count: int) -> tuple[Turn, int]:
    """The turn of so many calls, and the largest state there was, in bytes."""
    stage, store, most = Assemble(), MemoryState(), 0
    root = span(
        trace_id="t1", span_id="r" * 16, kind="agent", event_time=START, input="where is it?", output="On its way.",
        received_time=START + timedelta(seconds=60), duration_us=90_000_000,
    )  # fmt: skip
    for offset, one in enumerate([*map(call, range(count)), root]):
        stage.process([message(one, offset)], store)
        most = max(most, *(len(plain(state.dump())) for _, state in store))
    (turn,) = [one for one in stage.expire(store, START + timedelta(seconds=70)) if isinstance(one, Turn)]
    return turn, most


def test_what_a_turn_of_very_many_spans_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    folded, small = run(160)
    monkeypatch.setattr(folding, "FULL", 1_000)
    monkeypatch.setattr(traces, "_SKETCHES", 1_000)
    plain, large = run(160)
    assert {name: getattr(folded, name) for name in EXACT} == {name: getattr(plain, name) for name in EXACT}
    assert sorted(folded.called_tools) == sorted(plain.called_tools)
    assert folded.cost == pytest.approx(plain.cost)
    for name in ("tool_failed", "tool_loop"):
        assert folded.faults.get(name) == plain.faults.get(name)
    assert folded.faults["tool_loop"] > 20
    assert small < 16_000 < 40_000 < large


def test_answers_without_a_known_parent_stay_turns() -> None:
    stage, store = Assemble(), MemoryState()
    spans = [
        call(4 * number).model_copy(update={"input": f"question {number}", "called_tools": []}) for number in range(40)
    ]
    stage.process([message(one, offset) for offset, one in enumerate(spans)], store)
    found = [one for one in stage.expire(store, START + timedelta(seconds=90)) if isinstance(one, Turn)]
    assert [one.input for one in found] == [one.input for one in spans]


def test_a_turn_of_few_spans_is_not_folded() -> None:
    trace: dict[str, Any] = {"nodes": {}, "turns": {}}
    for number in range(folding.FULL):
        put(trace, node_of(call(number)))
    assert [node["span_id"] for node in whole(trace).values()] == [call(n).span_id for n in range(folding.FULL)]


def test_spans_that_others_stand_below_are_not_folded() -> None:
    trace: dict[str, Any] = {"nodes": {}, "turns": {}}
    for number in range(0, 160, 4):
        put(trace, node_of(call(number)))
        put(trace, node_of(call(number + 1).model_copy(update={"parent_span_id": call(number).span_id})))
    assert len(trace["nodes"]) == 80


def test_spans_of_an_earlier_release_are_read() -> None:
    kept = [node_of(call(number)) for number in range(4)]
    shared = {name: kept[0][name] for name in ("session_id", "trace_id", "subject_hash", "agent", "model")}
    texts = list(dict.fromkeys(one["output"] for one in kept if one["output"]))
    old: dict[str, Any] = {
        "nodes": {
            one["span_id"]: {name: value for name, value in one.items() if name not in (*shared, "span_id")}
            | ({"output": texts.index(one["output"])} if one["output"] else {})
            for one in kept
        },
        "turns": {}, "due": None, "shared": shared | {"model_version": ""}, "texts": texts,
    }  # fmt: skip
    traces.renewed(old)
    assert old["form"] == traces.FORM
    assert list(whole(old).values()) == kept


def test_words_that_many_spans_found_are_kept_once_and_let_go() -> None:
    trace: dict[str, Any] = {"nodes": {}, "turns": {}}
    for number in range(3, 80, 4):
        put(trace, node_of(call(number).model_copy(update={"output": WORDS if number > 60 else f"found {number}"})))
    kept = [one["seen"]["words"] for one in whole(trace).values() if "words" in one.get("seen", ())]
    assert (len(kept), len(set(kept))) == (8, 4)
    assert sorted(set(kept)) == sorted(one for one in trace["texts"] if str(one).startswith("~"))


def test_words_of_an_earlier_release_are_read() -> None:
    """It wrote them with what else a span shows."""
    trace: dict[str, Any] = {"nodes": {}, "turns": {}, "form": 2}
    for number in range(3, 23, 4):
        put(trace, node_of(call(number)))
    present = whole(trace)
    for kept in trace["nodes"].values():
        kept["f"]["words"] = trace["texts"][kept.pop("w")]
    old = whole(trace)
    traces.renewed(trace)
    assert whole(trace) == present == old
    assert (trace["form"], all("w" in kept for kept in trace["nodes"].values())) == (traces.FORM, True)
