"""How well does the dissatisfaction model tell: on halves of the data it has not seen, and on kinds it has not seen.

``python benchmarks/signals/dissatisfaction.py [--models FOLDER] [--seed N]``. Numbers are AUROC. "Halves": fitted on
the half of the groups (conversations, tasks), tested on the other half, both ways. "Lengths" is a logistic regression
on lengths alone (message, answer, messages so far; of a conversation: messages and characters), fitted and tested in
the same way; "shuffled" a fit of labels that were shuffled among the training half, which must tell nothing (it has no
priors: those tell by themselves). The verdict on a message of ``breakdown_dbdc3`` is the majority vote (breakdown or
possible breakdown, against none) on the system's turn before it; that on a conversation of ``agent_trajectories`` is
that it earned no reward.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent.parent))

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from scipy.stats import rankdata

from benchmarks.signals.data import Floats, Set, breakdowns, trajectories
from benchmarks.signals.train import PRIOR, fit, fit_model, measures
from processors.dissatisfaction import coefficients
from processors.likeness import LETTERS

Fit = Callable[[Floats, Floats], Floats]
Mask = NDArray[np.bool_]
SPLITS = 20


def auroc(y: Floats, scores: Floats) -> float:
    """The chance that a bad one has the higher score (Mann and Whitney); ties count half."""
    bad = y > 0.5
    n, m = int(bad.sum()), int((~bad).sum())
    return float((rankdata(scores)[bad].sum() - n * (n + 1) / 2) / (n * m)) if n and m else float("nan")


def tested(x: Floats, y: Floats, train: Mask, learn: Fit) -> float:
    """AUROC on what is not in ``train``."""
    mean, scale = x[train].mean(axis=0), np.maximum(x[train].std(axis=0), 1e-9)
    beta = learn((x[train] - mean) / scale, y[train])
    return auroc(y[~train], ((x[~train] - mean) / scale) @ beta[:-1])


def plain(x: Floats, y: Floats) -> Floats:
    """Ridge regression towards nothing."""
    return fit(x, y, np.zeros(x.shape[1]), np.full(x.shape[1], 500.0))


def raw(names: list[str]) -> Callable[[Floats, Floats, Mask], float]:
    def run(x: Floats, y: Floats, train: Mask) -> float:
        return auroc(y[~train], x[~train] @ fit_model(x[train], y[train], names)[:-1])

    return run


def messages(data: Set, chance: np.random.Generator) -> Iterable[tuple[str, str]]:
    """Rows of the table on ``breakdown_dbdc3``."""
    run, halves = raw(data.names), [data.half == 0, data.half == 1]
    yield "halves: the model", shown(run(data.x, data.y, half) for half in halves)
    yield "halves: lengths", shown(tested(data.lengths, data.y, half, plain) for half in halves)
    yield "halves: its features without priors", shown(tested(data.x, data.y, half, plain) for half in halves)
    found = [
        tested(data.x, np.where(half, chance.permutation(data.y), data.y), half, plain)
        for _ in range(SPLITS)
        for half in halves
    ]
    yield f"halves: the same, shuffled {SPLITS} times", spread(found)
    prior = np.array([PRIOR[name] for name in data.names])
    yield "the prior, fitted on nothing", shown([auroc(data.y, data.x @ prior)])
    for kind in np.unique(data.kind):
        left = data.kind == kind
        yield f"{kind}, fitted on the other systems", shown([run(data.x, data.y, ~left)])
        yield f"{kind}, lengths", shown([tested(data.lengths, data.y, ~left, plain)])


def conversations(data: Set, chance: np.random.Generator) -> Iterable[tuple[str, str]]:
    """Rows of the table on ``agent_trajectories``: the most of each feature in a conversation, and its lengths."""
    most = np.hstack([np.array([rows.max(axis=0) for rows in data.rows]), data.whole])
    groups = np.unique(data.group)
    found: dict[str, list[float]] = {"model": [], "lengths": [], "shuffled": []}
    for _ in range(SPLITS):
        train = np.isin(data.group, chance.permutation(groups)[: len(groups) // 2])
        found["model"].append(tested(most, data.y, train, plain))
        found["lengths"].append(tested(data.whole, data.y, train, plain))
        shuffled = data.y.copy()
        shuffled[train] = chance.permutation(data.y[train])
        found["shuffled"].append(tested(most, shuffled, train, plain))
    for name, values in found.items():
        yield f"halves of the tasks, {SPLITS} times: {name}", spread(values)
    weights = coefficients(meaning=False)
    beta = np.array([weights[name] for name in data.names])
    yield "the product's model, which has not seen them", shown([auroc(data.y, data.x @ beta)])
    for kind in np.unique(data.kind):
        mine = data.kind == kind
        share = f"{mine.sum()} conversations, {data.y[mine].mean():.0%} without reward"
        yield f"  {kind} ({share})", shown([auroc(data.y[mine], data.x[mine] @ beta)])


def shown(values: Iterable[float]) -> str:
    return " and ".join(f"{value:.3f}" for value in values)


def spread(values: list[float]) -> str:
    return f"{np.mean(values):.3f} (sd {np.std(values):.3f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", type=Path, help="folder of all-minilm-l6-v2")
    parser.add_argument("--seed", type=int, default=2501)
    options = parser.parse_args()
    console, chance = Console(highlight=False), np.random.default_rng(options.seed)
    for alike in measures(options.models):
        data = Set(breakdowns(), alike)
        title = f"breakdown_dbdc3 by {alike.name}: {len(data.y)} messages, {data.y.mean():.0%} after a breakdown"
        show(console, title, messages(data, chance))
    data = Set(trajectories(), LETTERS)
    show(console, f"agent_trajectories by letters: {len(data.y)} conversations", conversations(data, chance))


def show(console: Console, title: str, rows: Iterable[tuple[str, str]]) -> None:
    table = Table("", "AUROC", title=title, title_justify="left", box=None)
    for row in rows:
        table.add_row(*row)
    console.print(table)


if __name__ == "__main__":
    main()
