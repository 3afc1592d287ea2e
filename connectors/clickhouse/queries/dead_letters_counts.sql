-- Dead letters by reason, the most frequent first. Empty parameters ask for nothing.
SELECT
    tenant, stage, topic, reason, count() AS letters, sum(items) AS items, min(event_time) AS oldest,
    max(event_time) AS newest
FROM dead_letters_current
WHERE ({tenant:String} = '' OR tenant = {tenant:String})
    AND ({stage:String} = '' OR stage = {stage:String})
    AND ({reason:String} = '' OR reason = {reason:String})
    AND ({topic:String} = '' OR topic = {topic:String})
    AND event_time >= {since:DateTime64(6, 'UTC')}
GROUP BY tenant, stage, topic, reason
ORDER BY letters DESC, tenant, stage, topic, reason
