-- What changed with a cohort's alarm.

ALTER TABLE alarms ADD COLUMN IF NOT EXISTS moved Map(LowCardinality(String), Float64) AFTER sessions;

DROP VIEW IF EXISTS alarms_current;

CREATE VIEW IF NOT EXISTS alarms_current AS SELECT * FROM alarms FINAL;
