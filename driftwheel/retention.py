"""Retention by tenant and class, as policies say: in the store's rows, and in the quarantine.

Topics keep their own: what is gone from the store may be in the log for as long as its topic keeps it.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta

from connectors.clickhouse.store import Store
from connectors.quarantine import RETENTION, Payloads
from driftwheel.config import Config
from driftwheel.pipeline import stage_settings
from processors.redact import Redact
from processors.redact.policy import policies_of
from schemas.errors import DriftwheelError

logger = logging.getLogger(__name__)

EVERY_SECONDS = 3600.0
_TABLES = {
    "turns": ("turns", "failures", "clusters"),
    "scores": ("scores", "outcomes"),
    "samples": ("samples", "labels"),
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


def quarantine_days(config: Config) -> Callable[[str], int | None]:
    """For how many days a tenant's payloads may be in the quarantine; None: as long as anybody's."""
    policies = policies_of(stage_settings(Redact, config))
    return lambda tenant: dict(policies.of(tenant).retention).get("quarantine")


class Retention:
    """Deletes what is past its retention: ``apply``, and every hour in a thread of its own until ``close``."""

    def __init__(
        self,
        store: Store,
        payloads: Callable[[], Payloads],
        quarantine: Callable[[str], int | None],
        clock: Callable[[], datetime],
    ) -> None:
        self._store, self._payloads, self._quarantine, self._clock = store, payloads, quarantine, clock
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="driftwheel-retention", daemon=True)

    def apply(self) -> None:
        """Once. Raises Retry when store or quarantine is away."""
        self._store.materialise_retention()
        now, payloads = self._clock(), self._payloads()
        for held in list(payloads.held()):
            days = self._quarantine(held.tenant)
            if days is not None and now > held.until - RETENTION + timedelta(days=days):
                payloads.delete(held.name)

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
