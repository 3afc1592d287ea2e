"""Recorded conversations: what becomes a trace, a turn and a tool call, counted again by other code."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from connectors.conversations import import_file, iter_conversations, to_requests
from schemas.errors import UsageError

ERROR = 2
FILES = ("tau2_airline", "tau2_retail", "tau2_telecom", "tau_bench_v1_airline_gpt4o")


def user(text: str | None, **more: Any) -> dict[str, Any]:
    return {"role": "user", "content": text, **more}


def says(text: Any, *tools: str, **more: Any) -> dict[str, Any]:
    calls = [{"id": name, "function": {"name": name, "arguments": "{}"}} for name in tools]
    return {"role": "assistant", "content": text, "tool_calls": calls, **more}


def result(call: str, text: str, **more: Any) -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": call, "content": text, **more}


def written(path: Path, *conversations: Any) -> Path:
    path.write_text("".join(json.dumps(conversation) + "\n" for conversation in conversations))
    return path


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "some.jsonl"


def conversation(*messages: Any, **more: Any) -> dict[str, Any]:
    return {"conversation_id": "c1", "domain": "airline", "model": "m1", "messages": list(messages), **more}


def spans(path: Path, agent: str = "") -> list[Span]:
    out: list[Span] = []

    def send(body: bytes) -> None:
        request = ExportTraceServiceRequest.FromString(body)
        out.extend(s for r in request.resource_spans for c in r.scope_spans for s in c.spans)

    import_file(path, send, agent=agent)
    return out


def said(span: Span) -> dict[str, str]:
    return {attribute.key: attribute.value.string_value for attribute in span.attributes}


def text_of(span: Span, side: str) -> str:
    (message,) = json.loads(said(span)[f"gen_ai.{side}.messages"])
    assert message["role"] == {"input": "user", "output": "assistant"}[side]
    return message["parts"][0]["content"]


def test_an_answered_message_is_one_trace_with_its_tools(file: Path) -> None:
    made = spans(
        written(
            file,
            conversation(user("book"), says(None, "find", "hold"), result("hold", "no", error=True), says("done")),
        )
    )
    root, find, hold, chat = made
    assert [said(span)["gen_ai.operation.name"] for span in made] == [
        "invoke_agent", "execute_tool", "execute_tool", "chat",
    ]  # fmt: skip
    assert {span.trace_id for span in made} == {root.trace_id}
    assert {span.parent_span_id for span in (find, hold, chat)} == {root.span_id}
    assert (root.parent_span_id, len({span.span_id for span in made})) == (b"", 4)
    assert (text_of(root, "input"), text_of(root, "output")) == ("book", "done")
    assert (find.status.code == ERROR, hold.status.code == ERROR) == (False, True)
    assert said(hold)["gen_ai.tool.call.result"] == "no"
    assert {said(span)["gen_ai.conversation.id"] for span in made} == {"c1"}
    assert {said(span)["gen_ai.agent.name"] for span in made} == {"airline"}
    assert all(s.start_time_unix_nano <= s.end_time_unix_nano <= root.end_time_unix_nano for s in made)


def test_an_unanswered_message_is_a_trace_only_when_tools_were_called(file: Path) -> None:
    made = spans(written(file, conversation(user("a"), user("b"), says(None, "find"), user("c"))))
    root, tool = made
    assert text_of(root, "input") == "b"
    assert "gen_ai.output.messages" not in said(root)
    assert said(tool)["gen_ai.tool.name"] == "find"


def test_tools_of_the_user_are_not_the_agents(file: Path) -> None:
    theirs = says(None, "reboot") | {"role": "user"}
    made = spans(
        written(
            file,
            conversation(user("hi"), says("try it"), theirs, result("reboot", "ok", requestor="user"), says("so?")),
        )
    )
    assert [said(span)["gen_ai.operation.name"] for span in made] == ["invoke_agent", "chat", "chat"]
    assert text_of(made[0], "output") == "so?"


def test_a_call_id_used_again_has_its_own_result(file: Path) -> None:
    messages = [user("a"), says(None, "find"), result("find", "first", error=True), says(None, "find")]
    made = spans(written(file, conversation(*messages, result("find", "second"), says("done"))))
    tools = [span for span in made if said(span)["gen_ai.operation.name"] == "execute_tool"]
    assert [said(span)["gen_ai.tool.call.result"] for span in tools] == ["first", "second"]
    assert [span.status.code == ERROR for span in tools] == [True, False]


def test_a_greeting_has_no_input(file: Path) -> None:
    root, _, *rest = spans(written(file, conversation(says("hello"), user("hi"), says("yes?"))))
    assert "gen_ai.input.messages" not in said(root)
    assert rest[0].trace_id != root.trace_id


def test_times_are_those_of_messages_or_spread_from_the_start(file: Path) -> None:
    start = "2026-01-05T08:00:00"
    given = conversation(
        user("a", timestamp="2026-01-05T08:01:00"), says("b", timestamp="2026-01-05T10:01:01+02:00"),
        user("c", timestamp="2026-01-05T07:00:00"), says("d"), start_time=start,
    )  # fmt: skip
    roots = [span for span in spans(written(file, given)) if not span.parent_span_id]
    times = [datetime.fromtimestamp(span.start_time_unix_nano / 1e9, UTC) for span in roots]
    assert times[0] == datetime(2026, 1, 5, 8, 1, tzinfo=UTC)
    assert times[1] > datetime(2026, 1, 5, 8, 1, 1, tzinfo=UTC), "time never runs backwards"
    bare = [spans(written(file, conversation(user("a"), says("b")))) for _ in range(2)]
    assert bare[0] == bare[1]
    assert 2000 < datetime.fromtimestamp(bare[0][0].start_time_unix_nano / 1e9, UTC).year < 2030


def test_parts_objects_and_broken_texts(file: Path) -> None:
    call = {"id": 7, "function": {"name": "find", "arguments": {"a": 1}}}
    parts = [{"type": "text", "text": "one"}, {"type": "image_url"}, "two"]
    made = spans(written(file, conversation(user("a\ud800\x00"), says(parts, tool_calls=[call]))))
    root, _, tool = made
    assert text_of(root, "output") == "one\ntwo"
    assert said(tool)["gen_ai.tool.call.arguments"] == '{"a": 1}'


def test_an_agent_by_name_and_a_long_conversation_in_pieces(file: Path) -> None:
    messages = [m for n in range(20) for m in (user(f"q{n}"), says("x" * 1000))]
    (read,) = iter_conversations(written(file, conversation(*messages)), "desk")
    assert read.agent == "desk"
    pieces = list(to_requests(read, limit=5000))
    assert len(pieces) > 5
    assert max(piece.ByteSize() for piece in pieces) < 10_000
    whole = next(to_requests(read)).resource_spans[0].scope_spans[0].spans
    assert [s for piece in pieces for s in piece.resource_spans[0].scope_spans[0].spans] == list(whole)


def test_nothing_is_sent_for_nothing(file: Path) -> None:
    assert spans(written(file, conversation(user("hello?")), conversation())) == []


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"{", "line 1: not JSON"),
        (b"[]", "line 1: a JSON object was expected"),
        (b'\n{"conversation_id": "c"}', "line 2: no field 'messages'"),
        (b'{"messages": []}', "no field 'conversation_id'"),
        (b'{"conversation_id": "c", "messages": {}}', "messages: must be a list"),
        (b'{"conversation_id": "c", "messages": [{"role": "user"}, 3]}', "messages[1]: no role"),
        (b'{"conversation_id": "c", "messages": [], "start_time": "noon"}', "start_time: not an ISO 8601"),
        (b'{"conversation_id": "c", "messages": [], "start_time": "9999-12-31"}', "start_time: not between"),
        (b'{"conversation_id": "c", "messages": [{"role": "x", "timestamp": 5}]}', "messages[0].timestamp"),
        (b'{"conversation_id": "c", "messages": [{"role": "assistant", "tool_calls": 5}]}', "tool_calls: must be"),
        (b'{"conversation_id": "c", "messages": [{"role": "assistant", "tool_calls": [{}]}]}', "tool_calls[0]: no"),
        (b'{"a": ' + b"[" * 100_000, "too many digits or levels"),
        (b'{"a": ' + b"9" * 5000, "too many digits or levels"),
        (b"\xff", "not UTF-8"),
    ],
)
def test_a_bad_line_is_named(file: Path, content: bytes, words: str) -> None:
    file.write_bytes(content)
    with pytest.raises(UsageError) as told:
        list(iter_conversations(file))
    assert words in str(told.value)
    assert "some.jsonl" in str(told.value)


@pytest.mark.parametrize(
    "harm", [lambda data: data[:-20], lambda data: data[:60] + b"\xff" * 40 + data[100:], lambda _: b"x"]
)
def test_a_damaged_gz_is_named(tmp_path: Path, harm: Any) -> None:
    path = tmp_path / "some.jsonl.gz"
    rows = [conversation(user(f"{n * 7919 % 1000}"), says("b"), conversation_id=str(n)) for n in range(50)]
    path.write_bytes(harm(gzip.compress("\n".join(map(json.dumps, rows)).encode())))
    with pytest.raises(UsageError, match=r"some.jsonl.gz"):
        list(iter_conversations(path))


# The count below shares nothing with the importer: it goes by positions of roles in the list.


def rows_of(path: Path) -> Iterator[dict[str, Any]]:
    with gzip.open(path, "rt") as lines:
        yield from map(json.loads, lines)


def counted(messages: list[dict[str, Any]]) -> tuple[int, int]:
    spoken = "".join(
        {"user": "u", "assistant": "a"}.get(m["role"], "")
        for m in messages
        if m["role"] in "user assistant" and m["content"]
    )
    return spoken.count("ua"), sum(len(m["tool_calls"] or ()) for m in messages if m["role"] == "assistant")


def test_every_recorded_conversation_is_counted_as_by_hand(shared_data: Path) -> None:
    total = 0
    for name in FILES:
        path = shared_data / "agent_trajectories" / f"{name}.jsonl.gz"
        expected = [counted(row["messages"]) for row in rows_of(path)]
        made = spans(path)
        roots = [span for span in made if not span.parent_span_id]
        turns = sum({"gen_ai.input.messages", "gen_ai.output.messages"} <= said(root).keys() for root in roots)
        tools = sum(said(span)["gen_ai.operation.name"] == "execute_tool" for span in made)
        assert (turns, tools) == (sum(t for t, _ in expected), sum(c for _, c in expected)), name
        assert len({(span.trace_id, span.span_id) for span in made}) == len(made)
        total += len(expected)
    assert total == 492


def test_every_recorded_result_belongs_to_its_call(shared_data: Path) -> None:
    for name in FILES:
        path = shared_data / "agent_trajectories" / f"{name}.jsonl.gz"
        recorded = [
            (message["content"] or "", bool(message.get("error")))
            for row in rows_of(path)
            for message in row["messages"]
            if message["role"] == "tool" and message.get("requestor") != "user"
        ]
        tools = [span for span in spans(path) if said(span)["gen_ai.operation.name"] == "execute_tool"]
        made = [(said(span)["gen_ai.tool.call.result"], span.status.code == ERROR) for span in tools]
        assert made == recorded, name
