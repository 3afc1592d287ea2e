-- Samples with their newest label, of one agent, that people agreed to train on; `evaluate`: and to be judged by. What a
-- judge says counts where no person has said anything. One row a sample, oldest first.
SELECT
    s.event_id AS sample_id,
    s.turn_id AS turn_id,
    s.session_id AS session_id,
    s.subject_hash AS subject_hash,
    s.input AS text,
    l.newest.1 AS label,
    s.output AS output,
    s.model_version AS model_version,
    s.reason AS reason,
    s.propensity AS propensity,
    s.verdict AS verdict,
    l.newest.2 AS rater,
    s.consent_evaluate AND l.newest.4 AS evaluate,
    s.event_time AS time
FROM samples AS s FINAL
INNER JOIN (
    SELECT sample_id, argMax(
        (value, rater, consent_train, consent_evaluate), (NOT startsWith(rater, 'judge:'), event_time, event_id)
    ) AS newest
    FROM labels FINAL
    WHERE tenant = {tenant:String} AND agent = {agent:String}
    GROUP BY sample_id
) AS l ON l.sample_id = s.event_id
WHERE s.tenant = {tenant:String} AND s.agent = {agent:String} AND s.consent_train AND l.newest.3
ORDER BY s.event_time, s.event_id
