-- Erasures, the newest first, each as it stands. Empty parameters ask for nothing.
SELECT
    e.erasure_id AS erasure_id, e.tenant AS tenant, e.subject_hash AS subject_hash, e.state AS state,
    b.requested_time AS requested_time, e.event_time AS event_time, e.requested_by AS requested_by,
    e.deleted AS deleted, e.waiting AS waiting, e.dataset_versions AS dataset_versions, e.models AS models
FROM erasures_current AS e
INNER JOIN (SELECT erasure_id, min(event_time) AS requested_time FROM erasures GROUP BY erasure_id) AS b
    ON b.erasure_id = e.erasure_id
WHERE ({tenant:String} = '' OR e.tenant = {tenant:String})
    AND ({subject:String} = '' OR e.subject_hash = {subject:String})
    AND ({state:String} = '' OR e.state = {state:String} OR ({state:String} = 'open' AND e.state != 'done'))
    AND startsWith(e.erasure_id, {start:String})
ORDER BY requested_time DESC, erasure_id
LIMIT {limit:UInt32}
