-- Samples that wait for a label, oldest first.
SELECT event_id AS sample_id, tenant, agent, turn_id, session_id, input, output, reason, event_time
FROM samples FINAL
WHERE event_id NOT IN (SELECT sample_id FROM labels)
ORDER BY event_time, event_id
LIMIT {limit:UInt32}
