"""A sink on Kafka: read what is committed, write it, and only then say so to the group.

At least once: a crash between the two brings the batch again, to this process or another, and the sink knows records by
their ``event_id``. Nothing moves on before it is written, or is a dead letter in the log.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition
from confluent_kafka import Message as Received

from connectors.kafka.failures import is_final, shut_out, unusable
from connectors.kafka.settings import KafkaSettings, client_options
from connectors.kafka.wire import Framing, from_millis, key_of, texts_of
from connectors.log import Log, entry_of
from connectors.sink import Sink
from driftwheel.delivery import deliver
from processors.stage import Message
from schemas.errors import Reject, Retry

logger = logging.getLogger(__name__)

OnBatch = Callable[[str, int, int, float], None]
"""Called after every batch: sink, messages in, dead letters out, seconds."""
_CHUNK = 500
_LOOK_SECONDS = 5.0
_COMMIT_SECONDS = 5.0
RENEW_SECONDS = 30.0
"""How long a consumer may be without brokers, or without a commit that it owes, before another takes its place."""


def _ignore(name: str, messages: int, letters: int, seconds: float) -> None:
    del name, messages, letters, seconds


@dataclass(frozen=True, slots=True)
class KafkaSinkSettings:
    """A batch is what comes in ``batch_seconds``, up to ``batch_size`` messages or about ``batch_bytes``.

    ``retry_seconds`` is the first pause while the store is away, doubled up to ``retry_limit``. A process that is
    silent for ``session_seconds`` loses its partitions to the others, and so does one that writes a single batch for
    ``write_seconds``.
    """

    batch_size: int = 5000
    batch_bytes: int = 32 << 20
    batch_seconds: float = 0.75
    retry_seconds: float = 1.0
    retry_limit: float = 30.0
    session_seconds: float = 10.0
    write_seconds: float = 300.0

    def pause(self, failures: int) -> float:
        """Seconds to wait after so many failures in a row."""
        return min(self.retry_limit, self.retry_seconds * 2 ** min(failures - 1, 20))


class KafkaSink:
    """Brings the sink's topics to it, with any number of like processes, until ``stop``. ``dead`` takes dead letters.

    ``run`` blocks; ``start`` gives it a thread. Deletions in compacted topics are passed over: a store deletes by its
    retention and by erasure. Raises UsageError when the settings make no client.
    """

    def __init__(
        self,
        settings: KafkaSettings,
        sink: Sink,
        framing: Framing,
        dead: Log,
        clock: Callable[[], datetime],
        tuning: KafkaSinkSettings | None = None,
        on_batch: OnBatch | None = None,
    ) -> None:
        self._settings, self._sink, self._framing = settings, sink, framing
        self._dead, self._clock = dead, clock
        self._tuning = tuning or KafkaSinkSettings()
        self._on_batch = on_batch or _ignore
        self._names = {settings.topic(topic): topic.name for topic in sink.topics}
        self._held: list[Received] = []
        self._owed: dict[tuple[str, int], int] = {}
        self._paused = False
        self._fatal: KafkaError | None = None
        self._look_at = 0.0
        self._commit_until = 0.0
        self._well = time.monotonic()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._guarded, name=f"driftwheel-{sink.name}", daemon=True)
        self.last_progress = time.monotonic()
        """When the loop last went round (``time.monotonic``); it does so while the store is away, too."""
        self.batches = 0
        self.records = 0
        self.retrying = ""
        """Why the store does not take the batch, or ''."""
        self.trouble = ""
        """What is wrong with the brokers, or ''."""
        self.failure: BaseException | None = None
        """The defect that ended it, or None."""
        self._consumer = self._new_consumer()

    def _new_consumer(self) -> Consumer:
        group = self._settings.group(self._sink.name)
        try:
            return Consumer(client_options(self._settings) | self._options(group))
        except KafkaException as error:
            raise unusable(error.args[0]) from error

    def _options(self, group: str) -> dict[str, object]:
        tuning = self._tuning
        return {
            "group.id": group,
            "enable.auto.commit": False,
            "enable.auto.offset.store": False,
            "isolation.level": "read_committed",
            "partition.assignment.strategy": "cooperative-sticky",
            "auto.offset.reset": "earliest",
            "session.timeout.ms": int(tuning.session_seconds * 1000),
            "heartbeat.interval.ms": int(tuning.session_seconds * 300),
            "max.poll.interval.ms": int(tuning.write_seconds * 1000),
            "queued.max.messages.kbytes": 32_768,
            "fetch.min.bytes": 1 << 20,  # every topic is read: answering each small transaction would cost both sides
            "fetch.wait.max.ms": 250,
            "reconnect.backoff.max.ms": 1000,
            "error_cb": self._hear,
            "on_commit": self._committed,
            "log_level": 2,
        }

    # For others, in any thread.

    def start(self) -> None:
        """Run in a thread; a defect ends it and is ``failure`` then."""
        self._thread.start()

    def stop(self) -> None:
        """Finish the batch, commit, leave the group. What cannot be written now comes again to whoever is next."""
        self._stopping.set()
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join()

    def wait(self, timeout: float | None = None) -> bool:
        """Block until it is told to stop or has failed, or ``timeout`` seconds passed; whether it was."""
        return self._stopping.wait(timeout)

    def problems(self) -> list[str]:
        """What is wrong, or nothing."""
        failed = "" if self.failure is None else f"{self._sink.name} failed: {self.failure}"
        owed = f"{len(self._owed)} offsets could not be committed yet" if self._owed else ""
        return [problem for problem in (failed, self.retrying, self.trouble, owed) if problem]

    def stalled(self) -> list[str]:
        """Why only a new start would help, or nothing: the loop has not gone round for longer than a write may take."""
        silent = time.monotonic() - self.last_progress
        if silent <= self._tuning.write_seconds or not self._thread.is_alive():
            return []
        return [f"{self._sink.name} has been at one batch for {silent:.0f} s"]

    # The loop.

    def _guarded(self) -> None:
        try:
            self.run()
        except BaseException as error:
            logger.exception("%s failed; it stops, and what it had comes again", self._sink.name)
            self.failure = error
            self._stopping.set()

    def run(self) -> None:
        """Work until ``stop``. Any error but a failure of the store or the brokers is a defect and is raised."""
        self._subscribe()
        try:
            while not self._stopping.is_set():
                self._gather()
                if self._held:
                    self._settle()
                self._commit()
                self._look()
                self._renew()
            self._finish()
        finally:
            self._consumer.close()

    def _subscribe(self) -> None:
        self._consumer.subscribe(
            list(self._names), on_assign=self._assigned, on_revoke=self._revoked, on_lost=self._revoked
        )

    def _renew(self) -> None:
        """Another consumer in place of one that does not come back: librdkafka 2.16 may lose its last broker for good.

        It begins where the group stands; the store knows what it has.
        """
        if not self.trouble and not self._owed:
            self._well = time.monotonic()
        if time.monotonic() - self._well < RENEW_SECONDS:
            return
        why = self.trouble or f"{len(self._owed)} offsets could not be committed"
        logger.warning("%s: %s for %.0f s; another consumer takes over", self._sink.name, why, RENEW_SECONDS)
        gone, self._consumer = self._consumer, self._new_consumer()
        threading.Thread(target=gone.close, name="driftwheel-old-consumer", daemon=True).start()
        self._held, self._owed, self._paused = [], {}, False
        self._commit_until, self._well = 0.0, time.monotonic()
        self._subscribe()

    def _gather(self) -> None:
        until = time.monotonic() + self._tuning.batch_seconds
        size = 0
        while len(self._held) < self._tuning.batch_size and size < self._tuning.batch_bytes:
            left = until - time.monotonic()
            if left <= 0 or self._stopping.is_set():
                break
            chunk = min(_CHUNK, self._tuning.batch_size - len(self._held))
            size += sum(self._take(message) for message in self._consumer.consume(chunk, left))
        self._beat()

    def _take(self, message: Received) -> int:
        error = message.error()
        if error is not None:
            self._hear(error)
            return 0
        self._held.append(message)
        return len(message)

    def _beat(self) -> None:
        self.last_progress = time.monotonic()
        if self._fatal is not None:
            raise RuntimeError(f"the Kafka consumer has ended: {self._fatal.str()}")

    def _settle(self) -> None:
        """Until the batch is written, or is no longer ours, or it is time to stop."""
        failures = 0
        while self._held:
            try:
                self._write()
            except (Retry, Reject) as error:
                failures += 1
                self._stumble(error)
                self._rest(self._tuning.pause(failures))
                if self._stopping.is_set():
                    self._held.clear()
            else:
                self._recover()
        self.retrying = ""  # also when the batch has gone to another process
        self._resume()

    def _write(self) -> None:
        began = time.perf_counter()
        held = self._held
        messages = [self._message(received) for received in held if received.value() is not None]
        letters = deliver(self._sink, messages)
        now = self._clock()
        self._dead.append([entry_of(letter, now) for letter in letters])
        self._held = []
        self._owe(held)
        self.batches += 1
        self.records += len(messages) - len(letters)
        self._on_batch(self._sink.name, len(held), len(letters), time.perf_counter() - began)

    def _message(self, received: Received) -> Message:
        topic = self._names[received.topic() or ""]
        headers = [(name, value if isinstance(value, bytes) else b"") for name, value in received.headers() or ()]
        value = self._framing.unwrap(topic, received.value() or b"", headers)
        key, time = received.key(), from_millis(received.timestamp()[1])
        shown = key_of(key if isinstance(key, bytes) else None)
        return Message(topic, received.offset() or 0, shown, value, time, texts_of(headers), received.partition() or 0)

    # While the store is away.

    def _rest(self, seconds: float) -> None:
        """Stay in the group without reading on."""
        if not self._paused:
            self._paused = True
            self._consumer.pause(self._consumer.assignment())
        until = time.monotonic() + seconds
        while not self._stopping.is_set() and (left := until - time.monotonic()) > 0:
            message = self._consumer.poll(min(left, 0.2))
            if message is not None:
                self._take(message)
            self._beat()

    def _stumble(self, error: Exception) -> None:
        if not self.retrying:
            logger.warning("%s: %s; nothing is lost, it tries again", self._sink.name, error)
        self.retrying = f"{self._sink.name}: {error}"

    def _resume(self) -> None:
        if self._paused:
            self._paused = False
            self._consumer.resume(self._consumer.assignment())

    def _recover(self) -> None:
        if self.retrying:
            logger.info("%s: it works again", self._sink.name)
        self.retrying = ""

    # Offsets and partitions.

    def _owe(self, held: Iterable[Received]) -> None:
        if not self._owed and not self.trouble:
            self._well = time.monotonic()
        for message in held:
            place = (message.topic() or "", message.partition() or 0)
            self._owed[place] = max(self._owed.get(place, 0), (message.offset() or 0) + 1)

    def _commit(self) -> None:
        """Ask the group to take the offsets down; ``_committed`` hears of it in a later poll.

        Waiting for it here would never end when the brokers go away. A failure costs a repetition at most: the offsets
        are committed with those of the next batch.
        """
        if not self._owed or time.monotonic() < self._commit_until:
            return
        self._commit_until = time.monotonic() + _COMMIT_SECONDS
        wanted = [TopicPartition(*place, offset) for place, offset in self._owed.items()]
        try:
            self._consumer.commit(offsets=wanted, asynchronous=True)
        except KafkaException as error:
            self._hear(error.args[0])

    def _committed(self, error: KafkaError | None, partitions: list[TopicPartition]) -> None:
        self._commit_until = 0.0
        problem = error or next((one.error for one in partitions if one.error is not None), None)
        if problem is not None:
            self._hear(problem)
            return
        self._well = time.monotonic()
        for one in partitions:
            place = (one.topic, one.partition)
            if self._owed.get(place, one.offset + 1) <= one.offset:
                del self._owed[place]

    def _finish(self) -> None:
        """Before it leaves: what was written is committed, unless the brokers are away."""
        self._held.clear()
        self._consumer.pause(self._consumer.assignment())
        until = time.monotonic() + _COMMIT_SECONDS
        while self._owed and time.monotonic() < until:
            self._commit()
            self._consumer.poll(0.05)

    def _assigned(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        consumer.incremental_assign(partitions)
        # One that went while it was paused comes back as it went.
        (consumer.pause if self._paused else consumer.resume)(partitions)

    def _revoked(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        """They are somebody else's now, who begins where the group stands."""
        if consumer is not self._consumer:
            return
        gone = {(one.topic, one.partition) for one in partitions}
        self._held = [one for one in self._held if (one.topic(), one.partition()) not in gone]
        for place in gone:
            self._owed.pop(place, None)

    # The brokers.

    def _hear(self, error: KafkaError) -> None:
        if error.fatal():
            self._fatal = error
        self._worry(str(shut_out(self._settings, error)) if is_final(error) else f"Kafka: {error.str()}")

    def _worry(self, trouble: str) -> None:
        if not self.trouble:
            self._well = time.monotonic()
            logger.warning("%s: %s; it goes on when that is over", self._sink.name, trouble)
        self.trouble = trouble

    def _look(self) -> None:
        """Now and then while something is wrong: whether the brokers are back, and have the topics."""
        if not self.trouble or time.monotonic() < self._look_at:
            return
        self._look_at = time.monotonic() + _LOOK_SECONDS
        try:
            there = self._consumer.list_topics(timeout=1.0).topics
        except KafkaException as error:
            self._worry(f"the Kafka brokers do not answer: {error.args[0].str()}")
            return
        missing = [name for name in self._names if name not in there]
        if missing:
            self._worry(_missing(missing))
        else:
            self.trouble = ""
            logger.info("%s: Kafka answers", self._sink.name)


def _missing(topics: Sequence[str]) -> str:
    return f"Kafka has no topic {', '.join(topics)}: run `driftwheel topics apply`"
