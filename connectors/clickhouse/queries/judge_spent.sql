-- What judges have cost since then, by when it was stored.
SELECT stored_time AS time, sum(calls) AS calls, sum(tokens) AS tokens FROM (
    SELECT stored_time, 1 AS calls, tokens FROM judge_verdicts WHERE tokens > 0
    UNION ALL
    SELECT stored_time, 2 AS calls, tokens FROM judge_probes
)
WHERE stored_time >= toDateTime({since:Int64}, 'UTC')
GROUP BY time ORDER BY time
