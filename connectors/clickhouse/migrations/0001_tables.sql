-- The first tables. Rows come at least once and are complete: the newest version of a key wins when parts merge,
-- and the *_current views read that way at once. Keys and partitions come from the event alone, so that a row that is
-- delivered again meets its twin. Retention is a number of days fixed in the row and counts from when it was stored,
-- so that neither an imported history nor a wrong clock changes it; merges drop what is past it.

CREATE TABLE IF NOT EXISTS spans (
    schema_version UInt16,
    event_id String CODEC(ZSTD(1)),
    tenant LowCardinality(String),
    agent LowCardinality(String),
    subject_hash String CODEC(ZSTD(1)),
    event_time DateTime64(6, 'UTC') CODEC(Delta(8), ZSTD(1)),
    redaction_policy LowCardinality(String),
    redaction_detector LowCardinality(String),
    redaction_counts Map(LowCardinality(String), Int64),
    consent_train Bool,
    session_id String CODEC(ZSTD(1)),
    trace_id String CODEC(ZSTD(1)),
    span_id String CODEC(ZSTD(1)),
    parent_span_id String CODEC(ZSTD(1)),
    kind LowCardinality(String),
    name LowCardinality(String),
    status LowCardinality(String),
    status_message String CODEC(ZSTD(3)),
    duration_us Int64 CODEC(T64, ZSTD(1)),
    received_time DateTime64(6, 'UTC') CODEC(Delta(8), ZSTD(1)),
    model LowCardinality(String),
    model_version LowCardinality(String),
    provider LowCardinality(String),
    prompt_version LowCardinality(String),
    tool_name LowCardinality(String),
    tool_call_id String CODEC(ZSTD(1)),
    category LowCardinality(String),
    input String CODEC(ZSTD(3)),
    output String CODEC(ZSTD(3)),
    input_tokens Int64 CODEC(T64, ZSTD(1)),
    output_tokens Int64 CODEC(T64, ZSTD(1)),
    logprob_top1 Nullable(Float64),
    logprob_top2 Nullable(Float64),
    retrieval_score Nullable(Float64),
    retrieval_documents Int64 CODEC(T64, ZSTD(1)),
    attributes Map(LowCardinality(String), String) CODEC(ZSTD(3)),
    version UInt64,
    retention_days UInt16,
    stored_time DateTime('UTC') DEFAULT now() CODEC(Delta(4), ZSTD(1)),
    INDEX by_trace trace_id TYPE bloom_filter(0.001) GRANULARITY 1,
    INDEX by_session session_id TYPE bloom_filter(0.001) GRANULARITY 1,
    INDEX by_subject subject_hash TYPE bloom_filter(0.001) GRANULARITY 1
) ENGINE = ReplacingMergeTree(version)
PARTITION BY toYYYYMM(event_time)
PRIMARY KEY (tenant, agent, toStartOfHour(event_time))
ORDER BY (tenant, agent, toStartOfHour(event_time), trace_id, span_id)
TTL stored_time + toIntervalDay(retention_days) DELETE
SETTINGS non_replicated_deduplication_window = 1000, merge_with_ttl_timeout = 3600;

CREATE TABLE IF NOT EXISTS signals (
    schema_version UInt16,
    event_id String CODEC(ZSTD(1)),
    tenant LowCardinality(String),
    agent LowCardinality(String),
    subject_hash String CODEC(ZSTD(1)),
    event_time DateTime64(6, 'UTC') CODEC(Delta(8), ZSTD(1)),
    redaction_policy LowCardinality(String),
    redaction_detector LowCardinality(String),
    redaction_counts Map(LowCardinality(String), Int64),
    consent_train Bool,
    session_id String CODEC(ZSTD(1)),
    turn_id String CODEC(ZSTD(1)),
    trace_id String CODEC(ZSTD(1)),
    name LowCardinality(String),
    kind LowCardinality(String),
    source LowCardinality(String),
    value Float64,
    weight Float64,
    text String CODEC(ZSTD(3)),
    text_before String CODEC(ZSTD(3)),
    received_time DateTime64(6, 'UTC') CODEC(Delta(8), ZSTD(1)),
    attributes Map(LowCardinality(String), String) CODEC(ZSTD(3)),
    version UInt64,
    retention_days UInt16,
    stored_time DateTime('UTC') DEFAULT now() CODEC(Delta(4), ZSTD(1)),
    INDEX by_trace trace_id TYPE bloom_filter(0.001) GRANULARITY 1,
    INDEX by_session session_id TYPE bloom_filter(0.001) GRANULARITY 1,
    INDEX by_subject subject_hash TYPE bloom_filter(0.001) GRANULARITY 1
) ENGINE = ReplacingMergeTree(version)
PARTITION BY toYYYYMM(event_time)
PRIMARY KEY (tenant, agent, toStartOfHour(event_time))
ORDER BY (tenant, agent, toStartOfHour(event_time), event_id)
TTL stored_time + toIntervalDay(retention_days) DELETE
SETTINGS non_replicated_deduplication_window = 1000, merge_with_ttl_timeout = 3600;

CREATE TABLE IF NOT EXISTS turns (
    schema_version UInt16,
    event_id String CODEC(ZSTD(1)),
    tenant LowCardinality(String),
    agent LowCardinality(String),
    subject_hash String CODEC(ZSTD(1)),
    event_time DateTime64(6, 'UTC') CODEC(Delta(8), ZSTD(1)),
    redaction_policy LowCardinality(String),
    redaction_detector LowCardinality(String),
    redaction_counts Map(LowCardinality(String), Int64),
    consent_train Bool,
    session_id String CODEC(ZSTD(1)),
    turn_id String CODEC(ZSTD(1)),
    turn_index Int64 CODEC(T64, ZSTD(1)),
    trace_id String CODEC(ZSTD(1)),
    model LowCardinality(String),
    model_version LowCardinality(String),
    category LowCardinality(String),
    input String CODEC(ZSTD(3)),
    output String CODEC(ZSTD(3)),
    end_time DateTime64(6, 'UTC') CODEC(Delta(8), ZSTD(1)),
    tool_calls Int64 CODEC(T64, ZSTD(1)),
    tool_errors Int64 CODEC(T64, ZSTD(1)),
    failed_tool String CODEC(ZSTD(1)),
    retrievals Int64 CODEC(T64, ZSTD(1)),
    retrieval_score Nullable(Float64),
    input_tokens Int64 CODEC(T64, ZSTD(1)),
    output_tokens Int64 CODEC(T64, ZSTD(1)),
    logprob_top1 Nullable(Float64),
    logprob_top2 Nullable(Float64),
    error String CODEC(ZSTD(3)),
    version UInt64,
    retention_days UInt16,
    stored_time DateTime('UTC') DEFAULT now() CODEC(Delta(4), ZSTD(1)),
    INDEX by_trace trace_id TYPE bloom_filter(0.001) GRANULARITY 1,
    INDEX by_session session_id TYPE bloom_filter(0.001) GRANULARITY 1,
    INDEX by_subject subject_hash TYPE bloom_filter(0.001) GRANULARITY 1
) ENGINE = ReplacingMergeTree(version)
PARTITION BY toYYYYMM(event_time)
PRIMARY KEY (tenant, agent, toStartOfHour(event_time))
ORDER BY (tenant, agent, toStartOfHour(event_time), turn_id)
TTL stored_time + toIntervalDay(retention_days) DELETE
SETTINGS non_replicated_deduplication_window = 1000, merge_with_ttl_timeout = 3600;

CREATE TABLE IF NOT EXISTS scores (
    schema_version UInt16,
    event_id String CODEC(ZSTD(1)),
    tenant LowCardinality(String),
    agent LowCardinality(String),
    subject_hash String CODEC(ZSTD(1)),
    event_time DateTime64(6, 'UTC') CODEC(Delta(8), ZSTD(1)),
    session_id String CODEC(ZSTD(1)),
    turn_id String CODEC(ZSTD(1)),
    turn_index Int64 CODEC(T64, ZSTD(1)),
    trace_id String CODEC(ZSTD(1)),
    model_version LowCardinality(String),
    category LowCardinality(String),
    end_time DateTime64(6, 'UTC') CODEC(Delta(8), ZSTD(1)),
    uncertainty Float64,
    p_failure Float64,
    scorer LowCardinality(String),
    features Map(LowCardinality(String), Float64),
    tool_errors Int64 CODEC(T64, ZSTD(1)),
    retrievals Int64 CODEC(T64, ZSTD(1)),
    retrieval_score Nullable(Float64),
    version UInt64,
    retention_days UInt16,
    stored_time DateTime('UTC') DEFAULT now() CODEC(Delta(4), ZSTD(1)),
    INDEX by_trace trace_id TYPE bloom_filter(0.001) GRANULARITY 1,
    INDEX by_session session_id TYPE bloom_filter(0.001) GRANULARITY 1,
    INDEX by_subject subject_hash TYPE bloom_filter(0.001) GRANULARITY 1
) ENGINE = ReplacingMergeTree(version)
PARTITION BY toYYYYMM(event_time)
PRIMARY KEY (tenant, agent, toStartOfHour(event_time))
ORDER BY (tenant, agent, toStartOfHour(event_time), turn_id)
TTL stored_time + toIntervalDay(retention_days) DELETE
SETTINGS non_replicated_deduplication_window = 1000, merge_with_ttl_timeout = 3600;

CREATE TABLE IF NOT EXISTS outcomes (
    schema_version UInt16,
    event_id String CODEC(ZSTD(1)),
    tenant LowCardinality(String),
    agent LowCardinality(String),
    subject_hash String CODEC(ZSTD(1)),
    event_time DateTime64(6, 'UTC') CODEC(Delta(8), ZSTD(1)),
    session_id String CODEC(ZSTD(1)),
    turn_id String CODEC(ZSTD(1)),
    trace_id String CODEC(ZSTD(1)),
    model_version LowCardinality(String),
    category LowCardinality(String),
    revision Int64 CODEC(T64, ZSTD(1)),
    verdict LowCardinality(String),
    p_failure Float64,
    uncertainty Float64,
    cause LowCardinality(String),
    cause_confidence Float64,
    evidence Array(String),
    expected String CODEC(ZSTD(3)),
    session_value Nullable(Int64),
    version UInt64,
    retention_days UInt16,
    stored_time DateTime('UTC') DEFAULT now() CODEC(Delta(4), ZSTD(1)),
    INDEX by_trace trace_id TYPE bloom_filter(0.001) GRANULARITY 1,
    INDEX by_session session_id TYPE bloom_filter(0.001) GRANULARITY 1,
    INDEX by_subject subject_hash TYPE bloom_filter(0.001) GRANULARITY 1
) ENGINE = ReplacingMergeTree(version)
PARTITION BY toYYYYMM(event_time)
PRIMARY KEY (tenant, agent, toStartOfHour(event_time))
ORDER BY (tenant, agent, toStartOfHour(event_time), turn_id, event_id)
TTL stored_time + toIntervalDay(retention_days) DELETE
SETTINGS non_replicated_deduplication_window = 1000, merge_with_ttl_timeout = 3600;

CREATE TABLE IF NOT EXISTS alarms (
    schema_version UInt16,
    event_id String CODEC(ZSTD(1)),
    tenant LowCardinality(String),
    agent LowCardinality(String),
    subject_hash String CODEC(ZSTD(1)),
    event_time DateTime64(6, 'UTC') CODEC(Delta(8), ZSTD(1)),
    cohort String CODEC(ZSTD(1)),
    model_version LowCardinality(String),
    category LowCardinality(String),
    detector LowCardinality(String),
    signal LowCardinality(String),
    level LowCardinality(String),
    statistic Float64,
    threshold Float64,
    baseline Float64,
    current Float64,
    sessions Int64 CODEC(T64, ZSTD(1)),
    version UInt64,
    retention_days UInt16,
    stored_time DateTime('UTC') DEFAULT now() CODEC(Delta(4), ZSTD(1)),
    INDEX by_subject subject_hash TYPE bloom_filter(0.001) GRANULARITY 1
) ENGINE = ReplacingMergeTree(version)
PARTITION BY toYYYYMM(event_time)
PRIMARY KEY (tenant, agent, toStartOfHour(event_time))
ORDER BY (tenant, agent, toStartOfHour(event_time), event_id)
TTL stored_time + toIntervalDay(retention_days) DELETE
SETTINGS non_replicated_deduplication_window = 1000, merge_with_ttl_timeout = 3600;

CREATE TABLE IF NOT EXISTS samples (
    schema_version UInt16,
    event_id String CODEC(ZSTD(1)),
    tenant LowCardinality(String),
    agent LowCardinality(String),
    subject_hash String CODEC(ZSTD(1)),
    event_time DateTime64(6, 'UTC') CODEC(Delta(8), ZSTD(1)),
    redaction_policy LowCardinality(String),
    redaction_detector LowCardinality(String),
    redaction_counts Map(LowCardinality(String), Int64),
    consent_train Bool,
    session_id String CODEC(ZSTD(1)),
    turn_id String CODEC(ZSTD(1)),
    model_version LowCardinality(String),
    category LowCardinality(String),
    reason LowCardinality(String),
    propensity Float64,
    input String CODEC(ZSTD(3)),
    output String CODEC(ZSTD(3)),
    uncertainty Float64,
    verdict LowCardinality(String),
    cause LowCardinality(String),
    cluster String CODEC(ZSTD(1)),
    version UInt64,
    retention_days UInt16,
    stored_time DateTime('UTC') DEFAULT now() CODEC(Delta(4), ZSTD(1)),
    INDEX by_session session_id TYPE bloom_filter(0.001) GRANULARITY 1,
    INDEX by_subject subject_hash TYPE bloom_filter(0.001) GRANULARITY 1
) ENGINE = ReplacingMergeTree(version)
PARTITION BY toYYYYMM(event_time)
PRIMARY KEY (tenant, agent, toStartOfHour(event_time))
ORDER BY (tenant, agent, toStartOfHour(event_time), event_id)
TTL stored_time + toIntervalDay(retention_days) DELETE
SETTINGS non_replicated_deduplication_window = 1000, merge_with_ttl_timeout = 3600;

CREATE TABLE IF NOT EXISTS labels (
    schema_version UInt16,
    event_id String CODEC(ZSTD(1)),
    tenant LowCardinality(String),
    agent LowCardinality(String),
    subject_hash String CODEC(ZSTD(1)),
    event_time DateTime64(6, 'UTC') CODEC(Delta(8), ZSTD(1)),
    redaction_policy LowCardinality(String),
    redaction_detector LowCardinality(String),
    redaction_counts Map(LowCardinality(String), Int64),
    consent_train Bool,
    sample_id String CODEC(ZSTD(1)),
    turn_id String CODEC(ZSTD(1)),
    value String CODEC(ZSTD(3)),
    rater LowCardinality(String),
    rubric_version LowCardinality(String),
    received_time DateTime64(6, 'UTC') CODEC(Delta(8), ZSTD(1)),
    version UInt64,
    retention_days UInt16,
    stored_time DateTime('UTC') DEFAULT now() CODEC(Delta(4), ZSTD(1)),
    INDEX by_subject subject_hash TYPE bloom_filter(0.001) GRANULARITY 1
) ENGINE = ReplacingMergeTree(version)
PARTITION BY toYYYYMM(event_time)
PRIMARY KEY (tenant, agent, toStartOfHour(event_time))
ORDER BY (tenant, agent, toStartOfHour(event_time), sample_id, rater, event_id)
TTL stored_time + toIntervalDay(retention_days) DELETE
SETTINGS non_replicated_deduplication_window = 1000, merge_with_ttl_timeout = 3600;

CREATE TABLE IF NOT EXISTS triggers (
    schema_version UInt16,
    event_id String CODEC(ZSTD(1)),
    tenant LowCardinality(String),
    agent LowCardinality(String),
    subject_hash String CODEC(ZSTD(1)),
    event_time DateTime64(6, 'UTC') CODEC(Delta(8), ZSTD(1)),
    trigger_id String CODEC(ZSTD(1)),
    model_version LowCardinality(String),
    intervention LowCardinality(String),
    cohort String CODEC(ZSTD(1)),
    alarms Array(String),
    labels Int64 CODEC(T64, ZSTD(1)),
    expected_gain Float64,
    cost Float64,
    reason String CODEC(ZSTD(3)),
    version UInt64,
    retention_days UInt16,
    stored_time DateTime('UTC') DEFAULT now() CODEC(Delta(4), ZSTD(1)),
    INDEX by_subject subject_hash TYPE bloom_filter(0.001) GRANULARITY 1
) ENGINE = ReplacingMergeTree(version)
PARTITION BY toYYYYMM(event_time)
PRIMARY KEY (tenant, agent, toStartOfHour(event_time))
ORDER BY (tenant, agent, toStartOfHour(event_time), event_id)
TTL stored_time + toIntervalDay(retention_days) DELETE
SETTINGS non_replicated_deduplication_window = 1000, merge_with_ttl_timeout = 3600;

CREATE TABLE IF NOT EXISTS dataset_versions (
    schema_version UInt16,
    event_id String CODEC(ZSTD(1)),
    tenant LowCardinality(String),
    agent LowCardinality(String),
    subject_hash String CODEC(ZSTD(1)),
    event_time DateTime64(6, 'UTC') CODEC(Delta(8), ZSTD(1)),
    dataset_id String CODEC(ZSTD(1)),
    trigger_id String CODEC(ZSTD(1)),
    rows Int64 CODEC(T64, ZSTD(1)),
    train Int64 CODEC(T64, ZSTD(1)),
    validation Int64 CODEC(T64, ZSTD(1)),
    test Int64 CODEC(T64, ZSTD(1)),
    labels Array(String),
    samples Array(String),
    subjects Array(String),
    version UInt64,
    retention_days UInt16,
    stored_time DateTime('UTC') DEFAULT now() CODEC(Delta(4), ZSTD(1)),
    INDEX by_subject subject_hash TYPE bloom_filter(0.001) GRANULARITY 1
) ENGINE = ReplacingMergeTree(version)
PARTITION BY toYYYYMM(event_time)
PRIMARY KEY (tenant, agent, toStartOfHour(event_time))
ORDER BY (tenant, agent, toStartOfHour(event_time), event_id)
TTL stored_time + toIntervalDay(retention_days) DELETE
SETTINGS non_replicated_deduplication_window = 1000, merge_with_ttl_timeout = 3600;

CREATE TABLE IF NOT EXISTS jobs (
    schema_version UInt16,
    event_id String CODEC(ZSTD(1)),
    tenant LowCardinality(String),
    agent LowCardinality(String),
    subject_hash String CODEC(ZSTD(1)),
    event_time DateTime64(6, 'UTC') CODEC(Delta(8), ZSTD(1)),
    job_id String CODEC(ZSTD(1)),
    trigger_id String CODEC(ZSTD(1)),
    state LowCardinality(String),
    base_model String CODEC(ZSTD(1)),
    incumbent String CODEC(ZSTD(1)),
    candidate String CODEC(ZSTD(1)),
    dataset_id String CODEC(ZSTD(1)),
    remote_job String CODEC(ZSTD(1)),
    progress Float64,
    message String CODEC(ZSTD(3)),
    version UInt64,
    retention_days UInt16,
    stored_time DateTime('UTC') DEFAULT now() CODEC(Delta(4), ZSTD(1)),
    INDEX by_subject subject_hash TYPE bloom_filter(0.001) GRANULARITY 1
) ENGINE = ReplacingMergeTree(version)
PARTITION BY toYYYYMM(event_time)
PRIMARY KEY (tenant, agent, toStartOfHour(event_time))
ORDER BY (tenant, agent, toStartOfHour(event_time), event_id)
TTL stored_time + toIntervalDay(retention_days) DELETE
SETTINGS non_replicated_deduplication_window = 1000, merge_with_ttl_timeout = 3600;

CREATE TABLE IF NOT EXISTS evaluations (
    schema_version UInt16,
    event_id String CODEC(ZSTD(1)),
    tenant LowCardinality(String),
    agent LowCardinality(String),
    subject_hash String CODEC(ZSTD(1)),
    event_time DateTime64(6, 'UTC') CODEC(Delta(8), ZSTD(1)),
    job_id String CODEC(ZSTD(1)),
    candidate String CODEC(ZSTD(1)),
    incumbent String CODEC(ZSTD(1)),
    dataset_id String CODEC(ZSTD(1)),
    rows Int64 CODEC(T64, ZSTD(1)),
    candidate_accuracy Float64,
    incumbent_accuracy Float64,
    wins Int64 CODEC(T64, ZSTD(1)),
    losses Int64 CODEC(T64, ZSTD(1)),
    p_value Float64,
    passed Bool,
    reasons Array(String),
    slices Map(LowCardinality(String), Float64),
    version UInt64,
    retention_days UInt16,
    stored_time DateTime('UTC') DEFAULT now() CODEC(Delta(4), ZSTD(1)),
    INDEX by_subject subject_hash TYPE bloom_filter(0.001) GRANULARITY 1
) ENGINE = ReplacingMergeTree(version)
PARTITION BY toYYYYMM(event_time)
PRIMARY KEY (tenant, agent, toStartOfHour(event_time))
ORDER BY (tenant, agent, toStartOfHour(event_time), event_id)
TTL stored_time + toIntervalDay(retention_days) DELETE
SETTINGS non_replicated_deduplication_window = 1000, merge_with_ttl_timeout = 3600;

CREATE TABLE IF NOT EXISTS deployments (
    schema_version UInt16,
    event_id String CODEC(ZSTD(1)),
    tenant LowCardinality(String),
    agent LowCardinality(String),
    subject_hash String CODEC(ZSTD(1)),
    event_time DateTime64(6, 'UTC') CODEC(Delta(8), ZSTD(1)),
    release_id String CODEC(ZSTD(1)),
    job_id String CODEC(ZSTD(1)),
    candidate String CODEC(ZSTD(1)),
    incumbent String CODEC(ZSTD(1)),
    state LowCardinality(String),
    weight Float64,
    reason String CODEC(ZSTD(3)),
    evidence Map(LowCardinality(String), Float64),
    version UInt64,
    retention_days UInt16,
    stored_time DateTime('UTC') DEFAULT now() CODEC(Delta(4), ZSTD(1)),
    INDEX by_subject subject_hash TYPE bloom_filter(0.001) GRANULARITY 1
) ENGINE = ReplacingMergeTree(version)
PARTITION BY toYYYYMM(event_time)
PRIMARY KEY (tenant, agent, toStartOfHour(event_time))
ORDER BY (tenant, agent, toStartOfHour(event_time), event_id)
TTL stored_time + toIntervalDay(retention_days) DELETE
SETTINGS non_replicated_deduplication_window = 1000, merge_with_ttl_timeout = 3600;

CREATE TABLE IF NOT EXISTS erasures (
    schema_version UInt16,
    event_id String CODEC(ZSTD(1)),
    tenant LowCardinality(String),
    agent LowCardinality(String),
    subject_hash String CODEC(ZSTD(1)),
    event_time DateTime64(6, 'UTC') CODEC(Delta(8), ZSTD(1)),
    requested_by String CODEC(ZSTD(1)),
    deleted Map(LowCardinality(String), Int64),
    dataset_versions Array(String),
    models Array(String),
    version UInt64,
    retention_days UInt16,
    stored_time DateTime('UTC') DEFAULT now() CODEC(Delta(4), ZSTD(1)),
    INDEX by_subject subject_hash TYPE bloom_filter(0.001) GRANULARITY 1
) ENGINE = ReplacingMergeTree(version)
PARTITION BY toYYYYMM(event_time)
PRIMARY KEY (tenant, agent, toStartOfHour(event_time))
ORDER BY (tenant, agent, toStartOfHour(event_time), event_id)
TTL stored_time + toIntervalDay(retention_days) DELETE
SETTINGS non_replicated_deduplication_window = 1000, merge_with_ttl_timeout = 3600;

CREATE TABLE IF NOT EXISTS dead_letters (
    schema_version UInt16,
    event_id String CODEC(ZSTD(1)),
    tenant LowCardinality(String),
    agent LowCardinality(String),
    subject_hash String CODEC(ZSTD(1)),
    event_time DateTime64(6, 'UTC') CODEC(Delta(8), ZSTD(1)),
    stage LowCardinality(String),
    topic LowCardinality(String),
    offset Int64 CODEC(T64, ZSTD(1)),
    reason LowCardinality(String),
    detail String CODEC(ZSTD(3)),
    items Int64 CODEC(T64, ZSTD(1)),
    quarantine String CODEC(ZSTD(1)),
    received_time DateTime64(6, 'UTC') CODEC(Delta(8), ZSTD(1)),
    version UInt64,
    retention_days UInt16,
    stored_time DateTime('UTC') DEFAULT now() CODEC(Delta(4), ZSTD(1)),
    INDEX by_subject subject_hash TYPE bloom_filter(0.001) GRANULARITY 1
) ENGINE = ReplacingMergeTree(version)
PARTITION BY toYYYYMM(event_time)
PRIMARY KEY (tenant, agent, toStartOfHour(event_time))
ORDER BY (tenant, agent, toStartOfHour(event_time), event_id)
TTL stored_time + toIntervalDay(retention_days) DELETE
SETTINGS non_replicated_deduplication_window = 1000, merge_with_ttl_timeout = 3600;

CREATE TABLE IF NOT EXISTS ledger (
    schema_version UInt16,
    event_id String CODEC(ZSTD(1)),
    tenant LowCardinality(String),
    agent LowCardinality(String),
    subject_hash String CODEC(ZSTD(1)),
    event_time DateTime64(6, 'UTC') CODEC(Delta(8), ZSTD(1)),
    entry LowCardinality(String),
    source LowCardinality(String),
    count Int64 CODEC(T64, ZSTD(1)),
    version UInt64,
    retention_days UInt16,
    stored_time DateTime('UTC') DEFAULT now() CODEC(Delta(4), ZSTD(1)),
    INDEX by_subject subject_hash TYPE bloom_filter(0.001) GRANULARITY 1
) ENGINE = ReplacingMergeTree(version)
PARTITION BY toYYYYMM(event_time)
PRIMARY KEY (tenant, agent, toStartOfHour(event_time))
ORDER BY (tenant, agent, toStartOfHour(event_time), entry, event_id)
TTL stored_time + toIntervalDay(retention_days) DELETE
SETTINGS non_replicated_deduplication_window = 1000, merge_with_ttl_timeout = 3600;
