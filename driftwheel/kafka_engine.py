"""The part of the Kafka engine that lives in the product's own process: sinks, and the job-runner's stages.

The pure stages run in workers (``driftwheel worker``), here or elsewhere.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import datetime
from pathlib import Path

from connectors.log import Entry, Log
from connectors.sink import Sink
from driftwheel.cluster import Cluster, Reading, Watch
from driftwheel.job_runner import StageLoop
from driftwheel.kafka_sink import KafkaSink
from driftwheel.pipeline import WHEEL
from processors.stage import Stage
from schemas.errors import Refused, Retry
from schemas.topics import OTLP_SPANS

_QUIET_LOOKS = 2
_LOOK_SECONDS = 0.1

DueAt = Callable[[datetime], int]
"""How many timers of the workers are due at a time."""


class KafkaEngine:
    """Sinks and stages with effects, each in threads of its own. See ``Running`` in ``driftwheel.product``.

    ``due`` asks the workers; without it ``settle`` looks at the topics alone. ``patience`` seconds without any progress
    end a ``settle``.
    """

    def __init__(
        self,
        cluster: Cluster,
        log: Log,
        stages: Sequence[Stage],
        sinks: Sequence[Sink],
        folder: Path,
        *,
        patience: float = 120.0,
    ) -> None:
        self._cluster, self._log, self._patience = cluster, log, patience
        self.due: DueAt | None = None
        self._without_clock: RuntimeError | None = None
        self._stack = ExitStack()
        lanes = cluster.lanes(folder)
        self.loops: list[StageLoop] = []
        if stages:
            held = cluster.held_clock(stages[-1], self._clock_stopped)
            for stage in stages:
                group = cluster.kafka.group(stage.name)
                self.loops.append(StageLoop(stage, lanes, lambda g=group: held.now(g)))
        self._sinks = sinks
        self.sinks = [KafkaSink(cluster.kafka, sink, cluster.framing, log, cluster.clock) for sink in sinks]
        self._stages = list(stages)
        self._started = False
        self._watch: Watch | None = None

    def start(self) -> None:
        """Begin to consume; a second call changes nothing."""
        if self._started:
            return
        self._started = True
        for loop in self.loops:
            loop.start()
        for sink in self.sinks:
            sink.start()
        self._watch = Watch(self._cluster, self._stages, self._positions, readings=self._readings())

    def _readings(self) -> dict[str, Reading]:
        kafka = self._cluster.kafka
        return {
            sink.name: Reading(
                kafka.group(sink.name), [kafka.topic(topic) for topic in sink.topics], lambda s=reader: bool(s.retrying)
            )
            for sink, reader in zip(self._sinks, self.sinks, strict=True)
        }

    def _positions(self) -> dict[str, dict[int, dict[str, int]]]:
        return {loop.stage.name: loop.positions() for loop in self.loops}

    def stop(self) -> None:
        """Finish what is under way, then end."""
        self._cluster.stopping.set()
        if not self._started:
            return
        for sink in self.sinks:
            sink.stop()
        for loop in self.loops:
            loop.join()

    def _clock_stopped(self) -> None:
        self._without_clock = RuntimeError("the timers' clock has stopped")

    @property
    def failure(self) -> BaseException | None:
        """The defect that ended a part of it, or None."""
        parts = [loop.failure for loop in self.loops] + [sink.failure for sink in self.sinks]
        return next((failure for failure in parts if failure is not None), self._without_clock)

    def problems(self) -> list[str]:
        """What is away or wrong, in words."""
        found = [problem for sink in self.sinks for problem in sink.problems()]
        found += [f"{loop.stage.name}: {loop.retrying}" for loop in self.loops if loop.retrying]
        return found + self.stalled()

    def stalled(self) -> list[str]:
        """What only a new start mends: a defect, or a standstill."""
        found = self._watch.problems() if self._watch is not None else []
        found += [problem for sink in self.sinks for problem in sink.stalled()]
        return [*found, f"stopped: {self.failure}"] if self.failure is not None else found

    def lags(self) -> dict[str, int]:
        """Unread entries by consumer: all stages and the sinks. Raises Retry."""
        found = {name: sum(behind.values()) for name, behind in self._cluster.lags(WHEEL).items()}
        kafka = self._cluster.kafka
        for sink in self._sinks:
            topics = [kafka.topic(topic) for topic in sink.topics]
            found[sink.name] = sum(self._cluster.backlog.lag_of(kafka.group(sink.name), topics).values())
        return found

    @contextmanager
    def paused(self) -> Generator[None]:
        """Other machines go on: nothing can be paused."""
        yield

    def settle(self) -> None:
        """Wait until everything that follows from what came in has been worked out, timers included.

        The log's clock goes on only with entries: an empty one says what time it is. Raises Refused when nothing gets
        on for too long, or a part has ended.
        """
        self.start()
        now = self._cluster.clock()
        if self._cluster.config.worker.time == "log":
            self._log.append([Entry(OTLP_SPANS.name, "", b"", now, {"ledger": "gateway"})])
        quiet, since = 0, time.monotonic()
        before: dict[str, int] = {}
        pause = threading.Event()
        while quiet < _QUIET_LOOKS:
            if self.failure is not None:
                raise Refused(f"the engine stopped: {self.failure}")
            lags = self._open_work(now)
            quiet = 0 if any(lags.values()) else quiet + 1
            if lags != before:
                since, before = time.monotonic(), lags
            elif quiet == 0 and time.monotonic() - since > self._patience:
                waiting = {name: count for name, count in lags.items() if count}
                raise Refused(f"nothing has moved for {self._patience:.0f} s; unread or undone: {waiting}")
            pause.wait(_LOOK_SECONDS)

    def _open_work(self, now: datetime) -> dict[str, int]:
        try:
            lags = self.lags()
        except Retry:
            return {"brokers": 1}
        lags["timers"] = self.due(now) if self.due is not None else 0
        lags["jobs"] = sum(loop.due(now) for loop in self.loops)
        return lags
