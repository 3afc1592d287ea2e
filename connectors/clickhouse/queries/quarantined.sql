-- Dead letters whose payload is, or was, in the quarantine.
SELECT event_id, tenant, agent, event_time, received_time, stage, topic, partition, offset, reason, detail, items,
    quarantine
FROM dead_letters_current
WHERE tenant IN ({tenant:String}, 'unknown') AND quarantine != ''
ORDER BY event_time, event_id
