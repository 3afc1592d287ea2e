"""Thresholds follow the budget."""

from __future__ import annotations

import pytest

from processors.budget import HIGHEST, LOWEST, threshold


@pytest.mark.parametrize("detector", ["mixlr", "adwin", "tails"])
def test_fewer_false_alarms_need_more_evidence(detector: str) -> None:
    limits = [threshold(detector, budget) for budget in (LOWEST, 0.1, 1.0, 10.0, HIGHEST)]
    assert limits == sorted(limits, reverse=True)
    assert limits[-1] >= 1.0


def test_an_unknown_detector_is_an_error() -> None:
    with pytest.raises(KeyError):
        threshold("guess", 1.0)
