"""MMD: finds that texts are about something else than before, from their embeddings alone, without labels.

Each embedding becomes a few random Fourier features of a Gaussian kernel, one signed byte each. The squared distance
between the mean features of a reference and of the newest embeddings (a moving average) estimates the maximum mean
discrepancy of the two; the statistic is that distance divided by what chance makes of it, which is 1 while nothing
changes, whatever the model. Papers: Rahimi and Recht, "Random features for large-scale kernel machines" (NIPS 2007);
Gretton et al., "A kernel two-sample test" (JMLR 2012).

The features are drawn from hashes, so that every process has the same ones. Whole numbers only: a state restored from
its JSON goes on bit for bit.
"""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

FEATURES = 64
Array: TypeAlias = NDArray[Any]
_BYTE, _FINE = 127, 128


@dataclass(frozen=True, slots=True)
class Mmd:
    """``reference``: texts that teach what is usual. ``newest``: about so many are in the moving average."""

    reference: int = 1_000
    newest: int = 200


def features(embeddings: Array) -> NDArray[np.int8]:
    """Unit embeddings, one a row, as rows of ``FEATURES`` signed bytes."""
    frequencies, phases = _drawn(embeddings.shape[1])
    return np.rint(_BYTE * np.cos(embeddings.astype(np.float64) @ frequencies + phases)).astype(np.int8)


def sketch(embedding: Array) -> str:
    """The features of one unit embedding, in base64: what travels."""
    return base64.b64encode(features(embedding[None, :])[0].tobytes()).decode()


def sketched(text: str) -> NDArray[np.int8] | None:
    """The features that ``sketch`` wrote; None for anything else."""
    try:
        held = base64.b64decode(text, validate=True)
    except ValueError:
        return None
    return np.frombuffer(held, dtype=np.int8) if len(held) == FEATURES else None


def fresh() -> dict[str, Any]:
    """The state of a new detector; JSON, at most 300 bytes for ever."""
    return {"n": 0, "v": 0.0, "c": "", "r": ""}


def update(data: dict[str, Any], one: Sequence[int] | NDArray[np.int8], mmd: Mmd) -> float:
    """Take the features of one text into ``data``, in place; the statistic, 0 while the reference is learnt.

    >>> rng, data = np.random.default_rng(1), fresh()
    >>> def texts(count, topic):
    ...     rows = rng.normal(size=(count, 16)) + 4 * np.eye(16)[topic]
    ...     return features(rows / np.linalg.norm(rows, axis=1, keepdims=True))
    >>> calm = [update(data, row, Mmd()) for row in texts(2000, 0)]
    >>> new = [update(data, row, Mmd()) for row in texts(200, 1)]
    >>> max(calm) < 5 < max(new)
    True
    """
    value = np.asarray(one, dtype=np.int64) * _FINE
    data["n"] += 1
    current = _read(data["c"]) if data["c"] else np.zeros(FEATURES, dtype=np.int64)
    learning = data["n"] <= mmd.reference
    step = (value - current) / min(data["n"], mmd.reference if learning else mmd.newest)
    current = current + np.rint(step).astype(np.int64)
    data["c"] = _written(current)
    if learning:
        data["v"] = round(data["v"] + (float(value @ value) / FEATURES - data["v"]) / data["n"], 1)
        if data["n"] == mmd.reference:
            data["r"] = _written(np.rint(current / _FINE), "i1")
            data["v"] = max(round(data["v"] - float(current @ current) / FEATURES, 1), 1.0)
        return 0.0
    off = current - _FINE * _read(data["r"], "i1")
    rate = 1.0 / mmd.newest
    chance = data["v"] * (rate / (2.0 - rate) + 1.0 / mmd.reference)
    return float(off @ off) / FEATURES / chance


def _read(text: str, kind: str = "<i2") -> NDArray[np.int64]:
    return np.frombuffer(base64.b64decode(text), dtype=kind).astype(np.int64)


def _written(values: Array, kind: str = "<i2") -> str:
    return base64.b64encode(values.astype(kind).tobytes()).decode()


@cache
def _drawn(dimension: int) -> tuple[Array, Array]:
    """Normal frequencies and uniform phases, from hashes of their place."""
    pairs = (dimension * FEATURES + 1) // 2
    uniform = (_uniform("frequency", 2 * pairs) + 0.5 / 2**32).reshape(2, pairs)
    radius, angle = np.sqrt(-2.0 * np.log(uniform[0])), 2.0 * math.pi * uniform[1]
    normal = np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])[: dimension * FEATURES]
    return normal.reshape(dimension, FEATURES), 2.0 * math.pi * _uniform("phase", FEATURES)


def _uniform(name: str, count: int) -> Array:
    data = b"".join(hashlib.sha256(f"mmd/{name}/{block}".encode()).digest() for block in range((count + 7) // 8))
    return np.frombuffer(data, dtype="<u4")[:count] / 2.0**32
