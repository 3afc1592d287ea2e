"""``driftwheel export stats``: one person counts so often at most, rare groups are left out, and it costs."""

from __future__ import annotations

import csv
import json
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from connectors.clickhouse.store import Store
from driftwheel.cli import app
from driftwheel.config import load
from driftwheel.export_stats import Wanted, release
from driftwheel.folder import DataFolder
from driftwheel.library import open_store
from driftwheel.privacy_budget import FILE, PrivacyBudget, Spent
from driftwheel.private_counts import Privacy
from schemas.errors import DriftwheelError, Refused, UsageError
from schemas.events import Outcome
from tests.store import temporary_store

T0 = datetime(2026, 1, 5, 9, tzinfo=UTC)
EXACT = Privacy(1e5, 1e-9, 3)
"""So large that the noise is zero: what is counted can be read."""


def outcomes(subject: str, turns: int, tenant: str = "default", **more: Any) -> list[Outcome]:
    values = {"agent": "desk", "category": "vpn", "verdict": "success", "event_time": T0} | more
    return [
        Outcome(
            event_id=f"{tenant}/{subject}/{n}",
            tenant=tenant,
            subject_hash=subject,
            session_id=f"s-{subject}-{n // 50}",
            turn_id=f"t-{tenant}-{subject}-{n}",
            trace_id="x",
            p_failure=0.1,
            uncertainty=0.1,
            **values,
        )
        for n in range(turns)
    ]


def fill(store: Store) -> None:
    """120 people with two turns each, a glutton, a group of one person, people without a name, others, the past."""
    people = [one for n in range(120) for one in outcomes(f"p{n}", 2, verdict="failure" if n < 30 else "success")]
    rare = outcomes("alone", 3, category="divorce")
    past = outcomes("past", 3, event_time=T0 - timedelta(days=400))
    nobody = outcomes("", 100, category="hardware")
    store.write([*people, *outcomes("glutton", 400), *rare, *past, *nobody, *outcomes("theirs", 9, tenant="it's")])


def wanted(*by: str, privacy: Privacy = EXACT, tenant: str = "default") -> Wanted:
    return Wanted(tenant, by, T0 - timedelta(days=30), T0 + timedelta(days=1), privacy)


def released(store: Store, folder: Path, asked: Wanted) -> dict[str, Any]:
    return release(store.query, PrivacyBudget(folder / FILE, Spent(1e9, 0.1)), asked, T0)


def test_a_person_counts_so_often_at_most(tmp_path: Path) -> None:
    with temporary_store() as store:
        fill(store)
        found = released(store, tmp_path, wanted("agent", "category"))
        assert found["rows"] == [
            {"agent": "desk", "category": "hardware", "turns": 2 * 3, "failures": 0, "failure_rate": 0.0},
            {"agent": "desk", "category": "vpn", "turns": 240 + 3, "failures": 60, "failure_rate": 0.2469},
        ], "whom nobody names is a person by session; a group of one person is left out"
        one = released(store, tmp_path, wanted("day", privacy=Privacy(1e5, 1e-9, 1)))
        assert one["rows"][0] == {
            "day": "2026-01-05", "turns": 120 + 1 + 1 + 2, "failures": 30, "failure_rate": round(30 / 124, 4),
        }  # fmt: skip
        assert released(store, tmp_path, wanted("agent", tenant="it's"))["rows"] == []
        assert released(store, tmp_path, wanted("agent", tenant="' OR 1 = 1 --"))["rows"] == []


def test_one_person_more_or_less_moves_the_counts_by_the_bound_at_most(tmp_path: Path) -> None:
    """Neighbouring data sets: the sensitivity that the noise is made for, counted without noise."""
    seen: list[dict[str, tuple[int, int]]] = []
    with temporary_store() as store:
        for tenant in ("without", "with"):
            store.write([one for n in range(40) for one in outcomes(f"p{n}", 2, tenant)])
        store.write([one for n in range(4) for one in outcomes("glutton", 300 + n, "with", category=f"c{n}")])
        store.write(outcomes("glutton", 300, "with", verdict="failure"))
        for tenant in ("without", "with"):
            rows = released(store, tmp_path, wanted("category", tenant=tenant))["rows"]
            seen.append({row["category"]: (row["turns"], row["failures"]) for row in rows})
    before, after = seen
    for place in (0, 1):
        moved = sum(abs(after.get(key, (0, 0))[place] - before.get(key, (0, 0))[place]) for key in {*before, *after})
        assert moved <= EXACT.bound


def test_the_price_is_paid_before_anything_is_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> Any:
        raise Refused("drawn")

    monkeypatch.setattr("driftwheel.export_stats.private_counts", broken)
    budget = PrivacyBudget(tmp_path / FILE, Spent(1.0, 1e-5))
    with temporary_store() as store:
        for left in (True, False):
            with pytest.raises(Refused, match="drawn" if left else "have spent epsilon 0.6 of 1"):
                release(store.query, budget, wanted("agent", privacy=Privacy(0.6, 1e-6, 3)), T0)
    assert budget.spent("default") == Spent(0.6, 1e-6)


def test_the_command(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    with closing(open_store(load(data_dir=folder), DataFolder(folder))) as store:
        now = datetime.now(UTC)
        store.write([one for n in range(400) for one in outcomes(f"p{n}", 2, event_time=now - timedelta(hours=1))])

    def run(*words: str) -> tuple[str, DriftwheelError | None]:
        done = CliRunner().invoke(app, ["export", "stats", "--data-dir", str(folder), *words])
        assert done.exception is None or isinstance(done.exception, DriftwheelError), done.exception
        return done.output, done.exception if isinstance(done.exception, DriftwheelError) else None

    table, body = tmp_path / "stats.csv", tmp_path / "stats.json"
    text, problem = run("--epsilon", "4", "--by", "agent,category", "--since", "7d", "--out", str(table))
    assert (problem, "1 groups of" in text, "default has spent epsilon 4" in text) == (None, True, True)
    (row,) = csv.DictReader(table.read_text().splitlines())
    assert (row["agent"], row["category"]) == ("desk", "vpn")
    assert abs(int(row["turns"]) - 800) < 60
    assert run("--epsilon", "4", "--by", "day", "--out", str(body))[1] is None
    told = json.loads(body.read_text())
    assert (told["epsilon_spent"], told["max_turns"], told["by"]) == (8.0, 3, ["day"])
    table.unlink()
    _, problem = run("--epsilon", "4", "--out", str(table))
    assert isinstance(problem, Refused)
    assert "have spent epsilon 8 of 10 (export.epsilon_budget)" in str(problem)
    assert not table.exists()
    assert len((folder / FILE).read_text().splitlines()) == 2
    for words, about in (
        (["--epsilon", "0"], "--epsilon"), (["--epsilon", "1", "--by", "user"], "--by"),
        (["--epsilon", "1", "--until", "40d"], "--since"), (["--epsilon", "1", "--by", "day,day"], "--by"),
    ):  # fmt: skip
        _, problem = run(*words, "--out", str(table))
        assert isinstance(problem, UsageError)
        assert about in str(problem)
