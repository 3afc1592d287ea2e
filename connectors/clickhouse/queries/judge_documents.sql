-- What the retrievals of a trace found, in their order.
SELECT output FROM spans FINAL
WHERE tenant = {tenant:String} AND trace_id = {trace:String} AND kind = 'retrieval' AND consent_evaluate AND output != ''
    AND event_time >= toDateTime({first:Int64}, 'UTC')
ORDER BY event_time, span_id LIMIT 6
