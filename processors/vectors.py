"""Texts as unit vectors, for stages that group texts or watch what they are about."""

from __future__ import annotations

import math
import zlib
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from processors.text import grams

Array: TypeAlias = NDArray[Any]


class Vectors(Protocol):
    """A text's vector, of length one; the same text always has the same one. Vectors of different names never meet.

    ``meaning``: whether they see meaning or only spelling. ``near``: the cosine from which a text belongs to the mean
    of others.
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
    def near(self) -> float:
        """The cosine from which a text belongs to a group."""
        ...

    def __call__(self, text: str) -> Array:
        """One unit vector."""
        ...


class Spelling:
    """Three-letter pieces of words, hashed: no model, the same everywhere."""

    name = "spelling-512"
    meaning = False
    near = 0.25
    dimension = 512

    def __call__(self, text: str) -> Array:
        """Damped counts with signs; a text without letters is the first unit vector."""
        row = np.zeros(self.dimension, np.float64)
        for piece, count in grams(text).items():
            place = zlib.crc32(piece.encode("utf-8", "replace"))
            row[place % self.dimension] += (1.0 + math.log(count)) * (1.0 if place >> 31 else -1.0)
        length = float(np.linalg.norm(row))
        if length == 0.0:
            row[0] = length = 1.0
        return row / length


SPELLING = Spelling()
