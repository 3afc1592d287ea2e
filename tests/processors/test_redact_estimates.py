"""How sure a model was: from tokens, from several answers, from what a trace says outright; never a text."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from processors.redact.estimates import of_answers, of_tokens, told
from processors.redact.figures import figures_of
from tests.processors.redacting import span_of


def token(text: str, *likely: float) -> dict[str, Any]:
    top = [{"token": f"{text}{n or ''}", "logprob": math.log(p)} for n, p in enumerate(likely)]
    return {**top[0], "top_logprobs": top if len(top) > 1 else []}


def test_of_tokens_by_hand() -> None:
    found = of_tokens([token("yes", 0.5, 0.45), token("no", 0.9, 0.1)])
    assert found["min_prob"] == 0.5
    assert found["margin"] == pytest.approx((0.05 + 0.8) / 2)
    assert found["low_margins"] == 0.5
    entropies = [-sum(p * math.log(p) for p in some) for some in ((0.5, 0.45, 0.05), (0.9, 0.1))]
    assert found["entropy"] == pytest.approx(sum(entropies) / 2, abs=1e-4)


def test_punctuation_is_not_the_least_likely_token_unless_there_is_nothing_else() -> None:
    assert of_tokens([token("yes", 0.5), token(",", 0.01)]) == {"min_prob": 0.5}
    assert of_tokens([token(",", 0.01)]) == {"min_prob": 0.01}


@pytest.mark.parametrize(
    "tokens",
    [
        [], [{}], [{"token": 1, "logprob": "x"}], [{"token": "a", "logprob": float("nan")}],
        [{"token": "a", "logprob": 5.0, "top_logprobs": [{"token": "b", "logprob": 3.0}, {"token": "c"}]}],
        [{"token": "a", "logprob": -1e308, "top_logprobs": "none"}],
    ],
)  # fmt: skip
def test_odd_tokens_stay_in_bounds(tokens: list[dict[str, Any]]) -> None:
    assert all(0.0 <= value <= 20.0 for value in of_tokens(tokens).values())


SAME, OTHER = "Your order ships on Monday morning.", "I could not find any order for that name."


@pytest.mark.parametrize(
    ("texts", "agreement", "entropy"),
    [
        ([SAME, SAME.upper(), "your order ships on monday morning"], 1.0, 0.0),
        ([SAME, "On Monday morning your order ships.", OTHER], 0.6667, 0.5794),
        (["it", "hr", "legal"], 0.3333, 1.0),
        (["The total is 41 euros", "The total is 42 euros"], 0.5, 1.0),
    ],
)
def test_answers_that_say_the_same_make_a_cluster(texts: list[str], agreement: float, entropy: float) -> None:
    assert of_answers(texts) == {"agreement": agreement, "semantic_entropy": entropy}


def test_one_answer_agrees_with_nobody() -> None:
    assert of_answers(["it"]) == of_answers([]) == {}


def said(*texts: str) -> list[Any]:
    """The same answers as OpenAI, Gemini and the semantic conventions put them."""
    openai = [{"index": n, "message": {"role": "assistant", "content": text}} for n, text in enumerate(texts)]
    gemini = [{"content": {"parts": [{"text": text}]}, "finishReason": "STOP"} for text in texts]
    genai = [
        {"role": "assistant", "parts": [{"type": "text", "content": text}], "finish_reason": "stop"} for text in texts
    ]
    return [
        ("output.value", {"choices": openai}),
        ("gcp.vertex.agent.llm_response", {"candidates": gemini}),
        ("gen_ai.output.messages", genai),
    ]


@pytest.mark.parametrize("place", range(3))
def test_several_answers_of_a_trace(place: int) -> None:
    name, body = said(SAME, SAME, OTHER)[place]
    assert figures_of({name: json.dumps(body)}, [])["estimates"] == {"agreement": 0.6667, "semantic_entropy": 0.5794}
    name, body = said(SAME)[place]
    assert figures_of({name: json.dumps(body)}, [])["estimates"] == {}


def test_messages_of_one_conversation_are_not_several_answers() -> None:
    for body in (
        [{"role": "assistant", "content": "let me look"}, {"role": "assistant", "content": "it is there"}],
        {"choices": [{"message": {"role": "assistant", "content": "yes"}}, {"message": {"tool_calls": [1]}}]},
        {"choices": "a, b"},
    ):
        assert figures_of({"output.value": json.dumps(body)}, [])["estimates"] == {}


def test_what_a_trace_says_outright_goes_before_what_is_worked_out() -> None:
    values = {
        "driftwheel.logprobs.min": math.log(0.25), "driftwheel.logprobs.entropy": 30.0,
        "driftwheel.logprobs.margin": "0.4", "driftwheel.samples.agreement": 1.7, "driftwheel.samples.entropy": "much",
    }  # fmt: skip
    expected = {"min_prob": 0.25, "entropy": 20.0, "margin": 0.4, "agreement": 1.0}
    assert told(values) == expected
    name, body = said(SAME, OTHER)[0]
    assert figures_of(values | {name: json.dumps(body)}, [])["estimates"] == expected | {"semantic_entropy": 1.0}


def test_a_spans_estimates_are_numbers_alone() -> None:
    content = [token("mia", 0.6, 0.3), token("@", 0.9), token("example", 0.8, 0.1)]
    choices = [
        {"message": {"content": "write to mia"}, "logprobs": {"content": content}},
        {"message": {"content": "no"}},
    ]
    found = span_of(
        {"session.id": "s", "openinference.span.kind": "LLM", "output.value": json.dumps({"choices": choices})}
    )
    assert set(found.estimates) == {"min_prob", "entropy", "margin", "low_margins", "agreement", "semantic_entropy"}
