"""What a turn shows of how sure its agent was: numbers by name, only those that its trace has.

One pure function, so that whoever learns from a turn sees what its score saw.
"""

from __future__ import annotations

import math
import re

from processors.text import normal, words
from schemas.events import Turn

_HEDGE = re.compile(
    r"\b(?:might|may|perhaps|possibly|probably|not (?:entirely |quite )?sure|i (?:think|believe|guess)"
    r"|it (?:seems|appears)|unable to (?:verify|confirm)|as far as i know"
    r"|i don'?t have (?:access|information))\b"
)
_REFUSAL = re.compile(
    r"\bi(?:'m| am) (?:sorry|afraid|unable|not able)\b|\bi (?:cannot|can'?t|couldn'?t)"
    r" (?:help|assist|answer|find|do)"
    r"|\bnot (?:my area|able to help)\b"
)
_NLL_LIMIT = 20.0
_ESTIMATES = {
    "min_prob": "min_prob", "entropy": "token_entropy", "margin": "margin", "low_margins": "low_margins",
    "semantic_entropy": "semantic_entropy",
}  # fmt: skip
"""Features by the estimate of the turn that they are."""


def doubt_of(top1: float | None, top2: float | None) -> float | None:
    """One minus the margin of probability between the best and the second answer; None without the best.

    >>> doubt_of(0.0, -20.0) < 0.001 and doubt_of(-0.7, -0.7) == 1.0
    True
    """
    if top1 is None or not math.isfinite(top1):
        return None
    first = math.exp(min(top1, 0.0))
    second = math.exp(min(top2, 0.0)) if top2 is not None and math.isfinite(top2) else 0.0
    return min(max(1.0 - (first - second), 0.0), 1.0)


def features_of(turn: Turn, retrieval_at: float = 0.35) -> dict[str, float]:
    """The features of a turn, its ``faults`` among them, to 4 digits (``doubt`` to 6).

    ``retrieval_at``: under which score documents were poor.
    """
    said = " ".join(turn.output.lower().replace("\u2019", "'").split())
    spoken = max(len(words(said)), 1)
    found = {
        "hedges": round(min(100.0 * len(_HEDGE.findall(said)) / max(spoken, 20), 5.0), 4),
        "refusal": float(bool(_REFUSAL.search(said))),
        "empty": float(not said),
        "tool_errors": float(min(turn.tool_errors, 5)),
        "tool_unresolved": float(bool(turn.failed_tool)),
        "router": float(bool(turn.category) and normal(turn.category) == normal(turn.output)),
        "error": float(bool(turn.error)),
    }
    if turn.retrieval_score is not None and math.isfinite(turn.retrieval_score):
        found["low_retrieval"] = float(turn.retrieval_score < retrieval_at)
        found["retrieval"] = round(min(max(turn.retrieval_score, -100.0), 100.0), 4)
    if turn.logprob_top1 is not None and math.isfinite(turn.logprob_top1):
        found["doubt"] = round(doubt_of(turn.logprob_top1, turn.logprob_top2) or 0.0, 6)
        found["nll"] = round(min(max(-turn.logprob_top1, 0.0), _NLL_LIMIT), 4)
    return found | _estimated(turn.estimates) | turn.faults


def _estimated(estimates: dict[str, float]) -> dict[str, float]:
    found = {_ESTIMATES[name]: round(value, 4) for name, value in estimates.items() if name in _ESTIMATES}
    if "agreement" in estimates:
        found["inconsistency"] = round(1.0 - estimates["agreement"], 4)
    return found
