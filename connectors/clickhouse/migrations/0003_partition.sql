-- On Kafka an entry's place is its topic, partition and offset.

ALTER TABLE dead_letters ADD COLUMN IF NOT EXISTS partition Int64 DEFAULT 0 AFTER received_time;

DROP VIEW IF EXISTS dead_letters_current;

CREATE VIEW IF NOT EXISTS dead_letters_current AS SELECT * FROM dead_letters FINAL;
