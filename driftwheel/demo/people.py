"""Simulated people: employees who know the truth and react to answers with noise, and a reviewer who labels.

Rates are fixed and stated here; every decision is a function of the seed, the ask and the kind of decision.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

from driftwheel.demo.world import Ask

FLIP = 0.03
"""Share of reactions that contradict what the person should feel."""

WRONG = (
    ("rephrase", 0.30),
    ("correction", 0.22),
    ("escalation", 0.16),
    ("rating", 0.10),
    ("regenerate", 0.07),
)
"""What people do about a wrong answer; the rest leave without a word."""

RIGHT = (("accepted", 0.35), ("copy", 0.12), ("task_complete", 0.13), ("rating", 0.05))
"""What people do about a right one."""

REVIEWER_ERROR = 0.02
"""Share of the reviewer's labels that are wrong."""

_LEADS = ("no, ", "I meant: ", "that's not it. ", "not what I asked, ", "again: ")


@dataclass(frozen=True, slots=True)
class Reaction:
    """``signal`` is a body for ``/v1/signals`` without ids; ``follow_up`` a next message in the session."""

    signal: dict[str, Any] | None = None
    follow_up: str | None = None


def react(ask: Ask, seed: int, answer: str) -> Reaction:
    """How the person who asked reacts to the answer."""
    rng = random.Random(f"react/{seed}/{ask.index}")
    right = (answer == ask.truth) != (rng.random() < FLIP)
    action = _pick(RIGHT if right else WRONG, rng)
    if action is None:
        return Reaction()
    if action == "rephrase":
        return Reaction(follow_up=rng.choice(_LEADS) + ask.text)
    if action == "task_complete":
        return Reaction(follow_up="thanks, that is all")
    body: dict[str, Any] = {"name": action}
    if action == "rating":
        body["value"] = 1.0 if right else -1.0
    if action == "correction":
        body |= {"text": ask.truth, "text_before": answer, "value": -1.0}
    return Reaction(signal=body)


def _pick(choices: tuple[tuple[str, float], ...], rng: random.Random) -> str | None:
    point = rng.random()
    for name, share in choices:
        if point < share:
            return name
        point -= share
    return None


class Reviewer:
    """Answers the label queue. ``shuffle``: every answer is another ask's truth, which is the control."""

    def __init__(self, seed: int, labels: list[str], shuffle: bool = False) -> None:
        self._seed, self._labels, self._shuffle = seed, labels, shuffle

    def label(self, sample_id: str, truth: str) -> str:
        """The label that the reviewer gives to a sample whose truth is known to the world."""
        rng = random.Random(f"review/{self._seed}/{sample_id}")
        if self._shuffle:
            return rng.choice(self._labels)
        if rng.random() < REVIEWER_ERROR:
            return rng.choice([label for label in self._labels if label != truth])
        return truth
