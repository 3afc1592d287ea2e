-- Feedback about one span, and feedback that a newer one replaces; why records were dropped; OTLP logs in the ledger.

ALTER TABLE signals
    ADD COLUMN IF NOT EXISTS span_id String DEFAULT '' CODEC(ZSTD(1)) AFTER attributes,
    ADD COLUMN IF NOT EXISTS feedback_id String DEFAULT '' CODEC(ZSTD(1)) AFTER span_id;

ALTER TABLE ledger ADD COLUMN IF NOT EXISTS reason LowCardinality(String) DEFAULT '' AFTER count;

DROP VIEW IF EXISTS signals_current;

-- Of signals with the same feedback_id the newest; the table itself keeps every one.
CREATE VIEW IF NOT EXISTS signals_current AS
SELECT * FROM signals FINAL WHERE feedback_id = ''
UNION ALL
SELECT * FROM (
    SELECT * FROM signals FINAL WHERE feedback_id != ''
    ORDER BY event_time DESC, received_time DESC, event_id DESC
    LIMIT 1 BY tenant, feedback_id
);

DROP VIEW IF EXISTS ledger_current;

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
    FROM dead_letters FINAL WHERE topic IN ('otlp_spans', 'otlp_logs', 'agent.signals.raw') GROUP BY tenant, minute
)
GROUP BY tenant, minute
HAVING min(until) > now() + INTERVAL 1 HOUR;
