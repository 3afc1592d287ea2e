"""Traces of real frameworks give turns with what they hold, which is counted here by rules of its own.

The count looks at raw attributes and Langfuse's columns as text and shares nothing with the product. The table in
``docs/frameworks.md`` is made of the same traces, and held equal.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.frameworks import MARK, Found, found_in, table

PLACEHOLDER = re.compile(r"<[A-Z_]+_\d+>")


@pytest.fixture(scope="module")
def found(shared_data: Path) -> list[Found]:
    return found_in(shared_data / "otel_traces")


def unfolded(value: Any) -> Any:
    """A structure with what is JSON text in it read."""
    if isinstance(value, str) and value[:1] in ("{", "[", '"'):
        try:
            return unfolded(json.loads(value))
        except ValueError:
            return value
    if isinstance(value, dict):
        return {key: unfolded(one) for key, one in value.items()}
    return [unfolded(one) for one in value] if isinstance(value, list) else value


def pairs(value: Any) -> Iterator[tuple[str, Any]]:
    """Every key with its value, at any depth."""
    for key, one in value.items() if isinstance(value, dict) else ():
        yield key, one
        yield from pairs(one)
    for one in value if isinstance(value, list) else ():
        yield from pairs(one)


def operations(one: Found) -> list[dict[str, Any]]:
    """What the source has of each operation: attributes and columns, in one."""
    listed = one.raw.get("observations", [one.raw])
    return [dict(pairs(unfolded(raw))) | {"raw": unfolded(raw)} for raw in listed]


def kind(op: dict[str, Any]) -> str:
    for name in ("openinference.span.kind", "gen_ai.operation.name", "ai.operationId", "type"):
        said = str(op["raw"].get("type") if name == "type" else op.get(name) or "").lower()
        if said in {"llm", "chat", "generate_content", "generation"} or said.endswith(("dogenerate", "dostream")):
            return "model"
        if said in {"tool", "execute_tool", "ai.toolcall"}:
            return "tool"
        if said.startswith(("ai.generate", "ai.stream")):
            return "caller"
    return ""


def answers(one: Found) -> bool:
    return any(kind(op) in {"model", "caller"} for op in operations(one))


def read(text: str, within: set[str]) -> bool:
    """Whether a clean text is one of the source's, whatever its placeholders stand for."""
    pattern = ".+?".join(map(re.escape, PLACEHOLDER.split(text)))
    return any(re.fullmatch(pattern, one, re.DOTALL) for one in within)


def texts(one: Found) -> set[str]:
    values = [value for _, value in pairs({"": unfolded(one.raw)})]
    listed = [text for value in values if isinstance(value, list) for text in value]
    return {text for text in [*values, *listed] if isinstance(text, str)}


def test_every_trace_with_an_answer_is_one_turn(found: list[Found]) -> None:
    assert len(found) == 38
    for one in found:
        assert len(one.turns) == answers(one), one.name
    assert sum(answers(one) for one in found) == 33


def test_the_input_is_a_text_that_somebody_typed(found: list[Found]) -> None:
    for one in found:
        for turn in one.turns:
            assert read(turn.input, texts(one)), one.name
            assert "You are a" not in turn.input, one.name


def test_the_output_is_the_answer_or_its_structure(found: list[Found]) -> None:
    structured = 0
    for one in found:
        for turn in one.turns:
            structured += turn.output[:1] in "{["
            assert turn.output[:1] in "{[" or read(turn.output, texts(one)), one.name
    assert structured == 7, "objects that were asked for, and one answer that only calls a tool"


def test_the_model_and_the_provider_are_the_sources(found: list[Found]) -> None:
    names = {"model", "llm.model_name", "gen_ai.request.model", "gen_ai.response.model", "ai.model.id", "model_name"}
    for one in found:
        models = {str(value) for key, value in pairs(unfolded(one.raw)) if key in names}
        for turn in one.turns:
            assert turn.model in models, one.name
            assert turn.model_version in models | {op.get("ai.response.model") for op in operations(one)}, one.name
        names_of = {"llm.provider", "gen_ai.system"}
        given = {value for op in operations(one) for key, value in op.items() if key in names_of}
        assert given <= {span.provider for span in one.spans}, one.name


def tokens(op: dict[str, Any], column: str, *names: str) -> int:
    usage = (op["raw"].get("usageDetails") or {}).get(column) or op["raw"].get(f"{column}Usage") or 0
    return next((int(op[name]) for name in names if op.get(name) is not None), int(usage))


def test_tokens_and_costs_add_up(found: list[Found]) -> None:
    sums = [0, 0]
    for one in found:
        models = [op for op in operations(one) if kind(op) == "model"] or operations(one)
        said = [
            sum(tokens(op, "input", "llm.token_count.prompt", "gen_ai.usage.input_tokens", "ai.usage.promptTokens",
                       "ai.usage.inputTokens") for op in models),
            sum(tokens(op, "output", "llm.token_count.completion", "gen_ai.usage.output_tokens",
                       "ai.usage.completionTokens", "ai.usage.outputTokens") for op in models),
        ]  # fmt: skip
        costs = [op["raw"].get("costDetails") or {"total": op["raw"].get("totalCost") or 0} for op in models]
        cost = sum(each["total"] for each in costs)
        for turn in one.turns:
            assert [turn.input_tokens, turn.output_tokens] == said, one.name
            assert (turn.cost or 0) == pytest.approx(cost), one.name
            sums = [before + new for before, new in zip(sums, said, strict=True)]
    assert min(sums) > 4_000
    for one in found:
        said = {
            value for key, value in pairs(unfolded(one.raw)) if "reasoning" in key.lower() and isinstance(value, int)
        }
        assert {span.reasoning_tokens for span in one.spans} <= said | {0}, one.name
    assert sum(span.reasoning_tokens for one in found for span in one.spans) == 1168


def test_tools_are_called_where_the_source_calls_them(found: list[Found]) -> None:
    marks = ("tool_call_id", "toolCallId", "tool_call_response", "toolu_")
    for one in found:
        text = json.dumps(unfolded(one.raw))
        called = any(mark in text for mark in marks) or any(kind(op) == "tool" for op in operations(one))
        for turn in one.turns:
            assert (turn.tool_calls > 0) == called, one.name
            assert len(turn.called_tools) == turn.tool_calls, one.name
    counted = {one.name: sum(kind(op) == "tool" for op in operations(one)) for one in found}
    for one in found:
        assert sum(span.kind == "tool" for span in one.spans) >= counted[one.name], one.name
    offered = {one.name for one in found if any(span.tools for span in one.spans)}
    assert len(offered) >= 4


def test_sessions_and_users_are_the_sources(found: list[Found]) -> None:
    wanted = {"session.id", "session_id", "thread_id", "conversation_id", "sessionId", "langsmith.metadata.session_id"}
    for one in found:
        named = {value for key, value in pairs(unfolded(one.raw)) if key in wanted and value}
        for turn in one.turns:
            assert turn.session_id in (named or {f"trace:{turn.trace_id}"}), one.name
            users = {value for key, value in pairs(unfolded(one.raw)) if key in {"userId", "user.id"} and value}
            assert bool(turn.subject_hash) == bool(users), one.name


def test_likelihoods_where_the_source_has_them(found: list[Found]) -> None:
    for one in found:
        said = [value for key, value in pairs(unfolded(one.raw)) if key == "avg_logprobs"]
        assert [turn.logprob_top1 for turn in one.turns] == (said[:1] or [None] * len(one.turns)), one.name


def test_nothing_of_a_trace_is_lost(found: list[Found]) -> None:
    for one in found:
        assert len(one.spans) == len(operations(one)), one.name


def test_the_table_in_docs_is_what_is_found(found: list[Found], root: Path) -> None:
    page = (root / "docs" / "frameworks.md").read_text()
    assert page.split(MARK)[1].strip() == table(found)
