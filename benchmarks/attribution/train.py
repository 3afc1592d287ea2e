"""Fits ``processors/cause_model.json``: multinomial logistic regression on injected faults, calibrated.

``python benchmarks/attribution/train.py [--each N] [--seed N] [--write]``. The weights are those of the whole set; the
temperature is fitted on predictions for forms that were left out, so that a probability means what it says of forms
that nobody has seen. ``--write`` writes the file; the seed is another one than that of ``measure.py``.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).parent.parent.parent))

import numpy as np
from rich.console import Console
from scipy.optimize import minimize, minimize_scalar

from benchmarks.attribution.faults import FORMS
from benchmarks.attribution.replay import replay
from benchmarks.attribution.stories import Form, stories
from processors import cause_model
from processors.cause_model import INPUTS, LOW, MODEL_VERSION, NONE, Model
from processors.causes import CAUSES, Case, rules
from schemas.events import Cause

Floats = np.ndarray[Any, np.dtype[np.float64]]
PULL = 0.01
"""The pull of every weight towards zero (L2), per story."""
FOLDS = 6
KEPT_WHEN_BLANK = np.array([float(name in ("said:asked_again", "said:contradicted")) for name in INPUTS] + [1.0])
"""A quarter of the stories are trained on once more as if their spans showed nothing: then nothing can be told."""


class Row(NamedTuple):
    """One injected fault, as the model sees it."""

    cause: Cause
    form: str
    case: Case


def rows_of(forms: tuple[Form, ...], each: int, seed: int) -> list[Row]:
    """``each`` stories of every form, through the product's stages."""
    return [Row(one.story.cause, one.story.form, one.case) for one in replay(stories(forms, each, seed))]


def matrix(rows: Sequence[Row]) -> Floats:
    """The inputs of the model, one line a row."""
    seen = [cause_model.inputs(one.case, rules(one.case, LOW), LOW) for one in rows]
    return np.array([[one.get(name, 0.0) for name in INPUTS] for one in seen])


def fit(x: Floats, causes: Sequence[Cause], pull: float = PULL) -> Model:
    """Weights and biases that maximise the penalised likelihood."""
    y = np.array([[float(cause == name) for name in CAUSES] for cause in causes])
    shape = (len(CAUSES), x.shape[1] + 1)
    held = np.hstack([x, np.ones((len(x), 1))])
    blank = held * KEPT_WHEN_BLANK
    blank[:, INPUTS.index(f"first:{NONE}")] = 1.0
    held, y = np.vstack([held, blank[::4]]), np.vstack([y, y[::4]])

    def loss(flat: Floats) -> tuple[float, Floats]:
        weights = flat.reshape(shape)
        z = held @ weights.T
        z -= z.max(axis=1, keepdims=True)
        p = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
        penalty = np.array(weights)
        penalty[:, -1] = 0.0
        value = -float(np.sum(y * np.log(np.maximum(p, 1e-12)))) / len(held) + 0.5 * pull * float(np.sum(penalty**2))
        return value, ((p - y).T @ held / len(held) + pull * penalty).ravel()

    found = minimize(loss, np.zeros(shape[0] * shape[1]), jac=True, method="L-BFGS-B").x.reshape(shape)
    return _model(found, 1.0)


def _model(found: Floats, temperature: float) -> Model:
    weights = {
        cause: {name: round(float(w), 4) for name, w in zip(INPUTS, line[:-1], strict=True) if abs(w) >= 5e-4}
        for cause, line in zip(CAUSES, found, strict=True)
    }
    bias = {cause: round(float(line[-1]), 4) for cause, line in zip(CAUSES, found, strict=True)}
    return {"version": MODEL_VERSION, "temperature": temperature, "bias": bias, "weights": weights}


def folds(forms: tuple[Form, ...]) -> Iterator[set[str]]:
    """The names of the forms that are left out: of every cause at most one or two at a time, each form once."""
    places = {cause: [one.name for one in forms if one.cause == cause] for cause in CAUSES}
    for fold in range(FOLDS):
        yield {name for names in places.values() for place, name in enumerate(names) if place % FOLDS == fold}


def left_out(rows: Sequence[Row], forms: tuple[Form, ...], causes: Sequence[Cause] | None = None) -> Floats:
    """Probabilities for every row by a model that has not seen its form; ``causes`` in place of the true ones."""
    x = matrix(rows)
    given: list[Cause] = list(causes) if causes else [one.cause for one in rows]
    out = np.zeros((len(rows), len(CAUSES)))
    for names in folds(forms):
        test = np.array([one.form in names for one in rows])
        model = fit(x[~test], [one for one, held in zip(given, test, strict=True) if not held])
        for place in np.flatnonzero(test).tolist():
            out[place] = chances(rows[place].case, model)
    return out


def chances(case: Case, model: Model) -> list[float]:
    """A model's probabilities, in the order of ``CAUSES``, as the product computes them."""
    found = cause_model.predict(case, rules(case, LOW), cause_model.fresh(), model)
    return [found[cause] for cause in CAUSES]


def temperature_of(p: Floats, causes: Sequence[Cause]) -> float:
    """The temperature under which these probabilities are likeliest."""
    z, truth = np.log(np.maximum(p, 1e-12)), np.array([CAUSES.index(one) for one in causes])

    def loss(log_t: float) -> float:
        scaled = z / np.exp(log_t)
        scaled -= scaled.max(axis=1, keepdims=True)
        return float(np.mean(np.log(np.exp(scaled).sum(axis=1)) - scaled[np.arange(len(truth)), truth]))

    found: Any = minimize_scalar(loss, bounds=(-1.5, 2.0), method="bounded")
    return float(np.exp(found.x))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--each", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    rows = rows_of(FORMS, options.each, options.seed)
    causes: list[Cause] = [one.cause for one in rows]
    model = fit(matrix(rows), causes)
    model["temperature"] = round(temperature_of(left_out(rows, FORMS), causes), 3)
    Console().print(f"{len(rows)} stories, {len(INPUTS)} inputs, temperature {model['temperature']}")
    if options.write:
        target = Path(cause_model.__file__).with_name("cause_model.json")
        target.write_text(json.dumps(model, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
