-- Dataset versions that hold a subject, or held it before an earlier erasure, and the models that learnt from them.
SELECT d.dataset_id AS dataset_id, groupUniqArray(j.candidate) AS models
FROM (
    SELECT dataset_id FROM dataset_versions
    WHERE tenant = {tenant:String} AND has(subjects, {subject:String})
    UNION DISTINCT
    SELECT arrayJoin(dataset_versions) AS dataset_id FROM erasures
    WHERE tenant = {tenant:String} AND subject_hash = {subject:String}
) AS d
LEFT JOIN (
    SELECT DISTINCT dataset_id, candidate FROM jobs WHERE tenant = {tenant:String} AND candidate != ''
) AS j ON j.dataset_id = d.dataset_id
GROUP BY dataset_id
ORDER BY dataset_id
