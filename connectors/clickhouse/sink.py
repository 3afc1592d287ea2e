"""Every clean topic into ClickHouse. A batch delivered twice leaves one row; text without a redaction envelope is refused."""

from __future__ import annotations

from collections.abc import Sequence

from connectors.clickhouse.store import Store
from connectors.clickhouse.tables import TABLES
from schemas.events import Record
from schemas.topics import TOPICS


class ClickHouseSink:
    """A Sink over a Store."""

    name = "clickhouse"
    topics = tuple(topic for topic in TOPICS if not topic.raw)

    def __init__(self, store: Store) -> None:
        self._store = store

    def write(self, records: Sequence[Record]) -> None:
        """See Sink. Raises Invalid when a record of people's text was not redacted: nothing of its kind is written."""
        by_kind: dict[type[Record], list[Record]] = {}
        for record in records:
            if type(record) in TABLES:
                by_kind.setdefault(type(record), []).append(record)
        for kind, group in by_kind.items():
            self._store.write(kind, group)
