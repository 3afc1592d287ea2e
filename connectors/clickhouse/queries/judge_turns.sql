-- Whole turns, as they are now, of people who agree to being evaluated by.
SELECT * FROM turns FINAL
WHERE event_time >= toDateTime({first:Int64}, 'UTC') AND consent_evaluate AND has({turns:Array(String)}, turn_id)
