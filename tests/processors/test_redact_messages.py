"""Every family of attribute names gives the same question and the same answer."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.processors.redacting import span_of

ASK, ANSWER = "is the canteen open today", "yes, until three"
EARLIER = "good morning"
PARTS = [
    {"role": "system", "parts": [{"type": "text", "content": "be kind"}]},
    {"role": "user", "parts": [{"type": "text", "content": EARLIER}]},
    {"role": "assistant", "parts": [{"type": "tool_call", "id": "1", "name": "find", "arguments": {}}]},
    {"role": "user", "parts": [{"type": "text", "content": ASK}]},
]
SAID = [{"role": "assistant", "parts": [{"type": "text", "content": ANSWER}], "finish_reason": "stop"}]
OPENAI = {"messages": [{"role": "user", "content": EARLIER}, {"role": "user", "content": ASK}]}
CHOICES = {"choices": [{"message": {"role": "assistant", "content": ANSWER}}]}

FAMILIES: dict[str, dict[str, Any]] = {
    "genai": {
        "gen_ai.operation.name": "chat",
        "gen_ai.input.messages": json.dumps(PARTS),
        "gen_ai.output.messages": json.dumps(SAID),
    },
    "genai structured": {
        "gen_ai.operation.name": "chat",
        "gen_ai.input.messages": PARTS,
        "gen_ai.output.messages": SAID,
    },
    "genai numbered": {
        "gen_ai.operation.name": "chat",
        "gen_ai.prompt.0.role": "user",
        "gen_ai.prompt.0.content": EARLIER,
        "gen_ai.prompt.1.role": "user",
        "gen_ai.prompt.1.content": ASK,
        "gen_ai.completion.0.role": "assistant",
        "gen_ai.completion.0.content": ANSWER,
    },
    "openinference": {
        "openinference.span.kind": "LLM",
        "llm.input_messages.0.message.role": "user",
        "llm.input_messages.0.message.content": EARLIER,
        "llm.input_messages.10.message.role": "user",
        "llm.input_messages.10.message.contents.0.message_content.type": "text",
        "llm.input_messages.10.message.contents.0.message_content.text": ASK,
        "llm.output_messages.0.message.role": "assistant",
        "llm.output_messages.0.message.content": ANSWER,
    },
    "openinference values": {
        "openinference.span.kind": "LLM",
        "input.value": json.dumps(OPENAI),
        "output.value": json.dumps(CHOICES),
    },
    "agent values": {"openinference.span.kind": "AGENT", "input.value": ASK, "output.value": ANSWER},
    "agent object": {
        "openinference.span.kind": "AGENT",
        "input.value": json.dumps({"question": ASK, "limit": 3}),
        "output.value": json.dumps({"answer": ANSWER}),
    },
    "langfuse": {
        "langfuse.observation.type": "generation",
        "langfuse.observation.input": json.dumps(OPENAI["messages"]),
        "langfuse.observation.output": json.dumps({"role": "assistant", "content": ANSWER}),
    },
    "traceloop": {
        "traceloop.span.kind": "workflow",
        "traceloop.entity.input": json.dumps(ASK),
        "traceloop.entity.output": ANSWER,
    },
}


@pytest.mark.parametrize("family", FAMILIES)
def test_question_and_answer(family: str) -> None:
    found = span_of({"session.id": "s1", **FAMILIES[family]})
    assert (found.input, found.output) == (ASK, ANSWER)
    assert found.kind in {"llm", "agent", "chain"}
    assert EARLIER not in found.model_dump_json(), "history is not kept: earlier messages have turns of their own"
    assert not any("canteen" in value for value in found.attributes.values())


def test_span_events() -> None:
    events = [
        ("gen_ai.system.message", {"content": "be kind"}),
        ("gen_ai.user.message", {"content": EARLIER}),
        ("gen_ai.user.message", {"content": ASK}),
        ("gen_ai.choice", {"message": json.dumps({"role": "assistant", "content": ANSWER})}),
    ]
    found = span_of({"session.id": "s1", "gen_ai.operation.name": "chat"}, events=events)
    assert (found.input, found.output) == (ASK, ANSWER)


def test_openinference_wins_and_genai_fills_gaps() -> None:
    found = span_of(FAMILIES["openinference"] | {"session.id": "s1", "gen_ai.prompt.0.content": "other"})
    assert found.input == ASK
    without = {k: v for k, v in FAMILIES["openinference"].items() if not k.startswith("llm.input")}
    assert span_of(without | FAMILIES["genai"] | {"session.id": "s1"}).input == ASK


@pytest.mark.parametrize("name", ["response", "result"])
def test_tool_responses_say_response_or_result(name: str) -> None:
    part = {"type": "tool_call_response", "id": "1", name: "rainy"}
    messages = [{"role": "user", "parts": [{"type": "text", "content": ASK}]}, {"role": "tool", "parts": [part]}]
    given = FAMILIES["genai"] | {"gen_ai.input.messages": json.dumps(messages), "session.id": "s1"}
    assert span_of(given).input == ASK


def test_tools() -> None:
    found = span_of(
        {
            "session.id": "s1",
            "gen_ai.operation.name": "execute_tool",
            "gen_ai.tool.name": "find_user",
            "gen_ai.tool.call.id": "call_1",
            "gen_ai.tool.call.arguments": json.dumps({"email": "x@example.com", "cardLast4": "1907", "limit": 5}),
            "gen_ai.tool.call.result": json.dumps([{"name": {"first_name": "Mia", "last_name": "Li"}, "zip": 20417}]),
        },
        status=(2, "timeout"),
    )
    assert (found.kind, found.tool_name, found.tool_call_id) == ("tool", "find_user", "call_1")
    assert (found.status, found.status_message) == ("error", "timeout")
    arguments, result = json.loads(found.input), json.loads(found.output)
    assert arguments["limit"] == 5
    assert arguments["email"].startswith("<EMAIL_ADDRESS_")
    assert arguments["cardLast4"].startswith("<ACCOUNT_")
    assert result[0]["name"]["first_name"].startswith("<PERSON_")
    assert result[0]["zip"].startswith("<ADDRESS_")


def test_retrieval() -> None:
    flat = {
        "openinference.span.kind": "RETRIEVER",
        "input.value": ASK,
        "retrieval.documents.0.document.score": 0.4,
        "retrieval.documents.1.document.score": 0.9,
        "retrieval.documents.1.document.content": "opening hours",
    }
    found = span_of({"session.id": "s1", **flat})
    assert (found.kind, found.retrieval_score, found.retrieval_documents) == ("retrieval", 0.9, 2)
    assert (found.input, found.output) == (ASK, "opening hours")
    documents = json.dumps([{"id": "a", "score": 0.3}, {"id": "b", "score": 0.7}, {"id": "c", "score": 10**400}])
    genai = {"gen_ai.operation.name": "retrieval", "gen_ai.retrieval.documents": documents}
    assert span_of({"session.id": "s1", **genai}).retrieval_score == 0.7


def test_unknown_and_odd_attributes_are_tolerated() -> None:
    odd = {"x.list": [1, 2], "x.map": {"a": 1}, "x.nan": float("nan"), "x.long": "y" * 9_999, "x.text": "z" * 999}
    many = {f"n.{n:03}": n for n in range(200)}
    found = span_of({"session.id": "s1", "llm.token_count.prompt": "many", **odd, **many})
    assert len(found.attributes) <= 64
    assert all(len(value) <= 512 for value in found.attributes.values())
    assert found.input_tokens == 0
    assert "someone@example.com" not in str(span_of({"session.id": "s1", "by someone@example.com": 1}).attributes)
