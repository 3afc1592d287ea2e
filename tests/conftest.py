"""What every test may ask for."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Any

import pytest

from connectors.kafka.settings import KafkaSettings
from tests import brokers, kafka_jars
from tests.machine import NotHere

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="session")
def root() -> Path:
    """The top of the repository."""
    return ROOT


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real data that lies beside the repository on some machines."""
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("no ../shared/data beside the repository: real data sets are not part of it")
    return folder


def _opened(opening: AbstractContextManager[str]) -> Iterator[str]:
    """Skips when this machine lacks what it takes; what is promised and does not come up is an error."""
    with ExitStack() as stack:
        try:
            found = stack.enter_context(opening)
        except NotHere as no:
            pytest.skip(str(no))
        yield found


@pytest.fixture(scope="session")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of one real Kafka broker, which all tests share: stay inside a prefix (`kafka_settings`)."""
    yield from _opened(brokers.open_kafka(tmp_path_factory.mktemp("kafka")))


@pytest.fixture(scope="session")
def kafka_three(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a real cluster of three nodes, which all tests share."""
    yield from _opened(brokers.open_kafka(tmp_path_factory.mktemp("kafka-three"), 3))


@pytest.fixture
def kafka_settings(kafka: str) -> Iterator[KafkaSettings]:
    """The shared broker under a prefix of this test's own; its topics are deleted afterwards."""
    made = KafkaSettings(brokers=kafka, prefix=f"t{uuid.uuid4().hex[:10]}.", partitions=3)
    yield made
    brokers.forget(kafka, made.prefix)


@pytest.fixture
def kafka_cluster(tmp_path: Path) -> Iterator[Callable[..., brokers.Cluster]]:
    """Starts clusters of this test's own, to be killed and restarted; takes what `Cluster` takes after its folder."""
    try:
        kafka_jars.fetched()
    except NotHere as no:
        pytest.skip(str(no))
    made: list[brokers.Cluster] = []

    def start(nodes: int = 1, **options: Any) -> brokers.Cluster:
        made.append(brokers.Cluster(tmp_path / f"kafka-{len(made) + 1}", nodes, **options))
        return made[-1].start()

    yield start
    for cluster in made:
        cluster.close()


@pytest.fixture(scope="session")
def clickhouse_url() -> Iterator[str]:
    """The address of a ClickHouse server, with the name and password that are good there."""
    from tests.store import open_server

    yield from _opened(open_server())
