"""A simulated agent whose failures can be foretold in part, and users of whom few say how it went.

As in the study that chose the method: 40 categories, 15% of the turns fail until the middle; then more do, and the best
feature loses half of its weight. Users rate 8% of the failures and 2% of the successes; 2% of all turns are audited.
Verdicts come 600 turns later on average (geometric).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

BAD, WELL, AUDITED = 0.08, 0.02, 0.02
DELAY = 600
DAY = 2_000
"""Turns a day."""
_WEIGHTS = {"semantic_entropy": 1.15, "nll": 0.55, "hedges": 0.35, "tool_unresolved": 0.4, "low_margins": 0.3}
_CATEGORIES, _SPREAD = 40, 0.7
_BIAS, _BIAS_AFTER = -2.5, -1.6


@dataclass(frozen=True, slots=True)
class World:
    """One run. Of every turn: its features, its category, whether it failed and with what chance, who says so, when."""

    features: list[dict[str, float]]
    categories: list[str]
    failed: NDArray[np.bool_]
    truth: NDArray[np.float64]
    rated: NDArray[np.bool_]
    audited: NDArray[np.bool_]
    told_at: NDArray[np.int64]


def made(seed: int, turns: int = 30_000) -> World:
    """A world of so many turns."""
    chance = np.random.default_rng(seed)
    category = chance.integers(_CATEGORIES, size=turns)
    weak = chance.normal(0.0, _SPREAD, _CATEGORIES)
    columns = {name: chance.normal(size=turns) for name in _WEIGHTS}
    after = np.arange(turns) >= turns // 2
    odds = np.where(after, _BIAS_AFTER, _BIAS) + weak[category]
    for name, weight in _WEIGHTS.items():
        odds = odds + columns[name] * np.where(after & (name == "semantic_entropy"), weight / 2, weight)
    truth = 1.0 / (1.0 + np.exp(-odds))
    failed = chance.random(turns) < truth
    rated = chance.random(turns) < np.where(failed, BAD, WELL)
    names = list(columns)
    rows = np.round(np.column_stack([columns[name] for name in names]), 4).tolist()
    return World(
        features=[dict(zip(names, row, strict=True)) for row in rows],
        categories=[f"c{n}" for n in category],
        failed=failed,
        truth=truth,
        rated=rated,
        audited=chance.random(turns) < AUDITED,
        told_at=np.arange(turns) + chance.geometric(1.0 / DELAY, turns),
    )
