"""Canaries: planted on the gateway's own path, looked for on the clean side; the leak rate of redaction as a metric."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, Protocol

from connectors.log import Log
from connectors.otlp import PROTOBUF, accept_traces
from driftwheel.background import background
from driftwheel.config import Config
from driftwheel.pipeline import stage_settings
from driftwheel.telemetry import Metrics
from processors.canaries import DAY, Canary, Look, canary, look, request, times
from processors.redact import Redact, RedactSettings
from processors.redact.policy import policies_of
from schemas.errors import Reject, Retry
from schemas.tenants import CANARY, canary_of

logger = logging.getLogger(__name__)

ROUND_SECONDS = 20.0
_TABLES = {"spans": "trace_id", "signals": "trace_id", "turns": "trace_id", "samples": "''", "dead_letters": "''"}
"""Where text of agents may be, and what names the trace there."""


class Rows(Protocol):
    """What a query gives."""

    @property
    def rows(self) -> list[list[Any]]:
        """Its rows."""
        ...


@dataclass(frozen=True, slots=True)
class CanarySettings:
    """``per_day`` canaries under the master ``key`` for each of these canary ``tenants``."""

    key: bytes
    tenants: tuple[str, ...]
    per_day: int


def canary_settings(config: Config, key: bytes) -> CanarySettings:
    """A canary for the default policy, and one for each tenant that has its own."""
    redact: RedactSettings = stage_settings(Redact, config, key=key)
    tenants = tuple(canary_of(tenant) for tenant in ("", *policies_of(redact).tenants))
    return CanarySettings(key, tenants, config.redact.canaries)


def query(since: datetime) -> str:
    """All text of canaries since a time: the trace that a row is of, and the row."""
    after = since.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S")
    parts = (
        f"SELECT {trace} AS trace, toString(tuple(*)) AS text FROM {table}_current "  # noqa: S608  # names and time are ours
        f"WHERE startsWith(tenant, '{CANARY}') AND event_time >= toDateTime('{after}', 'UTC')"
        for table, trace in _TABLES.items()
    )
    return " UNION ALL ".join(parts)


def look_back(settings: CanarySettings, ask: Callable[[str], Rows], now: datetime) -> dict[str, Look]:
    """What is known of the canaries of the last day, by trace. ``ask`` answers queries of the store."""
    planted = {one.trace_id: one for one in _recent(settings, now)}
    if not planted:
        return {}
    rows = [(str(row[0]), str(row[1])) for row in ask(query(now - DAY - timedelta(minutes=1))).rows]
    return {trace_id: look([one], rows) for trace_id, one in planted.items()}


def _recent(settings: CanarySettings, now: datetime) -> Sequence[Canary]:
    return [canary(settings.key, tenant, time) for tenant in settings.tenants for time in times(now, settings.per_day)]


def total(looks: Mapping[str, Look]) -> Look:
    """Sums by type."""
    checked: dict[str, int] = {}
    leaked: dict[str, int] = {}
    for one in looks.values():
        for found, sums in ((one.checked, checked), (one.leaked, leaked)):
            for entity, count in found.items():
                sums[entity] = sums.get(entity, 0) + count
    return Look(checked, leaked)


class Canaries:
    """Plants into ``log`` (None: another process does) and looks through ``ask`` (None: another process does)."""

    def __init__(
        self,
        settings: CanarySettings,
        metrics: Metrics,
        clock: Callable[[], datetime],
        *,
        log: Log | None = None,
        ask: Callable[[str], Rows] | None = None,
    ) -> None:
        self._settings, self._metrics, self._clock, self._log, self._ask = settings, metrics, clock, log, ask
        self._planted: dict[str, datetime] = {}
        self._told: set[tuple[str, str, str]] = set()
        self._stopping = threading.Event()

    def round(self) -> None:
        """Plant what is due, and look for what was planted. Safe to repeat; what is away is tried again next time."""
        now = self._clock()
        try:
            if self._log is not None:
                self._plant(self._log, now)
            if self._ask is not None:
                self._look(self._ask, now)
        except (Reject, Retry) as error:
            logger.warning("canaries wait: %s", error)

    def _plant(self, log: Log, now: datetime) -> None:
        due = times(now, self._settings.per_day)
        for tenant in self._settings.tenants if due else ():
            if self._planted.get(tenant) != due[-1]:
                one = canary(self._settings.key, tenant, due[-1])
                accept_traces(request(one), PROTOBUF, tenant, now, log)
                self._planted[tenant] = due[-1]
                self._metrics.canaries("planted", {value.entity: 1 for value in one.values})

    def _look(self, ask: Callable[[str], Rows], now: datetime) -> None:
        looks = look_back(self._settings, ask, now)
        for trace_id, found in looks.items():
            self._tell("checked", trace_id, found.checked)
            leaked = self._tell("leaked", trace_id, found.leaked)
            if leaked:
                logger.error("redaction let a canary through: %s; see driftwheel doctor", ", ".join(sorted(leaked)))
        self._told = {one for one in self._told if one[1] in looks}

    def _tell(self, what: Literal["checked", "leaked"], trace_id: str, counts: Mapping[str, int]) -> dict[str, int]:
        fresh = {entity: n for entity, n in counts.items() if n and (what, trace_id, entity) not in self._told}
        self._told |= {(what, trace_id, entity) for entity in fresh}
        self._metrics.canaries(what, fresh)
        return fresh

    @contextmanager
    def running(self) -> Generator[None]:
        """Rounds in a thread of its own while inside; nothing runs when no canary is wanted."""
        if not self._settings.per_day:
            yield
            return
        with background(self._run, "canaries", self._stopping):
            yield

    def _run(self) -> None:
        while not self._stopping.is_set():
            self.round()
            self._stopping.wait(ROUND_SECONDS)
