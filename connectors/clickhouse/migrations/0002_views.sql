-- What is true now: one row for each key, the newest. Columns are the table's own.

CREATE VIEW IF NOT EXISTS spans_current AS SELECT * FROM spans FINAL;

CREATE VIEW IF NOT EXISTS signals_current AS SELECT * FROM signals FINAL;

CREATE VIEW IF NOT EXISTS turns_current AS SELECT * FROM turns FINAL;

CREATE VIEW IF NOT EXISTS scores_current AS SELECT * FROM scores FINAL;

CREATE VIEW IF NOT EXISTS alarms_current AS SELECT * FROM alarms FINAL;

CREATE VIEW IF NOT EXISTS samples_current AS SELECT * FROM samples FINAL;

CREATE VIEW IF NOT EXISTS labels_current AS SELECT * FROM labels FINAL;

CREATE VIEW IF NOT EXISTS triggers_current AS SELECT * FROM triggers FINAL;

CREATE VIEW IF NOT EXISTS dataset_versions_current AS SELECT * FROM dataset_versions FINAL;

CREATE VIEW IF NOT EXISTS evaluations_current AS SELECT * FROM evaluations FINAL;

CREATE VIEW IF NOT EXISTS erasures_current AS SELECT * FROM erasures FINAL;

CREATE VIEW IF NOT EXISTS dead_letters_current AS SELECT * FROM dead_letters FINAL;

-- The newest revision of each turn's verdict.
CREATE VIEW IF NOT EXISTS outcomes_current AS
SELECT * FROM outcomes FINAL ORDER BY revision DESC LIMIT 1 BY tenant, turn_id;

-- The newest state of each job; the table itself keeps every change.
CREATE VIEW IF NOT EXISTS jobs_current AS
SELECT * FROM jobs FINAL
ORDER BY event_time DESC, indexOf(['queued', 'running', 'evaluating', 'passed', 'refused', 'failed'], state) DESC,
    progress DESC
LIMIT 1 BY tenant, job_id;

-- The newest state of each release; the table itself keeps every change.
CREATE VIEW IF NOT EXISTS deployments_current AS
SELECT * FROM deployments FINAL
ORDER BY event_time DESC, indexOf(['shadow', 'canary', 'live', 'rolled_back', 'stopped'], state) DESC
LIMIT 1 BY tenant, release_id;

-- By minute of acceptance and tenant: accepted (duplicates taken off) = stored + quarantined + dropped. The stored are
-- counted in their own tables, so that a loss on the way shows as a difference. A minute leaves the view an hour before
-- the first of its rows is past its retention.
CREATE VIEW IF NOT EXISTS ledger_current AS
SELECT
    tenant,
    minute,
    sum(accepted_rows) AS accepted,
    sum(stored_rows) AS stored,
    sum(quarantined_rows) AS quarantined,
    sum(dropped_rows) AS dropped,
    accepted - stored - quarantined - dropped AS difference
FROM (
    SELECT
        tenant,
        toStartOfMinute(event_time) AS minute,
        sum(multiIf(entry = 'accepted', count, entry = 'duplicate', -count, 0)) AS accepted_rows,
        0 AS stored_rows,
        0 AS quarantined_rows,
        sum(if(entry = 'dropped', count, 0)) AS dropped_rows,
        min(stored_time + toIntervalDay(retention_days)) AS until
    FROM ledger FINAL GROUP BY tenant, minute
    UNION ALL
    SELECT
        tenant, toStartOfMinute(received_time) AS minute, 0, toInt64(count()), 0, 0,
        min(stored_time + toIntervalDay(retention_days))
    FROM spans FINAL WHERE received_time > '1970-01-02' GROUP BY tenant, minute
    UNION ALL
    SELECT
        tenant, toStartOfMinute(received_time) AS minute, 0, toInt64(count()), 0, 0,
        min(stored_time + toIntervalDay(retention_days))
    FROM signals FINAL WHERE received_time > '1970-01-02' GROUP BY tenant, minute
    UNION ALL
    SELECT
        tenant, toStartOfMinute(received_time) AS minute, 0, toInt64(count()), 0, 0,
        min(stored_time + toIntervalDay(retention_days))
    FROM labels FINAL WHERE received_time > '1970-01-02' GROUP BY tenant, minute
    UNION ALL
    SELECT
        tenant, toStartOfMinute(received_time) AS minute, 0, 0, sum(items), 0,
        min(stored_time + toIntervalDay(retention_days))
    FROM dead_letters FINAL WHERE topic IN ('otlp_spans', 'agent.signals.raw') GROUP BY tenant, minute
)
GROUP BY tenant, minute
HAVING min(until) > now() + INTERVAL 1 HOUR;
