"""The store as the rest of the product asks for it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from connectors.clickhouse.store import Result, Store, StoreSettings
from deploy.dataset import LabelledRow
from driftwheel.api import Table
from driftwheel.config import Config
from driftwheel.folder import DataFolder


def open_store(config: Config, folder: DataFolder) -> Store:
    """The embedded store below the data folder, or the server that the configuration names."""
    url = config.store.url.get_secret_value()
    path = None if url else folder.part("store")
    return Store(
        StoreSettings(path=path, url=url, database=config.store.database, retention_days=config.store.retention_days)
    )


def table_of(result: Result) -> Table:
    """A result as the API and the command line show it."""
    return Table(result.columns, result.rows)


class StoreLibrary:
    """Labelled samples, for training jobs."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def labelled(self, tenant: str, agent: str) -> Sequence[LabelledRow]:
        """Samples with their newest label that may be trained on."""
        return [_row(values) for values in self._store.labelled(tenant, agent)]


def _row(values: dict[str, Any]) -> LabelledRow:
    return LabelledRow(**values)
