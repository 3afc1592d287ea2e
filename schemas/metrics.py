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
    # Counter: planted values that were sent in, by type.
    "driftwheel_canaries_planted_total",
    # Counter: planted values whose clean records have been looked through, by type.
    "driftwheel_canaries_checked_total",
    # Counter: planted values that redaction has let through, by type.
    "driftwheel_canaries_leaked_total",
    # Counter: verdicts of a judge, by pass, fail, and what it abstained for.
    "driftwheel_judge_verdicts_total",
    # Counter: probes of a judge that told something, by kind.
    "driftwheel_judge_probes_total",
    # Counter: probes that a judge failed, by kind.
    "driftwheel_judge_probes_failed_total",
    # Counter: verdicts of a judge that were known before and cost nothing.
    "driftwheel_judge_cached_total",
    # Counter: tokens that a judge has cost.
    "driftwheel_judge_tokens_total",
    # Counter: chosen turns that were not judged in time, by why.
    "driftwheel_judge_skipped_total",
    # Gauge: chosen turns that wait to be judged.
    "driftwheel_judge_waiting",
    # Gauge: lower end of a judge's agreement with people, by tenant.
    "driftwheel_judge_kappa_low",
    # Gauge: 1 while a judge has the right to gate, else 0, by tenant.
    "driftwheel_judge_may_gate",
]

HELP: dict[MetricName, str] = {
    "driftwheel_stage_messages_total": "Entries that a stage read from its topics",
    "driftwheel_stage_emits_total": "Records that a stage emitted, dead letters included",
    "driftwheel_stage_seconds_total": "Seconds that a stage spent on its batches",
    "driftwheel_group_lag": "Entries that a consumer group has not read yet",
    "driftwheel_lane_commits_total": "Transactions that the lanes of a stage have committed on Kafka",
    "driftwheel_lane_stalled": "Lanes of a stage that have entries to read and do not get on",
    "driftwheel_dead_letters_total": "Dead letters that a stage has written",
    "driftwheel_canaries_planted_total": "Planted values that were sent in, by type",
    "driftwheel_canaries_checked_total": "Planted values whose clean records have been looked through, by type",
    "driftwheel_canaries_leaked_total": "Planted values that redaction has let through, by type",
    "driftwheel_judge_verdicts_total": "Verdicts of a judge, by pass, fail, and what it abstained for",
    "driftwheel_judge_probes_total": "Probes of a judge that told something, by kind",
    "driftwheel_judge_probes_failed_total": "Probes that a judge failed, by kind",
    "driftwheel_judge_cached_total": "Verdicts of a judge that were known before and cost nothing",
    "driftwheel_judge_tokens_total": "Tokens that a judge has cost",
    "driftwheel_judge_skipped_total": "Chosen turns that were not judged in time, by why",
    "driftwheel_judge_waiting": "Chosen turns that wait to be judged",
    "driftwheel_judge_kappa_low": "Lower end of a judge's agreement with people, by tenant",
    "driftwheel_judge_may_gate": "1 while a judge has the right to gate, else 0, by tenant",
}
