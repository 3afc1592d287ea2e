"""The model: a linear softmax layer on unit sentence vectors.

Before training it is zero-shot: its rows are the vectors of the labels' descriptions, so that a logit is
``SCALE`` times a cosine. Training moves those rows (and a bias) by minibatch Adam on the cross-entropy. On ten
CLINC150 domains with 500 rows this is as good as scikit-learn's LogisticRegression (86 % of 500 unseen rows). The
strong decay costs nothing there and is what keeps wrong labels from being learnt: with a fifth of the labels drawn
at random 78 % are right, with a decay of 0.01 it was 67 %.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.numpy import save

from connectors.embeddings import Array, Embedder
from deploy.local_nemo.storage import write_whole

SCALE = 20.0
EPSILON = np.float32(1e-8)
Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Head:
    """Labels, and for each a row of weights and a bias; ``embedder`` names whose vectors they are for."""

    labels: tuple[str, ...]
    weights: Array
    bias: Array
    embedder: str

    def log_probs(self, rows: Array) -> Floats:
        """Log-softmax, one row for each vector, one column for each label."""
        logits = (SCALE * (rows @ self.weights.T) + self.bias).astype(np.float64)
        logits -= logits.max(axis=1, keepdims=True)
        return logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))


@dataclass(frozen=True)
class Recipe:
    """How to train. ``decoupled`` is AdamW (else the decay is part of the gradient); ``max_steps`` 0 is no limit."""

    epochs: int = 16
    batch_size: int = 16
    learning_rate: float = 0.01
    min_learning_rate: float = 0.0
    warmup_steps: int = 0
    weight_decay: float = 4.0
    beta1: float = 0.9
    beta2: float = 0.98
    decoupled: bool = True
    cosine: bool = True
    max_steps: int = 0
    seed: int = 0

    def rate(self, step: int, steps: int) -> float:
        """Learning rate of a step (from 0): linear warm-up, then cosine to the minimum, or flat."""
        if step < self.warmup_steps:
            low = self.min_learning_rate
            return low + (self.learning_rate - low) * (step + 1) / self.warmup_steps
        if not self.cosine:
            return self.learning_rate
        done = (step - self.warmup_steps) / max(1, steps - self.warmup_steps)
        return self.min_learning_rate + (self.learning_rate - self.min_learning_rate) * (1 + np.cos(np.pi * done)) / 2


@dataclass(frozen=True)
class Examples:
    """Unit vectors and the index of each one's label."""

    rows: Array
    labels: Ints

    def loss(self, head: Head) -> float | None:
        """Mean cross-entropy in nats; None without examples."""
        if not len(self.labels):
            return None
        return float(-head.log_probs(self.rows)[np.arange(len(self.labels)), self.labels].mean())


@dataclass(frozen=True)
class Epoch:
    """What an epoch came to; ``epoch`` counts from 1, ``val_loss`` is None without validation rows."""

    epoch: int
    steps: int
    train_loss: float
    val_loss: float | None


def zero_shot(descriptions: Mapping[str, str], embedder: Embedder) -> Head:
    """The untrained model of these labels, in the order of their names."""
    labels = tuple(sorted(descriptions))
    weights = embedder.embed([descriptions[label] for label in labels])
    return Head(labels, weights, np.zeros(len(labels), np.float32), embedder.name)


def widen(descriptions: Mapping[str, str], labels: Sequence[str]) -> dict[str, str]:
    """The descriptions, and for labels that have none, the label's own words."""
    words = {label: label.replace("_", " ").replace("-", " ") for label in labels}
    return {**words, **descriptions}


class Adam:
    """Adam's two running means for one array, and the step they give."""

    def __init__(self, value: Array, recipe: Recipe) -> None:
        self._mean = np.zeros_like(value)
        self._square = np.zeros_like(value)
        self._recipe = recipe

    def step(self, value: Array, gradient: Array, step: int, rate: float) -> None:
        """Move ``value`` in place. ``step`` counts from 0."""
        r = self._recipe
        decay = np.multiply(value, r.weight_decay, dtype=np.float32)
        gradient = gradient if r.decoupled else np.add(gradient, decay, dtype=np.float32)
        self._mean += np.float32(1 - r.beta1) * (gradient - self._mean)
        self._square += np.float32(1 - r.beta2) * (np.square(gradient) - self._square)
        mean = self._mean / np.float32(1 - r.beta1 ** (step + 1))
        move = mean / (np.sqrt(self._square / np.float32(1 - r.beta2 ** (step + 1))) + EPSILON)
        move = move + decay if r.decoupled else move
        np.subtract(value, np.float32(rate) * move, out=value)


def fit(base: Head, train: Examples, val: Examples, recipe: Recipe, report: Callable[[Epoch], None]) -> Head:
    """Train a copy of ``base``; with validation rows the best epoch's weights are kept, else the last.

    Deterministic in its arguments. No epochs give ``base`` itself.
    """
    rng = np.random.default_rng(recipe.seed)
    per_epoch = -(-len(train.labels) // recipe.batch_size)
    steps = min(recipe.epochs * per_epoch, recipe.max_steps or recipe.epochs * per_epoch)
    head = Head(base.labels, base.weights.copy(), base.bias.copy(), base.embedder)
    moves = Adam(head.weights, recipe), Adam(head.bias, recipe)
    best, lowest, step = base, np.inf, 0
    for epoch in range(1, -(-steps // per_epoch) + 1 if per_epoch else 1):
        for batch in shuffled(train, recipe.batch_size, rng)[: steps - step]:
            descend(head, batch, moves, step, recipe.rate(step, steps))
            step += 1
        val_loss = val.loss(head)
        report(Epoch(epoch, step, train.loss(head) or 0.0, val_loss))
        if val_loss is None or val_loss < lowest:
            best = Head(head.labels, head.weights.copy(), head.bias.copy(), head.embedder)
            lowest = np.inf if val_loss is None else val_loss
    return best


def shuffled(train: Examples, size: int, rng: np.random.Generator) -> list[Examples]:
    """All examples once, in random order, in batches."""
    order = rng.permutation(len(train.labels))
    parts = [order[start : start + size] for start in range(0, len(order), size)]
    return [Examples(train.rows[part], train.labels[part]) for part in parts]


def descend(head: Head, batch: Examples, moves: tuple[Adam, Adam], step: int, rate: float) -> None:
    """One gradient step on one batch, in place."""
    slope = np.exp(head.log_probs(batch.rows)).astype(np.float32)
    slope[np.arange(len(batch.labels)), batch.labels] -= 1
    slope /= np.float32(len(batch.labels))
    moves[0].step(head.weights, np.float32(SCALE) * (slope.T @ batch.rows), step, rate)
    moves[1].step(head.bias, slope.sum(axis=0), step, rate)


def save_head(head: Head, path: Path) -> str:
    """Write the model whole; its sha256. Equal models have equal bytes."""
    about = json.dumps({"labels": head.labels, "embedder": head.embedder})
    data = save({"weights": head.weights, "bias": head.bias}, metadata={"model": about})
    write_whole(path, data)
    return hashlib.sha256(data).hexdigest()


def load_head(path: Path) -> Head:
    """Read what ``save_head`` wrote."""
    with safe_open(path, framework="np") as file:
        about = json.loads(file.metadata()["model"])
        return Head(tuple(about["labels"]), file.get_tensor("weights"), file.get_tensor("bias"), about["embedder"])
