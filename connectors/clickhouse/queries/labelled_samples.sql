-- Samples with their newest label, of one agent, that people agreed to train on. One row a sample, oldest first.
SELECT
    s.event_id AS sample_id,
    s.turn_id AS turn_id,
    s.session_id AS session_id,
    s.subject_hash AS subject_hash,
    s.input AS text,
    l.value AS label,
    s.output AS output,
    s.model_version AS model_version,
    s.reason AS reason,
    s.propensity AS propensity,
    s.verdict AS verdict,
    l.rater AS rater,
    s.event_time AS time
FROM samples AS s FINAL
INNER JOIN (
    SELECT sample_id, argMax(value, event_time) AS value, argMax(rater, event_time) AS rater
    FROM labels FINAL
    WHERE tenant = {tenant:String} AND agent = {agent:String}
    GROUP BY sample_id
) AS l ON l.sample_id = s.event_id
WHERE s.tenant = {tenant:String} AND s.agent = {agent:String} AND s.consent_train
ORDER BY s.event_time, s.event_id
