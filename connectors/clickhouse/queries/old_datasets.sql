-- Dataset versions from before {before} whose files still hold rows, and that no model needs: one that is live or on
-- trial, or whose job or release is still under way.
SELECT * FROM dataset_versions_current
WHERE erased < rows AND event_time < {before:DateTime64(6, 'UTC')} AND (tenant, dataset_id) NOT IN (
    SELECT j.tenant, j.dataset_id
    FROM (
        SELECT
            tenant, agent, job_id, max(candidate) AS candidate, max(dataset_id) AS dataset_id,
            argMax(state,
                (event_time, indexOf(['queued', 'running', 'evaluating', 'passed', 'refused', 'failed'], state)))
                AS last_state
        FROM jobs GROUP BY tenant, agent, job_id
    ) AS j
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
    WHERE j.dataset_id != '' AND (
        (j.candidate != '' AND j.candidate IN (t.live, t.trial))
        OR ((j.candidate = '' OR r.candidate = '') AND j.last_state NOT IN ('refused', 'failed'))
    )
)
ORDER BY event_time, event_id
