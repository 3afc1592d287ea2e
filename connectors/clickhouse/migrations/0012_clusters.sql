-- Clusters of turns that failed, and the sketch of what a session's first message is about.

CREATE TABLE IF NOT EXISTS clusters (
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
    cause LowCardinality(String),
    p_failure Float64,
    revision Int64 CODEC(T64, ZSTD(1)),
    cluster_id String CODEC(ZSTD(1)),
    name String CODEC(ZSTD(1)),
    size Int64 CODEC(T64, ZSTD(1)),
    merged_into String CODEC(ZSTD(1)),
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

-- The newest cluster of each turn, as it was told then; without a turn, what a cluster was merged into.
CREATE VIEW IF NOT EXISTS clusters_current AS
SELECT * FROM clusters FINAL ORDER BY revision DESC LIMIT 1 BY tenant, turn_id, if(turn_id = '', cluster_id, '');

-- Each turn that still counts as failed, in the cluster that its own is part of today, by that cluster's newest name. A
-- cluster grows with every turn, also when others are merged into it, so that its largest size is its newest.
CREATE VIEW IF NOT EXISTS clustered_failures AS
SELECT
    t.tenant AS tenant,
    t.agent AS agent,
    t.model_version AS model_version,
    t.category AS category,
    t.event_time AS event_time,
    t.session_id AS session_id,
    t.turn_id AS turn_id,
    t.cause AS cause,
    o.p_failure AS p_failure,
    t.cluster AS cluster_id,
    n.newest_name AS name,
    n.newest_size AS size
FROM (
    SELECT
        c.tenant, c.agent, c.model_version, c.category, c.event_time, c.session_id, c.turn_id, c.cause,
        if(m.target = '', c.cluster_id, m.target) AS cluster
    FROM (SELECT * FROM clusters_current WHERE turn_id != '') AS c
    LEFT JOIN (
        SELECT tenant, agent, cluster_id, argMax(merged_into, size) AS target
        FROM clusters FINAL WHERE merged_into != '' GROUP BY tenant, agent, cluster_id
    ) AS m ON m.tenant = c.tenant AND m.agent = c.agent AND m.cluster_id = c.cluster_id
) AS t
INNER JOIN (
    SELECT tenant, turn_id, p_failure FROM outcomes_current WHERE verdict = 'failure'
) AS o ON o.tenant = t.tenant AND o.turn_id = t.turn_id
LEFT JOIN (
    SELECT tenant, agent, id, argMax(told, grown) AS newest_name, max(grown) AS newest_size
    FROM (
        SELECT tenant, agent, if(merged_into = '', cluster_id, merged_into) AS id, name AS told, size AS grown
        FROM clusters FINAL
    )
    GROUP BY tenant, agent, id
) AS n ON n.tenant = t.tenant AND n.agent = t.agent AND n.id = t.cluster;

-- Volume times badness by cohort and day: the sum of P(failure) over a cluster's turns.
CREATE VIEW IF NOT EXISTS top_clusters AS
SELECT
    tenant,
    agent,
    model_version,
    category,
    toDate(event_time) AS day,
    cluster_id,
    any(name) AS name,
    count() AS turns,
    uniqExact(session_id) AS sessions,
    round(sum(p_failure), 4) AS badness,
    topK(1)(cause)[1] AS main_cause
FROM clustered_failures
GROUP BY tenant, agent, model_version, category, day, cluster_id;

ALTER TABLE turns ADD COLUMN IF NOT EXISTS sketch String DEFAULT '' CODEC(ZSTD(1)) AFTER fault_spans;

ALTER TABLE scores ADD COLUMN IF NOT EXISTS sketch String DEFAULT '' CODEC(ZSTD(1)) AFTER causes;

ALTER TABLE outcomes ADD COLUMN IF NOT EXISTS sketch String DEFAULT '' CODEC(ZSTD(1)) AFTER session_value;

CREATE OR REPLACE VIEW turns_current AS SELECT * FROM turns FINAL;

CREATE OR REPLACE VIEW scores_current AS SELECT * FROM scores FINAL;

CREATE OR REPLACE VIEW outcomes_current AS
SELECT * FROM outcomes FINAL ORDER BY revision DESC LIMIT 1 BY tenant, turn_id;

-- How many rows each person has, and where: failures and clusters too.
CREATE OR REPLACE VIEW subject_places AS
SELECT tenant, subject_hash, 'spans' AS place, count() AS rows FROM spans GROUP BY tenant, subject_hash
UNION ALL SELECT tenant, subject_hash, 'signals', count() FROM signals GROUP BY tenant, subject_hash
UNION ALL SELECT tenant, subject_hash, 'turns', count() FROM turns GROUP BY tenant, subject_hash
UNION ALL SELECT tenant, subject_hash, 'scores', count() FROM scores GROUP BY tenant, subject_hash
UNION ALL SELECT tenant, subject_hash, 'outcomes', count() FROM outcomes GROUP BY tenant, subject_hash
UNION ALL SELECT tenant, subject_hash, 'failures', count() FROM failures GROUP BY tenant, subject_hash
UNION ALL SELECT tenant, subject_hash, 'clusters', count() FROM clusters GROUP BY tenant, subject_hash
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
