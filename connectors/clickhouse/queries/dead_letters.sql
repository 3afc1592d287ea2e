-- Dead letters, the newest first, with what became of them. Empty parameters ask for nothing.
-- state: open (never replayed), sent (replayed), refused (it failed as before), settled (it did not).
SELECT
    l.event_id AS event_id, l.event_time AS event_time, l.tenant AS tenant, l.agent AS agent, l.stage AS stage,
    l.topic AS topic, l.partition AS partition, l.offset AS offset, l.reason AS reason, l.detail AS detail,
    l.items AS items, l.quarantine AS quarantine, l.received_time AS received_time,
    multiIf(
        m.settled > 0, 'settled',
        m.sent = 0, 'open',
        m.refused >= m.sent OR endsWith(l.detail, ' (again)'), 'refused',
        'sent'
    ) AS state,
    m.sent AS replayed_time
FROM dead_letters_current AS l
LEFT JOIN (
    SELECT
        substring(event_id, position(event_id, '/') + 1) AS letter,
        maxIf(toUnixTimestamp(stored_time), startsWith(event_id, 'sent/')) AS sent,
        maxIf(toUnixTimestamp(stored_time), startsWith(event_id, 'refused/')) AS refused,
        maxIf(toUnixTimestamp(stored_time), startsWith(event_id, 'settled/')) AS settled
    FROM ledger WHERE source = 'replay' AND count = 0 GROUP BY letter
) AS m ON m.letter = l.event_id
WHERE ({tenant:String} = '' OR l.tenant = {tenant:String})
    AND ({stage:String} = '' OR l.stage = {stage:String})
    AND ({reason:String} = '' OR l.reason = {reason:String})
    AND ({topic:String} = '' OR l.topic = {topic:String})
    AND ({state:String} = '' OR state = {state:String})
    AND l.event_time >= {since:DateTime64(6, 'UTC')}
    AND (empty({ids:Array(String)}) OR l.event_id IN {ids:Array(String)})
    AND startsWith(l.event_id, {start:String})
ORDER BY event_time DESC, event_id
LIMIT {limit:UInt32}
