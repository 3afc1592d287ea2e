-- Dataset versions of these ids, each as it stands.
SELECT * FROM dataset_versions_current
WHERE tenant = {tenant:String} AND has({datasets:Array(String)}, dataset_id)
ORDER BY event_time, event_id
