"""From features to a calibrated probability of failure: the form in which a model is published, and what it computes.

A model is JSON: ``columns`` holds ``[mean, deviation, coefficient]`` of every feature, in log-odds of failure per
deviation; ``absent`` what it says that a whole group of features is missing, as it is where an agent gives no
log-probabilities; a single feature that is missing counts as its mean. ``platt``: slope and offset that make of the
score a probability (Platt 1999). ``categories`` are the log-odds of failure of categories, ``other`` those of a
category that is new: the one feature that does not come from the turn itself. Whoever has a turn's features and the
model gets the same probability on every machine.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

VERSION = 1
CATEGORY = "weak_category"
GROUPS = {
    "logprobs": ("doubt", "nll", "min_prob", "token_entropy", "margin", "low_margins"),
    "samples": ("inconsistency", "semantic_entropy"),
    "retrieval": ("retrieval",),
    "category": (CATEGORY,),
    "text": ("hedges", "refusal", "empty", "tool_errors", "tool_unresolved", "error"),
}  # fmt: skip
"""The features that models learn from, by what has to be there for them."""
FEATURES = frozenset(name for names in GROUPS.values() for name in names)
LIMIT = 5.0
"""Deviations from the mean beyond which a feature says no more."""
_EDGE = 1e-4


def sigmoid(log_odds: float) -> float:
    """The probability of log-odds, of which no more than 30 count.

    >>> sigmoid(0.0), sigmoid(1e9) < 1.0
    (0.5, True)
    """
    return 1.0 / (1.0 + math.exp(-max(min(log_odds, 30.0), -30.0)))


def log_odds(probability: float) -> float:
    """The log-odds of a probability, away from 0 and 1."""
    bounded = min(max(probability, _EDGE), 1.0 - _EDGE)
    return math.log(bounded / (1.0 - bounded))


def missing(features: Iterable[str]) -> list[str]:
    """The groups of which a turn has no feature."""
    names = set(features)
    return [group for group, some in GROUPS.items() if names.isdisjoint(some)]


def with_category(features: Mapping[str, float], category: str, model: Mapping[str, Any]) -> dict[str, float]:
    """The features with how weak the turn's category is; a turn without a category has none."""
    if not category:
        return dict(features)
    return {**features, CATEGORY: model["categories"].get(category, model["other"])}


def p_failure(features: Mapping[str, float], model: Mapping[str, Any]) -> float:
    """The calibrated probability that a turn with these features failed.

    >>> model = {"columns": {"doubt": [0.2, 0.1, 1.0]}, "absent": {}, "intercept": -1.0, "platt": [1.0, 0.0]}
    >>> p_failure({"doubt": 0.5}, model) > p_failure({}, model)
    True
    """
    columns = model["columns"]
    total: float = model["intercept"]
    for name, value in features.items():
        column = columns.get(name)
        if column is not None:
            total += column[2] * max(min((value - column[0]) / column[1], LIMIT), -LIMIT)
    if model["absent"]:
        total += sum(model["absent"].get(group, 0.0) for group in missing(features))
    slope, offset = model["platt"]
    return sigmoid(slope * log_odds(sigmoid(total)) + offset)
