"""The numbers of a span: tokens, costs, likelihoods and what a retrieval scored, by whatever names they come."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple, cast

from processors.redact import estimates
from processors.redact.bodies import Values, parsed
from processors.redact.retrievals import MAX_DOCUMENTS, Document, number

_DEPTH = 8
_MAX_BODY = 1_000_000
"""Longer answers are not searched for likelihoods."""
_SEVERAL = ("choices", "candidates", "finish_reason")
"""One of these is in every body that may hold several answers."""
_COUNTS = {
    "input_tokens": (
        "llm.token_count.prompt", "gen_ai.usage.input_tokens", "gen_ai.usage.prompt_tokens", "ai.usage.inputTokens",
        "ai.usage.promptTokens", "llm.usage.prompt_tokens",
    ),
    "output_tokens": (
        "llm.token_count.completion", "gen_ai.usage.output_tokens", "gen_ai.usage.completion_tokens",
        "ai.usage.outputTokens", "ai.usage.completionTokens", "llm.usage.completion_tokens",
    ),
    "cache_read_tokens": (
        "llm.token_count.prompt_details.cache_read", "gen_ai.usage.cache_read.input_tokens",
        "gen_ai.usage.cache_read_input_tokens", "gen_ai.usage.details.cache_read_tokens", "ai.usage.cachedInputTokens",
        "ai.usage.inputTokenDetails.cacheReadTokens", "gen_ai.usage.details.cached_tokens",
    ),
    "cache_write_tokens": (
        "llm.token_count.prompt_details.cache_write", "gen_ai.usage.cache_creation.input_tokens",
        "gen_ai.usage.cache_creation_input_tokens", "gen_ai.usage.details.cache_write_tokens",
        "ai.usage.inputTokenDetails.cacheWriteTokens",
    ),
    "reasoning_tokens": (
        "llm.token_count.completion_details.reasoning", "gen_ai.usage.reasoning.output_tokens",
        "gen_ai.usage.reasoning_tokens", "gen_ai.usage.details.reasoning_tokens", "ai.usage.reasoningTokens",
        "ai.usage.outputTokenDetails.reasoningTokens", "llm.usage.reasoning_tokens",
    ),
}  # fmt: skip
_USAGE = {
    "input_tokens": ("input", "input_tokens", "prompt_tokens", "promptTokens", "inputTokens"),
    "output_tokens": ("output", "output_tokens", "completion_tokens", "completionTokens", "outputTokens"),
    "cache_read_tokens": (
        "input_cached_tokens", "cache_read_input_tokens", "input_cache_read", "prompt_details.cache_read",
    ),
    "cache_write_tokens": (
        "cache_creation_input_tokens", "input_cache_creation", "cache_write_input_tokens", "prompt_details.cache_write",
    ),
    "reasoning_tokens": ("output_reasoning_tokens", "output_reasoning", "completion_details.reasoning"),
}  # fmt: skip
"""Names within Langfuse's object of usage."""
_USAGE_AT, _COST_AT = "langfuse.observation.usage_details", "langfuse.observation.cost_details"
_COSTS = ("llm.cost.total", "gen_ai.usage.cost", "gen_ai.usage.total_cost", "operation.cost")
_PARTS_OF_COST = (("llm.cost.prompt", "llm.cost.completion"), ("gen_ai.usage.input_cost", "gen_ai.usage.output_cost"))
_ANSWERS = ("output.value", "langfuse.observation.output", "gen_ai.output", "gcp.vertex.agent.llm_response")
_COUNTED = frozenset({_USAGE_AT, *(name for names in _COUNTS.values() for name in names)})
_PRICED = frozenset({_COST_AT, *_COSTS, *(name for names in _PARTS_OF_COST for name in names)})
NUMBER_ATTRIBUTES = {*_COSTS, *(name for some in (*_COUNTS.values(), *_PARTS_OF_COST) for name in some)}


def figures_of(values: Values, documents: list[Document]) -> Values:
    """The numeric fields of a span."""
    scores = [one.score for one in documents if one.score is not None]
    likely = _logprobs(values)
    return {
        **_counts(values),
        "cost": _cost(values),
        "logprob_top1": likely.top1,
        "logprob_top2": likely.top2,
        "estimates": likely.estimates | _agreed(values) | estimates.told(values),
        "retrieval_score": max(scores, default=None),
        "retrieval_documents": len(documents),
        "document_scores": [one.score for one in documents[:MAX_DOCUMENTS]],
    }


def _counts(values: Values) -> dict[str, int]:
    if _COUNTED.isdisjoint(values):
        return dict.fromkeys(_COUNTS, 0)
    usage = parsed(values.get(_USAGE_AT))
    told = cast("Values", usage) if isinstance(usage, dict) else {}
    return {name: _count(values, names) or _count(told, _USAGE[name]) for name, names in _COUNTS.items()}


def _count(values: Values, names: Iterable[str]) -> int:
    found = (number(values[name]) for name in names if name in values)
    return next((min(max(int(n), 0), 2**31 - 1) for n in found if n is not None), 0)


def _cost(values: Values) -> float | None:
    """In US dollars, as every one of these conventions counts; None when nothing says it."""
    if _PRICED.isdisjoint(values):
        return None
    details = parsed(values.get(_COST_AT))
    told = cast("Values", details) if isinstance(details, dict) else {}
    found = [number(values[name]) for name in _COSTS if name in values]
    found += [_sum(number(values[name]) for name in names if name in values) for names in _PARTS_OF_COST]
    found += [number(told.get("total")), _sum(number(told.get(name)) for name in ("input", "output"))]
    return next((cost for cost in found if cost is not None and cost >= 0), None)


def _sum(numbers: Iterable[float | None]) -> float | None:
    known = [one for one in numbers if one is not None]
    return sum(known) if known else None


class _Likely(NamedTuple):
    """The natural logarithms of how likely the answer and the next likely one were, for each token on average."""

    top1: float | None = None
    top2: float | None = None
    estimates: dict[str, float] = {}  # noqa: RUF012  # nobody changes it


def _logprobs(values: Values) -> _Likely:
    top1 = number(values.get("driftwheel.logprobs.top1"))
    if top1 is not None:
        return _Likely(top1, number(values.get("driftwheel.logprobs.top2")))
    for name, value in values.items():
        if name in _ANSWERS or "logprobs" in name:
            found = _from_answer(value, name)
            if found.top1 is not None:
                return found
    return _Likely()


def _from_answer(value: Any, name: str) -> _Likely:
    if isinstance(value, str) and (len(value) > _MAX_BODY or ("ogprobs" not in value and "logprobs" not in name)):
        return _Likely()
    body = parsed(value)
    tokens = next(_tokens({"logprobs": body} if "logprobs" in name else body, _DEPTH), None)
    if tokens is None:
        return _Likely(next(_averages(body, _DEPTH), None))
    top1 = _mean(number(token.get("logprob")) for token in tokens)
    return _Likely(top1, _mean(_second(token) for token in tokens), estimates.of_tokens(tokens))


def _agreed(values: Values) -> dict[str, float]:
    """How far the answers to one question agree, where a model gave several."""
    for name in (*_ANSWERS, "gen_ai.output.messages"):
        value = values.get(name)
        if isinstance(value, str) and (len(value) > _MAX_BODY or not any(one in value for one in _SEVERAL)):
            continue
        found = estimates.of_answers(_candidates(parsed(value))) if value else {}
        if found:
            return found
    return {}


def _candidates(body: Any) -> list[str]:
    """The texts of an answer's choices; none when one of them is no text."""
    listed: Any = body
    if isinstance(body, dict):
        held = cast("Values", body)
        listed = next((held[name] for name in ("choices", "candidates") if isinstance(held.get(name), list)), None)
    if not isinstance(listed, list):
        return []
    some = [cast("Values", one) for one in cast("list[Any]", listed) if isinstance(one, dict)]
    ended = all(any(one.get(name) for name in ("finish_reason", "finishReason", "message")) for one in some)
    texts = [_text_of(one) for one in some]
    return texts if ended and len(texts) == len(cast("list[Any]", listed)) and all(texts) else []


def _text_of(choice: Values) -> str:
    """What a choice says: as OpenAI, Gemini, or the semantic conventions put it."""
    said: Any = next((choice[name] for name in ("message", "content", "parts", "text") if choice.get(name)), "")
    if isinstance(said, dict):
        return _text_of(cast("Values", said))
    if isinstance(said, list):
        parts = [cast("Values", one) for one in cast("list[Any]", said) if isinstance(one, dict)]
        return " ".join(filter(None, (_text_of(part) for part in parts)))
    return said if isinstance(said, str) else ""


def _tokens(body: Any, depth: int) -> Iterator[list[Values]]:
    """Lists of tokens as in an OpenAI answer, ``logprobs.content``."""
    for held in _objects(body, depth):
        told = held.get("logprobs")
        content: Any = cast("Values", told).get("content") if isinstance(told, dict) else told
        tokens = (
            [cast("Values", one) for one in cast("list[Any]", content) if isinstance(one, dict)]
            if isinstance(content, list)
            else []
        )
        if any(number(token.get("logprob")) is not None for token in tokens):
            yield tokens


def _averages(body: Any, depth: int) -> Iterator[float]:
    for held in _objects(body, depth):
        found = next((number(held[name]) for name in ("avg_logprobs", "avgLogprobs") if name in held), None)
        if found is not None:
            yield found


def _objects(body: Any, depth: int) -> Iterator[Values]:
    if depth <= 0:
        return
    if isinstance(body, dict):
        held = cast("Values", body)
        yield held
        body = list(held.values())
    if isinstance(body, list):
        for one in cast("list[Any]", body):
            yield from _objects(one, depth - 1)


def _second(token: Values) -> float | None:
    """How likely the likeliest other token was."""
    listed = token.get("top_logprobs")
    others = [cast("Values", one) for one in cast("list[Any]", listed)] if isinstance(listed, list) else []
    scores = [number(one.get("logprob")) for one in others if one.get("token") != token.get("token")]
    return max((score for score in scores if score is not None), default=None)


def _mean(numbers: Iterable[float | None]) -> float | None:
    listed = list(numbers)
    known = [one for one in listed if one is not None]
    return sum(known) / len(known) if known and len(known) == len(listed) else None
