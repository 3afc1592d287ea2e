"""The gateway's log on Kafka beside a plain idempotent producer: requests from many threads, each of two entries.

KafkaLog: the entries of one request are there together or not at all (grouped transactions). Plain: the same messages
by one idempotent producer, acks=all; a request waits for its own acknowledgements. The broker is the one that
``DRIFTWHEEL_TEST_KAFKA`` names, else one that is started for this run.
"""

from __future__ import annotations

import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from confluent_kafka import KafkaError, KafkaException, Message, Producer
from confluent_kafka.admin import AdminClient, NewTopic

from connectors.kafka.log import KafkaLog
from connectors.kafka.settings import KafkaSettings, client_options
from connectors.kafka.wire import millis
from connectors.log import Entry
from tests.brokers import forget, open_kafka

SECONDS, PAYLOAD, PARTITIONS, ROUNDS = 5.0, 2_000, 6, 2
NOW = datetime(2026, 1, 5, 8, tzinfo=UTC)
TOPICS = ("otlp_spans", "flywheel.ledger")


def entries(number: int) -> list[Entry]:
    """One request: a payload and its ledger entry."""
    key = f"acme/agent-{number % 20}"
    return [Entry(TOPICS[0], key, b"x" * PAYLOAD, NOW, {"tenant": "acme"}), Entry(TOPICS[1], key, b"y" * 150, NOW)]


class Plain:
    """An idempotent producer; every request waits for its entries."""

    def __init__(self, settings: KafkaSettings) -> None:
        self._settings = settings
        options = {"enable.idempotence": True, "linger.ms": 5, "compression.type": "lz4"}
        self._producer = Producer(client_options(settings) | options | {"partitioner": "murmur2_random"})
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._poll)
        self._thread.start()

    def _poll(self) -> None:
        while not self._ended.is_set():
            self._producer.poll(0.1)

    def append(self, wanted: list[Entry]) -> None:
        """Produce and wait."""
        done: Future[None] = Future()
        left = [len(wanted)]

        def delivered(error: KafkaError | None, _: Message) -> None:
            left[0] -= 1
            if error is not None:
                done.set_exception(KafkaException(error))
            elif left[0] == 0:
                done.set_result(None)

        for entry in wanted:
            more = {"timestamp": millis(entry.time), "on_delivery": delivered, "headers": list(entry.headers.items())}
            self._producer.produce(self._settings.topic(entry.topic), entry.value, entry.key, **more)
        done.result(30)

    def close(self) -> None:
        """End the polling thread."""
        self._ended.set()
        self._thread.join()
        self._producer.flush(10)


def measure(append: Callable[[list[Entry]], None], threads: int) -> tuple[float, float, float]:
    """Requests a second, p50 and p99 in milliseconds."""
    times: list[list[float]] = [[] for _ in range(threads)]
    until = time.perf_counter() + SECONDS

    def work(mine: list[float], number: int) -> None:
        while (began := time.perf_counter()) < until:
            append(entries(number))
            mine.append(time.perf_counter() - began)
            number += 1

    workers = [threading.Thread(target=work, args=(mine, n)) for n, mine in enumerate(times)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    every = sorted(one for mine in times for one in mine)
    return len(every) / SECONDS, every[len(every) // 2] * 1e3, every[int(len(every) * 0.99)] * 1e3


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, open_kafka(Path(folder)) as brokers:
        settings = KafkaSettings(brokers, prefix=f"bench{uuid.uuid4().hex[:8]}.", partitions=PARTITIONS)
        admin = AdminClient(client_options(settings))
        wanted = [NewTopic(settings.topic(topic), PARTITIONS) for topic in TOPICS]
        for made in admin.create_topics(wanted).values():
            made.result()
        print(f"requests of two entries, {PAYLOAD} + 150 bytes, {PARTITIONS} partitions, {SECONDS:g} s each")
        logs = {"grouped transactions": KafkaLog(settings), "plain idempotent": Plain(settings)}
        for log in logs.values():
            with suppress(KafkaException):
                log.append(entries(0))
        for _ in range(ROUNDS):
            for threads in (1, 16, 64):
                for name, log in logs.items():
                    rate, p50, p99 = measure(log.append, threads)
                    print(
                        f"{threads:3d} threads  {name:21s}{rate:7,.0f} requests/s  p50 {p50:5.1f} ms  p99 {p99:5.1f} ms"
                    )
        for log in logs.values():
            log.close()
        forget(brokers, settings.prefix)


if __name__ == "__main__":
    main()
