"""How sure a model was of its answer, from the likelihoods of its tokens and from several answers to one question.

Only numbers leave this place, under these names: ``min_prob`` (of the least likely token that has letters or digits),
``entropy`` (of a token, in nats, over the alternatives told and one for all others, on average), ``margin`` (between
the two likeliest tokens, on average) and ``low_margins`` (the share of tokens where it is under 0.1); where one
question got several answers, ``agreement`` (the share of the largest cluster) and ``semantic_entropy`` (of the
clusters, as a share of its most; Farquhar et al. 2024, with likeness of letters in the place of entailment).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

from processors.redact.retrievals import number
from processors.text import normal, similarity

NAMES = {
    "driftwheel.logprobs.entropy": "entropy",
    "driftwheel.logprobs.margin": "margin",
    "driftwheel.logprobs.low_margins": "low_margins",
    "driftwheel.samples.agreement": "agreement",
    "driftwheel.samples.entropy": "semantic_entropy",
}
"""What a trace may say outright, besides ``driftwheel.logprobs.min``, which is a logarithm."""
_TOKENS, _ANSWERS, _LETTERS = 2_000, 10, 1_000
_ALIKE = 0.75
_LOW = 0.1


def told(values: Mapping[str, Any]) -> dict[str, float]:
    """What attributes say outright; entropies are in nats or shares, at least 0, all others in [0, 1]."""
    found = {name: number(values[attribute]) for attribute, name in NAMES.items() if attribute in values}
    least = number(values.get("driftwheel.logprobs.min"))
    found["min_prob"] = None if least is None else math.exp(min(least, 0.0))
    return {
        name: _shown(min(max(value, 0.0), 20.0 if name == "entropy" else 1.0))
        for name, value in found.items()
        if value is not None
    }


def of_tokens(tokens: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """The estimates that tokens as in an OpenAI answer allow.

    >>> of_tokens([{"token": "yes", "logprob": -0.5}])
    {'min_prob': 0.6065}
    """
    some = tokens[:_TOKENS]
    known = [(str(one.get("token", "")), number(one.get("logprob"))) for one in some]
    likely = [value for token, value in known if value is not None and any(map(str.isalnum, token))]
    likely = likely or [value for _, value in known if value is not None]
    found = {"min_prob": _shown(math.exp(min(*likely, 0.0)))} if likely else {}
    spreads = [spread for spread in map(_spread, some) if len(spread) > 1]
    if not spreads:
        return found
    margins = [spread[0] - spread[1] for spread in spreads]
    return found | {
        "entropy": _shown(sum(map(_entropy, spreads)) / len(spreads)),
        "margin": _shown(sum(margins) / len(margins)),
        "low_margins": _shown(sum(margin < _LOW for margin in margins) / len(margins)),
    }


def _spread(token: Mapping[str, Any]) -> list[float]:
    """The probabilities of a token and its alternatives, greatest first; they make 1 at most."""
    listed = token.get("top_logprobs")
    others = [cast("Mapping[str, Any]", one) for one in cast("list[Any]", listed)] if isinstance(listed, list) else []
    told = {str(one.get("token")): number(one.get("logprob")) for one in (*others, token)}
    found = sorted((math.exp(min(value, 0.0)) for value in told.values() if value is not None), reverse=True)
    total = sum(found)
    return [one / total for one in found] if total > 1.0 else found


def _entropy(spread: list[float]) -> float:
    rest = max(1.0 - sum(spread), 0.0)
    return -sum(p * math.log(p) for p in (*spread, rest) if p > 0.0)


def of_answers(texts: Iterable[str]) -> dict[str, float]:
    """How far several answers to one question agree; nothing for fewer than two.

    >>> of_answers(["Your order ships Monday.", "your order ships monday", "It was lost."])
    {'agreement': 0.6667, 'semantic_entropy': 0.5794}
    """
    some = [text[:_LETTERS] for text in texts][:_ANSWERS]
    if len(some) < 2:
        return {}
    groups = list(range(len(some)))
    for place, text in enumerate(some):
        for other in range(place):
            if groups[place] != groups[other] and _same(text, some[other]):
                groups = [groups[other] if group == groups[place] else group for group in groups]
    shares = [count / len(some) for count in Counter(groups).values()]
    entropy = -sum(share * math.log(share) for share in shares) / math.log(len(some))
    return {"agreement": _shown(max(shares)), "semantic_entropy": _shown(abs(entropy))}


def _same(one: str, two: str) -> bool:
    """Whether two answers say the same, as far as letters tell: other numbers are another answer."""
    first, second = normal(one), normal(two)
    if first == second:
        return True
    numbers = [[word for word in text.split() if any(map(str.isdigit, word))] for text in (first, second)]
    return numbers[0] == numbers[1] and similarity(one, two) >= _ALIKE


def _shown(value: float) -> float:
    return round(value, 4)
