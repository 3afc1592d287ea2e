"""Score: how sure could the agent be of a turn, and how likely did it fail.

``uncertainty`` is one minus the margin between the two most likely answers (from their log-probabilities), or
what the text and the tools betray. ``p_failure`` is a logistic sum of the features that are present, with
fixed weights: a feature that is missing says nothing. Every feature is kept with the score.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import cast

from processors.stage import Event, Stage
from processors.state import KeyState
from processors.text import normal, words
from schemas.events import Record, Score, Turn, identity
from schemas.topics import SCORES, TURNS

_HEDGE = re.compile(
    r"\b(?:might|may|perhaps|possibly|probably|not (?:entirely |quite )?sure|i (?:think|believe|guess)"
    r"|it (?:seems|appears)|unable to (?:verify|confirm)|as far as i know"
    r"|i don'?t have (?:access|information))\b"
)
_REFUSAL = re.compile(
    r"\bi(?:'m| am) (?:sorry|afraid|unable|not able)\b|\bi (?:cannot|can'?t|couldn'?t)"
    r" (?:help|assist|answer|find|do)"
    r"|\bnot (?:my area|able to help)\b"
)


def _weights() -> dict[str, float]:
    return {
        "doubt": 3.0, "hedges": 0.4, "refusal": 2.0, "empty": 3.0, "tool_unresolved": 1.6, "tool_errors": 0.3,
        "low_retrieval": 1.2, "error": 2.0,
    }  # fmt: skip


@dataclass(frozen=True, slots=True)
class ScoreSettings:
    """Weights are in log-odds of failure.

    ``bias``: a turn that shows nothing. ``weights``: per unit of a feature. ``doubt_at``: the doubt that
    speaks neither way. ``retrieval_at``: the retrieval score (0 to 1) under which documents count as poor.
    """

    bias: float = -2.0
    doubt_at: float = 0.3
    retrieval_at: float = 0.35
    weights: dict[str, float] = field(default_factory=_weights)


class ScoreTurns(Stage):
    """Turns to scores, one by one, without state."""

    name = "score"
    sources = (TURNS,)
    emits = (SCORES,)
    linger = 0.5
    memo_size = 0
    by = None

    def __init__(self, settings: ScoreSettings | None = None) -> None:
        self._settings = settings or ScoreSettings()
        super().__init__(self._settings)

    def step(self, event: Event, state: KeyState) -> Iterable[Record]:
        """Score one turn."""
        del state
        turn = cast("Turn", event.record)
        features = _features(turn, self._settings)
        p_failure = _p_failure(features, self._settings)
        yield Score(
            event_id=identity("score", turn.tenant, turn.turn_id),
            tenant=turn.tenant,
            agent=turn.agent,
            subject_hash=turn.subject_hash,
            event_time=turn.event_time,
            end_time=turn.end_time,
            session_id=turn.session_id,
            turn_id=turn.turn_id,
            turn_index=turn.turn_index,
            trace_id=turn.trace_id,
            model_version=turn.model_version,
            category=turn.category,
            uncertainty=round(features.get("doubt", p_failure), 6),
            p_failure=round(p_failure, 6),
            scorer="rules-1",
            features=features | turn.faults,
            fault_spans=turn.fault_spans,
            tool_errors=turn.tool_errors,
            retrievals=turn.retrievals,
            retrieval_score=turn.retrieval_score,
            sketch=turn.sketch,
        )


def doubt_of(top1: float | None, top2: float | None) -> float | None:
    """One minus the margin of probability between the best and the second answer; None without the best.

    >>> doubt_of(0.0, -20.0) < 0.001 and doubt_of(-0.7, -0.7) == 1.0
    True
    """
    if top1 is None or not math.isfinite(top1):
        return None
    first = math.exp(min(top1, 0.0))
    second = math.exp(min(top2, 0.0)) if top2 is not None and math.isfinite(top2) else 0.0
    return min(max(1.0 - (first - second), 0.0), 1.0)


def _features(turn: Turn, settings: ScoreSettings) -> dict[str, float]:
    said = " ".join(turn.output.lower().replace("\u2019", "'").split())
    spoken = max(len(words(said)), 1)
    found = {
        "hedges": min(100.0 * len(_HEDGE.findall(said)) / max(spoken, 20), 5.0),
        "refusal": float(bool(_REFUSAL.search(said))),
        "empty": float(not said),
        "tool_errors": float(min(turn.tool_errors, 5)),
        "tool_unresolved": float(bool(turn.failed_tool)),
        "router": float(bool(turn.category) and normal(turn.category) == normal(turn.output)),
        "error": float(bool(turn.error)),
    }
    if turn.retrieval_score is not None and math.isfinite(turn.retrieval_score):
        found["low_retrieval"] = float(turn.retrieval_score < settings.retrieval_at)
    doubt = doubt_of(turn.logprob_top1, turn.logprob_top2)
    if doubt is not None:
        found["doubt"] = round(doubt, 6)
    return found


def _p_failure(features: dict[str, float], settings: ScoreSettings) -> float:
    speaking = features | ({"doubt": features["doubt"] - settings.doubt_at} if "doubt" in features else {})
    total = settings.bias + sum(settings.weights.get(name, 0.0) * value for name, value in speaking.items())
    return 1.0 / (1.0 + math.exp(-total))
