"""How likely is the user dissatisfied, once their reaction is seen: a few explained features in a logistic sum.

Every feature lies in [0, 1] and has a direction that is fixed in advance (``POLARITY``): more of it never lowers, or
never raises, the probability. The coefficients (``dissatisfaction.json``, numbers alone) were fitted by
``benchmarks/signals/train.py``; there is one set for likeness by meaning and one for likeness by letters, which has no
``off_topic``. They are an order more than a share: how many users are dissatisfied differs from product to product.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from processors.likeness import LETTERS, Likeness
from processors.phrases import (
    COMPLAINT,
    CONFUSION,
    CORRECTION,
    ESCALATION,
    FAILED,
    REJECTION,
    THANKS,
    TOLD,
    flat,
    is_closing,
)
from processors.text import normal, similarity

MODEL_VERSION = 1
POLARITY = {
    "correction": 1, "rejection": 1, "confusion": 1, "complaint": 1, "escalation": 1, "asked_again": 1,
    "shouting": 1, "thanks": -1,
    "agent_failed": 1, "agent_repeats": 1, "agent_silent": 1, "agent_asks": -1, "dodged": 1, "off_topic": 1,
    "position": 1, "trouble": 1,
}  # fmt: skip
"""Every feature, and which way it points: 1 towards dissatisfaction, -1 away from it."""
BY_MEANING = ("off_topic",)
"""Features that only a model of meaning can tell."""

_LOUD = re.compile(r"[?!]{2,}|\b[A-Z]{4,}(?:\W+[A-Z]{3,})+\b")
_LOOK_BACK = 4
_LONG = math.log(16)
_FADE = 0.7


class Heard(NamedTuple):
    """A user's message with the answer that they had just been given ('' for the first). ``at``: seconds, if known."""

    text: str
    answer: str = ""
    at: float | None = None


Features: TypeAlias = dict[str, float]


def features_of(heard: Sequence[Heard], alike: Likeness = LETTERS) -> list[Features]:
    """The features of every message of a conversation, given what came before it."""
    found: list[Features] = []
    trouble = 0.0
    for place, one in enumerate(heard):
        features = _reaction(heard, place, alike) | _answer(heard, place, alike)
        features["position"] = min(math.log1p(place) / _LONG, 1.0)
        features["trouble"] = min(trouble / 2.0, 1.0)
        bad = ("correction", "confusion", "complaint", "asked_again", "agent_failed", "agent_repeats")
        trouble = _FADE * (trouble + max(features[name] for name in bad))
        found.append(features if one.answer or place else dict.fromkeys(features, 0.0))
    return found


def _reaction(heard: Sequence[Heard], place: int, alike: Likeness) -> Features:
    text = heard[place].text
    said = flat(text)
    return {
        "correction": float(bool(CORRECTION.search(said) or TOLD.search(said))),
        "rejection": float(bool(REJECTION.search(said))),
        "confusion": float(bool(CONFUSION.search(said))),
        "complaint": float(bool(COMPLAINT.search(said))),
        "escalation": float(bool(ESCALATION.search(said))),
        "asked_again": _again(heard, place, alike),
        "shouting": float(bool(_LOUD.search(text))),
        "thanks": float(bool(THANKS.search(said)) or is_closing(text)),
    }


def _again(heard: Sequence[Heard], place: int, alike: Likeness) -> float:
    """How much a message is one of the last few over again: 1 the same, 0 no more alike than messages are."""
    text, before = heard[place].text, heard[max(place - _LOOK_BACK, 0) : place]
    if not before or is_closing(text) or not normal(text):
        return 0.0
    if normal(text) in {normal(one.text) for one in before}:
        return 1.0
    return max(min(max((alike(one.text, text) - 0.5) / 0.5, 0.0), 1.0) for one in before)


def _answer(heard: Sequence[Heard], place: int, alike: Likeness) -> Features:
    answer = heard[place].answer
    asked = heard[place - 1].text if place else ""
    said = flat(answer)
    earlier = [one.answer for one in heard[max(place - 6, 0) : place] if normal(one.answer)]
    again = max((similarity(one, answer) for one in earlier), default=0.0) if normal(answer) else 0.0
    features = {
        "agent_failed": float(bool(FAILED.search(said))),
        "agent_repeats": min(max((again - 0.7) / 0.3, 0.0), 1.0),
        "agent_silent": float(bool(place) and not normal(answer)),
        "agent_asks": float("?" in answer),
        "dodged": float("?" in asked and "?" in answer),
    }
    if alike.meaning:
        features["off_topic"] = 1.0 - max(alike(asked, answer), 0.0) if normal(asked) and normal(answer) else 0.5
    return features


@cache
def coefficients(meaning: bool) -> dict[str, float]:
    """The fitted set: by feature, and ``bias``."""
    body: dict[str, Any] = json.loads(Path(__file__).with_name("dissatisfaction.json").read_text("utf-8"))
    if body["version"] != MODEL_VERSION:
        raise ValueError(f"dissatisfaction.json has version {body['version']}, not {MODEL_VERSION}")
    return body["meaning" if meaning else "letters"]


def probability(features: Features, weights: dict[str, float]) -> float:
    """The logistic sum."""
    total = weights["bias"] + sum(weights[name] * value for name, value in features.items())
    return 1.0 / (1.0 + math.exp(-total))


def dissatisfaction(heard: Sequence[Heard], alike: Likeness = LETTERS) -> list[float]:
    """For every message of a conversation, how likely its writer is dissatisfied with what they got.

    >>> calm, angry = (dissatisfaction([Heard("reset my vpn"), Heard(text, "Which office are you in?")])[1]
    ...                for text in ("Oslo, thank you", "no, that is useless, I said VPN"))
    >>> calm < angry
    True
    """
    weights = coefficients(alike.meaning)
    return [probability(features, weights) for features in features_of(heard, alike)]
