"""Movement: which features of an agent's outcomes are not what they used to be; what an alarm names as its company.

Every feature has a long memory (its mean and variance) and a short one. A feature has moved when the short mean lies
outside of what chance makes of the long one. Features are numbers of an outcome and the shares of its causes and
categories; it is a description of what changed together, no test.
"""

from __future__ import annotations

import math
from typing import Any

_SHORT, _LONG = 1 / 50, 1 / 1_000
_FEW, _BEYOND, _MOST = 100, 3.0, 5
_SHARES = 24
_DIGITS = 5


def observe(data: dict[str, Any], numbers: dict[str, float], share: dict[str, str]) -> None:
    """Take one outcome: its numbers, and for each kind of share (``cause``, ``category``) which one it is.

    ``data`` maps a feature to its count, long mean, variance, and short mean; at most ``_SHARES`` shares are known.
    """
    seen = max((one[0] for one in data.values()), default=0)
    for kind, name in share.items():
        feature = f"{kind}:{name}"
        if name and feature not in data and sum(":" in one for one in data) < _SHARES:
            data[feature] = [seen, 0.0, 0.0, 0.0]
    present = {f"{kind}:{name}" for kind, name in share.items()}
    for feature, one in data.items():
        if ":" in feature:
            _learn(one, float(feature in present))
    for feature, value in numbers.items():
        _learn(data.setdefault(feature, [0, 0.0, 0.0, 0.0]), value)


def moved(data: dict[str, Any]) -> dict[str, float]:
    """The features that moved most, and by how much; the most surprising first.

    >>> data = {}
    >>> for place in range(1000):
    ...     late = place >= 950
    ...     cause = "tool" if late else "retrieval"
    ...     observe(data, {"uncertainty": 0.1 + 0.01 * (place % 5) + 0.5 * late}, {"cause": cause})
    >>> sorted(moved(data))
    ['cause:retrieval', 'cause:tool', 'uncertainty']
    """
    found: list[tuple[float, str, float]] = []
    for feature, (count, mean, variance, short) in data.items():
        deviation = math.sqrt(max(variance, 1e-6) * _SHORT / (2.0 - _SHORT))
        if count >= _FEW and abs(short - mean) > _BEYOND * deviation:
            found.append((-abs(short - mean) / deviation, feature, round(short - mean, 4)))
    return {feature: by for _, feature, by in sorted(found)[:_MOST]}


def _learn(one: list[Any], value: float) -> None:
    one[0] = min(one[0] + 1, 1_000_000)
    off = value - one[1]
    rate = max(1.0 / one[0], _LONG)
    one[1] = round(one[1] + rate * off, _DIGITS)
    one[2] = round(one[2] + rate * (off * (value - one[1]) - one[2]), _DIGITS)
    one[3] = round(one[3] + max(1.0 / one[0], _SHORT) * (value - one[3]), _DIGITS)
