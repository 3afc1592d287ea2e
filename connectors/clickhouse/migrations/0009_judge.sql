-- What judges said, how their probes went, and what people said of the same turns. Judges' rows come from nobody's
-- request: what was sent in has a time at which it was received.

CREATE VIEW IF NOT EXISTS judge_verdicts AS
SELECT
    tenant,
    agent,
    session_id,
    turn_id,
    trace_id,
    event_time,
    stored_time,
    event_id,
    attributes['driftwheel.judge'] AS judge,
    attributes['gen_ai.evaluation.name'] AS rubric,
    attributes['driftwheel.judge.model'] AS model,
    toFloat64OrNull(attributes['gen_ai.evaluation.score.value']) AS score,
    attributes['gen_ai.evaluation.score.label'] AS label,
    attributes['error.type'] AS abstained,
    text AS rationale,
    toFloat64OrZero(attributes['driftwheel.judge.propensity']) AS propensity,
    toUInt64OrZero(attributes['driftwheel.judge.tokens']) AS tokens
FROM signals FINAL
WHERE name = 'evaluation' AND source = 'judge' AND received_time < '1970-01-02'
    AND attributes['driftwheel.judge'] != '' AND attributes['driftwheel.judge.probe'] = '';

CREATE VIEW IF NOT EXISTS judge_probes AS
SELECT
    tenant,
    agent,
    turn_id,
    event_time,
    stored_time,
    attributes['driftwheel.judge'] AS judge,
    attributes['driftwheel.judge.probe'] AS probe,
    attributes['gen_ai.evaluation.score.label'] AS result,
    result IN ('inconsistent', 'padded_won') AS failed,
    toUInt64OrZero(attributes['driftwheel.judge.tokens']) AS tokens
FROM signals FINAL
WHERE name = 'evaluation' AND source = 'judge' AND received_time < '1970-01-02'
    AND attributes['driftwheel.judge.probe'] != '';

-- One row for each judge and turn that people judged by the same rubric: evaluations of that name by a person, about the
-- turn, its root span or its trace; and labels pass or fail whose rubric_version begins with the rubric's name. People
-- who contradict each other evenly say nothing.
CREATE VIEW IF NOT EXISTS judge_pairs AS
SELECT v.tenant AS tenant, v.judge AS judge, v.turn_id AS turn_id, v.label = 'pass' AS judge_pass,
    p.share > 0.5 AS person_pass, p.people AS people, p.time AS person_time
FROM (
    SELECT tenant, judge, rubric, turn_id, label, arrayJoin([turn_id, trace_id]) AS about
    FROM judge_verdicts WHERE label IN ('pass', 'fail')
) AS v
INNER JOIN (
    SELECT tenant, rubric, about, avg(pass) AS share, count() AS people, max(time) AS time
    FROM (
        SELECT
            tenant,
            attributes['gen_ai.evaluation.name'] AS rubric,
            multiIf(turn_id != '', turn_id, span_id != '', concat(trace_id, '.', span_id), trace_id) AS about,
            value > 0 AS pass,
            event_time AS time
        FROM signals_current
        WHERE name = 'evaluation' AND source = 'human' AND value != 0
        UNION ALL
        SELECT
            l.tenant,
            splitByChar(':', l.rubric_version)[1],
            s.turn_id,
            lower(l.value) = 'pass',
            l.event_time
        FROM labels_current AS l
        INNER JOIN samples_current AS s ON s.tenant = l.tenant AND s.event_id = l.sample_id
        WHERE lower(l.value) IN ('pass', 'fail') AND NOT startsWith(l.rater, 'judge:')
    )
    WHERE about != ''
    GROUP BY tenant, rubric, about
    HAVING share != 0.5
) AS p ON p.tenant = v.tenant AND p.rubric = v.rubric AND p.about = v.about
ORDER BY person_time DESC
LIMIT 1 BY tenant, judge, turn_id;
