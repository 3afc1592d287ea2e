"""The log on Kafka, as producers see it: ``append`` returns when the brokers have it all, and all readers see it.

All entries of a call or none, over several topics and partitions: they are one transaction, and readers read what is
committed. A transaction costs a few milliseconds and a producer has one at a time, so calls that arrive while one is
under way share the next (group commit): many threads are served at the pace of one.

A call that is given up gets Reject, and mostly nothing of it is there. When the brokers went away in the middle of a
commit nobody knows; then all of it may be there, and what the caller sends again is a second copy. Copies of spans and
signals are recognised by their ids, and the ledger has an accepted entry for each copy, as all of a call shares its
transaction.

Every producer has a transactional id of its own, with a random end; brokers forget it after
``transactional.id.expiration.ms`` (7 days). When a process is killed in the middle of a transaction, readers of those
partitions wait until the brokers give it up: ``transaction_seconds`` and up to 10 s more.
"""

from __future__ import annotations

import logging
import threading
import uuid
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, cast

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from connectors.kafka.failures import away, is_final, shut_out, unusable
from connectors.kafka.partition import copies, partition_of
from connectors.kafka.settings import KafkaSettings, client_options
from connectors.kafka.wire import Framing, Plain, headers_of, millis
from connectors.log import Entry
from schemas.errors import Invalid, Reject, Retry
from schemas.topics import BY_NAME, LABELS, LEDGER, OTLP_LOGS, OTLP_SPANS, SIGNALS_RAW

logger = logging.getLogger(__name__)

MAX_MESSAGE = 20_000_000
"""Bytes of one message: the gateway's largest request and some. The brokers' own limit may be lower."""
_ENVELOPE = 500
"""Bytes that a message needs besides key, value and headers, generously."""
_OPEN_SECONDS = 5.0
_LOOK_SECONDS = 2.0
_AWAY_SECONDS = 5.0
"""When a caller may come again while the brokers are away."""
_FOR_GOOD = frozenset({KafkaError.MSG_SIZE_TOO_LARGE, KafkaError.INVALID_RECORD, KafkaError.INVALID_TIMESTAMP})
"""What brokers say of one record, today and tomorrow."""
_PURGED = frozenset({KafkaError._PURGE_QUEUE, KafkaError._PURGE_INFLIGHT})
"""What becomes of its neighbours."""


@dataclass(frozen=True, slots=True)
class KafkaLogSettings:
    """Sizes and patience. ``name`` begins the transactional id; ``topics`` have to be there for ``ready``.

    A call waits ``queue_seconds`` for its turn and ``transaction_seconds`` for its transaction at most; while more than
    ``queue_bytes`` wait, calls are turned away. A transaction takes calls until it has ``group_entries`` entries or
    ``group_bytes``.
    """

    name: str = "gateway"
    queue_seconds: float = 5.0
    transaction_seconds: float = 10.0
    queue_bytes: int = 64 << 20
    group_entries: int = 5_000
    group_bytes: int = 16 << 20
    topics: tuple[str, ...] = tuple(topic.name for topic in (OTLP_SPANS, OTLP_LOGS, SIGNALS_RAW, LABELS, LEDGER))


@dataclass(frozen=True, slots=True)
class _Call:
    """What one ``append`` produces. ``done`` can be cancelled until its transaction begins."""

    messages: list[dict[str, Any]]
    size: int
    done: Future[None] = field(default_factory=Future[None])

    def fail(self, error: Exception) -> None:
        self.done.set_exception(error)


class KafkaLog:
    """A Log on Kafka, for any number of threads, with one producer and a thread that owns it. See the module.

    Raises UsageError when the settings make no client; brokers may be away when it is made.
    """

    def __init__(
        self, settings: KafkaSettings, framing: Framing | None = None, tuning: KafkaLogSettings | None = None
    ) -> None:
        self._settings, self._framing = settings, framing or Plain()
        self._tuning = tuning or KafkaLogSettings()
        self._id = f"{settings.group(self._tuning.name)}.{uuid.uuid4().hex}"
        self._turn = threading.Condition()
        self._queue: deque[_Call] = deque()
        self._queued = 0
        self._closing = False
        self._trouble = ""
        self._heard: KafkaError | None = None
        self._undelivered: KafkaError | None = None
        try:
            self._fresh: Producer | None = self._made()
        except KafkaException as error:
            raise unusable(error.args[0]) from error
        self._producer: Producer | None = None
        self._thread = threading.Thread(target=self._run, name="kafka-log", daemon=True)
        self._thread.start()

    # For callers, in any thread.

    def append(self, entries: Sequence[Entry]) -> None:
        """See Log. An entry without a value deletes what its ``identity`` stands for.

        Raises Reject when the brokers are away or behind; Invalid for an entry that they never take.
        """
        if not entries:
            return
        call = self._call(entries)
        with self._turn:
            self._check_open(call.size)
            self._queue.append(call)
            self._queued += call.size
            self._turn.notify()
        try:
            call.done.result(self._tuning.queue_seconds)
        except TimeoutError:
            if call.done.cancel():
                raise Reject(f"the log did not take it within {self._tuning.queue_seconds:g} s") from None
            call.done.result()

    def _check_open(self, size: int) -> None:
        if self._closing:
            raise Reject("the log is closing")
        if self._trouble and self._producer is None:
            raise Reject(self._trouble, _AWAY_SECONDS)
        if self._queue and self._queued + size > self._tuning.queue_bytes:
            raise Reject(f"{self._queued} bytes wait for the brokers, at most {self._tuning.queue_bytes} may")

    def _call(self, entries: Sequence[Entry]) -> _Call:
        try:
            partitions = self._settings.partitions
            messages = [one for entry in entries for one in copies(entry.topic, self._message(entry), partitions)]
        except Retry as error:
            raise Reject(str(error)) from error
        sizes = [_size(message) for message in messages]
        if max(sizes) > MAX_MESSAGE:
            raise Invalid(
                "too_large", f"an entry of {max(sizes)} bytes; the log takes {MAX_MESSAGE}: send less at once"
            )
        return _Call(messages, sum(sizes))

    def _message(self, entry: Entry) -> dict[str, Any]:
        value, headers = entry.value, headers_of(entry)
        topic, deletes = BY_NAME.get(entry.topic), bool(entry.identity) and not entry.value
        if topic is not None and not topic.raw and not deletes:
            value, more = self._framing.wrap(entry.topic, value)
            headers += more
        message: dict[str, Any] = {
            "topic": self._settings.topic(entry.topic),
            "key": (entry.identity or entry.key).encode("utf-8", "replace"),
            "value": None if deletes else value,
            "headers": headers,
            "timestamp": millis(entry.time),
        }
        if entry.identity:
            message["partition"] = partition_of(entry.key, self._settings.partitions)
        return message

    def ready(self) -> list[str]:
        """What is wrong, or nothing: whether the brokers answer and have the topics. Takes up to two seconds."""
        producer, trouble = self._producer, self._trouble
        if trouble or producer is None:
            return [trouble or f"the Kafka brokers at {self._settings.brokers} have not answered yet"]
        try:
            there = producer.list_topics(timeout=_LOOK_SECONDS).topics
        except KafkaException as error:
            return [self._away(error.args[0])]
        missing = [name for name in map(self._settings.topic, self._tuning.topics) if name not in there]
        return [f"Kafka has no topic {', '.join(missing)}: run `driftwheel topics apply`"] if missing else []

    def close(self) -> None:
        """Finish what is under way and what waits; later calls get Reject."""
        with self._turn:
            self._closing = True
            self._turn.notify_all()
        self._thread.join()

    # In the producer's thread.

    def _run(self) -> None:
        group: list[_Call] = []
        try:
            while self._producer is not None or self._open():
                group = self._take()
                if group:
                    self._settle(group)
                elif self._closing:
                    break
        finally:
            with self._turn:
                self._closing = True
            self._reject([call for call in group if not call.done.done()], "the log has ended")
            self._reject_waiting("the log has ended")
            self._let_go()

    def _open(self) -> bool:
        """Until there is a producer, ever more patiently; False when the log closes first."""
        failures = 0
        while not self._closing:
            if self._opened():
                return True
            failures += 1
            self._reject_waiting(self._trouble)
            with self._turn:
                self._turn.wait_for(lambda: self._closing, min(5.0, 0.25 * 2 ** min(failures, 6)))
        return False

    def _opened(self) -> bool:
        producer, self._fresh = self._fresh or self._made(), None
        try:
            producer.init_transactions(_OPEN_SECONDS)
        except KafkaException as error:
            _discard(producer)
            self._stumble(self._away(error.args[0]))
            return False
        self._producer = producer
        self._recover()
        return True

    def _take(self) -> list[_Call]:
        """The calls of the next transaction; none when a second passed or the log closes."""
        group: list[_Call] = []
        entries = size = 0
        with self._turn:
            self._turn.wait_for(lambda: self._queue or self._closing, 1.0)
            while self._queue and entries < self._tuning.group_entries and size < self._tuning.group_bytes:
                call = self._queue.popleft()
                self._queued -= call.size
                if call.done.set_running_or_notify_cancel():
                    group.append(call)
                    entries, size = entries + len(call.messages), size + call.size
        if self._producer is not None and not group:
            self._producer.poll(0)
        return group

    def _settle(self, calls: list[_Call], *, again: bool = True) -> None:
        """One transaction. What brokers refuse for good is found by halving; its neighbours are appended.

        After a refusal librdkafka 2.16 counts on as if the record had been taken, which spoils the next transaction,
        and only then begins to count anew: that one is done ``again``.
        """
        try:
            self._commit(calls)
        except KafkaException as error:
            problem: KafkaError = self._undelivered or error.args[0]
            if problem.code() == KafkaError.OUT_OF_ORDER_SEQUENCE_NUMBER and again:
                self._settle(calls, again=False)
            elif problem.code() not in _FOR_GOOD:
                self._stumble(f"Kafka does not take entries: {problem.str()}")
                self._reject(calls, self._trouble)
            elif len(calls) == 1:
                calls[0].fail(_refused(problem))
            else:
                half = len(calls) // 2
                self._settle(calls[:half])
                self._settle(calls[half:])
        else:
            self._recover()
            for call in calls:
                call.done.set_result(None)

    def _commit(self, calls: list[_Call]) -> None:
        self._undelivered = None
        if self._producer is None and not self._opened():
            raise KafkaException(KafkaError(KafkaError._STATE, self._trouble))
        producer = cast("Producer", self._producer)
        try:
            producer.begin_transaction()
            for call in calls:
                for message in call.messages:
                    self._produce(producer, message)
            producer.commit_transaction(self._tuning.transaction_seconds)
        except KafkaException as error:
            self._abort(producer, error.args[0])
            raise

    def _produce(self, producer: Producer, message: dict[str, Any]) -> None:
        while True:
            try:
                producer.produce(**message, on_delivery=self._delivered)
            except BufferError:
                producer.poll(0.1)
            else:
                producer.poll(0)
                return

    def _delivered(self, error: KafkaError | None, message: Message) -> None:
        del message
        if error is not None and (error.code() in _FOR_GOOD or not (self._undelivered or error.code() in _PURGED)):
            self._undelivered = error

    def _abort(self, producer: Producer, error: KafkaError) -> None:
        """Take the transaction back; a producer that cannot is let go of, and its successor's opening does so."""
        if not error.fatal():
            try:
                producer.abort_transaction(_OPEN_SECONDS)
            except KafkaException as further:
                logger.info("a transaction could not be aborted: %s", further)
            else:
                return
        self._let_go()

    def _let_go(self) -> None:
        gone = [one for one in (self._producer, self._fresh) if one is not None]
        self._producer = self._fresh = None
        for producer in gone:
            _discard(producer)

    def _made(self) -> Producer:
        return Producer(
            client_options(self._settings)
            | {
                "transactional.id": self._id,
                "transaction.timeout.ms": int(self._tuning.transaction_seconds * 1000),
                "partitioner": "murmur2_random",
                "linger.ms": 2,
                "compression.type": "lz4",
                "message.max.bytes": MAX_MESSAGE,
                "queue.buffering.max.kbytes": 131_072,
                "retry.backoff.ms": 20,
                "reconnect.backoff.max.ms": 1000,
                "topic.metadata.propagation.max.ms": 5000,
                "error_cb": self._hear,
                "log_level": 2,
            }
        )

    # What is known of the brokers.

    def _hear(self, error: KafkaError) -> None:
        if is_final(error) or error.code() != KafkaError._ALL_BROKERS_DOWN:
            self._heard = error

    def _away(self, error: KafkaError) -> str:
        heard = self._heard or error
        final = is_final(heard)
        return str(shut_out(self._settings, heard) if final else away(self._settings, heard, _OPEN_SECONDS))

    def _stumble(self, trouble: str) -> None:
        if not self._trouble:
            logger.warning("%s; callers are asked to come again", trouble)
        self._trouble = trouble

    def _recover(self) -> None:
        if self._trouble:
            logger.info("Kafka takes entries again")
        self._trouble, self._heard = "", None

    def _reject(self, calls: Sequence[_Call], why: str) -> None:
        for call in calls:
            call.fail(Reject(why, _AWAY_SECONDS))

    def _reject_waiting(self, why: str) -> None:
        with self._turn:
            waiting = [call for call in self._queue if call.done.set_running_or_notify_cancel()]
            self._queue.clear()
            self._queued = 0
        self._reject(waiting, why)


def _size(message: dict[str, Any]) -> int:
    headers = sum(len(name) + len(value) for name, value in message["headers"])
    return len(message["key"]) + len(message["value"] or b"") + headers + _ENVELOPE


def _refused(error: KafkaError) -> Invalid:
    if error.code() == KafkaError.MSG_SIZE_TOO_LARGE:
        return Invalid("too_large", "larger than max.message.bytes of its topic: raise that, or send less at once")
    return Invalid("refused", f"Kafka refuses the entry: {error.str()}")


def _discard(producer: Producer) -> None:
    producer.purge()
    producer.flush(1.0)
