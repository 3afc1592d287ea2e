-- What was learnt from verdicts: calibrations with their metrics, and what scores, outcomes and samples say for it.

CREATE TABLE IF NOT EXISTS calibrations (
    schema_version UInt16,
    event_id String CODEC(ZSTD(1)),
    tenant LowCardinality(String),
    agent LowCardinality(String),
    subject_hash String CODEC(ZSTD(1)),
    event_time DateTime64(6, 'UTC') CODEC(Delta(8), ZSTD(1)),
    number Int64 CODEC(T64, ZSTD(1)),
    lessons Int64 CODEC(T64, ZSTD(1)),
    audited Int64 CODEC(T64, ZSTD(1)),
    model String CODEC(ZSTD(3)),
    forces Map(LowCardinality(String), Float64),
    metrics Map(LowCardinality(String), Float64),
    causes String CODEC(ZSTD(3)),
    version UInt64,
    retention_days UInt16,
    stored_time DateTime('UTC') DEFAULT now() CODEC(Delta(4), ZSTD(1)),
    INDEX by_subject subject_hash TYPE bloom_filter(0.001) GRANULARITY 1
) ENGINE = ReplacingMergeTree(version)
PARTITION BY toYYYYMM(event_time)
PRIMARY KEY (tenant, agent)
ORDER BY (tenant, agent, event_id)
TTL stored_time + toIntervalDay(retention_days) DELETE
SETTINGS non_replicated_deduplication_window = 1000, merge_with_ttl_timeout = 3600;

ALTER TABLE spans
    ADD COLUMN IF NOT EXISTS estimates Map(LowCardinality(String), Float64) AFTER document_scores;

ALTER TABLE turns
    ADD COLUMN IF NOT EXISTS estimates Map(LowCardinality(String), Float64) AFTER called_tools;

ALTER TABLE scores
    ADD COLUMN IF NOT EXISTS forces Map(LowCardinality(String), Float64) AFTER retrieval_score;

ALTER TABLE outcomes
    ADD COLUMN IF NOT EXISTS basis LowCardinality(String) AFTER session_value,
    ADD COLUMN IF NOT EXISTS features Map(LowCardinality(String), Float64) AFTER basis;

ALTER TABLE samples
    ADD COLUMN IF NOT EXISTS features Map(LowCardinality(String), Float64) AFTER cluster,
    ADD COLUMN IF NOT EXISTS signals Array(String) AFTER features;

CREATE OR REPLACE VIEW spans_current AS SELECT * FROM spans FINAL;

CREATE OR REPLACE VIEW turns_current AS SELECT * FROM turns FINAL;

CREATE OR REPLACE VIEW scores_current AS SELECT * FROM scores FINAL;

CREATE OR REPLACE VIEW samples_current AS SELECT * FROM samples FINAL;

CREATE OR REPLACE VIEW outcomes_current AS
SELECT * FROM outcomes FINAL ORDER BY revision DESC LIMIT 1 BY tenant, turn_id;

-- The newest calibration of each agent; the table itself keeps every one, since scores name theirs.
CREATE VIEW IF NOT EXISTS calibrations_current AS
SELECT * FROM calibrations FINAL ORDER BY number DESC LIMIT 1 BY tenant, agent;

-- How well failures were foretold, by calibration: of all turns (cohort '') and by cohort. What cannot be told is NULL.
CREATE VIEW IF NOT EXISTS calibration_metrics AS
SELECT
    tenant,
    agent,
    number,
    event_time,
    cohort,
    maxIf(value, name = 'count') AS verdicts,
    maxIf(value, name = 'failures') AS failures,
    maxOrNullIf(value, name = 'auroc') AS auroc,
    maxOrNullIf(value, name = 'ece') AS ece,
    maxOrNullIf(value, name = 'prr') AS prr
FROM (
    SELECT
        tenant,
        agent,
        number,
        event_time,
        splitByChar(':', key)[1] AS name,
        substring(key, length(name) + 2) AS cohort,
        value
    FROM calibrations FINAL
    ARRAY JOIN mapKeys(metrics) AS key, mapValues(metrics) AS value
)
GROUP BY tenant, agent, number, event_time, cohort;

-- Where anything of a person is left; see 0004.
CREATE OR REPLACE VIEW subject_places AS
SELECT tenant, subject_hash, 'spans' AS place, count() AS rows FROM spans GROUP BY tenant, subject_hash
UNION ALL SELECT tenant, subject_hash, 'signals', count() FROM signals GROUP BY tenant, subject_hash
UNION ALL SELECT tenant, subject_hash, 'turns', count() FROM turns GROUP BY tenant, subject_hash
UNION ALL SELECT tenant, subject_hash, 'scores', count() FROM scores GROUP BY tenant, subject_hash
UNION ALL SELECT tenant, subject_hash, 'outcomes', count() FROM outcomes GROUP BY tenant, subject_hash
UNION ALL SELECT tenant, subject_hash, 'alarms', count() FROM alarms GROUP BY tenant, subject_hash
UNION ALL SELECT tenant, subject_hash, 'samples', count() FROM samples GROUP BY tenant, subject_hash
UNION ALL SELECT tenant, subject_hash, 'labels', count() FROM labels GROUP BY tenant, subject_hash
UNION ALL SELECT tenant, subject_hash, 'calibrations', count() FROM calibrations GROUP BY tenant, subject_hash
UNION ALL SELECT tenant, subject_hash, 'triggers', count() FROM triggers GROUP BY tenant, subject_hash
UNION ALL SELECT tenant, subject_hash, 'jobs', count() FROM jobs GROUP BY tenant, subject_hash
UNION ALL SELECT tenant, subject_hash, 'evaluations', count() FROM evaluations GROUP BY tenant, subject_hash
UNION ALL SELECT tenant, subject_hash, 'deployments', count() FROM deployments GROUP BY tenant, subject_hash
UNION ALL SELECT tenant, subject_hash, 'dead_letters', count() FROM dead_letters GROUP BY tenant, subject_hash
UNION ALL SELECT tenant, subject_hash, 'ledger', count() FROM ledger GROUP BY tenant, subject_hash
UNION ALL
SELECT tenant, arrayJoin(arrayPushBack(subjects, subject_hash)) AS subject_hash, 'dataset_versions', count()
FROM dataset_versions GROUP BY tenant, subject_hash;
