"""The learnt half of attribution: multinomial logistic regression over rules and features, calibrated, that abstains.

The default model (``cause_model.json``, numbers alone) was fitted on injected faults by
``benchmarks/attribution/train.py``. On top of it an agent's own labels teach a correction: one number for each pair of
what the rules said first and what a person said, by stochastic gradient steps on the cross-entropy with a pull towards
zero. So a team's own kind of failure is learnt from few labels, and none changes nothing.

>>> state, case = fresh(), Case({"tool_failed": 1.0})
>>> before = predict(case, rules(case, LOW), state)
>>> for _ in range(20):
...     learn(state, case, "routing")
>>> after = predict(case, rules(case, LOW), load(dump(state)))
>>> before["tool"] > 0.9, after["routing"] > 0.6
(True, True)
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, cast

from processors.causes import CAUSES, SAID, Case, Fired, first, rules
from processors.faults import FAULTS
from schemas.errors import Invalid
from schemas.events import Cause

MODEL_VERSION = 1
LOW = 0.35
"""The retrieval score (0 to 1) under which documents are poor, until an agent's own scores are known."""
ABSTAIN = 0.6
"""Under this probability no cause is told: a person has to look."""
_RATE, _PULL, _STEP = 0.5, 0.002, 0.02
_MOST = 6.0
_KNOWN_SCORES = 50
_SCALE = {"tool_loop": 5.0, "handoffs": 2.0, "searches": 3.0, "queries": 3.0, "hedges": 5.0, "tool_errors": 5.0}
"""Counts are divided by these; everything ends in [0, 1]."""
_FACTS = ("corrected_route", "rerouted", *sorted(set(SAID.values())))
_SHOWN = (*FAULTS, "router", "error", "empty", "refusal", "hedges")
NONE = "none"
INPUTS: tuple[str, ...] = (
    *_SHOWN, *(f"said:{name}" for name in _FACTS), "retrieved", "poor", "scored",
    *(f"rule:{cause}" for cause in CAUSES), *(f"first:{cause}" for cause in (*CAUSES, NONE)),
)  # fmt: skip
"""What the model sees, in order: features, facts, retrieval, the surest rule of each cause, the rule that decides."""

Model = dict[str, Any]
"""Weights by cause and input, biases by cause and a temperature, as ``cause_model.json`` holds them."""
State = dict[str, Any]
"""What an agent's labels taught, JSON only: see ``fresh``."""


def fresh() -> State:
    """Nothing learnt: ``labels`` so far, ``shift`` by first rule and cause, and the agent's usual retrieval ``low``."""
    return {"v": MODEL_VERSION, "labels": 0, "scores": 0, "low": LOW, "shift": {}}


def dump(state: State) -> str:
    """As JSON text, under 1 KB; ``load`` gives back an equal state, bit for bit."""
    return json.dumps(state, sort_keys=True, separators=(",", ":"))


def load(text: str) -> State:
    """From the text of ``dump``; '' is fresh. Raises Invalid for another version's or no state."""
    if not text:
        return fresh()
    try:
        state = json.loads(text)
    except ValueError as error:
        raise Invalid("bad_causes", "field causes: not JSON; '' means the default model") from error
    if not isinstance(state, dict) or cast("State", state).get("v") != MODEL_VERSION:
        raise Invalid("bad_causes", f"field causes: not a state of version {MODEL_VERSION}; '' means the default model")
    return fresh() | cast("State", state)


def knows(state: State) -> bool:
    """Whether it says anything else than the default model."""
    return state["labels"] > 0 or state["scores"] >= _KNOWN_SCORES


def low_of(state: State) -> float:
    """Under which retrieval score documents are poor: an agent's own tenth percentile, once enough scores are known."""
    return state["low"] if state["scores"] >= _KNOWN_SCORES else LOW


def see(state: State, retrieval_score: float) -> None:
    """Move the tenth percentile of an agent's retrieval scores of successes (Robbins and Monro 1951), in place."""
    state["scores"] += 1
    step = max(_STEP, 1.0 / (10 + state["scores"])) * max(abs(state["low"]), 0.05)
    state["low"] += step * (0.1 if retrieval_score > state["low"] else -0.9)


def learn(state: State, case: Case, cause: Cause, model: Model | None = None) -> None:
    """One label: what a person said was the cause of a case. ``unknown`` teaches nothing. In place."""
    if cause not in CAUSES:
        return
    fired = rules(case, low_of(state))
    given = predict(case, fired, state, model)
    row = state["shift"].setdefault(_first(fired), dict.fromkeys(CAUSES, 0.0))
    for name in CAUSES:
        stepped = row[name] * (1.0 - _PULL) + _RATE * ((name == cause) - given[name])
        row[name] = min(max(stepped, -_MOST), _MOST)
    state["labels"] += 1


def predict(case: Case, fired: Sequence[Fired], state: State, model: Model | None = None) -> dict[Cause, float]:
    """The probability of each cause, given the rules that fired (``causes.rules`` with ``low_of``)."""
    held, seen = model or default(), inputs(case, fired, low_of(state))
    shift: Mapping[str, float] = state["shift"].get(_first(fired), {})
    logits: dict[Cause, float] = {}
    for cause in CAUSES:
        weights = held["weights"][cause]
        total = held["bias"][cause] + sum(weights.get(name, 0.0) * value for name, value in seen.items())
        logits[cause] = total / held["temperature"] + shift.get(cause, 0.0)
    most = max(logits.values())
    whole = sum(math.exp(value - most) for value in logits.values())
    return {cause: math.exp(logits[cause] - most) / whole for cause in CAUSES}


def inputs(case: Case, fired: Sequence[Fired], low: float) -> dict[str, float]:
    """The inputs that are not 0, in [0, 1]."""
    features = case.features
    seen = {name: min(features[name] / _SCALE.get(name, 1.0), 1.0) for name in _SHOWN if features.get(name, 0.0) > 0}
    seen |= {f"said:{name}": 1.0 for name in _FACTS if name in case.facts}
    if case.retrievals or case.features.get("searches"):
        seen["retrieved"] = 1.0
    if case.retrieval_score is not None:
        seen["scored"] = min(max(case.retrieval_score, 0.0), 1.0)
        seen |= {"poor": 1.0} if case.retrieval_score < low else {}
    for one in fired:
        name = f"rule:{one.cause}"
        seen[name] = max(seen.get(name, 0.0), one.confidence)
    seen[f"first:{_first(fired)}"] = 1.0
    return seen


def _first(fired: Sequence[Fired]) -> str:
    found = first(fired)
    return found.cause if found else NONE


@cache
def default() -> Model:
    """The model that is shipped."""
    body = json.loads(Path(__file__).with_name("cause_model.json").read_text())
    if body["version"] != MODEL_VERSION:
        raise ValueError(f"cause_model.json is of version {body['version']}, this code of {MODEL_VERSION}")
    return body
