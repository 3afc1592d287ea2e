-- Turns that were stored in this time and may be judged, by what decides whether they are chosen. A turn may come twice.
SELECT t.tenant AS tenant, t.turn_id AS turn_id, t.event_time AS event_time, s.uncertainty AS uncertainty
FROM (
    SELECT tenant, turn_id, event_time FROM turns
    WHERE stored_time >= toDateTime({since:Int64}, 'UTC') AND stored_time < toDateTime({until:Int64}, 'UTC')
        AND consent_evaluate AND redaction_policy != '' AND NOT startsWith(tenant, {canary:String})
) AS t
LEFT JOIN (
    SELECT tenant, turn_id, max(uncertainty) AS uncertainty FROM scores
    WHERE stored_time >= toDateTime({since:Int64}, 'UTC') - INTERVAL 1 HOUR GROUP BY tenant, turn_id
) AS s ON s.tenant = t.tenant AND s.turn_id = t.turn_id
ORDER BY t.event_time, t.turn_id
