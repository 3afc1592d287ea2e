-- Turns that failed, with what their users had asked; what spans show that may be a fault, and the cause that reviewers gave.

CREATE TABLE IF NOT EXISTS failures (
    schema_version UInt16,
    event_id String CODEC(ZSTD(1)),
    tenant LowCardinality(String),
    agent LowCardinality(String),
    subject_hash String CODEC(ZSTD(1)),
    event_time DateTime64(6, 'UTC') CODEC(Delta(8), ZSTD(1)),
    redaction_policy LowCardinality(String),
    redaction_detector LowCardinality(String),
    redaction_counts Map(LowCardinality(String), Int64),
    consent_train Bool,
    consent_evaluate Bool DEFAULT true,
    session_id String CODEC(ZSTD(1)),
    turn_id String CODEC(ZSTD(1)),
    trace_id String CODEC(ZSTD(1)),
    model_version LowCardinality(String),
    category LowCardinality(String),
    input String CODEC(ZSTD(3)),
    cause LowCardinality(String),
    p_failure Float64,
    revision Int64 CODEC(T64, ZSTD(1)),
    version UInt64,
    retention_days UInt16,
    stored_time DateTime('UTC') DEFAULT now() CODEC(Delta(4), ZSTD(1)),
    INDEX by_trace trace_id TYPE bloom_filter(0.001) GRANULARITY 1,
    INDEX by_session session_id TYPE bloom_filter(0.001) GRANULARITY 1,
    INDEX by_subject subject_hash TYPE bloom_filter(0.001) GRANULARITY 1
) ENGINE = ReplacingMergeTree(version)
PARTITION BY toYYYYMM(event_time)
PRIMARY KEY (tenant, agent, toStartOfHour(event_time))
ORDER BY (tenant, agent, toStartOfHour(event_time), turn_id, event_id)
TTL stored_time + toIntervalDay(retention_days) DELETE
SETTINGS non_replicated_deduplication_window = 1000, merge_with_ttl_timeout = 3600;

-- The newest revision of each turn that failed; whether its newest verdict still is a failure, outcomes_current says.
CREATE VIEW IF NOT EXISTS failures_current AS
SELECT * FROM failures FINAL ORDER BY revision DESC LIMIT 1 BY tenant, turn_id;

ALTER TABLE turns
    ADD COLUMN IF NOT EXISTS faults Map(LowCardinality(String), Float64) AFTER error,
    ADD COLUMN IF NOT EXISTS fault_spans Map(LowCardinality(String), String) CODEC(ZSTD(1)) AFTER faults;

ALTER TABLE scores
    ADD COLUMN IF NOT EXISTS fault_spans Map(LowCardinality(String), String) CODEC(ZSTD(1)) AFTER retrieval_score,
    ADD COLUMN IF NOT EXISTS causes LowCardinality(String) DEFAULT '' AFTER fault_spans;

ALTER TABLE labels ADD COLUMN IF NOT EXISTS cause LowCardinality(String) DEFAULT '' AFTER received_time;

CREATE OR REPLACE VIEW turns_current AS SELECT * FROM turns FINAL;

CREATE OR REPLACE VIEW scores_current AS SELECT * FROM scores FINAL;

CREATE OR REPLACE VIEW labels_current AS SELECT * FROM labels FINAL;
