-- Whether models may be judged by a record.

ALTER TABLE spans ADD COLUMN IF NOT EXISTS consent_evaluate Bool DEFAULT true AFTER consent_train;

DROP VIEW IF EXISTS spans_current;

CREATE VIEW IF NOT EXISTS spans_current AS SELECT * FROM spans FINAL;

ALTER TABLE signals ADD COLUMN IF NOT EXISTS consent_evaluate Bool DEFAULT true AFTER consent_train;

DROP VIEW IF EXISTS signals_current;

CREATE VIEW IF NOT EXISTS signals_current AS SELECT * FROM signals FINAL;

ALTER TABLE turns ADD COLUMN IF NOT EXISTS consent_evaluate Bool DEFAULT true AFTER consent_train;

DROP VIEW IF EXISTS turns_current;

CREATE VIEW IF NOT EXISTS turns_current AS SELECT * FROM turns FINAL;

ALTER TABLE samples ADD COLUMN IF NOT EXISTS consent_evaluate Bool DEFAULT true AFTER consent_train;

DROP VIEW IF EXISTS samples_current;

CREATE VIEW IF NOT EXISTS samples_current AS SELECT * FROM samples FINAL;

ALTER TABLE labels ADD COLUMN IF NOT EXISTS consent_evaluate Bool DEFAULT true AFTER consent_train;

DROP VIEW IF EXISTS labels_current;

CREATE VIEW IF NOT EXISTS labels_current AS SELECT * FROM labels FINAL;
