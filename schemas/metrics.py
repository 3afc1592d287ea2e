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
    # Counter: transactions that the lanes of a stage have committed on Kafka.
    "driftwheel_lane_commits_total",
    # Gauge: lanes of a stage that have entries to read and do not get on.
    "driftwheel_lane_stalled",
    # Counter: dead letters that a stage has written.
    "driftwheel_dead_letters_total",
]

HELP: dict[MetricName, str] = {
    "driftwheel_stage_messages_total": "Entries that a stage read from its topics",
    "driftwheel_stage_emits_total": "Records that a stage emitted, dead letters included",
    "driftwheel_stage_seconds_total": "Seconds that a stage spent on its batches",
    "driftwheel_group_lag": "Entries that a consumer group has not read yet",
    "driftwheel_lane_commits_total": "Transactions that the lanes of a stage have committed on Kafka",
    "driftwheel_lane_stalled": "Lanes of a stage that have entries to read and do not get on",
    "driftwheel_dead_letters_total": "Dead letters that a stage has written",
}
