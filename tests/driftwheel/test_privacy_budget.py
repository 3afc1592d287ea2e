"""The privacy budget: it only grows, holds for each tenant, and nothing goes beyond it."""

from __future__ import annotations

import stat
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import pytest

from driftwheel.privacy_budget import FILE, PrivacyBudget, Spent
from schemas.errors import Refused

T0 = datetime(2026, 1, 5, tzinfo=UTC)
LIMIT = Spent(1.0, 1e-5)


def test_it_adds_up_and_ends(tmp_path: Path) -> None:
    budget = PrivacyBudget(tmp_path / "data" / FILE, LIMIT)
    assert budget.spent("acme") == Spent(0, 0)
    for n in range(1, 11):
        assert budget.spend("acme", Spent(0.1, 1e-7), T0, {"by": ["agent"]}).epsilon == pytest.approx(n / 10)
    with pytest.raises(Refused, match=r"acme have spent epsilon 1 of 1 \(export.epsilon_budget\)"):
        budget.spend("acme", Spent(0.01, 0.0), T0, {})
    assert budget.spend("other", Spent(1.0, 0), T0, {}) == Spent(1.0, 0), "every tenant has its own"
    with pytest.raises(Refused, match=r"export.delta_budget"):
        PrivacyBudget(tmp_path / "two", LIMIT).spend("acme", Spent(0.1, 2e-5), T0, {})
    assert PrivacyBudget(tmp_path / "two", LIMIT).spent("acme") == Spent(0, 0), "what is refused costs nothing"
    assert stat.S_IMODE((tmp_path / "data" / FILE).stat().st_mode) == 0o600


def test_two_at_once_take_turns(tmp_path: Path) -> None:
    def spend(_: int) -> bool:
        try:
            PrivacyBudget(tmp_path / FILE, LIMIT).spend("acme", Spent(0.1, 0), T0, {})
        except Refused:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(spend, range(40))) == 10


def test_a_damaged_file_stops_everything(tmp_path: Path) -> None:
    (tmp_path / FILE).write_text('{"tenant": "acme", "epsilon": 0.1}\n')
    with pytest.raises(Refused, match="line 1 is damaged"):
        PrivacyBudget(tmp_path / FILE, LIMIT).spend("other", Spent(0.1, 0), T0, {})
