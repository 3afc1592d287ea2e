-- An erasure is a request with a state: every change is a row, the newest counts.

ALTER TABLE erasures ADD COLUMN IF NOT EXISTS erasure_id String DEFAULT event_id AFTER models;

ALTER TABLE erasures ADD COLUMN IF NOT EXISTS state LowCardinality(String) DEFAULT 'done' AFTER erasure_id;

ALTER TABLE erasures ADD COLUMN IF NOT EXISTS waiting Map(LowCardinality(String), String) AFTER state;

ALTER TABLE dataset_versions ADD COLUMN IF NOT EXISTS erased Int64 DEFAULT 0 AFTER subjects;

-- What belongs to a person without naming them, by erasure: filled before anything is deleted, emptied at the end.
CREATE TABLE IF NOT EXISTS erasure_keys (
    erasure_id String,
    kind LowCardinality(String),
    id String
) ENGINE = ReplacingMergeTree
ORDER BY (erasure_id, kind, id);

DROP VIEW IF EXISTS erasures_current;

CREATE VIEW IF NOT EXISTS erasures_current AS
SELECT * FROM erasures FINAL
ORDER BY event_time DESC, indexOf(['requested', 'running', 'done'], state) DESC
LIMIT 1 BY tenant, erasure_id;

DROP VIEW IF EXISTS dataset_versions_current;

CREATE VIEW IF NOT EXISTS dataset_versions_current AS SELECT * FROM dataset_versions FINAL;

-- Where a person still is: no row at all after an erasure.
CREATE VIEW IF NOT EXISTS subject_places AS
SELECT tenant, subject_hash, 'spans' AS place, count() AS rows FROM spans GROUP BY tenant, subject_hash
UNION ALL SELECT tenant, subject_hash, 'signals', count() FROM signals GROUP BY tenant, subject_hash
UNION ALL SELECT tenant, subject_hash, 'turns', count() FROM turns GROUP BY tenant, subject_hash
UNION ALL SELECT tenant, subject_hash, 'scores', count() FROM scores GROUP BY tenant, subject_hash
UNION ALL SELECT tenant, subject_hash, 'outcomes', count() FROM outcomes GROUP BY tenant, subject_hash
UNION ALL SELECT tenant, subject_hash, 'alarms', count() FROM alarms GROUP BY tenant, subject_hash
UNION ALL SELECT tenant, subject_hash, 'samples', count() FROM samples GROUP BY tenant, subject_hash
UNION ALL SELECT tenant, subject_hash, 'labels', count() FROM labels GROUP BY tenant, subject_hash
UNION ALL SELECT tenant, subject_hash, 'triggers', count() FROM triggers GROUP BY tenant, subject_hash
UNION ALL SELECT tenant, subject_hash, 'jobs', count() FROM jobs GROUP BY tenant, subject_hash
UNION ALL SELECT tenant, subject_hash, 'evaluations', count() FROM evaluations GROUP BY tenant, subject_hash
UNION ALL SELECT tenant, subject_hash, 'deployments', count() FROM deployments GROUP BY tenant, subject_hash
UNION ALL SELECT tenant, subject_hash, 'dead_letters', count() FROM dead_letters GROUP BY tenant, subject_hash
UNION ALL SELECT tenant, subject_hash, 'ledger', count() FROM ledger GROUP BY tenant, subject_hash
UNION ALL
SELECT tenant, arrayJoin(arrayPushBack(subjects, subject_hash)) AS subject_hash, 'dataset_versions', count()
FROM dataset_versions GROUP BY tenant, subject_hash;

-- What is owed for every model that learnt from an erased person: to be retrained without them, or retired. Open while
-- the model answers anybody, or may yet be released; fulfilled when another model is live.
CREATE VIEW IF NOT EXISTS erasure_obligations AS
SELECT
    e.tenant AS tenant,
    e.erasure_id AS erasure_id,
    e.subject_hash AS subject_hash,
    j.agent AS agent,
    j.candidate AS model,
    e.dataset_id AS dataset_id,
    e.opened AS opened,
    t.live AS live_model,
    multiIf(
        j.candidate IN (t.live, t.trial), 'open',
        r.candidate = '' AND j.last_state NOT IN ('refused', 'failed'), 'open',
        'fulfilled'
    ) AS state,
    multiIf(
        state = 'open', '',
        l.learnt_from != '' AND NOT has(e.datasets, l.learnt_from), 'retrained',
        'retired'
    ) AS how
FROM (
    SELECT
        tenant, erasure_id, any(subject_hash) AS subject_hash, min(event_time) AS opened,
        groupUniqArrayArray(dataset_versions) AS datasets, arrayJoin(datasets) AS dataset_id
    FROM erasures GROUP BY tenant, erasure_id
) AS e
INNER JOIN (
    SELECT
        tenant, agent, candidate, dataset_id,
        argMax(state, (event_time, indexOf(['queued', 'running', 'evaluating', 'passed', 'refused', 'failed'], state)))
            AS last_state
    FROM jobs WHERE candidate != '' GROUP BY tenant, agent, candidate, dataset_id
) AS j ON j.tenant = e.tenant AND j.dataset_id = e.dataset_id
LEFT JOIN (
    SELECT
        tenant, agent,
        argMax(if(state = 'live', candidate, incumbent),
            (event_time, indexOf(['shadow', 'canary', 'live', 'rolled_back', 'stopped'], state))) AS live,
        argMax(if(state IN ('shadow', 'canary'), candidate, ''),
            (event_time, indexOf(['shadow', 'canary', 'live', 'rolled_back', 'stopped'], state))) AS trial
    FROM deployments GROUP BY tenant, agent
) AS t ON t.tenant = j.tenant AND t.agent = j.agent
LEFT JOIN (
    SELECT DISTINCT tenant, agent, candidate FROM deployments
) AS r ON r.tenant = j.tenant AND r.agent = j.agent AND r.candidate = j.candidate
LEFT JOIN (
    SELECT tenant, candidate, any(dataset_id) AS learnt_from FROM jobs
    WHERE candidate != '' AND dataset_id != '' GROUP BY tenant, candidate
) AS l ON l.tenant = t.tenant AND l.candidate = t.live;
