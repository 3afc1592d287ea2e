"""Retention by tenant and class, as policies say: the store's rows, the quarantine, files of datasets, and topics.

A topic holds every tenant's records, so that it keeps them for the longest that any tenant wants, and never for longer
than is its own: what is gone from the store may be in the log for as long.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta

from connectors.clickhouse.store import Store
from connectors.clickhouse.tables import TABLES
from connectors.log import Log, entry_of
from connectors.nemo.port import NemoPort
from connectors.quarantine import RETENTION, Payloads
from deploy.dataset import FILES, emptied
from deploy.names import dataset_name, group_name
from driftwheel.config import Config
from driftwheel.pipeline import stage_settings
from processors.redact import Redact
from processors.redact.policy import policies_of
from schemas.errors import DriftwheelError
from schemas.events import DatasetVersion
from schemas.topics import TOPICS

logger = logging.getLogger(__name__)

EVERY_SECONDS = 3600.0
_TABLES = {
    "turns": ("turns", "failures", "clusters"),
    "scores": ("scores", "outcomes"),
    "samples": ("samples", "labels"),
    "datasets": (),
    "quarantine": (),
}
"""The store's tables of a class; of any other, the table of that name."""


def retention_of(config: Config) -> Callable[[str], Mapping[str, int]]:
    """A tenant's days by table, where its policy says any. Raises UsageError for policies that cannot be read."""
    policies = policies_of(stage_settings(Redact, config))

    def days(tenant: str) -> Mapping[str, int]:
        said = policies.of(tenant).retention
        return {table: count for name, count in said for table in _TABLES.get(name, (name,))}

    return days


def topics_kept(config: Config) -> dict[str, timedelta]:
    """How long topics keep their records, where every tenant wants less than is the topic's own. Raises UsageError."""
    policies = policies_of(stage_settings(Redact, config))
    wishes = [dict(policies.of(tenant).retention) for tenant in ("", *policies.tenants)]
    kept: dict[str, timedelta] = {}
    for topic in TOPICS:
        table = TABLES.get(topic.record) if topic.record and not topic.compacted else None
        name = next((one for one, tables in _TABLES.items() if table in tables), table)
        days = [one.get(name) for one in wishes] if name else []
        longest = max((timedelta(days=one) for one in days if one is not None), default=topic.retention)
        if None not in days and longest < topic.retention:
            kept[topic.name] = longest
    return kept


def days_of(config: Config, name: str) -> Callable[[str], int | None]:
    """A tenant's days for a class, None where its policy says none. Raises UsageError."""
    policies = policies_of(stage_settings(Redact, config))
    return lambda tenant: dict(policies.of(tenant).retention).get(name)


def quarantine_days(config: Config) -> Callable[[str], int | None]:
    """For how many days a tenant's payloads may be in the quarantine; None: as long as anybody's."""
    return days_of(config, "quarantine")


class _Hourly:
    """Does ``apply`` every hour in a thread of its own, from ``start`` until ``close``."""

    def __init__(self) -> None:
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="driftwheel-retention", daemon=True)

    def apply(self) -> None:
        """Once."""
        raise NotImplementedError

    def start(self) -> None:
        """Begin to apply it every hour."""
        self._thread.start()

    def _loop(self) -> None:
        while not self._stopping.is_set():
            try:
                self.apply()
            except DriftwheelError as error:
                logger.warning("retention waits: %s; it is tried again in an hour", error)
            self._stopping.wait(EVERY_SECONDS)

    def close(self) -> None:
        """End, once what is under way is done."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join()


class DatasetRetention(_Hourly):
    """Empties the files of datasets that are older than their tenant's days for ``datasets``.

    One that a model needs which is live, on trial or on its way there keeps its rows until that is over. The version
    stays: its new record counts its rows as ``erased`` and names no sample and nobody any more.
    """

    def __init__(
        self,
        store: Store,
        log: Log,
        models: Callable[[], NemoPort | None],
        days: Callable[[str], int | None],
        clock: Callable[[], datetime],
    ) -> None:
        super().__init__()
        self._store, self._log, self._models, self._days, self._clock = store, log, models, days, clock

    def apply(self) -> None:
        """Once. Raises Retry when store, log or training platform is away."""
        now, port = self._clock(), self._models()
        for row in self._store.named("old_datasets", before=now - timedelta(days=1)):
            version = DatasetVersion.model_validate(row)
            days = self._days(version.tenant)
            if days is None or now <= version.event_time + timedelta(days=days):
                continue
            if port is None:
                logger.warning("files of old datasets wait: NeMo is not there; start the product that trains")
                return
            self._empty(port, version, now)

    def _empty(self, port: NemoPort, version: DatasetVersion, now: datetime) -> None:
        name = dataset_name(group_name(version.tenant, version.agent), version.dataset_id)
        changed = emptied({path: port.download(name, path) for path in FILES})
        if changed:
            port.upload_dataset(name, changed)
        record = version.model_copy(update={"erased": version.rows, "samples": [], "subjects": []})
        self._log.append([entry_of(record, now)])
        self._store.write([record])


class Retention(_Hourly):
    """Deletes what is past its retention in the store and the quarantine, and then what ``datasets`` deletes."""

    def __init__(
        self,
        store: Store,
        payloads: Callable[[], Payloads],
        quarantine: Callable[[str], int | None],
        clock: Callable[[], datetime],
        datasets: DatasetRetention | None = None,
    ) -> None:
        super().__init__()
        self._store, self._payloads, self._quarantine, self._clock = store, payloads, quarantine, clock
        self._datasets = datasets

    def apply(self) -> None:
        """Once. Raises Retry when store, quarantine or training platform is away."""
        self._store.materialise_retention()
        now, payloads = self._clock(), self._payloads()
        for held in list(payloads.held()):
            days = self._quarantine(held.tenant)
            if days is not None and now > held.until - RETENTION + timedelta(days=days):
                payloads.delete(held.name)
        if self._datasets is not None:
            self._datasets.apply()
