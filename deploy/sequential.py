"""Evidence that may be looked at after every observation: one-sided beta-binomial mixture e-processes.

For Bernoulli observations with unknown chance p, of which ``hits`` of ``hits + misses`` came true, the e-process
against "p <= null" averages the likelihood ratio to ``null`` over a Beta(1/2, 1/2) prior cut off at ``null``. Under
any p <= null, also one that changes from observation to observation, it is a non-negative supermartingale that starts
at 1, so by Ville's inequality the chance that it ever reaches 1 / alpha is at most alpha: looking often costs nothing.

Source: Robbins, "Statistical methods related to the law of the iterated logarithm" (1970), mixture martingales;
Howard, Ramdas, McAuliffe, Sekhon, "Time-uniform, nonparametric, nonasymptotic confidence sequences" (2021).
"""

from __future__ import annotations

import math
from typing import Literal

from scipy.special import betainc, betaincc, betaln

Side = Literal["above", "below"]
_PRIOR = 0.5
_MOST = 700.0


def log_evidence(hits: int, misses: int, null: float, side: Side) -> float:
    """Natural logarithm of the e-value that p lies ``side`` of ``null`` (0 < null < 1); 0 without observations.

    >>> round(log_evidence(0, 0, 0.5, "above"), 6)
    0.0
    >>> math.exp(log_evidence(10, 0, 0.5, "above")) > 20 > math.exp(log_evidence(6, 4, 0.5, "above"))
    True
    """
    first, second = hits + _PRIOR, misses + _PRIOR
    mixed = betaln(first, second) - betaln(_PRIOR, _PRIOR) + _tail(first, second, null, side)
    mixed -= _tail(_PRIOR, _PRIOR, null, side)
    return float(mixed - hits * math.log(null) - misses * math.log1p(-null))


def _tail(first: float, second: float, null: float, side: Side) -> float:
    mass = betaincc(first, second, null) if side == "above" else betainc(first, second, null)
    return math.log(max(float(mass), 1e-300))


def evidence(hits: int, misses: int, null: float, side: Side) -> float:
    """The e-value itself, at most e^700: it fits a double and JSON."""
    return math.exp(min(log_evidence(hits, misses, null, side), _MOST))
