"""Driftwheel's own metrics, as Prometheus text. Names and meanings are in ``schemas.metrics``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest

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

    def _counter(self, name: MetricName) -> Counter:
        return Counter(name, HELP[name], ["stage"], registry=self._registry)

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

    def text(self) -> str:
        """Prometheus exposition format."""
        return generate_latest(self._registry).decode()
