"""Score: how sure could the agent be of a turn, and how likely did it fail.

``uncertainty`` is one minus the margin between the two most likely answers (from their log-probabilities), or
what the text and the tools betray. ``p_failure`` is a logistic sum of the features that are present, with
fixed weights: a feature that is missing says nothing. Once ``learn`` has seen enough verdicts on an agent's turns it is
the probability of the agent's newest calibration instead. Every feature is kept with the score, and ``scorer`` names
what made it: whoever has both gets the same probability.

Calibrations are broadcast: every partition has its own copy. A turn that comes again after a newer calibration gets
that one's score, under the same id.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, cast

from processors import calibrating
from processors.features import features_of
from processors.stage import Event, Stage
from processors.state import KeyState
from schemas.events import Calibration, Record, Score, Turn, identity
from schemas.topics import CALIBRATIONS, SCORES, TURNS

RULES = "rules-1"
"""The scorer while nothing was learnt."""


def _weights() -> dict[str, float]:
    return {
        "doubt": 3.0, "hedges": 0.4, "refusal": 2.0, "empty": 3.0, "tool_unresolved": 1.6, "tool_errors": 0.3,
        "low_retrieval": 1.2, "error": 2.0,
    }  # fmt: skip


@dataclass(frozen=True, slots=True)
class ScoreSettings:
    """Weights are in log-odds of failure; they hold until a calibration does.

    ``bias``: a turn that shows nothing. ``weights``: per unit of a feature. ``doubt_at``: the doubt that
    speaks neither way. ``retrieval_at``: the retrieval score (0 to 1) under which documents count as poor.
    """

    bias: float = -2.0
    doubt_at: float = 0.3
    retrieval_at: float = 0.35
    weights: dict[str, float] = field(default_factory=_weights)


class ScoreTurns(Stage):
    """Turns to scores, one by one. State: the agent's newest calibration, a copy in every partition."""

    name = "score"
    sources = (TURNS, CALIBRATIONS)
    emits = (SCORES,)
    linger = 0.5
    memo_size = 0
    by = "session"

    def __init__(self, settings: ScoreSettings | None = None) -> None:
        self._settings = settings or ScoreSettings()
        super().__init__(self._settings)

    def step(self, event: Event, state: KeyState) -> Iterable[Record]:
        """Score one turn, or take a newer calibration."""
        if isinstance(event.record, Calibration):
            _take(state.data, event.record)
        else:
            yield self._score(cast("Turn", event.record), state.data)

    def _score(self, turn: Turn, known: dict[str, Any]) -> Score:
        features = features_of(turn, self._settings.retrieval_at)
        by_rules = rules_p_failure(features, self._settings)
        model = known.get("model")
        if model:
            features = calibrating.with_category(features, turn.category, model)
        p_failure = calibrating.p_failure(features, model) if model else by_rules
        return Score(
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
            uncertainty=round(features.get("doubt", by_rules), 6),
            p_failure=round(p_failure, 6),
            scorer=scorer_of(known["number"]) if model else RULES,
            features=features,
            fault_spans=turn.fault_spans,
            causes=known.get("causes", ""),
            tool_errors=turn.tool_errors,
            retrievals=turn.retrievals,
            retrieval_score=turn.retrieval_score,
            forces=known.get("forces", {}),
            sketch=turn.sketch,
        )


def scorer_of(number: int) -> str:
    """The name of an agent's ``number``-th calibration.

    >>> scorer_of(7)
    'calibration-7'
    """
    return f"calibration-{number}"


def rules_p_failure(features: dict[str, float], settings: ScoreSettings) -> float:
    """The probability by the rules: features that are missing say nothing."""
    weights = settings.weights
    total = settings.bias + sum(weights[name] * value for name, value in features.items() if name in weights)
    if "doubt" in features:
        total -= weights.get("doubt", 0.0) * settings.doubt_at
    return 1.0 / (1.0 + math.exp(-total))


def _take(known: dict[str, Any], calibration: Calibration) -> None:
    """Keep a calibration unless a newer one is there."""
    if calibration.number > known.get("number", 0):
        model = json.loads(calibration.model) if calibration.model else None
        known.update(number=calibration.number, model=model, forces=calibration.forces, causes=calibration.causes)
