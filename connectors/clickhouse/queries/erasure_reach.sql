-- Dataset versions that hold a subject, or held it before an earlier erasure.
SELECT dataset_id FROM dataset_versions
WHERE tenant = {tenant:String} AND has(subjects, {subject:String})
UNION DISTINCT
SELECT arrayJoin(dataset_versions) AS dataset_id FROM erasures
WHERE tenant = {tenant:String} AND subject_hash = {subject:String}
ORDER BY dataset_id
