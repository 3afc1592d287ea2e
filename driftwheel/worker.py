"""The Kafka engine: stages as Faust agents, each in a consumer group of its own.

Faust brings messages to the lanes (see ``driftwheel.lane``) and follows the group's rebalances; it neither commits nor
keeps state, since neither would be one with what a batch emits. One process runs any stages; more processes with the
same stages share their partitions.

What Faust 0.15 does unless it is told otherwise, and what is done about it here: an agent that raises loses its event
(the body never raises: a defect ends the process, and Kafka delivers again); default agent names come from module paths
(they are given); its web server binds all addresses (it is off); its assignor without tables does not keep partitions
of different topics together (Kafka's range assignment does); its consumer reads what was not committed (it is told to
read committed records) and dies of a codec whose library is missing (they are installed); a consumer that died leaves
the application standing (it is looked after); sessions last a minute (here 10 s); its commits may pass a message that
was not worked on, where offsets have holes (it never commits).
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any, cast

import aiokafka
import faust
from aiokafka.abc import AbstractTokenProvider
from aiokafka.coordinator.assignors.range import RangePartitionAssignor
from aiokafka.errors import KafkaConnectionError
from faust.transport.drivers import aiokafka as driver
from faust.types import TP, ConsumerMessage

from connectors.kafka.oauth import OAuthTokens
from connectors.kafka.settings import KafkaSettings, ssl_context
from connectors.kafka.wire import Headers, stored_of
from driftwheel.lane import Lane, LaneSettings
from driftwheel.lane_runner import Arrival, Closed, Feed, LaneRunner
from driftwheel.routing import INBOX
from processors.stage import Stage, has_inbox

logger = logging.getLogger(__name__)


DEFECT = 70
"""Exit code after a defect (EX_SOFTWARE of sysexits.h): whoever supervises the process starts it again."""
SESSION_SECONDS = 10.0
RETRY_SECONDS = 1.0
FETCH_BYTES = 1 << 20
FETCH_WAIT = 0.25
"""The brokers gather so much, or for so long (seconds; a quarter of a stage's linger where that is more): answering
every small transaction at once costs both sides more."""


@dataclass(frozen=True, slots=True)
class WorkerSettings:
    """``batch_size`` messages of a lane at a time; a lane takes twice as many in before its topics pause.

    ``tick_seconds`` bounds how late a timer is seen; ``threads`` work on lanes side by side.
    """

    batch_size: int = 500
    tick_seconds: float = 0.25
    threads: int = 16


class _Thread(driver.AIOKafkaConsumerThread):
    """A consumer of committed records, whose partitions of different topics stay together."""

    def _create_worker_consumer(self, transport: driver.Transport) -> aiokafka.AIOKafkaConsumer:
        consumer = super()._create_worker_consumer(transport)
        more = {
            "isolation_level": "read_committed",
            "partition_assignment_strategy": [RangePartitionAssignor],
            "fetch_min_bytes": FETCH_BYTES,
            "fetch_max_wait_ms": cast("_App", self.consumer.app).fetch_wait_ms,
        }
        for name, value in more.items():  # which Faust has no settings for
            setattr(consumer, f"_{name}", value)
        return consumer

    async def _fetch_records(self, consumer: aiokafka.AIOKafkaConsumer, *given: Any, **more: Any) -> Any:
        """What was fetched of a partition is one message to Faust, whose way to an agent costs more than a stage."""
        track = cast("_App", self.consumer.app).track
        track.before(_positions(consumer))
        found = await super()._fetch_records(consumer, *given, **more)
        bundles = {
            tp: [Bundle(records, track.follow(tp, [one.offset for one in records]))] for tp, records in found.items()
        }
        track.after(_positions(consumer))
        return bundles


def _positions(consumer: aiokafka.AIOKafkaConsumer) -> dict[Any, int]:
    subscription = consumer._subscription.subscription  # pyright: ignore[reportPrivateUsage]
    assignment: Any = getattr(subscription, "assignment", None)
    return {} if assignment is None else {tp: at.offset for tp, at in assignment.all_consumed_offsets().items()}


@dataclass(frozen=True, slots=True)
class Bundle:
    """What was fetched of one partition at once; ``follows``: see ``Arrival``."""

    records: Sequence[Any]
    follows: Sequence[int]


class Track:
    """Behind which offset each fetched message comes next, in transactions' topics, whose offsets have holes.

    A consumer reads on from its position, so that between the last message and the next one there is no other, unless
    it was told to go elsewhere in between.
    """

    def __init__(self) -> None:
        self._tails: dict[Any, tuple[int, int]] = {}
        """By partition: the consumer's position, and the end of the message before."""

    def before(self, positions: Mapping[Any, int]) -> None:
        """Where the consumer stands, before it reads on."""
        for tp, at in positions.items():
            if self._tails.get(tp, (-1, -1))[0] != at:
                self._tails[tp] = (at, at)

    def follow(self, tp: Any, offsets: Sequence[int]) -> list[int]:
        """For each message that was read of a partition, the end of the one before; at most its own offset."""
        at, end = self._tails.get(tp, (offsets[0], offsets[0]))
        ends = [end, *(offset + 1 for offset in offsets)]
        self._tails[tp] = (at, ends[-1])
        return [min(before, offset) for before, offset in zip(ends[:-1], offsets, strict=True)]

    def after(self, positions: Mapping[Any, int]) -> None:
        """Where the consumer stands then."""
        for tp, at in positions.items():
            self._tails[tp] = (at, self._tails.get(tp, (at, at))[1])


class _Consumer(driver.Consumer):
    def _new_consumer_thread(self) -> _Thread:
        return _Thread(self, loop=self.loop, beacon=self.beacon)

    def _to_message(self, tp: TP, record: Bundle) -> ConsumerMessage:
        last = record.records[-1]
        return ConsumerMessage(
            tp.topic, tp.partition, last.offset, last.timestamp / 1000, last.timestamp_type, None, None,
            cast("Any", record), None, 0, 0, tp, generation_id=self.app.consumer_generation_id,
        )  # fmt: skip


class _Transport(driver.Transport):
    Consumer = _Consumer


class _App(faust.App):
    def __init__(self, *given: Any, **more: Any) -> None:
        super().__init__(*given, **more)
        self.track = Track()
        self.fetch_wait_ms = 0

    def _new_transport(self) -> _Transport:
        return _Transport(self.conf.broker_consumer, self)


def make_app(stage: Stage, kafka: KafkaSettings) -> _App:
    """The Faust application of one stage: no web server, no tables, no topics made, nothing committed."""
    app = _App(
        kafka.group(stage.name),
        broker=[f"kafka://{address.strip()}" for address in kafka.brokers.split(",")],
        broker_credentials=_credentials(kafka),
        broker_session_timeout=SESSION_SECONDS,
        broker_heartbeat_interval=3.0,
        broker_rebalance_timeout=30.0,
        broker_commit_livelock_soft_timeout=1e9,
        consumer_auto_offset_reset="earliest",
        stream_buffer_maxsize=16,
        store="memory://",
        topic_allow_declare=False,
        topic_disable_leader=True,
        web_enabled=False,
    )
    app.fetch_wait_ms = round(max(FETCH_WAIT, stage.linger / 4) * 1000)
    return app


def _credentials(kafka: KafkaSettings) -> Any:
    if kafka.sasl and kafka.mechanism == "OAUTHBEARER":
        return faust.auth.OAuthCredentials(oauth_cb=_Tokens(OAuthTokens(kafka.oauth)), ssl_context=ssl_context(kafka))
    if kafka.sasl:
        return faust.SASLCredentials(
            username=kafka.username,
            password=kafka.password,
            mechanism=kafka.mechanism,
            ssl_context=ssl_context(kafka),
        )
    return faust.SSLCredentials(ssl_context(kafka)) if kafka.tls else None


class _Tokens(AbstractTokenProvider):
    """OAuth tokens as aiokafka asks for them."""

    def __init__(self, tokens: OAuthTokens) -> None:
        self._tokens = tokens

    async def token(self) -> Any:
        """The token of the next connection."""
        return await asyncio.to_thread(self._tokens.token)


class StageWorker:
    """One stage of a worker: its Faust application and its lanes. To be made inside of the event loop."""

    def __init__(self, stage: Stage, feed: Feed) -> None:
        self.stage, self._feed = stage, feed
        self.runners: dict[int, LaneRunner] = {}
        self.assigned = False
        self._turn = threading.Lock()
        self._closing: set[asyncio.Task[None]] = set()
        kafka = feed.lanes.kafka
        self._names = {kafka.topic(topic): topic.name for topic in stage.sources}
        if has_inbox(stage):
            self._names[kafka.inbox(stage.name)] = INBOX
        self.app = make_app(stage, kafka)
        topic = self.app.topic(*self._names, key_serializer="raw", value_serializer="raw", acks=False)
        self.app.agent(topic, name=kafka.group(stage.name), concurrency=1)(self._read)
        self.app.on_partitions_assigned.connect(cast("Any", self._on_assigned), weak=False)
        self.app.on_partitions_revoked.connect(cast("Any", self._on_revoked), weak=False)
        self.app.finalize()

    async def _read(self, stream: Any) -> None:
        """The agent. It never raises: an event that was being worked on when it did would be lost."""
        async for event in stream.noack().events():
            message = event.message
            if message.partition not in self.runners:
                if message.tp not in self.app.consumer.assignment():
                    continue  # its partition has gone to another worker
                self._take_up(message.partition)  # a message may be here before the news that its partition is ours
            runner, bundle = self.runners[message.partition], cast("Bundle", message.value)
            with suppress(Closed):
                for record, follows in zip(bundle.records, bundle.follows, strict=True):
                    await runner.put(self._arrival(record, follows))

    def _take_up(self, partition: int) -> None:
        self.runners[partition] = LaneRunner(Lane(self.stage, partition, self._feed.lanes, self._turn), self._feed)

    def _arrival(self, record: Any, follows: int) -> Arrival:
        headers: Headers = list(record.headers or ())
        place = (self._names[record.topic], record.partition, record.offset)
        return Arrival(stored_of(*place, record.key, record.value, record.timestamp, headers), headers, follows)

    async def _on_assigned(self, app: Any, assigned: set[TP], **_: Any) -> None:
        del app
        owned = {tp.partition for tp in assigned}
        torn = [
            partition
            for partition in owned
            if {tp.topic for tp in assigned if tp.partition == partition} != set(self._names)
        ]
        if torn:
            logger.error(
                "%s: partitions %s of its topics are not together: driftwheel topics plan", self.stage.name, torn
            )
            self._feed.fail()
            return
        for partition in set(self.runners) - owned:
            self._drop(partition)
        for partition in owned - set(self.runners):
            self._take_up(partition)
        self.assigned = True
        logger.info("%s: has partitions %s", self.stage.name, sorted(owned))

    async def _on_revoked(self, app: Any, revoked: set[TP], **_: Any) -> None:
        """Nothing is waited for: what is under way either commits first or is refused."""
        del app, revoked
        self.assigned = False

    @property
    def crashed(self) -> bool:
        """Whether Faust gave up."""
        return self.app.crashed or (self.app._consumer is not None and self.app.consumer.crashed)  # pyright: ignore[reportPrivateUsage]

    @property
    def ready(self) -> bool:
        """Whether it has partitions (or there are none left to have) and every lane is open."""
        return self.assigned and all(runner.open for runner in self.runners.values())

    def positions(self) -> dict[int, dict[str, int]]:
        """Where its open lanes stand."""
        names = {ours: there for there, ours in self._names.items()}
        runners = [(n, runner) for n, runner in list(self.runners.items()) if runner.open]
        return {n: {names[t]: at for t, at in runner.lane.positions.items()} for n, runner in runners}

    def _drop(self, partition: int) -> None:
        task = asyncio.create_task(self.runners.pop(partition).close())
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    async def start(self) -> None:
        """Join the group; returns once partitions are assigned, or there are none left to have."""
        await self.app.start()

    async def stop(self) -> None:
        """Leave the group and close the lanes, after the batches under way."""
        await self.app.stop()
        for partition in list(self.runners):
            self._drop(partition)
        await asyncio.gather(*self._closing)


class Worker:
    """Stages in one process. ``run`` until ``stop``, or until a defect; ``on_defect`` may end the process at once."""

    def __init__(
        self,
        stages: Sequence[Stage],
        lanes: LaneSettings,
        settings: WorkerSettings,
        now: Callable[[str], datetime],
        on_defect: Callable[[], None] = lambda: None,
    ) -> None:
        self._stages, self._lanes, self._settings, self._now = stages, lanes, settings, now
        self._on_defect = on_defect
        self.workers: list[StageWorker] = []
        self.failed = False
        self._ended: asyncio.Event | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    async def run(self) -> None:
        """Work until told to stop. Returns after a graceful end; ``failed`` says whether a defect was the reason."""
        self._loop, self._ended = asyncio.get_running_loop(), asyncio.Event()
        with ThreadPoolExecutor(self._settings.threads, "lane") as pool:
            feeds = [self._feed(stage, pool) for stage in self._stages]
            self.workers += [StageWorker(stage, feed) for stage, feed in zip(self._stages, feeds, strict=True)]
            starts = [asyncio.create_task(self._start(number, feed)) for number, feed in enumerate(feeds)]
            await self._until_ended(self._ended)
            self._lanes.stopping.set()
            for task in starts:
                task.cancel()
            await asyncio.gather(*starts, return_exceptions=True)
            await asyncio.gather(*(worker.stop() for worker in self.workers))

    async def _until_ended(self, ended: asyncio.Event) -> None:
        while not ended.is_set():
            for worker in self.workers:
                if worker.crashed:
                    logger.error("%s: its consumer died; the process ends", worker.stage.name)
                    self._fail()
            with suppress(TimeoutError):
                await asyncio.wait_for(ended.wait(), 1.0)

    def _feed(self, stage: Stage, pool: ThreadPoolExecutor) -> Feed:
        settings = self._settings
        now = partial(self._now, stage.name)
        return Feed(self._lanes, settings.batch_size, stage.linger, settings.tick_seconds, pool, now, self._fail)

    async def _start(self, number: int, feed: Feed) -> None:
        """Start one of the workers; while the brokers are away, with a new Faust application each time."""
        stage = self._stages[number]
        while True:
            try:
                await self.workers[number].start()
            except KafkaConnectionError as error:
                logger.warning("%s: %s; it tries again", stage.name, error)
                failed, self.workers[number] = self.workers[number], StageWorker(stage, feed)
                with suppress(Exception):
                    await failed.stop()
                await asyncio.sleep(RETRY_SECONDS)
            except asyncio.CancelledError:
                raise
            except Exception:
                logger.exception("%s: the consumer cannot be started", stage.name)
                self._fail()
                return
            else:
                return

    def _fail(self) -> None:
        self.failed = True
        self._on_defect()
        self.stop()

    def stop(self) -> None:
        """End ``run``; from any thread, also when it has ended."""
        if self._loop is not None and self._ended is not None:
            with suppress(RuntimeError):  # the loop is closed: it has ended
                self._loop.call_soon_threadsafe(self._ended.set)

    @property
    def ready(self) -> bool:
        """Whether every stage has its partitions and has opened their lanes."""
        return bool(self.workers) and all(worker.ready for worker in self.workers)

    def problems(self) -> list[str]:
        """What is not ready, in words."""
        if not self.workers:
            return ["starting"]
        return [
            f"{worker.stage.name} has no partitions yet, or opens them" for worker in self.workers if not worker.ready
        ]

    def positions(self) -> dict[str, dict[int, dict[str, int]]]:
        """Where the lanes stand: by stage, partition and topic on the cluster, the next offset. From any thread."""
        return {worker.stage.name: worker.positions() for worker in self.workers}

    def due(self, now: datetime) -> int:
        """How many timers have run out. From any thread."""
        return sum(runner.lane.count_due(now) for worker in self.workers for runner in list(worker.runners.values()))
