"""Stages as Faust agents, on a real broker. Each trap of Faust that the worker knows of has its test here."""

from __future__ import annotations

import asyncio
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition

from connectors.kafka.quarantine import KafkaQuarantine
from connectors.kafka.settings import KafkaSettings, client_options
from driftwheel.worker import RETRY_SECONDS, SESSION_SECONDS, Worker, WorkerSettings, make_app
from processors.learn import Learn
from processors.stage import Event
from processors.state import KeyState
from schemas import codec
from schemas.events import RawSignal, Record
from schemas.topics import DEAD_LETTERS, ERASURES, LEDGER, SIGNALS_RAW
from tests.cluster import Cluster
from tests.driftwheel.engine_kit import LIMIT, T0, Clock, Echo, Tally, raw, until
from tests.driftwheel.kafka_kit import lane_settings, make_topics, records, stored, working

AGENTS = 7
CHILD = Path(__file__).parent / "worker_child.py"


@pytest.fixture
def settings(kafka_settings: KafkaSettings) -> KafkaSettings:
    make_topics(kafka_settings, [Tally, Echo])
    return kafka_settings


def feed(settings: KafkaSettings, signals: Sequence[RawSignal], **options: Any) -> None:
    """As any producer would, without keys: signals of one agent are in any partition."""
    producer = Producer(client_options(settings) | {"linger.ms": 5} | options)
    for signal_ in signals:
        producer.produce(settings.topic(SIGNALS_RAW), codec.encode(signal_), timestamp=int(T0.timestamp() * 1000))
    assert producer.flush(LIMIT) == 0


def some(first: int, last: int) -> list[RawSignal]:
    return [raw(n, agent=f"a{n % AGENTS}") for n in range(first, last)]


def counts(settings: KafkaSettings) -> dict[str, list[int]]:
    """By agent, the tallies in the order of the topic."""
    found: dict[str, list[int]] = {}
    for record in records(settings, LEDGER):
        found.setdefault(record.agent, []).append(record.count)  # type: ignore[attr-defined]
    return found


def exact(settings: KafkaSettings, total: int) -> bool:
    """Whether every signal was counted once, in order, without a gap."""
    share = Counter(f"a{n % AGENTS}" for n in range(total))
    return counts(settings) == {agent: list(range(1, count + 1)) for agent, count in share.items()}


def test_every_event_once_whatever_partition_it_came_in(settings: KafkaSettings, tmp_path: Path) -> None:
    feed(settings, some(0, 300))
    with working([Tally(), Echo()], lane_settings(settings, tmp_path, Clock())):
        feed(settings, some(300, 500))
        until(lambda: len(records(settings, ERASURES)) >= 500)
    assert exact(settings, 500)
    assert len({record.event_id for record in records(settings, ERASURES)}) == 500


def test_poison_is_a_dead_letter_and_its_payload_is_sealed(settings: KafkaSettings, tmp_path: Path) -> None:
    quarantine = KafkaQuarantine(settings, bytes(range(32)))
    feed(settings, [*some(0, 5), raw(5, payload="poison"), *some(6, 10)])
    broken = Producer(client_options(settings))
    broken.produce(settings.topic(SIGNALS_RAW), b"not a record", timestamp=int(T0.timestamp() * 1000))
    broken.flush(30)
    with working([Tally()], lane_settings(settings, tmp_path, Clock(), seal=quarantine)):
        until(lambda: len(records(settings, DEAD_LETTERS)) == 2 and len(records(settings, LEDGER)) == 9)
    by_reason = {letter.reason: letter for letter in records(settings, DEAD_LETTERS)}  # type: ignore[attr-defined]
    assert set(by_reason) == {"poisoned", "unknown_schema"}
    assert quarantine.read(by_reason["unknown_schema"].quarantine) == b"not a record"  # type: ignore[attr-defined]
    assert b"not a record" not in b"".join(one.value for one in stored(settings, settings.topic("flywheel.quarantine")))
    quarantine.close()


class Faulty(Tally):
    """Raises what nobody expects, once, in the middle of a batch."""

    fault = True

    def step(self, event: Event, state: KeyState) -> Iterable[Record]:
        assert isinstance(event.record, RawSignal)
        if event.record.payload == "77" and Faulty.fault:
            Faulty.fault = False
            raise RuntimeError("planted")
        yield from super().step(event, state)


def test_a_stage_that_raises_ends_the_worker_and_loses_nothing(settings: KafkaSettings, tmp_path: Path) -> None:
    Faulty.fault = True
    feed(settings, some(0, 200))
    with working([Faulty()], lane_settings(settings, tmp_path, Clock()), batch=20) as worker:
        until(lambda: worker.failed)
    assert not exact(settings, 200)
    with working([Faulty()], lane_settings(settings, tmp_path, Clock()), batch=20):
        until(lambda: exact(settings, 200))


def test_what_was_not_committed_is_not_read(settings: KafkaSettings, tmp_path: Path) -> None:
    producer = Producer(client_options(settings) | {"transactional.id": f"{settings.prefix}other"})
    producer.init_transactions(30)
    for agent, commits in (("given-up", False), ("a0", True)):
        producer.begin_transaction()
        producer.produce(settings.topic(SIGNALS_RAW), codec.encode(raw(0 if commits else 1, agent)), partition=0)
        if commits:
            producer.commit_transaction(30)
        else:
            producer.flush(30)
            producer.abort_transaction(30)
    with working([Tally()], lane_settings(settings, tmp_path, Clock())):
        until(lambda: len(records(settings, LEDGER)) == 1)
    assert counts(settings) == {"a0": [1]}


@pytest.mark.parametrize("codec_name", ["gzip", "snappy", "lz4", "zstd"])
def test_every_compression_is_read(settings: KafkaSettings, tmp_path: Path, codec_name: str) -> None:
    feed(settings, some(0, 50), **{"compression.type": codec_name})
    with working([Tally()], lane_settings(settings, tmp_path, Clock())):
        until(lambda: exact(settings, 50))


def test_a_second_worker_joins_and_leaves(settings: KafkaSettings, tmp_path: Path) -> None:
    stages = [Tally(), Echo()]
    with working(stages, lane_settings(settings, tmp_path / "one", Clock()), batch=20) as first:
        feed(settings, some(0, 200))
        with working([Tally(), Echo()], lane_settings(settings, tmp_path / "two", Clock()), batch=20) as second:
            feed(settings, some(200, 400))
            until(lambda: first.ready and second.ready)
            held = [{w.stage.name: set(w.runners) for w in worker.workers} for worker in (first, second)]
            for name in ("tally", "echo"):
                assert (held[0][name] | held[1][name], held[0][name] & held[1][name]) == ({0, 1, 2}, set())
            feed(settings, some(400, 600))
        feed(settings, some(600, 700))
        until(lambda: exact(settings, 700))
        until(lambda: len(records(settings, ERASURES)) >= 700)
    assert len({record.event_id for record in records(settings, ERASURES)}) == 700
    assert len(records(settings, ERASURES)) == 700


def test_a_worker_without_partitions_is_ready_and_stops(settings: KafkaSettings, tmp_path: Path) -> None:
    with (
        working([Echo()], lane_settings(settings, tmp_path / "1", Clock())),
        working([Echo()], lane_settings(settings, tmp_path / "2", Clock())),
        working([Echo()], lane_settings(settings, tmp_path / "3", Clock())),
        working([Echo()], lane_settings(settings, tmp_path / "4", Clock())) as fourth,
    ):
        assert fourth.ready


def test_timers_run_on_the_workers_clock(settings: KafkaSettings, tmp_path: Path) -> None:
    clock = Clock()
    feed(settings, some(0, AGENTS))
    with working([Tally()], lane_settings(settings, tmp_path, clock)) as worker:
        until(lambda: len(records(settings, LEDGER)) == AGENTS)
        assert worker.due(T0) == 0
        assert worker.due(T0 + timedelta(minutes=1)) == AGENTS
        clock.now += timedelta(minutes=1)
        until(lambda: len(records(settings, LEDGER)) == 2 * AGENTS)
        until(lambda: worker.due(clock.now) == 0)
    assert set(map(tuple, counts(settings).values())) == {(1, -1)}


def test_the_group_stands_where_the_lanes_stand(settings: KafkaSettings, tmp_path: Path) -> None:
    feed(settings, some(0, 100))
    with working([Tally()], lane_settings(settings, tmp_path, Clock())) as worker:
        until(lambda: exact(settings, 100))
        lanes = worker.positions()["tally"]
    consumer = Consumer(client_options(settings) | {"group.id": settings.group("tally")})
    places = [TopicPartition(topic, n) for n, topics in lanes.items() for topic in topics]
    found = {(p.topic, p.partition): p.offset for p in consumer.committed(places, timeout=30)}
    consumer.close()
    assert found == {(topic, n): at for n, topics in lanes.items() for topic, at in topics.items()}
    assert {topic for topic, _ in found} == {settings.topic(SIGNALS_RAW), settings.inbox("tally")}


def test_names_time_outs_and_the_web_server_are_ours(settings: KafkaSettings) -> None:
    app = make_app(Tally(), settings)
    app.finalize()
    assert app.conf.id == settings.group("tally")
    assert (app.conf.web_enabled, app.conf.topic_disable_leader, app.conf.topic_allow_declare) == (False, True, False)
    assert app.conf.broker_session_timeout == SESSION_SECONDS < 60
    assert (Tally.linger, app.fetch_wait_ms) == (0.25, 250)
    assert (Learn.linger, make_app(Learn(), settings).fetch_wait_ms) == (10.0, 2500)


def test_nothing_listens_but_on_loopback(settings: KafkaSettings, tmp_path: Path) -> None:
    with working([Tally()], lane_settings(settings, tmp_path, Clock())):
        mine = {str(link.readlink()) for link in Path("/proc/self/fd").iterdir() if link.is_symlink()}
        rows = [line.split() for line in Path("/proc/self/net/tcp").read_text().splitlines()[1:]]
    listening = [row[1][:8] for row in rows if row[3] == "0A" and f"socket:[{row[9]}]" in mine]
    addresses = [socket.inet_ntoa(bytes.fromhex(address)[::-1]) for address in listening]
    assert not [address for address in addresses if not address.startswith("127.")]


def test_killed_again_and_again_it_counts_exactly(settings: KafkaSettings, tmp_path: Path) -> None:
    """A child process works on batches of 5 and is killed -9 at four moments; its folder is lost once."""
    feed(settings, some(0, 600))
    for number in range(5):
        folder = tmp_path / ("lost" if number < 2 else "kept")
        command = [sys.executable, str(CHILD), settings.brokers, settings.prefix, str(folder)]
        child = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        try:
            goal = 100 * (number + 1) if number < 4 else 700
            until(lambda g=goal: len(records(settings, LEDGER)) >= g)
            if number == 2:
                feed(settings, some(600, 700))
        finally:
            child.send_signal(signal.SIGKILL)
            child.wait()
    assert exact(settings, 700)


@pytest.fixture
def own_cluster(kafka_cluster: Callable[[], Cluster]) -> tuple[Cluster, KafkaSettings]:
    """A broker that a test may kill, with the topics."""
    cluster = kafka_cluster()
    settings = KafkaSettings(brokers=cluster.bootstrap, prefix="own.", partitions=3)
    make_topics(settings, [Tally])
    return cluster, settings


def test_after_a_brokers_kill_transactions_go_on(own_cluster: tuple[Cluster, KafkaSettings], tmp_path: Path) -> None:
    """What is under way when the only broker dies ends, or is done again, as soon as it is back."""
    cluster, settings = own_cluster
    stop, sent = threading.Event(), [0]

    def load() -> None:
        while not stop.is_set():
            feed(settings, some(sent[0], sent[0] + 10), **{"enable.idempotence": True})
            sent[0] += 10

    with working([Tally()], lane_settings(settings, tmp_path / "state", Clock())):
        thread = threading.Thread(target=load)
        thread.start()
        try:
            until(lambda: len(records(settings, LEDGER)) > 200)
            cluster.kill(1)
            cluster.restart(1)
            before = len(records(settings, LEDGER))
            until(lambda: len(records(settings, LEDGER)) > before + 200)
        finally:
            stop.set()
            thread.join()
        until(lambda: exact(settings, sent[0]))


def test_a_worker_waits_for_the_brokers(own_cluster: tuple[Cluster, KafkaSettings], tmp_path: Path) -> None:
    cluster, settings = own_cluster
    feed(settings, some(0, 50))
    cluster.kill(1)
    lanes = lane_settings(settings, tmp_path / "state", Clock())
    worker = Worker([Tally()], lanes, WorkerSettings(tick_seconds=0.05), lambda _: lanes.clock())
    thread = threading.Thread(target=lambda: asyncio.run(worker.run()))
    thread.start()
    try:
        time.sleep(3 * RETRY_SECONDS)
        assert not worker.ready
        assert not worker.failed
        cluster.restart(1)
        until(lambda: exact(settings, 50))
    finally:
        worker.stop()
        thread.join()
