"""Numbers, tools, documents, prompts and whose a span is, in every family of names; and nothing of it raw."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest

from processors.redact.bodies import messages, plain, without_tokens
from processors.redact.figures import figures_of
from processors.redact.messages import CONTENT, told, word_for
from processors.redact.names import kind_of, session_of, tool_of, user_of
from processors.redact.retrievals import found_documents, offered_tools
from tests.processors.redacting import span_of

ASK, ANSWER = "is the canteen open today", "yes, until three"
SECRET = "mia.li@example.com"


# Bodies.

LANGCHAIN = {
    "lc": 1,
    "type": "constructor",
    "id": ["langchain_core", "messages", "HumanMessage"],
    "kwargs": {"content": ASK},
}
ASKING: dict[str, Any] = {
    "OpenAI": {"messages": [{"role": "system", "content": "be kind"}, {"role": "user", "content": ASK}]},
    "OpenAI responses": {"input": [{"role": "user", "content": [{"type": "input_text", "text": ASK}]}]},
    "Anthropic": [{"role": "user", "content": [{"type": "text", "text": ASK}]}],
    "Gemini": {"contents": [{"role": "user", "parts": [{"text": ASK}]}]},
    "Google ADK": {"new_message": {"role": "user", "parts": [{"text": ASK}]}, "user_id": "u"},
    "LangChain": {"messages": [{"type": "human", "content": ASK, "id": None}]},
    "LangChain, serialised": {"messages": [[LANGCHAIN]]},
    "LangGraph, within inputs": {"inputs": {"messages": [{"type": "human", "content": ASK}]}, "tags": []},
    "Logfire": [{"event.name": "gen_ai.user.message", "role": "user", "content": ASK}],
    "LlamaIndex": {"messages": [{"role": "MessageRole.USER", "content": ASK}]},
    "Vercel": {"prompt": [{"role": "user", "content": [{"type": "text", "text": ASK}]}]},
    "printed by Python": str({"role": "user", "content": ASK, "name": None}),
}


@pytest.mark.parametrize("name", ASKING)
def test_questions_of_every_shape(name: str) -> None:
    body = ASKING[name]
    for raw in (body, body if isinstance(body, str) else json.dumps(body)):
        assert [one.text for one in messages(raw) if one.role == "user"] == [ASK]


ANSWERING: dict[str, Any] = {
    "OpenAI": {"choices": [{"message": {"role": "assistant", "content": ANSWER}, "finish_reason": "stop"}]},
    "OpenAI completions": {"choices": [{"text": ANSWER, "index": 0, "finish_reason": "stop"}]},
    "OpenAI responses": {"output": [{"type": "message", "role": "assistant",
                                     "content": [{"type": "output_text", "text": ANSWER}]}]},
    "Anthropic": {"role": "assistant", "content": [{"type": "text", "text": ANSWER}], "stop_reason": "end_turn"},
    "Gemini": {"candidates": [{"content": {"role": "model",
                                           "parts": [{"text": "hm", "thought": True}, {"text": ANSWER}]}}]},
    "Google ADK": {"content": {"role": "model", "parts": [{"text": ANSWER}]}, "author": "a"},
    "LangChain": {"generations": [[{"text": ANSWER, "message": {"type": "ai", "content": ANSWER}}]]},
    "GenAI parts": [{"role": "assistant", "parts": [{"type": "reasoning", "content": "hm"},
                                                    {"type": "text", "content": ANSWER}]}],
}  # fmt: skip


@pytest.mark.parametrize("name", ANSWERING)
def test_answers_of_every_shape(name: str) -> None:
    assert [(one.role, one.text) for one in messages(json.dumps(ANSWERING[name]))] == [("assistant", ANSWER)]


CALL = {"name": "find", "arguments": '{"q": 1}'}
CALLING: dict[str, Any] = {
    "OpenAI": {"role": "assistant", "content": None, "tool_calls": [{"id": "1", "type": "function", "function": CALL}]},
    "OpenAI, older": {"role": "assistant", "content": None, "function_call": CALL},
    "OpenAI responses": {"output": [{"type": "function_call", "call_id": "1", **CALL}]},
    "Anthropic": {"role": "assistant", "content": [{"type": "tool_use", "id": "1", "name": "find", "input": {"q": 1}}]},
    "Gemini": {
        "candidates": [{"content": {"role": "model", "parts": [{"function_call": {"name": "find", "args": {}}}]}}]
    },
    "Bedrock": {"role": "assistant", "content": [{"toolUse": {"toolUseId": "1", "name": "find", "input": {}}}]},
    "LangChain": {"type": "ai", "content": "", "tool_calls": [{"name": "find", "args": {"q": 1}, "id": "1"}]},
    "GenAI parts": [{"role": "assistant", "parts": [{"type": "tool_call", "id": "1", **CALL}]}],
    "Vercel": [{"toolCallId": "1", "toolName": "find", "input": '{"q": 1}'}],
}


@pytest.mark.parametrize("name", CALLING)
def test_calls_of_every_shape(name: str) -> None:
    assert [call.name for one in messages(json.dumps(CALLING[name])) for call in one.calls] == ["find"]
    found = span_of({"gen_ai.operation.name": "chat", "output.value": json.dumps(CALLING[name])})
    assert found.called_tools == ["find"]
    assert json.loads(found.output)[0]["name"] == "find", "an answer that only calls is the calls"


@pytest.mark.parametrize(
    "raw", ["", "{", "[1, 2]", "null", '{"a": {"b": [{}]}}', "[" * 2_000, "{'a': " * 300, "[" * 300 + "]" * 300]
)
def test_other_bodies_have_no_messages(raw: str) -> None:
    assert messages(raw) == []
    assert isinstance(plain(raw), str)


KEYS = (
    "messages", "role", "type", "content", "parts", "text", "tool_calls", "function", "name", "arguments", "kwargs",
    "id", "choices", "logprobs", "candidates", "input", "output", "toolName", "top_logprobs", "logprob", "tool_call_id",
)  # fmt: skip
LEAVES = ("user", "assistant", "constructor", "", None, 1, True, "[", "{'a': 1}", float("nan"), 10**400, "tool_call")


def anything(dice: random.Random, depth: int) -> Any:
    if depth == 0 or dice.random() < 0.35:
        return dice.choice(LEAVES)
    if dice.random() < 0.5:
        return [anything(dice, depth - 1) for _ in range(dice.randint(0, 3))]
    return {dice.choice(KEYS): anything(dice, depth - 1) for _ in range(dice.randint(0, 4))}


def test_odd_bodies_never_raise() -> None:
    dice = random.Random(5)
    names = [*CONTENT, "gen_ai.tool.definitions", "metadata", "gen_ai.response.logprobs", "retrieval.documents"]
    for _ in range(2_000):
        body = anything(dice, 5)
        values = {dice.choice(names): dice.choice((body, str(body), json.dumps(body))) for _ in range(3)}
        events = [("gen_ai.choice", {"message": body}), ("db.query.result", {"db.query.result.id": body})]
        for kind in ("llm", "tool", "retrieval"):
            found = told(kind, values, events)
            assert all(isinstance(text, str) for text in (found.input, found.output, *found.calls))
        figures_of(values, found_documents(values, events))
        assert all(isinstance(name, str) for name in offered_tools(values))
        kind_of(values, events)
        session_of(values)
    deep = "[" * 970 + "]" * 970
    call = f'{{"role": "assistant", "function_call": {{"name": "a", "arguments": {deep}}}}}'
    for raw in (call, f'{{"logprobs": {deep}}}'):
        told("llm", {"output.value": raw, "input.value": raw}, [])


def test_only_what_came_since_the_last_question_is_read() -> None:
    history = [{"role": "user", "content": "before"}, {"role": "assistant", "content": "then"}] * 3
    new = [{"role": "user", "content": ASK}, {"role": "user", "content": ""}, {"role": "assistant", "content": ANSWER}]
    assert [(one.role, one.text) for one in messages(history + new)] == [("user", ASK), ("assistant", ANSWER)]
    flat = {f"llm.input_messages.{n}.message.{key}": one[key] for n, one in enumerate(history + new) for key in one}
    assert told("llm", flat, []).input == ASK


def test_an_empty_message_is_no_question() -> None:
    empty = json.dumps([{"role": "user", "parts": [{"type": "text", "content": ""}]}])
    for name in ("gen_ai.input.messages", "llm.input_messages", "events"):
        assert told("llm", {name: empty}, []).input == ""
    assert told("llm", {"gen_ai.input.messages": ASK}, []).input == ASK


# Precedence and what is guessed.


def test_openinference_then_genai_then_the_rest() -> None:
    rest = {"langfuse.observation.input": "third", "langfuse.observation.output": "third"}
    genai = {
        "gen_ai.input.messages": json.dumps([{"role": "user", "content": "second"}]),
        "gen_ai.completion": "second",
    }
    first = {"input.value": "first", "output.value": "first"}
    for given, words in ((rest, "third"), (rest | genai, "second"), (rest | genai | first, "first")):
        for kind in ("llm", "agent"):
            assert told(kind, given, [])[:2] == (words, words)
    names = {"gen_ai.request.model": "b", "llm.model_name": "a", "langfuse.observation.model.name": "c"}
    assert span_of(names).model == "a"
    assert session_of({"session.id": "a", "gen_ai.conversation.id": "b"}) == "a"


@pytest.mark.parametrize(
    ("name", "holds"),
    [("acme.agent.userInput", "input"), ("acme_reply", "output"), ("x.tool_arguments", "input"), ("http.response", ""),
     ("url.query", ""), ("gen_ai.request", ""), ("ai.settings.output", ""), ("acme.model", "")],
)  # fmt: skip
def test_names_that_no_convention_knows(name: str, holds: str) -> None:
    assert word_for(name) == holds
    values = {name: ASK, "gen_ai.operation.name": "chat"}
    assert told("llm", values, []).input == (ASK if holds == "input" else "")
    assert (name in span_of(values).attributes) == (not holds and not name.startswith("gen_ai.request."))


@pytest.mark.parametrize(
    ("values", "kind"),
    [({"ai.operationId": "ai.generateText"}, "chain"), ({"ai.operationId": "ai.streamText.doStream"}, "llm"),
     ({"ai.operationId": "ai.toolCall"}, "tool"), ({"ai.operationId": "ai.embed.doEmbed"}, "other"),
     ({"gen_ai.operation.name": "embeddings", "gen_ai.request.model": "m"}, "other"),
     ({"langsmith.span.kind": "retriever"}, "retrieval"), ({"mlflow.spanType": '"CHAT_MODEL"'}, "llm"),
     ({"langfuse.observation.type": "span", "langfuse.observation.model.name": "m"}, "llm"),
     ({"openinference.span.kind": "GUARDRAIL", "gen_ai.operation.name": "chat"}, "other"),
     ({"output.value": json.dumps({"type": "tool", "tool_call_id": "1", "content": "x"})}, "tool"),
     ({"llm.request.type": "rerank", "gen_ai.request.model": "m"}, "other"), ({}, "other")],
)  # fmt: skip
def test_kinds(values: dict[str, Any], kind: str) -> None:
    assert kind_of(values) == kind


# Whose.


@pytest.mark.parametrize(
    "values",
    [{"metadata": '{"thread_id": "s-1", "user_id": "u-1"}'}, {"langfuse.observation.metadata.thread_id": "s-1"},
     {"traceloop.association.properties.session_id": "s-1"}, {"ai.telemetry.metadata.sessionId": "s-1"},
     {"langsmith.metadata.session_id": "s-1"}, {"gcp.vertex.agent.session_id": "s-1"}],
)  # fmt: skip
def test_sessions_in_metadata(values: dict[str, Any]) -> None:
    assert session_of(values) == "s-1"
    assert session_of(values | {"session.id": "s-2"}) == "s-2"
    assert session_of({"thread.id": 7, "db.session_id": "x", "metadata": "{"}) == ""


def test_users_in_metadata_are_only_a_hash() -> None:
    for values in ({"ai.telemetry.metadata.userId": SECRET}, {"metadata": json.dumps({"user_id": "mia-17"})}):
        assert user_of(values) in (SECRET, "mia-17")
        found = span_of({"session.id": "s"} | values)
        assert found.subject_hash
        assert "mia" not in found.model_dump_json()


# Numbers.


@pytest.mark.parametrize(
    "values",
    [
        {"llm.token_count.prompt": 9, "llm.token_count.completion": 4, "llm.token_count.prompt_details.cache_read": 3,
         "llm.token_count.prompt_details.cache_write": 2, "llm.token_count.completion_details.reasoning": 1,
         "llm.cost.prompt": 0.25, "llm.cost.completion": 0.5},
        {"gen_ai.usage.input_tokens": 9, "gen_ai.usage.output_tokens": 4, "gen_ai.usage.cache_read.input_tokens": 3,
         "gen_ai.usage.cache_creation.input_tokens": 2, "gen_ai.usage.reasoning.output_tokens": 1,
         "operation.cost": 0.75},
        {"ai.usage.inputTokens": 9, "ai.usage.outputTokens": 4, "ai.usage.cachedInputTokens": 3,
         "gen_ai.usage.cache_creation_input_tokens": 2, "ai.usage.reasoningTokens": 1, "gen_ai.usage.cost": "0.75"},
        {"langfuse.observation.usage_details": json.dumps(
            {"input": 9, "output": 4, "cache_read_input_tokens": 3, "cache_creation_input_tokens": 2,
             "output_reasoning_tokens": 1}),
         "langfuse.observation.cost_details": '{"input": 0.25, "output": 0.5}'},
    ],
)  # fmt: skip
def test_tokens_and_costs(values: dict[str, Any]) -> None:
    found = span_of({"session.id": "s", **values})
    counts = (found.input_tokens, found.output_tokens, found.cache_read_tokens, found.cache_write_tokens)
    assert (*counts, found.reasoning_tokens, found.cost) == (9, 4, 3, 2, 1, 0.75)
    assert set(found.attributes) == {"service.name"}


def test_odd_numbers() -> None:
    odd = {
        "llm.token_count.prompt": -5, "llm.cost.total": "much", "gen_ai.usage.cost": -1.0,
        "operation.cost": float("nan"), "langfuse.observation.usage_details": "[1",
        "langfuse.observation.cost_details": '{"total": true}',
    }  # fmt: skip
    found = figures_of(odd, [])
    assert (found["input_tokens"], found["cost"]) == (0, None)


def token(text: str, logprob: float, *others: float) -> dict[str, Any]:
    top = [{"token": text, "logprob": logprob}, *({"token": f"{text}{n}", "logprob": o} for n, o in enumerate(others))]
    return {"token": text, "logprob": logprob, "top_logprobs": top if others else []}


LIKELY: dict[str, tuple[Any, float, float | None]] = {
    "OpenAI": ({"choices": [{"logprobs": {"content": [token("a", -0.2, -2.0), token("b", -0.4, -3.0, -1.0)]},
                             "message": {"role": "assistant", "content": "ab"}}]}, -0.3, -1.5),
    "no others": ({"choices": [{"logprobs": {"content": [token("a", -0.2)]}}]}, -0.2, None),
    "LangChain": ({"response_metadata": {"logprobs": {"content": [token("a", -0.2, -2.0)]}}}, -0.2, -2.0),
    "Gemini": ({"candidates": [{"content": {}, "avg_logprobs": -0.7}]}, -0.7, None),
}  # fmt: skip


@pytest.mark.parametrize("name", LIKELY)
def test_likelihoods_of_an_answer(name: str) -> None:
    body, top1, top2 = LIKELY[name]
    found = span_of({"session.id": "s", "openinference.span.kind": "LLM", "output.value": json.dumps(body)})
    assert found.logprob_top1 == pytest.approx(top1)
    assert found.logprob_top2 == (None if top2 is None else pytest.approx(top2))
    own = {"driftwheel.logprobs.top1": -9.0, "output.value": json.dumps(body)}
    assert figures_of(own, [])["logprob_top1"] == -9.0


def test_an_address_in_tokens_is_not_stored() -> None:
    pieces = ["mia", ".", "li", "@", "example", ".", "com"]
    logprobs = {"content": [token(piece, -0.1, -3.0) for piece in pieces]}
    for name, body in (
        ("output.value", {"choices": [{"logprobs": logprobs}]}),
        ("gen_ai.response.logprobs", logprobs),
        ("gen_ai.tool.call.result", {"x": {"logprobs": logprobs}}),
        ("langfuse.observation.output", {"choices": [{"logprobs": {"tokens": pieces}}]}),
    ):
        for kind in ("LLM", "TOOL", "RETRIEVER"):
            for raw in (json.dumps(body), json.dumps(body)[:-9], str(body)):
                found = span_of({"session.id": "s", "openinference.span.kind": kind, name: raw})
                assert '"mia"' not in found.model_dump_json().replace("\\", "").replace("'", '"'), (name, kind)
    assert without_tokens("a talk about logprobs") == "a talk about logprobs"


# Tools, documents, prompts.


@pytest.mark.parametrize(
    "values",
    [{"llm.tools.0.tool.json_schema": '{"type": "function", "function": {"name": "a"}}',
      "llm.tools.1.tool.json_schema": '{"name": "b"}'},
     {"gen_ai.tool.definitions": json.dumps([{"type": "function", "name": "a"}, {"name": "b"}, {"name": "a"}])},
     {"ai.prompt.tools": ['{"name": "a"}', '{"name": "b"}']},
     {"llm.request.functions.0.name": "a", "llm.request.functions.1.name": "b"},
     {"llm.invocation_parameters": json.dumps({"model": "m", "tools": [{"function": {"name": "a"}}, {"name": "b"}]})},
     {"gcp.vertex.agent.llm_request": json.dumps(
         {"config": {"tools": [{"function_declarations": [{"name": "a"}, {"name": "b"}]}]}, "contents": []})}],
)  # fmt: skip
def test_tools_that_were_offered(values: dict[str, Any]) -> None:
    assert offered_tools(values) == ["a", "b"]
    assert span_of({"session.id": "s", "llm.model_name": "m", **values}).tools == ["a", "b"]


@pytest.mark.parametrize(
    ("values", "events"),
    [({"retrieval.documents.0.document.id": "d1", "retrieval.documents.0.document.score": 0.5,
       "retrieval.documents.1.document.content": "x"}, []),
     ({"retrieval.documents": json.dumps([{"document": {"id": "d1", "score": 0.5}}, {"document.content": "x"}])}, []),
     ({"gen_ai.retrieval.documents": json.dumps([{"id": "d1", "score": 0.5}, {"content": "x"}])}, []),
     ({}, [("db.query.result", {"db.query.result.id": "d1", "db.query.result.score": 0.5}),
           ("db.query.result", {"db.query.result.document": "x"})])],
)  # fmt: skip
def test_documents(values: dict[str, Any], events: list[Any]) -> None:
    assert [tuple(one) for one in found_documents(values, events)] == [("d1", 0.5, ""), ("", None, "x")]
    found = span_of({"session.id": "s", **values}, events=events)
    assert (found.kind, found.document_ids, found.document_scores) == ("retrieval", ["d1", ""], [0.5, None])
    assert (found.retrieval_documents, found.retrieval_score, found.output) == (2, 0.5, "x")


def test_prompts() -> None:
    for values in (
        {"gen_ai.prompt.name": "greet", "gen_ai.prompt.version": "3"},
        {"langfuse.observation.prompt.name": "greet", "langfuse.observation.prompt.version": 3},
        {"traceloop.prompt.key": "greet", "traceloop.prompt.version": 3},
        {"prompt.id": "greet", "llm.prompt_template.version": "3"},
    ):
        found = span_of({"session.id": "s", **values})
        assert (found.prompt_name, found.prompt_version) == ("greet", "3")


@pytest.mark.parametrize("name", ["execute_tool find", "running tool: find", "find.tool", "find"])
def test_a_tool_has_its_spans_name_at_last(name: str) -> None:
    assert tool_of("tool", {}, name) == "find"


def test_a_tool_of_events() -> None:
    events = [
        ("gen_ai.tool.message", {"content": '{"q": 1}', "id": "1"}),
        ("gen_ai.choice", {"message": '[{"text": "x"}]'}),
    ]
    found = span_of({"session.id": "s", "gen_ai.operation.name": "execute_tool"}, events=events)
    assert (found.input, found.output) == ('{"q": 1}', '[{"text": "x"}]')


def test_names_in_lists_are_cleaned() -> None:
    documents = json.dumps([{"id": SECRET, "score": 1.0}, {"id": "kb-7", "score": 0.5}])
    found = span_of({
        "session.id": "s", "llm.model_name": "m", "gen_ai.prompt.name": SECRET, "gen_ai.retrieval.documents": documents,
        "gen_ai.tool.definitions": json.dumps([{"name": "find"}, {"name": f"ask {SECRET}"}]),
        "output.value": json.dumps({"role": "assistant", "tool_calls": [{"name": SECRET, "args": {"to": SECRET}}]}),
    })  # fmt: skip
    assert SECRET not in found.model_dump_json()
    assert found.document_ids[1] == "kb-7"
    assert found.tools[0] == "find"
    assert found.redaction.counts["EMAIL_ADDRESS"] >= 4


@pytest.mark.parametrize("name", ["claude-sonnet-4-5-20250929", "us.anthropic.claude-opus-4-1-20250805-v1:0"])
def test_models_with_dates_are_no_telephones(name: str) -> None:
    assert span_of({"session.id": "s", "llm.model_name": name}).model == name
    assert "20250929" not in span_of({"session.id": "s", "input.value": "call 4-5-20250929 now"}).input
