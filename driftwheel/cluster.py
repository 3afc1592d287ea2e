"""What the processes of one configuration share on Kafka: settings, framing, keys, clocks, and how far groups are."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

from connectors.kafka.admin import Admin
from connectors.kafka.backlog import Backlog, HeldClock, LogClock
from connectors.kafka.quarantine import KafkaQuarantine
from connectors.kafka.topics import check
from connectors.registry.framing import RegistryFraming
from driftwheel.clock import utc_now
from driftwheel.config import Config
from driftwheel.kafka_config import framing_of, kafka_settings
from driftwheel.keys import quarantine_key
from driftwheel.lane import LaneSettings
from driftwheel.pipeline import WHEEL, check_stages
from driftwheel.progress import Place, ProgressWatch
from driftwheel.telemetry import Metrics
from driftwheel.topics_command import groups_of, hops_of, topics_of
from processors.stage import Stage
from schemas.errors import Refused, Retry
from schemas.topics import TOPICS

logger = logging.getLogger(__name__)

BROKERS_SECONDS = 60.0
LOOK_SECONDS = 5.0
HOLD_SECONDS = 0.5
Positions = Mapping[int, Mapping[str, int]]
"""Where a stage's lanes stand: by partition and topic (as on the cluster), the next offset."""


class Cluster:
    """Opens what ``stack`` closes. ``clock``: this process's; None: the one that ``worker.time`` names.

    Raises UsageError or Refused when the configuration is not fit for Kafka.
    """

    def __init__(self, config: Config, stack: ExitStack, clock: Callable[[], datetime] | None = None) -> None:
        check_stages(config)
        self.config, self.metrics = config, Metrics()
        self.kafka = kafka_settings(config)
        self.framing = framing_of(config)
        if isinstance(self.framing, RegistryFraming):
            stack.callback(self.framing.close)
        self.stopping = threading.Event()
        self.backlog = Backlog(self.kafka)
        stack.callback(self.backlog.close)
        self._stack = stack
        self.clock = clock or self._clock()
        self.key = self._master_key()
        self.quarantine = KafkaQuarantine(self.kafka, quarantine_key(self.key), self.clock)
        stack.callback(self.quarantine.close)

    def _clock(self) -> Callable[[], datetime]:
        if self.config.worker.time == "wall":
            return utc_now
        return LogClock(self.backlog, [self.kafka.topic(topic) for topic in TOPICS if topic.raw])

    def _master_key(self) -> bytes:
        key = self.config.redact.key.get_secret_value()
        if not key:
            raise Refused(
                "redact.key is not set, and the processes on one Kafka cluster have to share it: make one with "
                "`openssl rand -hex 32` and set it as DRIFTWHEEL__REDACT__KEY"
            )
        return key.encode()

    def check(self) -> None:
        """Refused when topics are missing on the cluster, or are not as they have to be.

        Brokers may start later than this process, but not by more than a minute: raises Retry then.
        """
        until = time.monotonic() + BROKERS_SECONDS
        while True:
            try:
                check(Admin(self.kafka), topics_of(self.kafka, WHEEL))
            except Retry as error:
                if time.monotonic() > until:
                    raise
                logger.warning("%s; it tries again", error)
                time.sleep(1.0)
            else:
                return

    def held_clock(self, last: type[Stage] | Stage, on_defect: Callable[[], None]) -> HeldClock:
        """The clock of timers: held back while a stage up to ``last`` is behind. Without it no timer would run."""
        names = [stage.name for stage in WHEEL]
        hops = hops_of(self.kafka, WHEEL[: names.index(last.name) + 1])
        backlog = Backlog(self.kafka)  # of its own: whoever looks at lags does not hold up the timers
        clock = HeldClock(self.clock, backlog, hops, HOLD_SECONDS, on_defect)
        clock.start()
        self._stack.callback(backlog.close)
        self._stack.callback(clock.close)
        return clock

    def lanes(self, folder: Path) -> LaneSettings:
        """What the lanes of a process share, with their tables in ``folder``."""
        return LaneSettings(
            self.kafka, folder, self.framing, self.clock, self.quarantine, self.metrics.commit, self.stopping
        )

    def state_folder(self) -> Path:
        """Where this machine's tables are."""
        named = self.config.worker.state_dir
        return Path(named).expanduser() if named else self.config.data_dir.expanduser() / "kafka-state"

    def lags(self, stages: Sequence[type[Stage] | Stage]) -> dict[str, dict[Place, int]]:
        """How far each stage's group is behind, by stage. Raises Retry."""
        return {
            stage.name: self.backlog.lag_of(group, topics)
            for stage, (group, topics) in zip(stages, groups_of(self.kafka, stages).items(), strict=True)
        }


class Reading(NamedTuple):
    """A group that only reads: its topics on the cluster, and whether it waits for something else just now."""

    group: str
    topics: Sequence[str]
    waits: Callable[[], bool]


class Watch:
    """Looks at a process's own groups now and then: lag for the metrics, standstill for ``/livez``.

    ``on_stall`` is called when a lane has stood still for twice as long as ``/livez`` bears, so that a process which
    nobody restarts ends by itself. ``readings``: groups without lanes, by name, told by what they have committed.
    """

    def __init__(
        self,
        cluster: Cluster,
        stages: Sequence[Stage],
        positions: Callable[[], Mapping[str, Positions]],
        on_stall: Callable[[], None] = lambda: None,
        readings: Mapping[str, Reading] | None = None,
    ) -> None:
        self._on_stall = on_stall
        self._cluster, self._stages, self._positions = cluster, stages, positions
        self._readings = dict(readings or {})
        names = [*(stage.name for stage in stages), *self._readings]
        self._progress = {name: ProgressWatch(cluster.config.worker.stall_seconds) for name in names}
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._cluster.stopping.wait(LOOK_SECONDS):
            try:
                self.look()
            except Retry as error:
                logger.warning("%s", error)
            except Exception:
                logger.exception("progress could not be looked at")

    def look(self) -> None:
        """Look once. Raises Retry."""
        positions, metrics = self._positions(), self._cluster.metrics
        for name, behind in self._cluster.lags(self._stages).items():
            metrics.lag({self._cluster.kafka.group(name): sum(behind.values())})
            own = positions.get(name, {})
            at = {(topic, partition): offset for partition, lane in own.items() for topic, offset in lane.items()}
            self._progress[name].look({place: n for place, n in behind.items() if place[1] in own}, at)
            if self._progress[name].stalled(2.0):
                logger.error("%s stands still: %s; the process ends", name, "; ".join(self._progress[name].problems()))
                self._on_stall()
        for name, one in self._readings.items():
            behind, at = self._cluster.backlog.state_of(one.group, one.topics)
            metrics.lag({one.group: sum(behind.values())})
            self._progress[name].look({} if one.waits() else behind, at)
        metrics.stalled({name: len(progress.stalled()) for name, progress in self._progress.items()})

    def problems(self) -> list[str]:
        """Lanes that stand still."""
        return [problem for progress in self._progress.values() for problem in progress.problems()]
