"""Alarm budgets: which threshold gives so many false alarms per 100,000 events, by detector.

The false alarms of each detector on stable streams fall exponentially with its threshold: measured, see
``benchmarks/drift/calibrate.py``, at rates of 1 to 20 per cent for MixLR, on independent and on correlated values for
ADWIN; for Tails on normal and Beta values, on correlated ones and on daily cycles (heavier tails exceed the budget).
"""

from __future__ import annotations

import math
from functools import lru_cache

_FITS = {"mixlr": ((7.9, 1.3),), "adwin": ((8.0, 1.1),), "tails": ((10.5, 0.7),)}
"""Lines: the threshold at a budget of 1, and how much it falls when the logarithm of the budget rises by 1."""
LOWEST, HIGHEST = 0.001, 1_000.0
_LEAST = 1.0


@lru_cache(maxsize=1_024)
def threshold(detector: str, budget: float) -> float:
    """The evidence (natural logarithm) past which this detector is to alarm.

    >>> threshold("mixlr", 1.0) > threshold("mixlr", 10.0)
    True
    """
    logarithm = math.log(budget)
    return max(_LEAST, *(at_one - slope * logarithm for at_one, slope in _FITS[detector]))
