"""A real Kafka broker for tests, benchmarks and chaos scripts: found, or started on this machine.

The order: the address in ``DRIFTWHEEL_TEST_KAFKA``; Docker; Apache Kafka's own jars (``tests/kafka_jars.py``, run by
``tests/cluster.py``). :func:`why_not` says what to install when none of them is there.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from confluent_kafka import KafkaException

from schemas.errors import Refused
from tests import kafka_jars
from tests.cluster import READY_SECONDS, Cluster, Listener, Node, common_properties, quiet_admin
from tests.machine import NotHere, container, docker_answers, free_ports

__all__ = [
    "Cluster", "Listener", "Node", "NotHere", "common_properties", "docker_answers", "forget", "free_ports",
    "open_kafka", "quiet_admin", "why_not",
]  # fmt: skip

ADDRESS = "DRIFTWHEEL_TEST_KAFKA"
NODES = "DRIFTWHEEL_TEST_KAFKA_NODES"
IMAGE = f"apache/kafka:{kafka_jars.VERSION}"
ANSWER_SECONDS = 30


def why_not(nodes: int = 1) -> str:
    """Why there is no broker with so many nodes for tests, and what to install; empty when there is one.

    Kafka's jars or an image may still have to be fetched, which can fail: :func:`open_kafka` says that.
    """
    if address := os.environ.get(ADDRESS):
        known = os.environ.get(NODES, "1")
        return "" if int(known) >= nodes else f"{ADDRESS}={address} has {known} node(s), {nodes} are needed ({NODES})"
    if nodes == 1 and docker_answers():
        return ""
    missing = kafka_jars.why_not()
    return missing and _way_out(missing, nodes)


@contextmanager
def open_kafka(folder: Path, nodes: int = 1) -> Iterator[str]:
    """The address of a broker, found or started in the stated order; what was started is gone afterwards.

    Raises NotHere with :func:`why_not`, Refused when a broker that was promised does not answer.
    """
    if why := why_not(nodes):
        raise NotHere(why)
    with ExitStack() as stack:
        if address := os.environ.get(ADDRESS):
            yield _answering(address, ANSWER_SECONDS)
        elif docker := _docker(stack) if nodes == 1 else "":
            yield docker
        else:
            yield stack.enter_context(Cluster(folder, nodes)).bootstrap


def forget(bootstrap: str, prefix: str) -> None:
    """Delete every topic whose name begins so."""
    admin = quiet_admin(bootstrap)
    mine = [name for name in admin.list_topics(timeout=30).topics if name.startswith(prefix)]
    for done in admin.delete_topics(mine).values() if mine else ():
        done.result()


def _way_out(missing: str, nodes: int) -> str:
    docker = "no Docker engine answers" if nodes == 1 else "Docker is not used for clusters"
    return (
        f"no Kafka broker for tests: {ADDRESS} names none, {docker}, and Apache Kafka {kafka_jars.VERSION} "
        f"cannot be run from its jars: {missing}. Install {kafka_jars.INSTALL}, then `make kafka`; "
        f"or start Docker; or set {ADDRESS}=host:port"
    )


def _answering(address: str, seconds: float) -> str:
    try:
        quiet_admin(address).list_topics(timeout=seconds)
    except KafkaException as error:
        raise Refused(f"the Kafka broker at {address} does not answer: {error.args[0].str()}") from error
    return address


def _docker(stack: ExitStack) -> str:
    """The address of a broker in a container; empty when there is no engine, or it has no image and the jars serve."""
    if not docker_answers():
        return ""
    try:
        return stack.enter_context(_kafka_container())
    except NotHere:
        if kafka_jars.why_not():
            raise
        return ""


@contextmanager
def _kafka_container() -> Iterator[str]:
    [port] = free_ports(1)
    properties = {
        **common_properties(1),
        "node.id": "1",
        "controller.quorum.voters": "1@localhost:9093",
        "listeners": "PLAINTEXT://0.0.0.0:9092,CONTROLLER://localhost:9093",
        "advertised.listeners": f"PLAINTEXT://127.0.0.1:{port}",
        "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
    }
    variables = {"KAFKA_" + name.upper().replace(".", "_"): value for name, value in properties.items()}
    with container(IMAGE, 9092, port, CLUSTER_ID=kafka_jars.cluster_id(), **variables):
        yield _answering(f"127.0.0.1:{port}", READY_SECONDS)


def main() -> int:
    """`python -m tests.brokers`: fetch Kafka's jars; the exit code says whether they are there."""
    try:
        sys.stdout.write(f"Apache Kafka {kafka_jars.VERSION} is in {kafka_jars.fetch()}\n")
    except Refused as no:
        sys.stderr.write(f"{no}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
