"""How much each implicit signal is to be believed, learnt from the few turns whose verdict somebody gave.

Logistic regression online: the log-odds of failure are a bias and a coefficient for every signal that a turn has. It
starts from the weights that the rules have, and is drawn back to them, so that a signal that nobody ever judged keeps
its own. Who rates is not a random sample (failures are rated several times as often), which would make every signal
look worse than it is: what each verdict counts is ``processors.auditing``'s to say.

State is JSON with a version; the same verdicts in the same order give the same state on every machine.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from processors.reactions import (
    ABANDONED,
    COMPLETE,
    CORRECTED,
    DIVERGED,
    DWELL,
    ESCALATED,
    FORGETFUL,
    PROCEEDED,
    REGENERATE,
    REPEAT,
    REPHRASE,
    STOPPED,
    TAKEN_OVER,
)

VERSION = 1
STEEPNESS = 3.0
"""Log-odds for a force (value times weight) of one: what attribution reckons with."""
FORCES = {
    one.name: one.score
    for one in (
        REPHRASE, REPEAT, REGENERATE, CORRECTED, ESCALATED, FORGETFUL, DWELL, COMPLETE, PROCEEDED, ABANDONED,
        DIVERGED, STOPPED, TAKEN_OVER,
    )
} | {"accepted": 0.6, "copy": 0.6, "edited": -0.3}  # fmt: skip
"""The force of each signal before anything was learnt: what the rules say, and producers when they say nothing."""


@dataclass(frozen=True, slots=True)
class WeighingRules:
    """``rate``: step of learning. ``pull``: share of the way back to the start with each verdict."""

    rate: float = 0.05
    pull: float = 0.0002


@dataclass(slots=True)
class Weights:
    """The state. ``beta``: log-odds of failure by signal."""

    bias: float = -1.0
    beta: dict[str, float] = field(default_factory=dict[str, float])
    verdicts: int = 0

    def learn(self, signals: Iterable[str], failed: bool, counts: float, rules: WeighingRules) -> None:
        """A verdict on a turn with these signals, which counts so much."""
        names = sorted({name for name in signals if name in FORCES})
        step = rules.rate * counts * (self.p_failure(names) - failed)
        self.bias -= step
        for name in names:
            self.beta[name] = self._beta(name) - step
        for name, value in self.beta.items():
            self.beta[name] = round(value + rules.pull * (_start(name) - value), 9)
        self.bias = round(self.bias, 9)
        self.verdicts += 1

    def p_failure(self, signals: Iterable[str]) -> float:
        """The probability that a turn with these signals failed."""
        total = self.bias + sum(self._beta(name) for name in set(signals) if name in FORCES)
        return 1.0 / (1.0 + math.exp(-max(min(total, 30.0), -30.0)))

    def force(self, name: str) -> float:
        """What a signal is worth now, from -1 (failure) to 1; 0 for one that is not known."""
        return round(max(min(-self._beta(name) / STEEPNESS, 1.0), -1.0), 4) if name in FORCES else 0.0

    def forces(self) -> dict[str, float]:
        """What every signal is worth that anybody judged."""
        return {name: self.force(name) for name in sorted(self.beta)}

    def _beta(self, name: str) -> float:
        return self.beta.get(name, _start(name))

    def dump(self) -> dict[str, Any]:
        """As JSON."""
        return {"v": VERSION, "bias": self.bias, "beta": dict(sorted(self.beta.items())), "verdicts": self.verdicts}

    @classmethod
    def load(cls, body: Mapping[str, Any]) -> Weights:
        """From what ``dump`` gave. Raises ValueError for a version that is not known."""
        if body.get("v") != VERSION:
            raise ValueError(f"weights of version {body.get('v')}; this release reads version {VERSION}")
        return cls(body["bias"], dict(body["beta"]), body["verdicts"])


def _start(name: str) -> float:
    return -STEEPNESS * FORCES[name]
