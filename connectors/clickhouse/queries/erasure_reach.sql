-- Dataset versions that hold a subject, and the models that were trained on them.
SELECT d.dataset_id AS dataset_id, groupUniqArray(j.candidate) AS models
FROM dataset_versions AS d FINAL
LEFT JOIN (SELECT dataset_id, candidate FROM jobs FINAL WHERE candidate != '') AS j ON j.dataset_id = d.dataset_id
WHERE d.tenant = {tenant:String} AND has(d.subjects, {subject:String})
GROUP BY dataset_id
ORDER BY dataset_id
