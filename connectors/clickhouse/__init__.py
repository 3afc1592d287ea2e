"""ClickHouse, embedded (chDB) or a server, through one code path: clickhouse-connect."""
