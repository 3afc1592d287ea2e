"""Stories through the product's own stages in memory, as OTLP in different frameworks' names."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Status

import processors.attribute as attributing
from benchmarks.attribution.stories import Op, Story
from processors import evidence
from processors.assemble import Assemble
from processors.attribute import Attribute
from processors.causes import Case
from processors.redact import Redact
from processors.score import ScoreTurns
from processors.stage import Message, Stage
from processors.state import MemoryState
from schemas import codec
from schemas.events import Outcome, RawSignal, Record, Score, Signal, Span, Turn, identity
from schemas.topics import OTLP_SPANS, SIGNALS_RAW, topic_of

START = datetime(2026, 3, 2, 9, tzinfo=UTC)
TENANT, AGENT = "bench", "help-desk"
EVERY = 60


class Told(NamedTuple):
    """What became of a story: the newest outcome of the turn that fails, and the case as rules and model saw it."""

    story: Story
    outcome: Outcome
    case: Case


def replay(stories: Iterable[Story]) -> Iterator[Told]:
    """Every story through redact, assemble, score and attribute. A story whose turn is no failure raises."""
    redact = Redact()
    for number, one in enumerate(stories):
        yield _one(one, f"s{number}", redact)


def _one(story: Story, session: str, redact: Redact) -> Told:
    """``judge`` is listened to, so that the case is the very one that the outcome rests on."""
    cases: dict[str, Case] = {}
    judge = evidence.judge

    def listening(turn: dict[str, Any], found: Any, rules: Any, rerouted: bool = False, learnt: Any = None) -> Any:
        cases[turn["turn_id"]] = evidence.case_of(turn, evidence.newest(found), rerouted)
        return judge(turn, found, rules, rerouted, learnt)

    attributing.judge = listening
    try:
        outcomes = _run(story, session, redact)
    finally:
        attributing.judge = judge
    failing = f"{_hex(session, story.fails, size=32)}.{_hex(session, story.fails, 0)}"
    newest = [one for one in outcomes if one.turn_id == failing][-1]
    if newest.verdict != "failure":
        raise ValueError(f"{story.form} {session}: the turn that was to fail is a {newest.verdict}")
    return Told(story, newest, cases[failing])


def _run(story: Story, session: str, redact: Redact) -> list[Outcome]:
    flow = _Flow(redact)
    for number, ops in enumerate(story.turns):
        at = START + timedelta(seconds=EVERY * number)
        flow.send([_request(ops, session, number, at, story.dialect)], at + timedelta(seconds=4))
        flow.tick(at + timedelta(seconds=20))
    end = START + timedelta(seconds=EVERY * len(story.turns))
    for place, body in enumerate(story.said):
        about = story.fails + body.get("turn", 0)
        turn_id = f"{_hex(session, about, size=32)}.{_hex(session, about, 0)}"
        flow.send([_signal(body, session, turn_id, place, end)], end)
    for hours in (1, 2):
        flow.tick(end + timedelta(hours=hours))
    return flow.outcomes


class _Flow:
    """The four stages, one after the other, with their state."""

    def __init__(self, redact: Redact) -> None:
        self._stages: list[tuple[Stage, MemoryState]] = [
            (one, MemoryState()) for one in (redact, Assemble(), ScoreTurns(), Attribute())
        ]
        self.outcomes: list[Outcome] = []

    def send(self, messages: list[Message], now: datetime) -> None:
        for stage, state in self._stages:
            names = {topic.name for topic in stage.sources}
            made = stage.process([one for one in messages if one.topic in names], state)
            messages = [*messages, *_messages(made, now)]
            self.outcomes += [one for one in made if isinstance(one, Outcome)]

    def tick(self, now: datetime) -> None:
        for place, (stage, state) in enumerate(self._stages):
            if stage.by is None or place == 0:
                continue
            made = stage.expire(state, now)
            self.outcomes += [one for one in made if isinstance(one, Outcome)]
            if made:
                self._after(place, made, now)

    def _after(self, place: int, made: list[Record], now: datetime) -> None:
        messages = _messages(made, now)
        for stage, state in self._stages[place + 1 :]:
            names = {topic.name for topic in stage.sources}
            found = stage.process([one for one in messages if one.topic in names], state)
            self.outcomes += [one for one in found if isinstance(one, Outcome)]
            messages += _messages(found, now)


def _messages(records: Iterable[Record], now: datetime) -> list[Message]:
    kept = [one for one in records if isinstance(one, (Span, Signal, Turn, Score))]
    return [Message(topic_of(one).name, 0, topic_of(one).key(one), codec.encode(one), now) for one in kept]


def _hex(*parts: object, size: int = 16) -> str:
    return identity(*map(str, parts))[:size]


def _signal(body: dict[str, Any], session: str, turn_id: str, place: int, at: datetime) -> Message:
    said = {
        "agent": AGENT,
        "session_id": session,
        "turn_id": turn_id,
        "time": at.isoformat(),
        "id": f"{session}-{place}",
    }
    record = RawSignal(
        event_id=identity("raw", session, str(place)), tenant=TENANT, agent=AGENT, event_time=at,
        payload=json.dumps(said | {name: value for name, value in body.items() if name != "turn"}),
    )  # fmt: skip
    headers = {"tenant": TENANT, "ledger": "gateway"}
    return Message(SIGNALS_RAW.name, place, f"{TENANT}/{AGENT}", codec.encode(record), at, headers)


def _request(ops: list[Op], session: str, number: int, at: datetime, dialect: str) -> Message:
    request = ExportTraceServiceRequest()
    resource = request.resource_spans.add()
    _put(resource.resource.attributes, "service.name", AGENT)
    spans = resource.scope_spans.add().spans
    nanos, trace = int(at.timestamp()) * 10**9, _hex(session, number, size=32)
    for place, op in enumerate(ops):
        span = spans.add(
            name=op.name, trace_id=bytes.fromhex(trace), span_id=bytes.fromhex(_hex(session, number, place))
        )
        if place:
            span.parent_span_id = bytes.fromhex(_hex(session, number, op.under))
        span.start_time_unix_nano = nanos + place * 10**8
        span.end_time_unix_nano = nanos + (len(ops) * 10**8 + 10**9 if not place else place * 10**8 + 5 * 10**7)
        span.status.code = Status.STATUS_CODE_ERROR if op.error else Status.STATUS_CODE_UNSET
        span.status.message = op.error
        said = {"session.id": session} | _RENDER[dialect](op) | op.attributes
        if op.category:
            said["driftwheel.category"] = op.category
        for key, value in said.items():
            _put(span.attributes, key, value)
    headers = {"tenant": TENANT, "ledger": "gateway"}
    return Message(OTLP_SPANS.name, number, f"{TENANT}/{AGENT}", request.SerializeToString(), at, headers)


def _put(into: Any, key: str, value: Any) -> None:
    one = into.add(key=key)
    if isinstance(value, bool):
        one.value.bool_value = value
    elif isinstance(value, int):
        one.value.int_value = value
    elif isinstance(value, float):
        one.value.double_value = value
    else:
        one.value.string_value = str(value)


def _documents(op: Op) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for place, (text, score) in enumerate(op.docs or ()):
        base = f"retrieval.documents.{place}.document"
        found |= {f"{base}.id": f"d{place}", f"{base}.content": text} | (
            {} if score is None else {f"{base}.score": score}
        )
    return found


def _openinference(op: Op) -> dict[str, Any]:
    kind = {"retrieval": "RETRIEVER"}.get(op.kind, op.kind.upper())
    said = {"openinference.span.kind": kind, "input.value": op.input}
    said |= {"tool.name": op.name} if op.kind == "tool" else {}
    return said | ({"output.value": op.output} if op.docs is None else _documents(op))


def _genai(op: Op) -> dict[str, Any]:
    names = {"agent": "invoke_agent", "llm": "chat", "tool": "execute_tool", "chain": "invoke_workflow"}
    said: dict[str, Any] = {"gen_ai.operation.name": names.get(op.kind, op.kind)}
    if op.kind == "tool":
        asked = {"gen_ai.tool.name": op.name, "gen_ai.tool.call.arguments": op.input}
        return said | asked | {"gen_ai.tool.call.result": op.output}
    if op.docs is not None:
        rows = [
            {"id": f"d{n}", "content": text} | ({} if score is None else {"score": score})
            for n, (text, score) in enumerate(op.docs)
        ]
        return said | {"gen_ai.retrieval.query.text": op.input, "gen_ai.retrieval.documents": json.dumps(rows)}
    return said | {
        "gen_ai.input.messages": json.dumps([{"role": "user", "parts": [{"type": "text", "content": op.input}]}]),
        "gen_ai.output.messages": json.dumps(
            [{"role": "assistant", "parts": [{"type": "text", "content": op.output}]}]
        ),
    }


def _langfuse(op: Op) -> dict[str, Any]:
    kind = {"llm": "generation", "retrieval": "retriever"}.get(op.kind, op.kind)
    said = {"langfuse.observation.type": kind, "langfuse.observation.input": op.input}
    if op.docs is not None:
        return said | _documents(op)
    return said | {"langfuse.observation.output": op.output} | ({"gen_ai.tool.name": op.name} if kind == "tool" else {})


def _traceloop(op: Op) -> dict[str, Any]:
    if op.kind in ("llm", "retrieval"):
        return _genai(op)
    kind = {"chain": "task"}.get(op.kind, op.kind)
    named = {"traceloop.span.kind": kind, "traceloop.entity.name": op.name}
    return named | {"traceloop.entity.input": op.input, "traceloop.entity.output": op.output}


_RENDER = {"openinference": _openinference, "genai": _genai, "langfuse": _langfuse, "traceloop": _traceloop}
