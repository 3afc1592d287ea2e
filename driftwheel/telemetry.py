"""Driftwheel's own metrics, as Prometheus text. Names and meanings are in ``schemas.metrics``."""

from __future__ import annotations

from collections.abc import Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest

from schemas.metrics import HELP, MetricName


class Metrics:
    """The product's metrics in a registry of their own."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._messages = self._counter("driftwheel_stage_messages_total")
        self._emits = self._counter("driftwheel_stage_emits_total")
        self._seconds = self._counter("driftwheel_stage_seconds_total")
        lag: MetricName = "driftwheel_group_lag"
        self._lag = Gauge(lag, HELP[lag], ["group"], registry=self._registry)

    def _counter(self, name: MetricName) -> Counter:
        return Counter(name, HELP[name], ["stage"], registry=self._registry)

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
