-- Who has judged these turns.
SELECT DISTINCT tenant, turn_id, rubric, model FROM judge_verdicts
WHERE event_time >= toDateTime({first:Int64}, 'UTC') AND has({turns:Array(String)}, turn_id)
