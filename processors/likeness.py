"""How alike two texts are, by one measure or another: letters always, meaning where a model is given."""

from __future__ import annotations

from typing import Protocol

from processors.text import similarity


class Likeness(Protocol):
    """A measure: 1 the same, about 0 nothing in common. The same two texts always give the same number.

    ``name`` says how it was measured, in evidence; ``meaning`` whether it sees meaning or only spelling; ``at`` from
    what likeness one message is another one rephrased; ``apart``: under what mean likeness messages are about
    something else.
    """

    @property
    def name(self) -> str:
        """Stable identity of the measure."""
        ...

    @property
    def meaning(self) -> bool:
        """Whether it sees meaning."""
        ...

    @property
    def at(self) -> float:
        """From what likeness a message rephrases another."""
        ...

    @property
    def apart(self) -> float:
        """Under which mean likeness messages are about something else."""
        ...

    def __call__(self, first: str, second: str) -> float:
        """The likeness of two texts."""
        ...


class Letters:
    """Three-letter pieces: no model, the same everywhere."""

    name = "letters"
    meaning = False
    at = 0.5
    apart = 0.1

    def __call__(self, first: str, second: str) -> float:
        """See ``processors.text.similarity``."""
        return similarity(first, second)


LETTERS = Letters()
