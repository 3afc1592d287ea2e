-- Every dead letter about the same messages as the given ones.
SELECT event_id, tenant, agent, event_time, received_time, stage, topic, partition, offset, reason, detail, items,
    quarantine
FROM dead_letters_current
WHERE (topic, partition, offset) IN (
    SELECT topic, partition, offset FROM dead_letters_current WHERE event_id IN {ids:Array(String)}
)
ORDER BY event_time, event_id
