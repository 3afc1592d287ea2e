"""Fits the coefficients of ``processors/dissatisfaction.py``: logistic regression, maximum a posteriori.

``python benchmarks/signals/train.py [--models FOLDER] [--write]``. It is fitted on ``breakdown_dbdc3``, the one
data set here whose verdicts are about single answers. Every coefficient has a prior from before any data was seen
(``PRIOR``) and may not cross zero against its polarity; satisfied and dissatisfied messages weigh the same.
``--write`` writes ``processors/dissatisfaction.json``; ``--models`` is the folder of all-minilm-l6-v2, without which
only the set for letters is fitted.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent.parent))

import numpy as np
from rich.console import Console
from scipy.optimize import minimize

from benchmarks.signals.data import Floats, Set, breakdowns
from connectors.embeddings import Cached, Meaning, MiniLM
from processors import dissatisfaction
from processors.dissatisfaction import MODEL_VERSION, POLARITY
from processors.likeness import LETTERS, Likeness

PRIOR = {
    "correction": 1.2, "rejection": 0.7, "confusion": 1.2, "complaint": 1.2, "escalation": 1.5, "asked_again": 1.0,
    "shouting": 0.5, "thanks": -1.2, "agent_failed": 0.8, "agent_repeats": 0.8, "agent_silent": 0.8, "agent_asks": -0.3,
    "dodged": 0.3, "off_topic": 1.0, "position": 0.5, "trouble": 1.0,
}  # fmt: skip
"""Log-odds for the whole of a feature, as one would guess them."""
STRENGTH, FIRM = 3.0, 30.0
"""How many messages' worth of evidence a prior has, out of ``SIZE`` in the data: firm for what people say, which those
who chat with these bots seldom do."""
SIZE = 1_000.0
SAID = ("correction", "rejection", "confusion", "complaint", "escalation", "asked_again", "shouting", "thanks")
MOST = {"position": 2.0}
"""Bounds beyond a polarity: how long a conversation is says more about these bots than about dissatisfaction."""
Bounds = list[tuple[float, float]]


def fit(x: Floats, y: Floats, prior: Floats, strength: Floats, bounds: Bounds | None = None) -> Floats:
    """Coefficients and last the bias, that maximise the posterior of the verdicts ``y`` (0 or 1)."""
    share = np.where(y > 0.5, max(y.mean(), 1e-9), max(1.0 - y.mean(), 1e-9))
    weights = SIZE / share / (1.0 / share).sum()

    def loss(beta: Floats) -> tuple[float, Floats]:
        z, away = x @ beta[:-1] + beta[-1], beta[:-1] - prior
        error = weights * (1.0 / (1.0 + np.exp(-z)) - y)
        value = float(np.sum(weights * (np.logaddexp(0.0, z) - y * z)) + 0.5 * strength * away @ away)
        return value, np.append(x.T @ error + strength * away, error.sum())

    limits = None if bounds is None else [*bounds, (-10.0, 10.0)]
    return minimize(loss, np.append(prior, 0.0), jac=True, bounds=limits, method="L-BFGS-B").x


def fit_model(x: Floats, y: Floats, names: list[str]) -> Floats:
    """The product's model: with its priors and polarities."""
    bounds = [(0.0, MOST.get(name, 5.0)) if POLARITY[name] > 0 else (-5.0, 0.0) for name in names]
    strength = np.array([FIRM if name in SAID else STRENGTH for name in names])
    return fit(x, y, np.array([PRIOR[name] for name in names]), strength, bounds)


def measures(folder: Path | None) -> list[Likeness]:
    """By letters, and by meaning when the model is there."""
    return [LETTERS, *([Meaning(Cached(MiniLM(folder), 100_000))] if folder else [])]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", type=Path)
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    target = Path(dissatisfaction.__file__).with_name("dissatisfaction.json")
    body = json.loads(target.read_text()) | {"version": MODEL_VERSION}
    for alike in measures(options.models):
        data = Set(breakdowns(), alike)
        beta = fit_model(data.x, data.y, data.names)
        fitted = {name: round(float(value), 4) for name, value in zip([*data.names, "bias"], beta, strict=True)}
        body["meaning" if alike.meaning else "letters"] = fitted
        Console(highlight=False).print(alike.name, fitted)
    if options.write:
        target.write_text(json.dumps(body, indent=2) + "\n")


if __name__ == "__main__":
    main()
