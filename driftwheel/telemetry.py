"""Driftwheel's own metrics, as Prometheus text. Names and meanings are in ``schemas.metrics``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest

from processors.agreement import Standing
from schemas.events import DeadLetter, Record
from schemas.metrics import HELP, MetricName


class Metrics:
    """The product's metrics in a registry of their own."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._messages = self._counter("driftwheel_stage_messages_total")
        self._emits = self._counter("driftwheel_stage_emits_total")
        self._seconds = self._counter("driftwheel_stage_seconds_total")
        self._commits = self._counter("driftwheel_lane_commits_total")
        self._dead = self._counter("driftwheel_dead_letters_total")
        self._lag = self._gauge("driftwheel_group_lag", "group")
        self._stalled = self._gauge("driftwheel_lane_stalled", "stage")
        self._canaries = {
            "planted": self._counter("driftwheel_canaries_planted_total", "type"),
            "checked": self._counter("driftwheel_canaries_checked_total", "type"),
            "leaked": self._counter("driftwheel_canaries_leaked_total", "type"),
        }

        self.judges = JudgeMetrics(self._registry)

    def _counter(self, name: MetricName, label: str = "stage") -> Counter:
        return Counter(name, HELP[name], [label], registry=self._registry)

    def _gauge(self, name: MetricName, label: str) -> Gauge:
        return Gauge(name, HELP[name], [label], registry=self._registry)

    def commit(self, stage: str, messages: int, records: Sequence[Record], seconds: float) -> None:
        """A lane committed a batch."""
        self.batch(stage, messages, len(records), seconds)
        self._commits.labels(stage).inc()
        self._dead.labels(stage).inc(sum(isinstance(record, DeadLetter) for record in records))

    def stalled(self, lanes: Mapping[str, int]) -> None:
        """How many lanes of each stage do not get on."""
        for stage, count in lanes.items():
            self._stalled.labels(stage).set(count)

    def batch(self, stage: str, messages: int, emits: int, seconds: float) -> None:
        """A stage finished a batch."""
        self._messages.labels(stage).inc(messages)
        self._emits.labels(stage).inc(emits)
        self._seconds.labels(stage).inc(seconds)

    def lag(self, lags: Mapping[str, int]) -> None:
        """How far each consumer group is behind."""
        for group, behind in lags.items():
            self._lag.labels(group).set(behind)

    def canaries(self, what: Literal["planted", "checked", "leaked"], counts: Mapping[str, int]) -> None:
        """What became of planted values, by type."""
        for entity, count in counts.items():
            self._canaries[what].labels(entity).inc(count)

    def text(self) -> str:
        """Prometheus exposition format."""
        return generate_latest(self._registry).decode()


class JudgeMetrics:
    """What judges did and how they stand; ``judge`` labels are their ids."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def counter(name: MetricName, *labels: str) -> Counter:
            return Counter(name, HELP[name], labels, registry=registry)

        def gauge(name: MetricName, *labels: str) -> Gauge:
            return Gauge(name, HELP[name], labels, registry=registry)

        self._verdicts = counter("driftwheel_judge_verdicts_total", "judge", "result")
        self._probes = counter("driftwheel_judge_probes_total", "judge", "probe")
        self._failed = counter("driftwheel_judge_probes_failed_total", "judge", "probe")
        self._cached = counter("driftwheel_judge_cached_total", "judge")
        self._tokens = counter("driftwheel_judge_tokens_total", "judge")
        self._skipped = counter("driftwheel_judge_skipped_total", "reason")
        self._waiting = gauge("driftwheel_judge_waiting")
        self._low = gauge("driftwheel_judge_kappa_low", "tenant", "judge")
        self._may = gauge("driftwheel_judge_may_gate", "tenant", "judge")

    def verdict(self, judge: str, result: str, tokens: int, *, cached: bool) -> None:
        """A verdict was given."""
        self._verdicts.labels(judge, result).inc()
        self._cached.labels(judge).inc(cached)
        self._tokens.labels(judge).inc(tokens)

    def probe(self, judge: str, kind: str, failed: bool | None, tokens: int) -> None:
        """A judge was probed; ``failed`` None: it abstained."""
        self._probes.labels(judge, kind).inc(failed is not None)
        self._failed.labels(judge, kind).inc(bool(failed))
        self._tokens.labels(judge).inc(tokens)

    def skipped(self, reason: str, count: int) -> None:
        """Chosen turns were not judged."""
        self._skipped.labels(reason).inc(count)

    def waiting(self, count: int) -> None:
        """So many chosen turns wait."""
        self._waiting.set(count)

    def standings(self, tenant: str, found: Mapping[str, Standing]) -> None:
        """How a tenant's judges stand."""
        for judge, one in found.items():
            self._low.labels(tenant, judge).set(one.kappa.low)
            self._may.labels(tenant, judge).set(one.may_gate)
