"""The brokers that tests run on: they keep what they acknowledged, end with us, and say what they lack."""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from confluent_kafka import Consumer, KafkaException, Message, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from connectors.kafka.settings import KafkaSettings, client_options
from schemas.errors import Refused
from tests import brokers, kafka_jars
from tests.brokers import Cluster, Listener
from tests.driftwheel.engine_kit import until
from tests.machine import NotHere, docker_answers, free_ports

StartCluster = Callable[..., Cluster]


def make_topic(bootstrap: str, name: str, partitions: int = 1) -> None:
    admin = brokers.quiet_admin(bootstrap)  # held until it is done: what a client has begun ends with it
    for done in admin.create_topics([NewTopic(name, partitions)]).values():
        done.result()


def topics(bootstrap: str) -> set[str]:
    return set(brokers.quiet_admin(bootstrap).list_topics(timeout=30).topics)


def produce(bootstrap: str, topic: str, values: list[bytes], seconds: float = 60) -> set[bytes]:
    """What the broker acknowledged."""
    acknowledged: set[bytes] = set()

    def on_delivery(error: object, message: Message) -> None:
        if error is None:
            acknowledged.add(message.value())

    producer = Producer(
        {"bootstrap.servers": bootstrap, "acks": "all", "message.timeout.ms": int(seconds * 1000), "log_level": 0}
    )
    for value in values:
        producer.produce(topic, value, on_delivery=on_delivery)
    producer.flush()
    return acknowledged


def read(bootstrap: str, topic: str) -> list[bytes]:
    """Everything in partition 0, from its beginning to its end."""
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": "reader", "log_level": 0})
    partition = TopicPartition(topic, 0, 0)
    _, end = consumer.get_watermark_offsets(partition, timeout=60)
    consumer.assign([partition])
    found: list[Message] = []
    while len(found) < end:
        found += consumer.consume(end - len(found), timeout=60)
    consumer.close()
    assert not [message.error() for message in found if message.error()]
    return [message.value() for message in found]


def numbered(first: int, end: int) -> list[bytes]:
    return [b"%d" % number for number in range(first, end)]


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A machine with nothing on it; the folder is all of its PATH."""
    for name in (brokers.ADDRESS, brokers.NODES, "JAVA_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/nobody.sock")
    (tmp_path / "bin").mkdir()
    return tmp_path / "bin"


def program(folder: Path, name: str, body: str) -> None:
    (folder / name).write_text(f"#!/bin/sh\n{body}\n")
    (folder / name).chmod(0o755)


def test_a_killed_broker_keeps_what_it_acknowledged(kafka_cluster: StartCluster) -> None:
    cluster = kafka_cluster()
    make_topic(cluster.bootstrap, "kept")
    before = produce(cluster.bootstrap, "kept", numbered(0, 2000))
    old = cluster.pids
    cluster.kill(1)
    assert cluster.pids == {}
    cluster.restart(1)
    assert cluster.pids != old
    after = produce(cluster.bootstrap, "kept", numbered(2000, 2100))
    assert len(before) == 2000
    assert len(after) == 100
    assert set(read(cluster.bootstrap, "kept")) == before | after


def test_three_nodes_survive_one_and_refuse_to_acknowledge_alone(kafka_cluster: StartCluster) -> None:
    cluster = kafka_cluster(nodes=3)
    make_topic(cluster.bootstrap, "kept")
    before = produce(cluster.bootstrap, "kept", numbered(0, 500))
    cluster.stop(1)
    assert set(cluster.pids) == {2, 3}
    without_one = produce(cluster.bootstrap, "kept", numbered(500, 600))
    cluster.kill(2)
    alone = produce(cluster.bootstrap, "kept", numbered(600, 601), seconds=3)
    cluster.restart(2)
    cluster.restart(1)
    cluster.settle()
    assert (len(before), len(without_one), len(alone)) == (500, 100, 0)
    assert before | without_one <= set(read(cluster.bootstrap, "kept"))


def test_a_second_start_in_a_folder_is_refused(kafka_cluster: StartCluster) -> None:
    cluster = kafka_cluster()
    with pytest.raises(Refused, match="holds a Kafka cluster already; give each start an empty folder"):
        Cluster(cluster.folder).start()
    with pytest.raises(Refused, match="holds a Kafka cluster already"):
        cluster.start()
    assert set(cluster.pids) == {1}
    make_topic(cluster.bootstrap, "still_there")


def test_a_listener_with_passwords_that_are_made_between_format_and_start(kafka_cluster: StartCluster) -> None:
    prepared: list[str] = []
    cluster = kafka_cluster(
        listeners=[Listener("SCRAM", "SASL_PLAINTEXT", {"sasl.enabled.mechanisms": "SCRAM-SHA-512",
            "scram-sha-512.sasl.jaas.config": "org.apache.kafka.common.security.scram.ScramLoginModule required;"})],
        format_arguments=["--add-scram", "SCRAM-SHA-512=[name=ada,password=sesame]"],
        prepare=lambda made: prepared.append(made.tool("kafka.tools.StorageTool", "info", "--config",
                                                       str(made.nodes[1].config))),
    )  # fmt: skip
    assert cluster.id in prepared[0]
    address = cluster.address("SCRAM")
    known = KafkaSettings(brokers=address, protocol="SASL_PLAINTEXT", username="ada", password="sesame")
    wrong = KafkaSettings(brokers=address, protocol="SASL_PLAINTEXT", username="ada", password="guess")
    quiet = {"log_level": 0, "error_cb": lambda _: None}
    assert AdminClient({**client_options(known), **quiet}).list_topics(timeout=30).brokers
    with pytest.raises(KafkaException):
        AdminClient({**client_options(wrong), **quiet}).list_topics(timeout=2)


def test_a_node_that_does_not_start_says_why(kafka_cluster: StartCluster) -> None:
    with pytest.raises(Refused, match=r"node 1 ended at its start(?s:.)*no\.such\.Authorizer"):
        kafka_cluster(extra_properties={"authorizer.class.name": "no.such.Authorizer"})


def test_no_broker_outlives_the_process_that_started_it(
    kafka_cluster: StartCluster, root: Path, tmp_path: Path
) -> None:
    script = f"""
        import sys, threading
        from pathlib import Path
        from tests.brokers import Cluster
        cluster = Cluster(Path({str(tmp_path / "orphan")!r}))
        starter = threading.Thread(target=cluster.start)
        starter.start()
        starter.join()
        print(cluster.pids[1], cluster.bootstrap, flush=True)
        sys.stdin.read()
    """
    parent = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script)], cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with parent:
        pid, address = parent.stdout.readline().decode().split()
        broker = os.pidfd_open(int(pid))
        assert "__cluster_metadata" not in topics(address)  # it answers, although the thread that started it ended
        ended = select.poll()  # which takes any descriptor, unlike select
        ended.register(broker, select.POLLIN)
        assert ended.poll(0) == []
        parent.send_signal(signal.SIGKILL)
        assert ended.poll(60_000) == [(broker, select.POLLIN)]
    os.close(broker)


def test_the_shared_broker_answers(kafka: str) -> None:
    assert brokers.quiet_admin(kafka).list_topics(timeout=30).brokers


def test_the_shared_three_answer(kafka_three: str) -> None:
    assert len(brokers.quiet_admin(kafka_three).list_topics(timeout=30).brokers) == 3


def test_a_test_finds_its_own_topics_only_and_they_are_deleted(kafka: str, kafka_settings: KafkaSettings) -> None:
    make_topic(kafka, kafka_settings.topic("a"))
    make_topic(kafka, f"not_{kafka_settings.prefix}a")
    brokers.forget(kafka, kafka_settings.prefix)
    until(lambda: kafka_settings.topic("a") not in topics(kafka))  # brokers hear of it a moment later
    assert f"not_{kafka_settings.prefix}a" in topics(kafka)
    brokers.forget(kafka, f"not_{kafka_settings.prefix}")


def test_a_broker_in_the_environment_is_taken(kafka: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(brokers.ADDRESS, kafka)
    monkeypatch.delenv(brokers.NODES, raising=False)
    with brokers.open_kafka(tmp_path / "unused") as address:
        assert address == kafka
    assert not (tmp_path / "unused").exists()
    assert "3 are needed (DRIFTWHEEL_TEST_KAFKA_NODES)" in brokers.why_not(3)
    monkeypatch.setenv(brokers.NODES, "3")
    assert brokers.why_not(3) == ""


def test_a_broker_in_the_environment_that_is_away_is_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    [port] = free_ports(1)
    monkeypatch.setenv(brokers.ADDRESS, f"127.0.0.1:{port}")
    monkeypatch.setattr(brokers, "ANSWER_SECONDS", 1)
    with pytest.raises(Refused, match=f"127.0.0.1:{port} does not answer") as failure, brokers.open_kafka(tmp_path):
        pass
    assert not isinstance(failure.value, NotHere)


def test_a_bare_machine_is_told_what_to_install(bare: Path) -> None:
    for nodes in (1, 3):
        why = brokers.why_not(nodes)
        assert "no `java` on the PATH" in why
        assert "apt-get install openjdk-17-jre-headless maven" in why
        assert "`make kafka`" in why
        assert "DRIFTWHEEL_TEST_KAFKA=host:port" in why
    with pytest.raises(NotHere, match="no Kafka broker for tests"), brokers.open_kafka(bare):
        pass


@pytest.mark.parametrize(
    ("java", "maven", "why"),
    [
        ("11.0.2", True, "is Java 11, 17 is needed"),
        ("1.8.0_402", True, "is Java 8, 17 is needed"),
        ("17.0.15", False, "no `mvn` on the PATH to fetch them"),
        ("21", True, ""),
    ],
)
def test_each_missing_part_is_named(bare: Path, java: str, maven: bool, why: str) -> None:
    program(bare, "java", f"""echo 'openjdk version "{java}" 2025-01-01' >&2""")
    if maven:
        program(bare, "mvn", "exit 0")
    found = brokers.why_not()
    assert why in found
    assert bool(found) == bool(why)


def test_tests_on_a_bare_machine_skip_with_that_reason(bare: Path, root: Path) -> None:
    probes = [
        "test_the_shared_broker_answers",
        "test_the_shared_three_answer",
        "test_a_second_start_in_a_folder_is_refused",
    ]
    names = [f"tests/test_brokers.py::{probe}" for probe in probes]
    options = ["-q", "-rs", "-p", "no:cacheprovider", "--color=no"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, *names], cwd=root, capture_output=True, text=True, check=False
    )
    assert "3 skipped" in done.stdout
    assert done.returncode == 0
    assert done.stdout.count("apt-get install openjdk-17-jre-headless maven") == 3


FAKE_MAVEN = """
echo called >> {calls}
for argument in "$@"; do case "$argument" in -DoutputDirectory=*) out=${{argument#*=}} ;; esac; done
/bin/mkdir "$out"
echo half > "$out/one.jar"
{then}
echo whole > "$out/two.jar"
"""


def fake_maven(bare: Path, then: str = "") -> Path:
    program(bare, "java", """echo 'openjdk version "17.0.1"' >&2""")
    program(bare, "mvn", FAKE_MAVEN.format(calls=bare / "calls", then=then))
    return bare / "calls"


def test_jars_appear_only_when_all_are_there(bare: Path) -> None:
    fake_maven(bare, then="echo '[ERROR] mirror away: 503'; exit 1")
    with pytest.raises(NotHere, match=r"Maven could not fetch Apache Kafka .*mirror away: 503"):
        kafka_jars.fetch()
    assert [left.name for left in kafka_jars.folder().parent.iterdir() if left.is_dir()] == []
    fake_maven(bare)
    assert {jar.name for jar in kafka_jars.fetch().iterdir()} == {"one.jar", "two.jar"}


def test_two_at_once_fetch_once(bare: Path) -> None:
    fake_maven(bare, then="/bin/sleep 0.2")
    threads = [threading.Thread(target=kafka_jars.fetch) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (bare / "calls").read_text().split() == ["called"]


@pytest.fixture
def engine(bare: Path) -> Iterator[Callable[[bytes], None]]:
    """Something at the address of Docker's engine, which gives one answer."""
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(bare.parent / "nobody.sock"))
        listening.listen()

        def answer(reply: bytes) -> None:
            caller, _ = listening.accept()
            with caller:
                caller.recv(1024)
                caller.sendall(reply)

        threads: list[threading.Thread] = []

        def start(reply: bytes) -> None:
            threads.append(threading.Thread(target=answer, args=(reply,)))
            threads[-1].start()

        yield start
        for thread in threads:
            thread.join()


@pytest.mark.parametrize(("status", "answers"), [("200 OK", True), ("503 Service Unavailable", False)])
def test_an_engine_counts_when_it_answers(engine: Callable[[bytes], None], status: str, answers: bool) -> None:
    engine(f"HTTP/1.0 {status}\r\n\r\nOK".encode())
    assert docker_answers() is answers


def test_ports_are_free_and_different() -> None:
    ports = free_ports(6)
    assert len(set(ports)) == 6
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", ports[0]))
        taken.listen()
        assert ports[0] not in free_ports(200)
