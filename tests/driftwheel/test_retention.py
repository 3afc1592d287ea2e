"""Retention by tenant and class: new rows and those from before, the ledger, and sealed payloads."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from connectors.clickhouse.store import Store
from connectors.clickhouse.tables import TABLES
from connectors.quarantine import Quarantine
from driftwheel.config import load
from driftwheel.retention import Retention, quarantine_days, retention_of, topics_kept
from processors.redact.policy import policies_of, read_policy
from schemas.errors import UsageError
from schemas.topics import CLUSTERS, FAILURES, SPANS, TURNS
from tests.connectors.clickhouse.records import NOW, count, label, ledger_entry, sample, span, sums
from tests.store import settings
from tests.store import temporary_store as _temporary

POLICY = "[retention]\nspans = 1\nsamples = 400\nscores = 5\nquarantine = 7\n"


@pytest.fixture
def policies(tmp_path: Path) -> Path:
    (tmp_path / "brief.toml").write_text(POLICY)
    (tmp_path / "default.toml").write_text("[retention]\nturns = 9\n")
    return tmp_path


@pytest.fixture(scope="module")
def plain() -> Iterator[Store]:
    with _temporary() as made:
        yield made


def test_policies_say_days_by_class(policies: Path) -> None:
    config = load(stages={"redact": {"policies": str(policies)}})
    days = retention_of(config)
    assert dict(days("brief")) == {"spans": 1, "samples": 400, "labels": 400, "scores": 5, "outcomes": 5}
    assert dict(days("anybody")) == {"turns": 9, "failures": 9, "clusters": 9}
    assert {table for tenant in ("brief", "anybody") for table in days(tenant)} <= set(TABLES.values())
    assert (quarantine_days(config)("brief"), quarantine_days(config)("anybody")) == (7, None)
    (policies / "long.toml").write_text("[retention]\nquarantine = 31\n")
    with pytest.raises(UsageError, match=r"retention\.quarantine"):
        read_policy(policies / "long.toml")


def test_topics_keep_the_longest_that_any_tenant_wants(policies: Path) -> None:
    config = load(stages={"redact": {"policies": str(policies)}})
    assert topics_kept(config) == {}, "brief wants spans for a day, and everybody else for as long as the topic"
    (policies / "default.toml").write_text("[retention]\nspans = 3\nturns = 2\nsamples = 40\ndatasets = 1\n")
    (policies / "long.toml").write_text("[retention]\nspans = 5\nturns = 30\nscores = 4\n")
    policies_of.cache_clear()
    assert topics_kept(config) == {SPANS.name: timedelta(days=5)}
    (policies / "long.toml").unlink()
    (policies / "brief.toml").unlink()
    policies_of.cache_clear()
    kept = {SPANS: 3, TURNS: 2, FAILURES: 2, CLUSTERS: 2}
    assert topics_kept(config) == {topic.name: timedelta(days=days) for topic, days in kept.items()}
    assert all(timedelta(days=days) < topic.retention for topic, days in kept.items())
    assert topics_kept(load()) == {}


def test_a_tenants_rows_go_when_its_policy_says_and_the_ledger_stays_even(plain: Store) -> None:
    for tenant in ("brief", "other"):
        plain.write([span(1, tenant=tenant), sample(1, tenant), label(1, tenant), ledger_entry(tenant, "accepted", 1)])
    days = {"brief": {"spans": 1, "samples": 400}}
    changed = replace(plain.settings, tenants=lambda tenant: days.get(tenant, {}))
    object.__setattr__(plain, "settings", changed)
    plain.write([span(2, tenant="brief")])
    kept = "SELECT DISTINCT retention_days FROM spans WHERE tenant = {t:String} ORDER BY 1"
    assert plain.select(kept, {"t": "brief"}).rows == [[1], [7300]]
    plain.materialise_retention()
    assert plain.select(kept, {"t": "brief"}).rows == [[1]]
    assert plain.select(kept, {"t": "other"}).rows == [[7300]]
    assert plain.select("SELECT DISTINCT retention_days FROM samples WHERE tenant = 'brief'").rows == [[400]]
    plain.command("ALTER TABLE spans UPDATE stored_time = now() - INTERVAL 2 DAY WHERE 1 SETTINGS mutations_sync = 1")
    plain.materialise_retention()
    assert (count(plain, "spans", "brief"), count(plain, "spans", "other")) == (0, 1)
    assert count(plain, "samples", "brief") == 1
    assert all(row[-1] == 0 for row in sums(plain, "other"))


def test_payloads_of_a_tenant_go_when_its_policy_says(tmp_path: Path, plain: Store) -> None:
    quarantine = Quarantine(tmp_path / "quarantine", bytes(32))
    for tenant in ("short", "long"):
        for days in (6, 8):
            name, at = f"{tenant}{days}", NOW - timedelta(days=days)
            quarantine.put(name, tenant, b"secret", at)
    retention = Retention(plain, lambda: quarantine, {"short": 7}.get, lambda: NOW)
    retention.apply()
    assert [name for name in ("short6", "short8", "long6", "long8") if name in quarantine] == [
        "short6",
        "long6",
        "long8",
    ]


def test_a_store_has_no_retention_of_tenants_by_default() -> None:
    assert dict(settings().tenants("anybody")) == {}
