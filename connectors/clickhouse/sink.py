"""Every clean topic into ClickHouse. A batch delivered twice leaves one row; what was not redacted is refused."""

from __future__ import annotations

from collections.abc import Sequence

from connectors.clickhouse.store import Store
from schemas.events import Record
from schemas.topics import TOPICS


class ClickHouseSink:
    """A Sink over a Store, at least once in, one row of every record out (the ``*_current`` views)."""

    name = "clickhouse"
    topics = tuple(topic for topic in TOPICS if not topic.raw)

    def __init__(self, store: Store) -> None:
        self._store = store

    def write(self, records: Sequence[Record]) -> None:
        """See Sink. Raises Invalid (nothing was written) for raw records, and for text without a redaction envelope."""
        self._store.write(records)
