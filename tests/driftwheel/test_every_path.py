"""A secret of its own in every place that an agent can fill, sent through the gateway; and nowhere in what is kept.

Looked through: every file of the data folder, every row of the store, every clean entry of the log, what the commands
tell, metrics, and what was logged. Values of raw topics are encrypted, and are raw on purpose.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from google.protobuf import json_format
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from connectors.clickhouse.tables import TABLES
from connectors.sqlite_log import SqliteLog
from driftwheel.config import load
from driftwheel.letters import LetterFilter
from driftwheel.ports import PRIVATE
from driftwheel.product import Product
from processors import PIPELINE
from processors.redact import Redact, RedactSettings
from processors.redact.clean import Cleaner
from processors.redact.drafts import Draft
from processors.stage import Message
from processors.state import MemoryState, plain
from schemas.errors import Invalid
from schemas.events import Clean, DeadLetter
from schemas.topics import OTLP_SPANS, TOPICS
from tests.processors.redacting import any_value, key_values, otlp, signal_message

T0 = datetime(2026, 1, 5, 9, tzinfo=UTC)
CHAT = {"gen_ai.operation.name": "chat", "session.id": "s"}
TOOL = {"gen_ai.operation.name": "execute_tool", "session.id": "s"}

Plant = Callable[[str], dict[str, Any]]


def said(text: str, role: str = "user") -> str:
    return json.dumps([{"role": role, "parts": [{"type": "text", "content": text}]}])


def called(arguments: Any) -> str:
    part = {"type": "tool_call", "id": "c1", "name": "find", "arguments": arguments}
    return json.dumps([{"role": "assistant", "parts": [part]}])


def answered(result: Any) -> str:
    return json.dumps([{"role": "tool", "parts": [{"type": "tool_call_response", "id": "c1", "response": result}]}])


ATTRIBUTES: dict[str, Plant] = {
    "message": lambda s: CHAT | {"gen_ai.input.messages": said(f"write to {s} please")},
    "answer": lambda s: CHAT | {"gen_ai.output.messages": said(f"written to {s}", "assistant")},
    "system prompt": lambda s: CHAT | {"gen_ai.system_instructions": json.dumps([{"type": "text", "content": s}])},
    "call in a message": lambda s: CHAT | {"gen_ai.output.messages": called({"to": s})},
    "call as text": lambda s: CHAT | {"gen_ai.output.messages": called(json.dumps({"to": s}))},
    "result in a message": lambda s: CHAT | {"gen_ai.input.messages": answered({"rows": [{"mail": s}]})},
    "key in a result": lambda s: CHAT | {"gen_ai.input.messages": answered({s: 1})},
    "old prompt": lambda s: {"gen_ai.prompt.0.role": "user", "gen_ai.prompt.0.content": s, "session.id": "s"},
    "old completion": lambda s: CHAT | {"gen_ai.completion.0.content": s},
    "openinference input": lambda s: {"openinference.span.kind": "LLM", "input.value": s, "session.id": "s"},
    "openinference output": lambda s: {"openinference.span.kind": "LLM", "output.value": s, "session.id": "s"},
    "openinference message": lambda s: CHAT | {"llm.input_messages.0.message.content": s},
    "openinference call": lambda s: CHAT | {
        "llm.output_messages.0.message.tool_calls.0.tool_call.function.arguments": json.dumps({"q": s})},
    "template variables": lambda s: CHAT | {"llm.prompt_template.variables": json.dumps({"name": s})},
    "tool arguments": lambda s: TOOL | {"gen_ai.tool.call.arguments": json.dumps({"a": [{"b": s}]})},
    "key in tool arguments": lambda s: TOOL | {"gen_ai.tool.call.arguments": json.dumps({s: True})},
    "tool result": lambda s: TOOL | {"gen_ai.tool.call.result": json.dumps({"rows": [[1, s]]})},
    "key in a tool result": lambda s: TOOL | {"gen_ai.tool.call.result": json.dumps({"by": {s: 2}})},
    "tool result that is no JSON": lambda s: TOOL | {"gen_ai.tool.call.result": f"<row mail='{s}'/>"},
    "tool parameters": lambda s: {"openinference.span.kind": "TOOL", "tool.parameters": s, "session.id": "s"},
    "tool description": lambda s: TOOL | {"gen_ai.tool.description": s},
    "tool definitions": lambda s: CHAT | {"gen_ai.tool.definitions": json.dumps([{"name": "f", "description": s}])},
    "tool name": lambda s: TOOL | {"gen_ai.tool.name": s},
    "call id": lambda s: TOOL | {"gen_ai.tool.call.id": s},
    "document": lambda s: {"openinference.span.kind": "RETRIEVER", "retrieval.documents.0.document.content": s},
    "document id": lambda s: {"openinference.span.kind": "RETRIEVER", "retrieval.documents.0.document.id": s},
    "document metadata": lambda s: {
        "openinference.span.kind": "RETRIEVER", "retrieval.documents.0.document.content": "x",
        "retrieval.documents.0.document.metadata": json.dumps({"author": s})},
    "query": lambda s: {"openinference.span.kind": "RETRIEVER", "input.value": s},
    "attribute": lambda s: CHAT | {"note": s},
    "attribute's name": lambda s: CHAT | {s: "x"},
    "attribute in JSON": lambda s: CHAT | {"context": json.dumps({"deep": [{"mail": s}]})},
    "attribute that is a list": lambda s: CHAT | {"many": ["x", s]},
    "attribute that is an object": lambda s: CHAT | {"deep": {"a": [1, {"b": s}]}},
    "address": lambda s: CHAT | {"url.full": f"https://x.example/reset?to={s}&n=1"},
    "address, encoded": lambda s: CHAT | {"http.url": f"https://x.example/?to={s.replace('@', '%40')}"},
    "header": lambda s: CHAT | {"http.request.header.x-user": s},
    "statement": lambda s: CHAT | {"db.query.text": f"SELECT 1 FROM users WHERE mail = '{s}'"},
    "user": lambda s: CHAT | {"user.id": s},
    "session": lambda s: CHAT | {"session.id": s},
    "conversation": lambda s: {"gen_ai.operation.name": "chat", "gen_ai.conversation.id": s},
    "agent": lambda s: CHAT | {"gen_ai.agent.name": s},
    "own agent": lambda s: CHAT | {"driftwheel.agent": s},
    "category": lambda s: CHAT | {"driftwheel.category": s},
    "model": lambda s: CHAT | {"gen_ai.request.model": s},
    "answering model": lambda s: CHAT | {"gen_ai.response.model": s},
    "provider": lambda s: CHAT | {"gen_ai.provider.name": s},
    "operation": lambda s: {"gen_ai.operation.name": s, "session.id": "s"},
    "metadata": lambda s: CHAT | {"metadata": json.dumps({"team": s}), "langfuse.trace.metadata.x": s},
    "tags": lambda s: CHAT | {"tag.tags": [s], "langfuse.trace.tags": [s]},
    "langfuse": lambda s: {"langfuse.observation.input": s, "langfuse.observation.type": "generation"},
    "traceloop": lambda s: {"traceloop.entity.input": json.dumps({"inputs": {"q": s}}), "traceloop.span.kind": "tool"},
    "number as text": lambda s: CHAT | {"gen_ai.usage.input_tokens": s},
    "consent": lambda s: CHAT | {"driftwheel.consent.train": s},
}  # fmt: skip
"""Attributes of a span with a secret in one of them."""

SHAPES: dict[str, Callable[[ExportTraceServiceRequest, str], object]] = {
    "span name": lambda r, s: setattr(span_of(r), "name", f"chat with {s}"),
    "status": lambda r, s: setattr(span_of(r).status, "message", f"no mailbox {s}"),
    "trace state": lambda r, s: setattr(span_of(r), "trace_state", f"v={s}"),
    "exception": lambda r, s: span_of(r).events.add(
        name="exception", attributes=key_values({"exception.message": f"ValueError: {s}"})),
    "stack trace": lambda r, s: span_of(r).events.add(
        name="exception", attributes=key_values({"exception.type": s, "exception.stacktrace": f"File '{s}'"})),
    "event": lambda r, s: span_of(r).events.add(name=s, attributes=key_values({s: s})),
    "event with messages": lambda r, s: span_of(r).events.add(
        name="gen_ai.user.message", attributes=key_values({"content": s})),
    "link": lambda r, s: span_of(r).links.add(
        trace_id=b"1" * 16, span_id=b"2" * 8, trace_state=s, attributes=key_values({"to": s})),
    "bytes": lambda r, s: setattr(span_of(r).attributes.add(key="raw").value, "bytes_value", s.encode()),
    "service": lambda r, s: r.resource_spans[0].resource.attributes[0].value.CopyFrom(any_value(s)),
    "resource": lambda r, s: r.resource_spans[0].resource.attributes.extend(key_values({"host.name": s, "owner": s})),
    "scope": lambda r, s: scope_of(r).scope.attributes.extend(key_values({"a": s})),
    "scope's name": lambda r, s: setattr(scope_of(r).scope, "name", s),
    "scope's version": lambda r, s: setattr(scope_of(r).scope, "version", s),
    "schema address": lambda r, s: setattr(scope_of(r), "schema_url", f"https://x.example/{s}"),
}  # fmt: skip
"""Parts of a request around its attributes."""

SIGNAL = {"name": "rating", "agent": "desk", "session_id": "s", "value": -1}
SIGNALS: dict[str, Plant] = {
    "comment": lambda s: SIGNAL | {"text": f"ask {s}"},
    "correction": lambda s: SIGNAL | {"name": "correction", "text": s, "text_before": "x"},
    "what was corrected": lambda s: SIGNAL | {"name": "correction", "text": "x", "text_before": f"mail {s}"},
    "rationale": lambda s: SIGNAL | {"attributes": {"rationale": s}},
    "signal's attribute name": lambda s: SIGNAL | {"attributes": {s: "x"}},
    "signal's JSON": lambda s: SIGNAL | {"attributes": {"context": json.dumps({"a": [s]})}},
    "signal's session": lambda s: SIGNAL | {"session_id": s},
    "signal's turn": lambda s: SIGNAL | {"turn_id": s},
    "signal's trace": lambda s: SIGNAL | {"trace_id": s},
    "signal's user": lambda s: SIGNAL | {"user_id": s},
    "signal's source": lambda s: SIGNAL | {"source": s},
    "signal's agent": lambda s: SIGNAL | {"agent": s},
    "signal's id": lambda s: SIGNAL | {"id": s},
    "signal's unknown field": lambda s: SIGNAL | {"more": s},
    "signal that is wrong": lambda s: SIGNAL | {"name": s},
}
LABEL = {"agent": "desk", "sample_id": "a" * 32, "value": "vpn", "rater": "anna"}
LABELS: dict[str, Plant] = {
    "label": lambda s: LABEL | {"value": f"send it to {s}"},
    "rater": lambda s: LABEL | {"rater": s},
    "sample": lambda s: LABEL | {"sample_id": s},
    "label's turn": lambda s: LABEL | {"turn_id": s},
    "label's note": lambda s: LABEL | {"note": s},
    "rubric": lambda s: LABEL | {"rubric_version": s},
    "label's agent": lambda s: LABEL | {"agent": s},
    "label's user": lambda s: LABEL | {"user_id": s},
}
SPANS = [f"{kind}: {name}" for kind in ("protobuf", "json") for name in (*ATTRIBUTES, *SHAPES)]
PATHS = [*SPANS, *SIGNALS, *LABELS]


def span_of(request: ExportTraceServiceRequest) -> Any:
    return scope_of(request).spans[0]


def scope_of(request: ExportTraceServiceRequest) -> Any:
    return request.resource_spans[0].scope_spans[0]


def secret(path: str) -> str:
    return f"planted.person{PATHS.index(path):03d}x@example.com"


def request(path: str) -> ExportTraceServiceRequest:
    number, name = PATHS.index(path), path.partition(": ")[2]
    attributes = ATTRIBUTES[name](secret(path)) if name in ATTRIBUTES else dict(CHAT)
    made = otlp({"attributes": attributes, "trace": f"{number + 1:032x}", "start": int(T0.timestamp() * 1e9)})
    if name in SHAPES:
        SHAPES[name](made, secret(path))
    return made


def as_json(made: ExportTraceServiceRequest) -> bytes:
    document = json_format.MessageToDict(made)
    for span in document["resourceSpans"][0]["scopeSpans"][0]["spans"]:
        for one in (span, *span.get("links", [])):
            source = made.resource_spans[0].scope_spans[0].spans[0]
            source = source if one is span else source.links[0]
            one.update(traceId=source.trace_id.hex(), spanId=source.span_id.hex())
    return json.dumps(document).encode()


def send(client: httpx.Client, path: str) -> int:
    """One request with this path's secret; the status of the answer, which may not repeat it."""
    kind = path.partition(": ")[0] if path in SPANS else ""
    if kind == "protobuf":
        body, address, media = request(path).SerializeToString(), "/v1/traces", "application/x-protobuf"
    elif kind == "json":
        body, address, media = as_json(request(path)), "/v1/traces", "application/json"
    else:
        table, address = (SIGNALS, "/v1/signals") if path in SIGNALS else (LABELS, "/v1/labels")
        body, media = json.dumps(table[path](secret(path))).encode(), "application/json"
    answer = client.post(address, content=body, headers={"content-type": media})
    assert secret(path) not in answer.text
    return answer.status_code


@dataclass
class Kept:
    """All that the product keeps and tells after a run, by where; and what was answered to each path."""

    answers: dict[str, int] = field(default_factory=dict)
    places: dict[str, bytes] = field(default_factory=dict)
    clean: int = 0

    def having(self, path: str) -> list[str]:
        needles = [secret(path).encode(), secret(path).upper().encode(), secret(path).replace("@", "%40").encode()]
        return [place for place, text in self.places.items() if any(needle in text for needle in needles)]


class Records(logging.Handler):
    """Whatever is logged by whomever, formatted."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(self.format(record))


def kept(folder: Path) -> Kept:
    """Every path once, through a whole product."""
    found, heard, now = Kept(), Records(), [T0 + timedelta(minutes=1)]
    logging.getLogger().addHandler(heard)
    config = load(data_dir=folder, engine={"workers": 0}, redact={"key": "test"})
    try:
        with closing(Product(config, clock=lambda: now[0], where=PRIVATE, wheel=False, models=False)) as product:
            with httpx.Client(base_url=product.url, trust_env=False) as client:
                found.answers = {path: send(client, path) for path in PATHS}
                product.settle()
                now[0] += timedelta(hours=3)
                product.settle()
                found.places["metrics"] = str(product.metrics.text()).encode()
                found.places["ready"] = client.get("/readyz").content
            assert product.ledger_totals()["difference"] == 0
            for table in TABLES.values():
                rows = product.store.select(f"SELECT * FROM {table}").rows
                found.places[f"table {table}"] = repr(rows).encode()
                found.clean += len(rows) if table in {"spans", "signals", "labels"} else 0
            assert isinstance(product.log, SqliteLog)
            for topic in TOPICS:
                if not topic.raw:
                    entries = [(one.key, one.value, one.headers) for one in product.log.scan(topic)]
                    found.places[f"topic {topic.name}"] = b"".join(repr(one).encode() for one in entries)
            for stage in PIPELINE:
                held = [f"{key} {plain(text)}" for key, text in product.log.states(stage.name)]
                found.places[f"state {stage.name}"] = "\n".join(held).encode("utf-8", "replace")
            letters = product.letters.find(LetterFilter())
            told = [letters, product.letters.counts(LetterFilter()), product.vault.find(LetterFilter())]
            found.places["letters"] = repr(told).encode()
    finally:
        logging.getLogger().removeHandler(heard)
    found.places["log"] = "\n".join(heard.lines).encode()
    files = [path for path in folder.rglob("*") if path.is_file()]
    return Kept(
        found.answers, found.places | {str(one.relative_to(folder)): one.read_bytes() for one in files}, found.clean
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Kept:
    return kept(tmp_path_factory.mktemp("paths") / "data")


@pytest.mark.parametrize("path", PATHS)
def test_a_secret_is_nowhere(run: Kept, path: str) -> None:
    assert not run.having(path)
    assert run.answers[path] in ((422,) if path == "signal that is wrong" else (200, 202))


def test_what_was_sent_has_come_through(run: Kept) -> None:
    """Nothing is gone because everything was refused."""
    sent = sum(status in (200, 202) for status in run.answers.values())
    assert run.clean >= 0.9 * sent, (run.clean, sent, run.places["letters"][:3000])


@pytest.mark.parametrize("path", ["protobuf: agent", "protobuf: service", "protobuf: session", "signal's agent"])
def test_nor_in_the_letters_of_what_cannot_be_cleaned(path: str) -> None:
    """From the gateway or from a Collector, whose headers name what they like."""
    long = "reset my vpn " * 20
    if path in SIGNALS:
        message = signal_message(SIGNALS[path](secret(path)) | {"text": long})
    else:
        made = request(path)
        span_of(made).status.message = long
        message = Message(OTLP_SPANS.name, 0, "", made.SerializeToString(), T0, {"agent": secret(path)})
    out = Redact(RedactSettings(max_text=100)).process([message], MemoryState())
    assert [type(one).__name__ for one in out if isinstance(one, DeadLetter)] == ["DeadLetter"]
    assert secret(path) not in repr(out)


def test_a_leak_in_one_path_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: redaction that forgets the status message, and nothing else."""
    honest = Cleaner._masked

    def leaky(self: Cleaner, draft: Draft, *more: Any) -> Clean | Invalid:
        done = honest(self, draft, *more)
        told = draft.texts.get("status_message", "")
        return done.model_copy(update={"status_message": told}) if isinstance(done, Clean) and told else done

    monkeypatch.setattr(Cleaner, "_masked", leaky)
    found = kept(tmp_path / "data")
    leaking = {path for path in PATHS if found.having(path)}
    assert leaking == {f"{kind}: {name}" for kind in ("protobuf", "json") for name in ("status", "exception")}
    for path in leaking:
        assert {"table spans", "topic agent.spans"} <= set(found.having(path))
