"""The store as the rest of the product asks for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

from connectors.clickhouse.store import Result, Store, StoreSettings
from deploy.dataset import LabelledRow
from driftwheel.api import Table
from driftwheel.clock import utc_now
from driftwheel.config import Config
from driftwheel.folder import DataFolder
from driftwheel.judge_rows import standings
from driftwheel.retention import retention_of
from processors.agreement import Floor, Standing


def open_store(config: Config, folder: DataFolder) -> Store:
    """The embedded store below the data folder, or the server that the configuration names."""
    url = config.store.url.get_secret_value()
    path = None if url else folder.part("store")
    return Store(
        StoreSettings(
            path=path,
            url=url,
            database=config.store.database,
            retention_days=config.store.retention_days,
            tenants=retention_of(config),
        )
    )


def table_of(result: Result) -> Table:
    """A result as the API and the command line show it."""
    return Table(result.columns, result.rows)


class StoreLibrary:
    """Labelled samples, for training jobs, and how the judges stand that labelled some of them."""

    def __init__(self, store: Store, clock: Callable[[], datetime] = utc_now, floor: Floor | None = None) -> None:
        self._store, self._clock, self._floor = store, clock, floor or Floor()

    def labelled(self, tenant: str, agent: str) -> Sequence[LabelledRow]:
        """Samples with their newest label that may be trained on."""
        return [_row(values) for values in self._store.labelled(tenant, agent)]

    def standings(self, tenant: str) -> Mapping[str, Standing]:
        """Every judge of a tenant, by its id."""
        return standings(self._store.select, tenant, self._clock(), self._floor)


def _row(values: dict[str, Any]) -> LabelledRow:
    return LabelledRow(**values)
