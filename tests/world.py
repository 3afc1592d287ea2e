"""A small seeded world of agents and users, and the pipeline in memory: what stage tests run on.

``Ops`` are operations of an imagined support router. ``clean`` renders them as redacted spans (for stages after
redaction), ``raw`` as OTLP requests and signals, as producers send them. Nothing here is random but by seed.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from processors.stage import Message, Stage
from processors.state import MemoryState
from schemas import codec
from schemas.events import (
    Label,
    Outcome,
    RawSignal,
    Record,
    Redaction,
    Sample,
    Score,
    Signal,
    Span,
    Turn,
    identity,
)
from schemas.topics import OTLP_LOGS, OTLP_SPANS, SIGNALS_RAW, topic_of

START = datetime(2026, 1, 5, 9, tzinfo=UTC)
TENANT, AGENT = "acme", "support-router"
REDACTION = Redaction(policy_version="test-1", detector="test-1")

QUESTIONS = {
    "it": ["my laptop does not start", "reset the password of my mailbox", "the vpn drops every hour",
           "install a pdf reader", "the printer on floor two is jammed"],
    "hr": ["how many days of holiday are left", "parental leave rules", "where is my payslip for march",
           "change my bank account for salary", "who signs my reference letter"],
    "travel": ["book a train to Lyon", "refund for a cancelled flight", "which hotel is allowed in Oslo",
               "visa for a trip to India", "mileage for my own car"],
    "legal": ["review a supplier contract", "is this licence allowed", "who may sign for the company",
              "retention of customer records", "report a data incident"],
}  # fmt: skip


@dataclass(frozen=True)
class Op:
    """One operation: what a span says, before anyone rendered it."""

    session: str
    trace: str
    span: str
    parent: str
    kind: str
    start: datetime
    seconds: float
    input: str = ""
    output: str = ""
    tool: str = ""
    error: bool = False
    model: str = "router-v1"
    category: str = ""
    logprobs: tuple[float, float] | None = None
    score: float | None = None
    user: str = "u1"

    @property
    def accepted(self) -> datetime:
        return self.start + timedelta(seconds=self.seconds + 0.5)


@dataclass(frozen=True)
class Feedback:
    """One explicit signal, as a producer sends it."""

    session: str
    trace: str
    turn_id: str
    time: datetime
    value: float
    name: str = "rating"
    text: str = ""


def hex_id(*parts: object, size: int = 16) -> str:
    return identity(*map(str, parts))[:size]


@dataclass
class World:
    """``sessions`` visits, 20 seconds apart; from session ``shift`` on the agent is wrong much more often."""

    seed: int = 1
    sessions: int = 40
    shift: int = 10**9
    ops: list[Op] = field(default_factory=list[Op])
    feedback: list[Feedback] = field(default_factory=list[Feedback])

    def __post_init__(self) -> None:
        self.chance = random.Random(self.seed)
        for number in range(self.sessions):
            self._session(number)

    def _session(self, number: int) -> None:
        name, at = f"s{self.seed}-{number:05d}", START + timedelta(seconds=20 * number)
        text, truth = self._question()
        for index in range(self.chance.choice((1, 2, 2, 3))):
            wrong = self.chance.random() < (0.5 if number >= self.shift else 0.06)
            answer = self.chance.choice([c for c in QUESTIONS if c != truth]) if wrong else truth
            at = self._turn(name, index, at, text, answer, wrong)
            at += timedelta(seconds=self.chance.uniform(5, 60))
            if not wrong and self.chance.random() < 0.3:
                text = "great, thanks!"
                continue
            if wrong:
                text = self.chance.choice((f"no, I meant: {text}", f"{text} please", "I want to talk to a human"))
            else:
                text, truth = self._question()

    def _question(self) -> tuple[str, str]:
        truth = self.chance.choice(list(QUESTIONS))
        return self.chance.choice(QUESTIONS[truth]), truth

    def _turn(self, session: str, index: int, at: datetime, text: str, answer: str, wrong: bool) -> datetime:
        trace = hex_id(session, index, size=32)
        root, model = hex_id(trace, "root"), hex_id(trace, "llm")
        end = at + timedelta(seconds=2)
        logprobs = (-0.9, -1.2) if wrong and self.chance.random() < 0.7 else (-0.05, -3.5)
        common: dict[str, Any] = {"session": session, "trace": trace, "user": f"u{int(session[-2:]) % 7}"}
        self.ops += [
            Op(span=model, parent=root, kind="llm", start=at + timedelta(seconds=1), seconds=0.8, input=text,
               output=answer, logprobs=logprobs, **common),
            Op(span=root, parent="", kind="agent", start=at, seconds=2, input=text, output=answer,
               category=answer, **common),
        ]  # fmt: skip
        if self.chance.random() < 0.3:
            self.ops.append(
                Op(span=hex_id(trace, "tool"), parent=root, kind="tool", start=at + timedelta(seconds=0.2),
                   seconds=0.3, tool="directory", error=self.chance.random() < 0.1, **common)
            )  # fmt: skip
        if self.chance.random() < 0.3:
            self.ops.append(
                Op(span=hex_id(trace, "docs"), parent=root, kind="retrieval", start=at + timedelta(seconds=0.6),
                   seconds=0.2, score=self.chance.uniform(0.2, 0.9), **common)
            )  # fmt: skip
        if self.chance.random() < 0.15:
            about = f"{trace}.{root}"
            self.feedback.append(Feedback(session, trace, about, end + timedelta(seconds=2), -1.0 if wrong else 1.0))
        return end

    def clean(self) -> list[Message]:
        """The world after redaction: spans and signals, by the time of their acceptance."""
        records = [(op.accepted, span_of(op)) for op in self.ops]
        records += [(one.time, signal_of(one)) for one in self.feedback]
        return numbered([message(record, time=time) for time, record in records])

    def raw(self) -> list[Message]:
        """The world as producers send it: one OTLP request and one judge's word per trace, one signal per feedback."""
        traces: dict[str, list[Op]] = {}
        for op in self.ops:
            traces.setdefault(op.trace, []).append(op)
        found = [otlp_message(ops) for ops in traces.values()]
        judged = [judged_message(ops) for ops in traces.values()]
        return numbered([*found, *judged, *[raw_signal(one) for one in self.feedback]])

    @property
    def end(self) -> datetime:
        return max(op.accepted for op in self.ops) + timedelta(days=1)

    def ticks(self, every: float = 30.0) -> list[datetime]:
        """Regular ticks until every session has closed."""
        count = int((self.end - START).total_seconds() / every)
        return [START + timedelta(seconds=every * n) for n in range(1, count + 2)]


def numbered(messages: Iterable[Message]) -> list[Message]:
    """Messages by time, with offsets of their topics."""
    counts: dict[str, int] = {}
    out: list[Message] = []
    for one in sorted(messages, key=lambda m: m.time):
        offset = counts.get(one.topic, 0)
        counts[one.topic] = offset + 1
        out.append(Message(one.topic, offset, one.key, one.value, one.time, one.headers))
    return out


def message(record: Record, offset: int = 0, time: datetime | None = None) -> Message:
    """A record as a message of its topic."""
    topic = topic_of(record)
    return Message(topic.name, offset, topic.key(record), codec.encode(record), time or record.event_time)


def span_of(op: Op) -> Span:
    top1, top2 = op.logprobs or (None, None)
    return span(
        session_id=op.session, trace_id=op.trace, span_id=op.span, parent_span_id=op.parent, kind=op.kind,
        event_time=op.start, received_time=op.accepted, duration_us=int(op.seconds * 1e6), input=op.input,
        output=op.output, tool_name=op.tool, status="error" if op.error else "ok", model_version=op.model,
        category=op.category, logprob_top1=top1, logprob_top2=top2, retrieval_score=op.score,
        subject_hash=hex_id(op.user, size=32),
    )  # fmt: skip


def signal_of(one: Feedback) -> Signal:
    return signal(
        session_id=one.session, turn_id=one.turn_id, name=one.name, value=one.value, event_time=one.time,
        received_time=one.time, text=one.text,
    )  # fmt: skip


def otlp_message(ops: Sequence[Op]) -> Message:
    """One trace as an OTLP request, in OpenInference names."""
    request = ExportTraceServiceRequest()
    resource = request.resource_spans.add()
    _attribute(resource.resource.attributes, "service.name", AGENT)
    scope = resource.scope_spans.add()
    for op in ops:
        _otlp_span(scope.spans.add(), op)
    time = max(op.accepted for op in ops)
    headers = {"tenant": TENANT, "ledger": "gateway"}
    return Message(OTLP_SPANS.name, 0, f"{TENANT}/{AGENT}", request.SerializeToString(), time, headers)


def _otlp_span(into: Any, op: Op) -> None:
    into.trace_id, into.span_id = bytes.fromhex(op.trace), bytes.fromhex(op.span)
    into.parent_span_id = bytes.fromhex(op.parent)
    into.name = op.tool or op.kind
    into.start_time_unix_nano = int(op.start.timestamp() * 1e9)
    into.end_time_unix_nano = int((op.start.timestamp() + op.seconds) * 1e9)
    into.status.code = 2 if op.error else 1
    kind = "RETRIEVER" if op.kind == "retrieval" else op.kind.upper()
    values = {
        "openinference.span.kind": kind, "session.id": op.session, "user.id": op.user, "input.value": op.input,
        "output.value": op.output, "tool.name": op.tool, "driftwheel.category": op.category,
        "driftwheel.model.version": op.model,
    }  # fmt: skip
    for name, value in values.items():
        if value:
            _attribute(into.attributes, name, value)
    if op.logprobs:
        _attribute(into.attributes, "driftwheel.logprobs.top1", op.logprobs[0])
        _attribute(into.attributes, "driftwheel.logprobs.top2", op.logprobs[1])
    if op.score is not None:
        _attribute(into.attributes, "retrieval.documents.0.document.score", op.score)


def _attribute(into: Any, key: str, value: str | float) -> None:
    one = into.add(key=key)
    if isinstance(value, str):
        one.value.string_value = value
    else:
        one.value.double_value = value


def judged_message(ops: Sequence[Op]) -> Message:
    """An evaluation of a trace as an OTLP logs request, beside a log record that is nobody's feedback."""
    request = ExportLogsServiceRequest()
    resource = request.resource_logs.add()
    _attribute(resource.resource.attributes, "service.name", AGENT)
    records, time = resource.scope_logs.add().log_records, max(op.accepted for op in ops)
    records.add(severity_text="INFO").body.string_value = "a log line"
    record = records.add(event_name="gen_ai.evaluation.result", time_unix_nano=int(time.timestamp() * 1e9))
    record.trace_id, record.span_id = bytes.fromhex(ops[0].trace), bytes.fromhex(ops[0].span)
    _attribute(record.attributes, "gen_ai.evaluation.name", "correctness")
    _attribute(record.attributes, "gen_ai.evaluation.score.value", 0.75)
    headers = {"tenant": TENANT, "ledger": "gateway"}
    return Message(OTLP_LOGS.name, 0, f"{TENANT}/{AGENT}", request.SerializeToString(), time, headers)


def raw_signal(one: Feedback) -> Message:
    body = {"name": one.name, "agent": AGENT, "session_id": one.session, "turn_id": one.turn_id, "value": one.value,
            "time": one.time.isoformat()}  # fmt: skip
    record = RawSignal(
        event_id=identity("raw", one.turn_id, one.name), tenant=TENANT, agent=AGENT, event_time=one.time,
        payload=json.dumps(body),
    )  # fmt: skip
    return Message(
        SIGNALS_RAW.name,
        0,
        f"{TENANT}/{AGENT}",
        codec.encode(record),
        one.time,
        {"tenant": TENANT, "ledger": "gateway"},
    )


def _made(record: type[Record], defaults: dict[str, Any], given: dict[str, Any]) -> Any:
    body = {"tenant": TENANT, "agent": AGENT, "event_time": START, **defaults, **given}
    name = record.__name__.lower()
    key = json.dumps([name, body], default=str, sort_keys=True)
    return record.model_validate({"event_id": identity("test", key), **body})


def span(**given: Any) -> Span:
    """A span with everything it must have; its id is its place in its trace."""
    defaults = {"redaction": REDACTION, "session_id": "s1", "trace_id": "t1", "span_id": "r1", "kind": "agent"}
    body = {**defaults, "received_time": given.get("event_time", START), **given}
    return _made(Span, {"event_id": identity("span", body["trace_id"], body["span_id"])}, body)


def signal(**given: Any) -> Signal:
    defaults = {"redaction": REDACTION, "session_id": "s1", "name": "rating", "kind": "explicit"}
    return _made(Signal, defaults, given)


def turn(**given: Any) -> Turn:
    name = given.get("turn_id", "t1.r1")
    defaults = {"redaction": REDACTION, "session_id": "s1", "turn_id": name, "turn_index": 0, "trace_id": "t1",
                "input": "reset my vpn", "output": "it", "end_time": given.get("event_time", START)}  # fmt: skip
    return _made(Turn, defaults, given)


def score(**given: Any) -> Score:
    name = given.get("turn_id", "t1.r1")
    defaults = {"session_id": "s1", "turn_id": name, "turn_index": 0, "trace_id": name.partition(".")[0],
                "end_time": given.get("event_time", START), "uncertainty": 0.1, "p_failure": 0.1,
                "scorer": "test", "model_version": "v1", "category": "it"}  # fmt: skip
    return _made(Score, defaults, given)


def outcome(**given: Any) -> Outcome:
    defaults = {"session_id": "s1", "turn_id": "t1.r1", "trace_id": "t1", "verdict": "unknown", "p_failure": 0.1,
                "uncertainty": 0.1, "model_version": "v1", "category": "it"}  # fmt: skip
    return _made(Outcome, defaults, given)


def sample(**given: Any) -> Sample:
    defaults = {"redaction": REDACTION, "session_id": "s1", "turn_id": "t1.r1", "model_version": "v1",
                "category": "it", "reason": "failed", "propensity": 0.5, "input": "reset my vpn", "output": "it",
                "uncertainty": 0.5, "verdict": "failure"}  # fmt: skip
    return _made(Sample, defaults, given)


def label(**given: Any) -> Label:
    return _made(Label, {"redaction": REDACTION, "sample_id": "x", "value": "hr", "rater": "r1"}, given)


@dataclass
class Run:
    """What came of a run: every topic's messages in order, and every stage's keyed state."""

    stages: Sequence[Stage]
    topics: dict[str, list[Message]] = field(default_factory=dict[str, list[Message]])
    stores: dict[str, MemoryState] = field(default_factory=dict[str, MemoryState])
    order: list[Message] = field(default_factory=list[Message])
    _read: dict[str, int] = field(default_factory=dict[str, int])

    def publish(self, messages: Iterable[Message]) -> None:
        for one in messages:
            self.topics.setdefault(one.topic, []).append(one)
            self.order.append(one)

    def pump(self, now: datetime) -> None:
        """Let every stage read what it has not read, until nothing is left."""
        moved = True
        while moved:
            moved = sum(self._turn_of(stage, now) for stage in self.stages) > 0

    def _turn_of(self, stage: Stage, now: datetime) -> bool:
        names = {topic.name for topic in stage.sources}
        position = self._read.get(stage.name, 0)
        batch = [one for one in self.order[position:] if one.topic in names]
        self._read[stage.name] = len(self.order)
        if batch:
            self._emit(stage.process(batch, self.store(stage)), now)
        return bool(batch)

    def tick(self, now: datetime) -> None:
        for stage in self.stages:
            self._emit(stage.expire(self.store(stage), now), now)
            self.pump(now)

    def store(self, stage: Stage) -> MemoryState:
        return self.stores.setdefault(stage.name, MemoryState())

    def _emit(self, records: Iterable[Record], now: datetime) -> None:
        for record in records:
            name = topic_of(record).name
            self.publish([message(record, len(self.topics.get(name, [])), now)])

    def records(self, topic: Any) -> list[Any]:
        """The records of a topic, decoded."""
        return [codec.decode(one.value) for one in self.topics.get(topic.name, [])]


def run_in_memory(stages: Sequence[Stage], messages: Sequence[Message], ticks: Sequence[datetime] = ()) -> Run:
    """Feed messages by time through stages; between them let every tick happen at its time."""
    run, waiting = Run(stages), sorted(messages, key=lambda m: m.time)
    place = 0
    for now in sorted(ticks):
        upto = place
        while upto < len(waiting) and waiting[upto].time <= now:
            upto += 1
        run.publish(waiting[place:upto])
        place = upto
        run.pump(now)
        run.tick(now)
    run.publish(waiting[place:])
    run.pump(waiting[-1].time if waiting else START)
    return run
