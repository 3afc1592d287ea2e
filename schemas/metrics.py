"""Every metric name, typed, with what it counts."""

from __future__ import annotations

from typing import Literal

MetricName = Literal[
    # Counter: entries that a stage read from its topics.
    "driftwheel_stage_messages_total",
    # Counter: records that a stage emitted, dead letters included.
    "driftwheel_stage_emits_total",
    # Counter: seconds that a stage spent on its batches.
    "driftwheel_stage_seconds_total",
    # Gauge: entries that a consumer group has not read yet.
    "driftwheel_group_lag",
]

HELP: dict[MetricName, str] = {
    "driftwheel_stage_messages_total": "Entries that a stage read from its topics",
    "driftwheel_stage_emits_total": "Records that a stage emitted, dead letters included",
    "driftwheel_stage_seconds_total": "Seconds that a stage spent on its batches",
    "driftwheel_group_lag": "Entries that a consumer group has not read yet",
}
