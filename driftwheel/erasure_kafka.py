"""Erasures on Kafka, for a command or the running product: what of the topics can be deleted, and when the rest goes.

A topic's records cannot be picked out. Those of compacted topics are replaced (labels by nothing, dataset versions by
what is left of them) and off the disks when the topic is compacted; the others go with their retention.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import datetime, timedelta

from connectors.kafka.inboxes import Inboxes, Told
from connectors.kafka.log import KafkaLog, KafkaLogSettings
from connectors.log import Entry, Log
from connectors.nemo.microservices import Microservices
from connectors.nemo.port import NemoPort
from driftwheel.clock import utc_now
from driftwheel.cluster import Cluster
from driftwheel.config import Config
from driftwheel.deadletters_kafka import Patient, open_sink_store
from driftwheel.erasing import Erasing
from driftwheel.erasure import BY_ITSELF, AtOnce, Erasures, Order
from driftwheel.erasure_places import DatasetFiles, QuarantinedPayloads
from driftwheel.orders import orders_of
from driftwheel.pipeline import WHEEL
from processors.stage import Stage, has_inbox
from schemas.events import identity
from schemas.topics import CLUSTERS, FAILURES, LABELS, SAMPLES, TOPICS

UNDER_WAY = timedelta(hours=2)
"""After a request stages may still say something of sessions that were open: then it is done once more."""
AGAIN = timedelta(hours=12)
"""What a lane was told is told again so often until it has read it: an inbox forgets."""
COMPACTED = timedelta(days=2)
"""By then a compacted topic has let go of what was replaced (``max.compaction.lag.ms`` is a day)."""
_LOOK_SECONDS = 0.25
_PEOPLE = ("producer", "trace", "session")
_ALSO = (SAMPLES.name, FAILURES.name, CLUSTERS.name)


class KafkaTopics:
    """Tombstones for the person's labels, and the dates by which everything else has left the topics."""

    quiet = False

    def __init__(self, log: Log, clock: Callable[[], datetime]) -> None:
        self._log, self._clock = log, clock

    def find(self, order: Order) -> dict[str, int]:
        """See Place: the store tells what was in the topics."""
        del order
        return {}

    def erase(self, order: Order) -> dict[str, str]:
        """See Place."""
        now, tenant = self._clock(), order.subject.tenant
        gone = [Entry(LABELS.name, f"{tenant}/{agent}", b"", now, identity=label) for agent, label in order.labels]
        if gone:
            self._log.append(gone)
        waiting = {LABELS.name: f"{BY_ITSELF}{_text(now + COMPACTED)}"} if gone else {}
        for topic in TOPICS:
            if topic.by in _PEOPLE or topic.name in _ALSO:
                waiting[topic.name] = f"{BY_ITSELF}{_text(order.since + UNDER_WAY + topic.retention)}"
        if now < order.since + UNDER_WAY:
            waiting["stages"] = (
                f"sessions that were open may still be told of: again after {_text(order.since + UNDER_WAY)}"
            )
        return waiting


class KafkaLanes:
    """State of stages: each lane is told through its stage's inbox, and takes the person out while it goes on working.

    Told once when it was asked for, again when nothing can be under way any more, and twice a day until all have read.
    ``patience``: how long to wait for lanes that are at work, in seconds; whoever has not read by then has no process,
    or a long batch.
    """

    quiet = False

    def __init__(
        self, inboxes: Inboxes, stages: Sequence[type[Stage]], clock: Callable[[], datetime], patience: float = 20.0
    ) -> None:
        self._inboxes, self._clock, self._patience = inboxes, clock, patience
        self._stages = [stage.name for stage in stages if has_inbox(stage)]
        self._told: dict[str, Told] = {}

    def find(self, order: Order) -> dict[str, int]:
        """See Place: lanes do not answer questions."""
        del order
        return {}

    def erase(self, order: Order) -> dict[str, str]:
        """See Place."""
        orders, since = list(orders_of(order.subject)), self._clock() - order.since
        name = identity(str(since >= UNDER_WAY), str(since // AGAIN), *(one.decode() for one in orders))
        if name not in self._told:
            self._told[name] = self._inboxes.tell(self._stages, orders)
        until = time.monotonic() + self._patience
        while (left := self._inboxes.unread(self._told[name])) and time.monotonic() < until:
            time.sleep(_LOOK_SECONDS)
        if not left:
            return {}
        stages = sorted({stage for stage, _ in left})
        return {"state": f"lanes have still to read that they are to erase ({', '.join(stages)}): workers have to run"}


def _text(when: datetime) -> str:
    return when.isoformat(timespec="minutes")


@contextmanager
def kafka_erasing(config: Config) -> Generator[Erasing]:
    """The cluster's erasures: what is asked for is done by this process, before the answer."""
    with ExitStack() as stack:
        store = open_sink_store(config, stack)
        cluster = Cluster(config, stack, utc_now)
        log = KafkaLog(cluster.kafka, cluster.framing, KafkaLogSettings(name="erasures"))
        stack.callback(log.close)
        patient = Patient(log)
        places = [
            DatasetFiles(store, patient, lambda: _nemo(config, stack), utc_now),
            QuarantinedPayloads(store, lambda: cluster.quarantine, cluster.key),
            KafkaTopics(patient, utc_now),
            KafkaLanes(Inboxes(cluster.kafka), WHEEL, utc_now),
        ]
        yield AtOnce(Erasures(store, patient, places, cluster.key, utc_now))


def _nemo(config: Config, stack: ExitStack) -> NemoPort | None:
    if not config.nemo.url:
        return None
    nemo = Microservices(config.nemo.url, namespace=config.nemo.namespace, token=config.nemo.token.get_secret_value())
    stack.callback(nemo.close)
    return nemo
