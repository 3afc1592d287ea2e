"""CPU and state of the four stages that judge: ``python benchmarks/turn_cost.py --data FOLDER [--models FOLDER]``.

Conversations of ``agent_trajectories`` as an instrumented agent would send them: a trace for each user message, with an
agent span, a span for each answer of the model and one for each tool call, after redaction. The spans of a turn come
together, as exporters send them, or (``--alone``) each in a batch of its own, which is the worst there is; every batch
reads its state from JSON and writes it back, as engines do. Reported: CPU milliseconds per turn by stage, and the
largest state that a session had in the stages that keep one (assemble and attribute together), as it is written. What a
process pays once (schemas, patterns) is paid in a first conversation that does not count; Python collects cycles as
seldom as in a worker.
``--models`` names the folder of the models: it is by default where ``driftwheel models fetch`` puts them. Where the
static embedding is there, a second run compares by it.
"""

from __future__ import annotations

import argparse
import gzip
import json
import sys
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

import numpy as np
from rich.console import Console

from connectors import static_embeddings
from connectors.embeddings import Cached, Meaning, MeaningVectors
from connectors.static_embeddings import APART, AT, Static
from driftwheel.config import Config
from driftwheel.memory import rare_collections
from processors.assemble import Assemble
from processors.attribute import Attribute
from processors.detect_drift import DetectDrift
from processors.likeness import LETTERS
from processors.score import ScoreTurns
from processors.stage import Message, Stage
from processors.state import KeyState, MemoryState
from schemas import codec
from schemas.events import Record, Redaction, Span, identity
from schemas.topics import topic_of

START = datetime(2026, 3, 2, 9, tzinfo=UTC)
REDACTION = Redaction(policy_version="bench-1", detector="bench-1", counts={"PERSON": 1})
MOST = 20_000
"""Bytes that the state of an open session may have."""
FILES = ("tau2_retail.jsonl.gz", "tau2_airline.jsonl.gz", "tau2_telecom.jsonl.gz")


def conversations(folder: Path, limit: int) -> Iterator[dict[str, Any]]:
    """The first ``limit`` conversations of every file."""
    for name in FILES:
        with gzip.open(folder / name, "rt") as lines:
            for _, line in zip(range(limit), lines, strict=False):
                yield json.loads(line)


def turns_of(messages: Sequence[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    """The messages by turn: from each message of the user to the next; what users do with tools is not the agent's."""
    held: list[dict[str, Any]] = []
    for one in messages:
        if one.get("requestor") == "user" or (one["role"] == "user" and not one.get("content")):
            continue
        if one["role"] == "user" and held:
            yield held
            held = []
        if held or one["role"] == "user":
            held.append(one)
    if held:
        yield held


def spans_of(session: str, number: int, messages: Sequence[dict[str, Any]]) -> list[Span]:
    """One turn as spans, children first, as exporters send them."""
    at, trace = START + timedelta(seconds=45 * number), identity(session, str(number))
    asked = str(messages[0].get("content") or "")
    answers = [str(one.get("content") or "") for one in messages if one["role"] == "assistant" and one.get("content")]
    common: dict[str, Any] = {
        "tenant": "acme", "agent": "shop-agent", "subject_hash": identity("user", session), "redaction": REDACTION,
        "session_id": session, "trace_id": trace, "model": "gpt-4.1", "model_version": "gpt-4.1-2025",
    }  # fmt: skip
    root, found = identity("root", trace)[:16], list[Span]()

    def add(kind: str, place: int, **given: Any) -> None:
        span_id = root if kind == "agent" else identity(trace, str(place))[:16]
        time = at + timedelta(milliseconds=500 * place)
        found.append(Span.model_validate(
            {**common, "event_id": identity("span", trace, span_id), "span_id": span_id, "kind": kind, "name": kind,
             "parent_span_id": "" if kind == "agent" else root, "event_time": time, "status": "ok",
             "duration_us": 400_000, "received_time": time + timedelta(seconds=5), "input_tokens": 900,
             "output_tokens": 80, **given}
        ))  # fmt: skip

    calls = {call["id"]: call for one in messages for call in one.get("tool_calls") or () if call.get("id")}
    for place, one in enumerate(messages[1:], 1):
        if one["role"] == "assistant":
            wanted = [_named(call) for call in one.get("tool_calls") or ()]
            said = str(one.get("content") or json.dumps([call[:2] for call in wanted]))
            add("llm", place, input=asked, output=said, called_tools=[name for name, _ in wanted])
        elif one["role"] == "tool":
            name, given = _named(calls.get(one.get("tool_call_id") or one.get("id"), {}))
            status = "error" if str(one.get("content", "")).startswith("Error") else "ok"
            add("tool", place, tool_name=name, input=given, output=str(one.get("content") or ""), status=status)
    if answers:
        add("agent", 0, input=asked, output=answers[-1])
    return found


def _named(call: dict[str, Any]) -> tuple[str, str]:
    held = call.get("function", call)
    return str(held.get("name", "tool")), json.dumps(held.get("arguments", {}))


class Timed(MemoryState):
    """State with an index of its timers, as the engines have one."""

    def __init__(self) -> None:
        super().__init__()
        self._due: dict[str, datetime] = {}

    def put(self, key: str, state: KeyState) -> None:
        """See StateStore."""
        super().put(key, state)
        self._due.pop(key, None)
        if state.due is not None:
            self._due[key] = state.due

    def delete(self, key: str) -> None:
        """See StateStore."""
        super().delete(key)
        self._due.pop(key, None)

    def due(self, now: datetime) -> list[str]:
        """See StateStore."""
        return sorted((key for key, due in self._due.items() if due <= now), key=lambda key: (self._due[key], key))


class Cost:
    """The stages with their state, and what they took."""

    def __init__(self, assemble: Assemble) -> None:
        self.stages: list[Stage] = [assemble, ScoreTurns(), Attribute(), DetectDrift()]
        self.stores = {stage.name: Timed() for stage in self.stages}
        self.spent = {stage.name: 0.0 for stage in self.stages}
        self.counts: dict[str, int] = {}
        self.largest: list[int] = []

    def pass_on(self, records: Sequence[Record], now: datetime, place: int = 0) -> None:
        """Let every stage from ``place`` on read these records, and what the stages before it made of them."""
        flow = list(records)
        for stage in self.stages[place:]:
            names = {topic.name for topic in stage.sources}
            batch = [self._message(stage.name, one, now) for one in flow if topic_of(one).name in names]
            if batch:
                begun = time.process_time()
                flow += stage.process(batch, self.stores[stage.name])
                self.spent[stage.name] += time.process_time() - begun

    def _message(self, name: str, record: Record, now: datetime) -> Message:
        topic, place = topic_of(record), self.counts.get(name, 0)
        self.counts[name] = place + 1
        return Message(topic.name, place, topic.key(record), codec.encode(record), now)

    def tick(self, now: datetime) -> None:
        """Let time pass for every stage that has timers due."""
        for place, stage in enumerate(self.stages):
            begun = time.process_time()
            found = stage.expire(self.stores[stage.name], now)
            self.spent[stage.name] += time.process_time() - begun
            if found:
                self.pass_on(found, now, place + 1)

    def size(self) -> int:
        """Bytes of the state of the sessions that are open, in all stages."""
        kept = [state for stage in self.stages if stage.by == "session" for _, state in self.stores[stage.name]]
        return sum(len(state.dump()) for state in kept)


def measured(talks: Sequence[dict[str, Any]], assemble: Assemble, alone: bool) -> tuple[Cost, int]:
    """Every conversation, one after the other; how many turns there were."""
    cost, turns = Cost(assemble), 0
    for place, talk in enumerate(talks):
        session, sizes = f"session-{place:04d}", [0]
        for number, messages in enumerate(turns_of(talk["messages"])):
            spans = spans_of(session, number, messages)
            for batch in [[one] for one in spans] if alone or not spans else [spans]:
                cost.pass_on(batch, max(one.received_time for one in batch))
                sizes.append(cost.size())
            cost.tick(START + timedelta(seconds=45 * number + 44))
            sizes.append(cost.size())
            turns += 1
        for hours in (1, 3, 9):
            cost.tick(START + timedelta(hours=hours))
        cost.largest.append(max(sizes))
    return cost, turns


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="the folder of agent_trajectories")
    parser.add_argument("--models", type=Path, default=Config().models.folder)
    parser.add_argument("--limit", type=int, default=40, help="conversations of each file")
    parser.add_argument("--alone", action="store_true")
    options = parser.parse_args()
    talks = list(conversations(options.data, options.limit))
    measures = [(LETTERS.name, Assemble())]
    if static_embeddings.look(options.models).state == "ready":
        texts = Cached(Static(options.models / static_embeddings.NAME), 2_000)
        measures.append((texts.name, Assemble(alike=Meaning(texts, AT, APART), vectors=MeaningVectors(texts))))
    for name, assemble in measures:
        measured(talks[:1], assemble, options.alone)
        with rare_collections():
            cost, turns = measured(talks, assemble, options.alone)
        whole = 1000.0 * sum(cost.spent.values()) / turns
        parts = ", ".join(f"{name} {1000.0 * spent / turns:.2f}" for name, spent in cost.spent.items())
        Console().print(f"{len(talks)} conversations, {turns} turns, {name}: {whole:.2f} ms of CPU a turn ({parts})")
        shares = ", ".join(f"{one / 1000.0:.1f}" for one in np.percentile(cost.largest, [50, 95, 100]))
        above = sum(one > MOST for one in cost.largest)
        Console().print(f"largest state of a session, kB: median, p95, most {shares}; {above} above {MOST / 1000:.0f}")


if __name__ == "__main__":
    main()
