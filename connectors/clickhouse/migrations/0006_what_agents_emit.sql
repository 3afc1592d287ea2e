-- What spans say besides: costs, tokens of caches and of reasoning, prompts, tools and documents.

ALTER TABLE spans
    ADD COLUMN IF NOT EXISTS prompt_name LowCardinality(String) AFTER provider,
    ADD COLUMN IF NOT EXISTS cache_read_tokens Int64 CODEC(T64, ZSTD(1)) AFTER output_tokens,
    ADD COLUMN IF NOT EXISTS cache_write_tokens Int64 CODEC(T64, ZSTD(1)) AFTER cache_read_tokens,
    ADD COLUMN IF NOT EXISTS reasoning_tokens Int64 CODEC(T64, ZSTD(1)) AFTER cache_write_tokens,
    ADD COLUMN IF NOT EXISTS cost Nullable(Float64) AFTER reasoning_tokens,
    ADD COLUMN IF NOT EXISTS tools Array(String) AFTER cost,
    ADD COLUMN IF NOT EXISTS called_tools Array(String) AFTER tools,
    ADD COLUMN IF NOT EXISTS document_ids Array(String) CODEC(ZSTD(1)) AFTER called_tools,
    ADD COLUMN IF NOT EXISTS document_scores Array(Nullable(Float64)) CODEC(ZSTD(1)) AFTER document_ids;

ALTER TABLE turns
    ADD COLUMN IF NOT EXISTS cost Nullable(Float64) AFTER output_tokens,
    ADD COLUMN IF NOT EXISTS prompt_name LowCardinality(String) AFTER cost,
    ADD COLUMN IF NOT EXISTS prompt_version LowCardinality(String) AFTER prompt_name,
    ADD COLUMN IF NOT EXISTS called_tools Array(String) AFTER prompt_version;

CREATE OR REPLACE VIEW spans_current AS SELECT * FROM spans FINAL;

CREATE OR REPLACE VIEW turns_current AS SELECT * FROM turns FINAL;
