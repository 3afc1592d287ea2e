"""Files of other tools become the spans that they tell of; the same file makes the same spans."""

from __future__ import annotations

import gzip
import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from connectors.imports.formats import FORMATS, Format, format_of, requests_in
from connectors.imports.otlp_json import otlp_requests
from connectors.imports.spans import nanos, span_id_of, trace_id_of
from schemas.errors import Invalid, UsageError

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
ASK, ANSWER = "is the canteen open", "until three"

OTLP = {
    "resourceSpans": [
        {
            "resource": {"attributes": [{"key": "service.name", "value": {"stringValue": "bot"}}]},
            "scopeSpans": [{"spans": [{"traceId": TRACE, "spanId": SPAN, "name": "chat", "startTimeUnixNano": "1"}]}],
        }
    ]
}
CHAT = {
    "messages": [{"role": "system", "content": "be kind"}, {"role": "user", "content": ASK},
                 {"role": "assistant", "content": ANSWER}],
    "tools": [{"type": "function", "function": {"name": "find", "parameters": {}}}],
}  # fmt: skip
LANGFUSE = {
    "trace": {"id": TRACE, "name": "desk", "timestamp": "2026-01-05T09:00:00Z", "sessionId": "s-1", "userId": "u-1",
              "scores": [{"id": "x", "name": "kind", "value": 0.5, "source": "ANNOTATION", "comment": "good"}]},
    "observations": [
        {"id": SPAN, "type": "GENERATION", "name": "chat", "startTime": "2026-01-05T09:00:00Z", "model": "m-1",
         "endTime": "2026-01-05T09:00:01Z", "input": [{"role": "user", "content": ASK}], "output": ANSWER,
         "usageDetails": {"input": 7, "output": 2}, "level": "ERROR", "statusMessage": "slow",
         "metadata": json.dumps({"attributes": {"gen_ai.system": "acme"}, "customer": "c"})},
    ],
}  # fmt: skip
ROW = {"id": SPAN, "trace_id": TRACE, "type": "SPAN", "start_time": "2026-01-05 09:00:00.500000", "session_id": "s-1",
       "parent_observation_id": None, "usage_details": {"input": 3}}  # fmt: skip
FRAME = {
    "name": "chat", "span_kind": "LLM", "parent_id": None, "start_time": 1767603600000, "status_code": "ERROR",
    "context.trace_id": TRACE, "context.span_id": SPAN, "attributes.llm.model_name": "m-1",
    "attributes.llm.input_messages": [{"message.role": "user", "message.content": ASK}],
    "attributes.metadata": {"thread_id": "s-1"}, "attributes.output.value": None,
    "events": [{"name": "exception", "timestamp": "2026-01-05T09:00:00Z", "attributes": {"exception.message": "no"}}],
}  # fmt: skip
REST = {
    "name": "chat", "context": {"trace_id": f"0x{TRACE}", "span_id": f"0x{SPAN}"}, "span_kind": "LLM",
    "start_time": "2026-01-05T09:00:00Z", "end_time": "2026-01-05T09:00:01Z", "status": {"status_code": "OK"},
    "attributes": {"llm": {"input_messages": [{"message": {"role": "user", "content": ASK}}]}},
}  # fmt: skip
RESOURCE: dict[str, Any] = OTLP["resourceSpans"][0]
OLD_SCOPE = {"instrumentationLibrary": {"name": "lib"}, "spans": RESOURCE["scopeSpans"][0]["spans"]}
OLDER = {"resourceSpans": [{"resource": RESOURCE["resource"], "instrumentationLibrarySpans": [OLD_SCOPE]}]}
PYTHON = {
    "name": "chat", "context": {"trace_id": f"0x{TRACE}", "span_id": f"0x{SPAN}", "trace_state": "[]"},
    "kind": "SpanKind.INTERNAL", "parent_id": "0xb7ad6b7169203332", "start_time": "2026-01-05T09:00:00.000000Z",
    "end_time": "2026-01-05T09:00:01.000000Z", "status": {"status_code": "ERROR", "description": "slow"},
    "attributes": {"openinference.span.kind": "LLM", "llm.input_messages.0.message.content": ASK}, "links": [],
    "events": [{"name": "exception", "timestamp": "2026-01-05T09:00:00.500000Z", "attributes": {"x": 1}}],
    "resource": {"attributes": {"service.name": "bot"}, "schema_url": ""},
}  # fmt: skip
JAVASCRIPT = {
    "name": "ai.generateText", "spanContext": {"traceId": TRACE, "spanId": SPAN}, "parentSpanId": "b7ad6b7169203332",
    "startTime": [1767603600, 5], "endTime": [1767603601, 5], "status": {"code": 2, "message": "slow"},
    "attributes": {"ai.operationId": "ai.generateText", "ai.prompt": ASK}, "resource": {"attributes": {"a": "b"}},
    "events": [{"name": "exception", "time": [1767603600, 500000000], "attributes": {"x": 1}}],
}  # fmt: skip
ATTRIBUTES = {"openinference.span.kind": "LLM", "input.value": ASK, "output.value": ANSWER}
RESPONSE = {
    "id": "resp_1", "object": "response", "created_at": 1767603600, "model": "m-3", "instructions": "be kind",
    "output": [
        {"type": "reasoning", "summary": []},
        {"type": "function_call", "call_id": "c-1", "name": "find", "arguments": '{"q": "canteen"}'},
        {"type": "function_call_output", "call_id": "c-1", "output": "open"},
        {"type": "web_search_call", "id": "w-1", "action": {"query": "canteen"}},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": ANSWER}]},
    ],
    "usage": {"input_tokens": 9, "output_tokens": 3}, "tools": [{"type": "function", "name": "find"}],
}  # fmt: skip
CONVERSATION = {"conversation_id": "c-1", "messages": CHAT["messages"]}
ROWS: dict[str, tuple[Format, Any]] = {
    "otlp": ("otlp-json", OTLP),
    "a resource": ("otlp-json", OTLP["resourceSpans"][0]),
    "chat": ("openai-chat", CHAT),
    "stored": ("openai-chat", {"request": {"body": {"messages": CHAT["messages"][:2], "model": "m"}},
                               "response": {"body": {"choices": [{"message": CHAT["messages"][2]}]}}}),
    "a trace": ("langfuse", LANGFUSE),
    "an observation": ("langfuse", ROW),
    "a bare trace": ("langfuse", {"id": "t", "timestamp": "2026-01-05T09:00:00Z", "sessionId": None, "input": ASK}),
    "a data frame's row": ("phoenix", FRAME),
    "a REST span": ("phoenix", REST),
    "Python's SDK": ("phoenix", PYTHON),
    "JavaScript's SDK": ("phoenix", JAVASCRIPT),
    "attributes": ("phoenix", ATTRIBUTES),
    "older otlp": ("otlp-json", OLDER),
    "an older resource": ("otlp-json", OLDER["resourceSpans"][0]),
    "a response": ("openai-chat", RESPONSE | {"input": ASK}),
    "a request and its response": ("openai-chat", {"request": {"input": [{"role": "user", "content": ASK}]},
                                                   "response": RESPONSE}),
    "a conversation": ("conversations", CONVERSATION),
}  # fmt: skip


def write(folder: Path, *rows: Any, name: str = "file.jsonl") -> Path:
    path = folder / name
    text = "\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows)
    path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
    return path


def requests(path: Path, kind: Format, agent: str = "") -> list[ExportTraceServiceRequest]:
    return list(requests_in(path, kind, agent, lambda *_: None))


def spans(path: Path, kind: Format, agent: str = "") -> list[Span]:
    made = requests(path, kind, agent)
    return [one for req in made for res in req.resource_spans for scope in res.scope_spans for one in scope.spans]


def said(span: Span) -> dict[str, str]:
    return {one.key: one.value.string_value for one in span.attributes}


@pytest.mark.parametrize("name", ROWS)
def test_the_format_is_guessed_and_makes_the_same_spans_again(tmp_path: Path, name: str) -> None:
    kind, row = ROWS[name]
    for path in (
        write(tmp_path, row),
        write(tmp_path, "", row, name="file.jsonl.gz"),
        write(tmp_path, json.dumps(row, indent=2), name="one.json"),
        write(tmp_path, json.dumps([row], indent=1), name="list.json"),
    ):
        assert format_of(path) == kind
        first = requests(path, kind)
        assert first == requests(path, kind)
        assert first


def test_every_format_is_tried() -> None:
    assert {kind for kind, _ in ROWS.values()} == set(FORMATS)


@pytest.mark.parametrize("name", [name for name in ROWS if name != "a bare trace"])
def test_the_agent_that_is_named_is_that_of_every_span(tmp_path: Path, name: str) -> None:
    kind, row = ROWS[name]
    for span in spans(write(tmp_path, row), kind, "desk-bot"):
        named = said(span)
        assert "desk-bot" in (named.get("driftwheel.agent"), named.get("gen_ai.agent.name"))


def test_otlp_is_kept_as_it_is(tmp_path: Path) -> None:
    (span,) = spans(write(tmp_path, OTLP), "otlp-json")
    assert (span.trace_id.hex(), span.span_id.hex()) == (TRACE, SPAN)
    many = [json.loads(json.dumps(OTLP["resourceSpans"][0])) for _ in range(3)]
    parts = list(otlp_requests({"resourceSpans": many}, "", limit=10))
    assert len(parts) == 3
    assert all(part.resource_spans[0].resource.attributes[0].value.string_value == "bot" for part in parts)


def test_otlp_may_have_the_names_of_protobuf(tmp_path: Path) -> None:
    text = json.dumps(OTLP)
    for name in set(re.findall(r'"([a-z]+[A-Z]\w*)":', text)):
        text = text.replace(f'"{name}":', '"' + re.sub("([A-Z])", r"_\1", name).lower() + '":')
    assert '"trace_id"' in text
    again = json.loads(text)
    (span,), (same,) = spans(write(tmp_path, again), "otlp-json"), spans(write(tmp_path, OTLP), "otlp-json")
    assert span == same
    assert format_of(write(tmp_path, again)) == "otlp-json"


def test_a_data_frame_by_its_columns_is_the_same_as_by_its_rows(tmp_path: Path) -> None:
    other = FRAME | {"context.span_id": "f" * 16, "extra": None}
    columns = {name: {"0": FRAME.get(name), "1": other.get(name)} for name in other}
    assert format_of(write(tmp_path, columns)) == "phoenix"
    assert spans(write(tmp_path, columns), "phoenix") == spans(write(tmp_path, FRAME, other), "phoenix")


def test_a_chat_row_is_a_conversation_of_its_content(tmp_path: Path) -> None:
    counts: Counter[str] = Counter()
    path = write(tmp_path, CHAT, CHAT, CHAT | {"id": "other", "user": "u-9"})

    def count(name: str, number: int) -> None:
        counts[name] += number

    made = list(requests_in(path, "openai-chat", "", count))
    assert counts == {"conversations": 3, "turns": 3, "tool_calls": 0}
    assert made[0] == made[1] != made[2]
    (root, chat) = made[2].resource_spans[0].scope_spans[0].spans
    assert said(root)["gen_ai.conversation.id"] == "other"
    assert json.loads(said(chat)["gen_ai.tool.definitions"])[0]["name"] == "find"


def test_a_stored_completion_has_its_answer_its_tokens_and_its_likelihoods(tmp_path: Path) -> None:
    logprobs = {"content": [{"token": "yes", "logprob": -0.25, "top_logprobs": [{"token": "no", "logprob": -2.0}]}]}
    row = {
        "custom_id": "r-1",
        "request": {"messages": CHAT["messages"][:2], "user": "u-1"},
        "response": {"model": "m-2", "created": 1767603600, "usage": {"prompt_tokens": 9, "completion_tokens": 1},
                     "choices": [{"message": {"role": "assistant", "content": "yes"}, "logprobs": logprobs}]},
    }  # fmt: skip
    (root, chat) = spans(write(tmp_path, row), "openai-chat")
    numbers = {one.key: one.value.int_value for one in chat.attributes}
    assert (numbers["gen_ai.usage.input_tokens"], numbers["gen_ai.usage.output_tokens"]) == (9, 1)
    assert json.loads(said(chat)["gen_ai.response.logprobs"]) == logprobs
    assert said(root)["user.id"] == "u-1"
    assert said(root)["gen_ai.response.model"] == "m-2"
    assert root.start_time_unix_nano // 10**9 in range(1767603600, 1767603660)


def test_the_older_function_call_is_a_tool_call(tmp_path: Path) -> None:
    messages = [{"role": "user", "content": ASK},
                {"role": "assistant", "content": None, "function_call": {"name": "find", "arguments": "{}"}},
                {"role": "function", "name": "find", "content": "found"},
                {"role": "assistant", "content": ANSWER}]  # fmt: skip
    tools = [s for s in spans(write(tmp_path, {"messages": messages}), "openai-chat") if s.name == "execute_tool find"]
    assert [said(one)["gen_ai.tool.call.result"] for one in tools] == ["found"]


def test_langfuse_keeps_attributes_and_adds_its_columns(tmp_path: Path) -> None:
    (span,) = spans(write(tmp_path, LANGFUSE), "langfuse")
    told = said(span)
    assert (span.trace_id.hex(), span.span_id.hex()) == (TRACE, SPAN)
    assert (span.status.code, span.status.message) == (2, "slow")
    assert span.end_time_unix_nano - span.start_time_unix_nano == 10**9
    assert told["gen_ai.system"] == "acme"
    assert told["langfuse.observation.type"] == "generation"
    assert json.loads(told["langfuse.observation.usage_details"]) == {"input": 7, "output": 2}
    assert told["langfuse.observation.metadata.customer"] == "c"
    assert (told["langfuse.session.id"], told["langfuse.user.id"]) == ("s-1", "u-1")
    assert told["trace.annotations.0.annotation.name"] == "kind"
    assert told["trace.annotations.0.annotation.annotator_kind"] == "HUMAN"


def test_langfuse_in_snake_case_and_without_observations(tmp_path: Path) -> None:
    (span,) = spans(write(tmp_path, {"data": [ROW], "meta": {}}), "langfuse")
    assert said(span)["langfuse.session.id"] == "s-1"
    bare = {"id": "not hexadecimal", "timestamp": "2026-01-05T09:00:00Z", "sessionId": "s", "input": ASK, "output": "x"}
    (span,) = spans(write(tmp_path, bare), "langfuse")
    assert span.trace_id.hex() == trace_id_of("not hexadecimal")
    assert said(span)["langfuse.trace.input"] == ASK


def test_phoenix_is_openinference_again(tmp_path: Path) -> None:
    for row in (FRAME, REST):
        (span,) = spans(write(tmp_path, row), "phoenix")
        told = said(span)
        assert (span.trace_id.hex(), span.span_id.hex()) == (TRACE, SPAN)
        assert told["openinference.span.kind"] == "LLM"
        assert told["llm.input_messages.0.message.content"] == ASK
        assert span.status.code == (2 if row is FRAME else 0)
    (span,) = spans(write(tmp_path, FRAME), "phoenix")
    assert json.loads(said(span)["metadata"]) == {"thread_id": "s-1"}
    assert [event.name for event in span.events] == ["exception"]


def test_spans_of_the_sdks_are_the_same_in_either_language(tmp_path: Path) -> None:
    for row in (PYTHON, JAVASCRIPT):
        (span,) = spans(write(tmp_path, row), "phoenix")
        assert (span.trace_id.hex(), span.span_id.hex(), span.parent_span_id.hex()) == (TRACE, SPAN, SPAN[:-1] + "2")
        assert (span.status.code, span.status.message) == (2, "slow")
        assert (span.end_time_unix_nano - span.start_time_unix_nano) == 10**9
        assert span.start_time_unix_nano // 10**9 == 1767603600
        assert [(one.name, one.time_unix_nano % 10**9) for one in span.events] == [("exception", 500000000)]
        assert ASK in said(span).values()


def test_documents_may_follow_one_another_as_exporters_print_them(tmp_path: Path) -> None:
    other = PYTHON | {"context": {"trace_id": f"0x{TRACE}", "span_id": "0x" + "e" * 16}}
    printed = write(tmp_path, json.dumps(PYTHON, indent=4), json.dumps(other, indent=4), name="printed.json")
    assert format_of(printed) == "phoenix"
    assert spans(printed, "phoenix") == spans(write(tmp_path, PYTHON, other), "phoenix")
    lines = json.dumps(PYTHON, indent=4).count("\n") + 1
    broken = write(tmp_path, json.dumps(PYTHON, indent=4), '{"context": {}', name="broken.json")
    with pytest.raises(UsageError, match=f"line {lines + 1}: not JSON"):
        spans(broken, "phoenix")
    wrong = write(tmp_path, json.dumps(PYTHON, indent=4), '{"context": {}}', name="wrong.json")
    with pytest.raises(UsageError, match=f"line {lines + 1}: no field 'context.trace_id'"):
        spans(wrong, "phoenix")


def test_files_within_a_file_and_attributes_alone(tmp_path: Path) -> None:
    held = {"a.json": ATTRIBUTES, "b.json": [JAVASCRIPT, PYTHON]}
    path = write(tmp_path, *({"file": name, "content": content} for name, content in held.items()))
    assert format_of(path) == "phoenix"
    bare, *rest = spans(path, "phoenix")
    assert rest == spans(write(tmp_path, JAVASCRIPT, PYTHON), "phoenix")
    assert (said(bare)["input.value"], bare.start_time_unix_nano, bare.end_time_unix_nano) == (ASK, 0, 0)
    assert bare.trace_id != spans(write(tmp_path, ATTRIBUTES | {"input.value": "?"}), "phoenix")[0].trace_id


def test_recorded_fixtures_of_instrumentations_are_taken(shared_data: Path) -> None:
    path = shared_data / "otel_traces" / "openinference_fixture_spans.jsonl.gz"
    assert format_of(path) == "phoenix"
    made = spans(path, "phoenix")
    assert len(made) == 25
    assert len({(span.trace_id, span.span_id) for span in made}) == 15, "ten spans stand in the file twice"


def test_older_otlp_is_read_as_it_is_named_today(tmp_path: Path) -> None:
    (old,), (new,) = spans(write(tmp_path, OLDER), "otlp-json"), spans(write(tmp_path, OTLP), "otlp-json")
    assert old == new
    (request,) = requests(write(tmp_path, OLDER), "otlp-json")
    assert request.resource_spans[0].scope_spans[0].scope.name == "lib"


def test_a_response_is_a_conversation(tmp_path: Path) -> None:
    for row in (RESPONSE | {"input": ASK}, {"request": {"body": {"input": ASK}}, "response": {"body": RESPONSE}}):
        root, find, search, chat = spans(write(tmp_path, row), "openai-chat")
        numbers = {one.key: one.value.int_value for one in chat.attributes}
        assert ASK in said(root)["gen_ai.input.messages"]
        assert ANSWER in said(root)["gen_ai.output.messages"]
        assert [said(one)["gen_ai.tool.name"] for one in (find, search)] == ["find", "web_search"]
        assert said(find)["gen_ai.tool.call.result"] == "open"
        assert (numbers["gen_ai.usage.input_tokens"], numbers["gen_ai.usage.output_tokens"]) == (9, 3)
        assert said(root)["gen_ai.response.model"] == "m-3"
        assert root.start_time_unix_nano // 10**9 in range(1767603600, 1767603660)
    message = {"type": "message", "role": "assistant", "content": [{"type": "refusal", "refusal": "I may not"}]}
    refused = RESPONSE | {"input": ASK, "output": [message]}
    assert "I may not" in said(spans(write(tmp_path, refused), "openai-chat")[0])["gen_ai.output.messages"]


SECRET = "mia.li@example.com"


@pytest.mark.parametrize(
    ("kind", "rows", "words"),
    [
        ("langfuse", [ROW, ROW | {"start_time": SECRET}], "line 2: startTime: not an ISO 8601 time"),
        ("langfuse", [ROW | {"id": ""}], "line 1: no field 'id'"),
        ("langfuse", [{"id": "t", "observations": [{"id": "a"}]}], r"line 1: observations\[0\]: startTime"),
        ("langfuse", [{"id": "t", "observations": SECRET}], "line 1: observations: must be a list"),
        ("phoenix", [FRAME, {"context": {"span_id": SPAN}}], "line 2: no field 'context.trace_id'"),
        ("phoenix", [FRAME | {"start_time": 10**30}], "line 1: start_time"),
        ("otlp-json", [OTLP, {"spans": SECRET}], "line 2: expected an object with resourceSpans"),
        ("otlp-json", [{"resourceSpans": [{"scopeSpans": [{"spans": [{"traceId": SECRET}]}]}]}], "traceId: must be 16"),
        ("otlp-json", [{"resourceSpans": SECRET}], "line 1: resourceSpans"),
        ("phoenix", [JAVASCRIPT | {"startTime": [SECRET]}], r"line 1: startTime: not \[seconds, nanoseconds\]"),
        ("openai-chat", [RESPONSE | {"input": {"a": SECRET}, "output": [{"type": SECRET}]}], "messages|input"),
        ("openai-chat", [RESPONSE | {"input": [SECRET]}], r"line 1: input\[0\]: an object"),
        ("openai-chat", [RESPONSE | {"output": [{"type": "message", "content": SECRET}]}], r"output\[0\]: no role"),
        ("openai-chat", [CHAT, {"messages": [{"content": SECRET}]}], r"line 2: messages\[0\]: no role"),
        ("openai-chat", [CHAT, {"messages": SECRET}], "line 2: messages: must be a list"),
        ("openai-chat", [CHAT, '{"messages": ["' + SECRET], "line 2: not JSON"),
        ("openai-chat", [[CHAT, SECRET]], "line 1, item 2: a JSON object was expected"),
    ],
)
def test_what_is_wrong_is_named_and_not_quoted(tmp_path: Path, kind: Format, rows: list[Any], words: str) -> None:
    path = write(tmp_path, *rows)
    with pytest.raises(UsageError, match=words) as error:
        requests(path, kind)
    assert str(path) in str(error.value)
    assert SECRET not in str(error.value)


def test_a_format_that_cannot_be_told(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"line 1: the format cannot be told.*--format otlp-json"):
        format_of(write(tmp_path, {"some": "thing"}))
    with pytest.raises(UsageError, match="is empty"):
        format_of(write(tmp_path, ""))


TIMES = (
    1767603600, 1767603600.0, 1767603600000, 1767603600000000, 1767603600000000000,
    "2026-01-05T09:00:00Z", "2026-01-05 09:00:00", "2026-01-05T10:00:00+01:00",
)  # fmt: skip


@pytest.mark.parametrize("time", TIMES)
def test_times_are_read_in_every_unit(time: Any) -> None:
    assert nanos(time, "t") == 1767603600 * 10**9


@pytest.mark.parametrize("time", [None, True, "", "noon", -1, 10**40, "0001-01-01", {}])
def test_times_that_are_none(time: Any) -> None:
    with pytest.raises(Invalid, match="t:"):
        nanos(time, "t")


def test_ids() -> None:
    assert trace_id_of(TRACE.upper()) == TRACE
    assert trace_id_of("0af76519-16cd-43dd-8448-eb211c80319c") == TRACE
    assert span_id_of("", "t") == ""
    assert len(span_id_of("x", "t")) == 16 != span_id_of("x", "u")
    assert trace_id_of("0" * 32) != "0" * 32
