"""Canaries through the whole product: planted, cleaned, looked for; and no trace of them in what is learnt."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, ClassVar

import httpx
import pytest

from connectors.log import MemoryLog
from driftwheel.canaries import Canaries, CanarySettings, canary_settings, look_back, total
from driftwheel.config import Config, load
from driftwheel.doctor import examine, told_of_canaries
from driftwheel.keys import redaction_key
from driftwheel.ports import PRIVATE
from driftwheel.product import Product
from driftwheel.telemetry import Metrics
from processors.canaries import SPANS, Look, canary, request
from schemas.errors import Reject, Retry
from schemas.tenants import CANARY, canary_of
from schemas.topics import LEDGER, OTLP_SPANS

T0 = datetime(2026, 1, 5, 9, 0, 30, tzinfo=UTC)
HOUR = timedelta(hours=1)
TYPES = {value.entity for value in canary(b"", CANARY, T0).values}


@contextmanager
def product(folder: Path, policy: str = "") -> Iterator[tuple[Product, Callable[[timedelta], None]]]:
    """The product with a policy for the tenant acme, in lock step, at T0; and how to let time pass."""
    policies = folder / "policies"
    policies.mkdir(exist_ok=True)
    (policies / "acme.toml").write_text(policy)
    stages = {"redact": {"policies": str(policies)}}
    config = load(data_dir=folder / "data", engine={"workers": 0}, stages=stages, redact={"key": "test"})
    now = [T0]

    def wait(time: timedelta) -> None:
        now[0] += time

    with closing(Product(config, clock=lambda: now[0], where=PRIVATE, wheel=False, models=False)) as made:
        yield made, wait


def metric(made: Product, what: str) -> dict[str, float]:
    found = re.findall(rf'driftwheel_canaries_{what}_total{{type="(\w+)"}} (\S+)', made.metrics.text())
    return {kind: float(value) for kind, value in found}


def test_planted_cleaned_looked_for_and_nothing_learnt(tmp_path: Path) -> None:
    with product(tmp_path) as (made, wait):
        canaries = made.canaries()
        for _ in range(3):
            canaries.round()
            canaries.round()
            made.settle()
            wait(HOUR)
        canaries.round()
        planted = dict.fromkeys(TYPES, 8.0)
        assert metric(made, "planted") == planted, "of the default policy and of acme's, once an hour"
        assert metric(made, "checked") == dict.fromkeys(TYPES, 6.0), "the last ones are still on their way"
        assert metric(made, "leaked") == {}
        assert made.ledger_totals() == {
            "accepted": 6 * SPANS, "stored": 6 * SPANS, "quarantined": 0, "dropped": 0, "difference": 0,
        }  # fmt: skip
        wait(timedelta(days=1))
        made.settle()
        totals = made.ledger_totals()
        assert (totals["accepted"], totals["difference"]) == (8 * SPANS, 0)
        counts = {name: count for name, count in made.store.counts().items() if count}
        assert set(counts) == {"spans", "ledger"}, "no turn, no score, no outcome, no sample"
        assert made.store.select("SELECT DISTINCT tenant FROM spans ORDER BY tenant").rows == [
            [CANARY], [canary_of("acme")],
        ]  # fmt: skip
        answer = httpx.post(f"{made.url}/v1/signals", json={}, headers={"x-driftwheel-tenant": CANARY}, trust_env=False)
        assert (answer.status_code, "kept for the product's own" in answer.text) == (403, True)


def test_a_policy_that_lets_a_type_through_is_seen(tmp_path: Path) -> None:
    with product(tmp_path, 'remove = ["PERSON", "ORGANIZATION", "LOCATION"]') as (made, _):
        canaries = made.canaries()
        canaries.round()
        made.settle()
        canaries.round()
        canaries.round()
        assert metric(made, "leaked") == {"PERSON": 1.0}, "acme's canary, once"
        assert metric(made, "checked")["PERSON"] == 2.0
        again = made.canaries()
        again.round()
        assert metric(made, "leaked") == {"PERSON": 2.0}, "a process that starts anew looks at the last day again"
        settings = canary_settings(made.config, redaction_key(made.config, made.folder))
        found = told_of_canaries("canaries", total(look_back(settings, made.sql, T0)))
        assert (found.ok, found.seen) == (False, "left on the clean side: PERSON 1 of 2")
        clean = canary(settings.key, CANARY, T0.replace(second=0)).values
        texts = str(made.store.select("SELECT toString(tuple(*)) FROM spans").rows)
        assert not [value for value in clean if value.value in texts]


def test_the_doctor(tmp_path: Path) -> None:
    def told(config: Config) -> str:
        return next(one for one in examine(config) if one.name == "canaries").seen

    assert told(load(data_dir=tmp_path / "none")) == "none were planted here yet"
    assert told(load(data_dir=tmp_path / "none", redact={"canaries": 0})).startswith("none are planted")
    with product(tmp_path) as (made, _):
        made.settle()
        config = made.config
    assert told(config) == "0 planted values of the last day looked for, none left on the clean side"
    assert told_of_canaries("c", Look({"PERSON": 2}, {"PERSON": 0})).ok


def test_two_processes_plant_and_look() -> None:
    """On Kafka the gateway plants and the sink looks: they share the key and the hour, nothing else."""
    settings, log, now = CanarySettings(b"k", (CANARY,), 24), MemoryLog(), T0
    gateway = Canaries(settings, Metrics(), lambda: now, log=log)
    gateway.round()
    assert [entry.topic for entry in log.entries] == [OTLP_SPANS.name, LEDGER.name]
    one = canary(b"k", CANARY, T0.replace(second=0))
    assert log.entries[0].value == request(one)
    asked: list[str] = []

    class Table:
        rows: ClassVar = [[one.trace_id, "clean"], [one.trace_id, f"to {one.values[2].value}"]]

    def ask(query: str) -> Table:
        asked.append(query)
        return Table()

    metrics = Metrics()
    Canaries(settings, metrics, lambda: now + HOUR, ask=ask).round()
    assert 'leaked_total{type="EMAIL_ADDRESS"} 1.0' in metrics.text()
    assert 'checked_total{type="PERSON"} 1.0' in metrics.text()
    assert "startsWith(tenant, 'driftwheel-canary')" in asked[0]


@pytest.mark.parametrize("error", [Reject("full"), Retry("away")])
def test_what_is_away_is_tried_again(error: Exception) -> None:
    calls: list[int] = []

    class Log(MemoryLog):
        def append(self, entries: Any) -> None:
            calls.append(1)
            if len(calls) == 1:
                raise error
            super().append(entries)

    log = Log()
    canaries = Canaries(CanarySettings(b"k", (CANARY,), 24), Metrics(), lambda: T0, log=log)
    for _ in range(3):
        canaries.round()
    assert (len(calls), len(log.entries)) == (2, 2)


def test_none_are_planted_when_none_are_wanted() -> None:
    log = MemoryLog()
    with Canaries(CanarySettings(b"k", (CANARY,), 0), Metrics(), lambda: T0, log=log).running():
        pass
    assert log.entries == []
    with Canaries(CanarySettings(b"k", (CANARY,), 24), Metrics(), lambda: T0, log=log).running():
        while not log.entries:
            pass
    assert len(log.entries) == 2
