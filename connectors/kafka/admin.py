"""Asking a cluster about itself: every call has an end, and every failure a meaning (``connectors.kafka.failures``)."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, TypeVar, cast

from confluent_kafka import Consumer, IsolationLevel, KafkaError, KafkaException, TopicCollection
from confluent_kafka import TopicPartition as KafkaPlace
from confluent_kafka.admin import (
    AdminClient,
    AlterConfigOpType,  # pyright: ignore[reportPrivateImportUsage]  # the documented place, missing in its __all__
    ConfigEntry,  # pyright: ignore[reportPrivateImportUsage]
    ConfigResource,  # pyright: ignore[reportPrivateImportUsage]
    NewTopic,  # pyright: ignore[reportPrivateImportUsage]
    OffsetSpec,  # pyright: ignore[reportPrivateImportUsage]
    ResourceType,  # pyright: ignore[reportPrivateImportUsage]
)

from connectors.kafka.failures import AWAY, away, is_final, meaning, shut_out, unusable
from connectors.kafka.settings import KafkaSettings, client_options
from schemas.errors import DriftwheelError

CALL_SECONDS = 10.0
"""How long a call may take."""
_SLICE = 0.05
_ASKING = 2.0
"""How long a group's coordinator is waited for before looking why."""
_TOPIC = ResourceType.TOPIC
_MOVING = frozenset({
    KafkaError.NOT_COORDINATOR, KafkaError.COORDINATOR_NOT_AVAILABLE, KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
    KafkaError._WAIT_COORD, KafkaError._TIMED_OUT,
})  # fmt: skip

Place = tuple[str, int]
"""A topic, as on the cluster, and a partition of it."""
Item = TypeVar("Item")
Key = TypeVar("Key")


@dataclass(frozen=True, slots=True)
class Partition:
    """A partition as the cluster has it: how many replicas, how many of them in sync, whether it has a leader."""

    number: int
    replicas: int
    in_sync: int
    led: bool


def committed(consumer: Consumer, places: list[KafkaPlace], seconds: float) -> list[KafkaPlace]:
    """Where the consumer's group goes on; negative offsets where it has not begun. Raises KafkaException.

    ``consumer`` asks and is no member: librdkafka 2.16's own call for it (list_consumer_group_offsets) ends the process
    (a null pointer) when it meets a coordinator that has just moved or is loading. Such a one is asked again, for
    ``seconds``. A missing right is told by ``poll`` alone.
    """
    deadline = time.monotonic() + seconds
    while True:
        try:
            found = consumer.committed(places, timeout=min(_ASKING, seconds))
            break
        except KafkaException as error:
            told = consumer.poll(0)
            no = told.error() if told is not None else None
            if no is not None and no.code() == KafkaError.GROUP_AUTHORIZATION_FAILED:
                raise KafkaException(no) from error
            if error.args[0].code() not in _MOVING or time.monotonic() > deadline:
                raise
            time.sleep(_SLICE)
    for one in found:
        if one.error is not None:
            raise KafkaException(one.error)
    return found


class Admin:
    """A cluster's administration. Raises UsageError when the settings cannot be used (a file that is not there).

    ``seconds``: how long each call may take. Every call raises Retry when no broker answers in that time, Refused when
    the brokers do not let us in or a right is missing. Names are those on the cluster.
    """

    def __init__(self, settings: KafkaSettings, seconds: float = CALL_SECONDS) -> None:
        self.settings, self.seconds = settings, seconds
        self._heard = _Heard()
        options: dict[str, Any] = client_options(settings) | {"error_cb": self._heard.note, "log_level": 0}
        try:
            self._client = AdminClient(options)
        except KafkaException as error:
            raise unusable(error.args[0]) from error

    def topics(self, names: Sequence[str]) -> dict[str, list[Partition]]:
        """The partitions of the topics that are there, in the order of ``names``. Right: Describe."""
        futures = self._client.describe_topics(TopicCollection(list(names)), **self._times) if names else {}
        there: dict[str, list[Partition]] = {}
        for name, result in self._all(futures).items():
            if not isinstance(result, KafkaError):
                there[name] = [_partition(one) for one in result.partitions]
            elif result.code() != KafkaError.UNKNOWN_TOPIC_OR_PART:
                raise meaning(self.settings, result, f"topic {name}", "Describe")
        return {name: there[name] for name in names if name in there}

    def configs(self, names: Sequence[str]) -> dict[str, dict[str, str]]:
        """The settings in force of topics that are there. Right: DescribeConfigs."""
        asked = [ConfigResource(_TOPIC, name) for name in names]
        futures = self._client.describe_configs(asked, **self._times) if asked else {}
        found: dict[str, dict[str, str]] = {}
        for resource, result in self._all(futures).items():
            if isinstance(result, KafkaError):
                raise meaning(self.settings, result, f"topic {resource.name}", "DescribeConfigs")
            found[resource.name] = {name: entry.value or "" for name, entry in result.items()}
        return found

    def create(self, topics: Sequence[tuple[str, int, int, Mapping[str, str]]]) -> dict[str, KafkaError]:
        """Create topics (name, partitions, replication or 0, settings); returns those that failed. Right: Create."""
        new = [
            NewTopic(name, num_partitions=partitions, replication_factor=replication or -1, config=dict(config))
            for name, partitions, replication, config in topics
        ]
        futures = self._client.create_topics(new, operation_timeout=self.seconds, **self._times) if new else {}
        return {name: result for name, result in self._all(futures).items() if isinstance(result, KafkaError)}

    def alter(self, changes: Mapping[str, Mapping[str, str]]) -> None:
        """Set some settings of topics, the others stay. Right: AlterConfigs."""
        to_set = AlterConfigOpType.SET
        resources = [
            ConfigResource(_TOPIC, name, incremental_configs=[
                ConfigEntry(setting, value, incremental_operation=to_set) for setting, value in config.items()
            ])
            for name, config in changes.items()
        ]  # fmt: skip
        futures = self._client.incremental_alter_configs(resources, **self._times) if resources else {}
        for resource, result in self._all(futures).items():
            if isinstance(result, KafkaError):
                raise meaning(self.settings, result, f"topic {resource.name}", "AlterConfigs")

    def first(self, places: Sequence[Place]) -> dict[Place, int]:
        """The first offset that is still there. Partitions whose leader has just gone are left out."""
        return self._offsets(places, OffsetSpec.earliest(), IsolationLevel.READ_UNCOMMITTED)

    def last(self, places: Sequence[Place], *, committed: bool = False) -> dict[Place, int]:
        """The offset after the last; ``committed``: after the last that a reader of committed records may see."""
        level = IsolationLevel.READ_COMMITTED if committed else IsolationLevel.READ_UNCOMMITTED
        return self._offsets(places, OffsetSpec.latest(), level)

    def _offsets(self, places: Sequence[Place], spec: object, level: IsolationLevel) -> dict[Place, int]:
        asked = {KafkaPlace(*place): cast("OffsetSpec", spec) for place in places}
        futures = self._client.list_offsets(asked, isolation_level=level, **self._times) if asked else {}
        return {
            (place.topic, place.partition): result.offset
            for place, result in self._all(futures).items()
            if not isinstance(result, KafkaError) and result.offset >= 0  # a broker that comes back may not know yet
        }

    def committed(self, group: str, places: Sequence[Place]) -> dict[Place, int]:
        """Where a consumer group goes on, by what it has committed. Right: Describe of the group."""
        consumer = Consumer(client_options(self.settings) | {"group.id": group, "log_level": 0})
        try:
            found = committed(consumer, [KafkaPlace(*place) for place in places], self.seconds)
        except KafkaException as error:
            raise self._why(error.args[0], f"group {group}") from error
        finally:
            consumer.close()
        return {(one.topic, one.partition): one.offset for one in found if one.offset >= 0}

    def _why(self, error: KafkaError, subject: str) -> DriftwheelError:
        if error.code() < 0 and error.code() in AWAY:
            return away(self.settings, error, self.seconds)
        return meaning(self.settings, error, subject, "Describe")

    @property
    def _times(self) -> dict[str, float]:
        return {"request_timeout": self.seconds}

    def _all(self, futures: Mapping[Key, Future[Item]]) -> dict[Key, Item | KafkaError]:
        """What each request came to; an error is a broker's about that one item."""
        return {key: self._wait(future) for key, future in futures.items()}

    def _wait(self, future: Future[Item]) -> Item | KafkaError:
        deadline = time.monotonic() + self.seconds + 1
        while time.monotonic() < deadline:
            try:
                return future.result(_SLICE)
            except TimeoutError:
                self._look()
            except KafkaException as error:
                self._look()
                found: KafkaError = error.args[0]
                if found.code() < 0 and found.code() in AWAY:
                    raise away(self.settings, self._heard.last or found, self.seconds) from error
                return found
        raise away(self.settings, self._heard.last, self.seconds)

    def _look(self) -> None:
        """What the callbacks had to say."""
        self._client.poll(0)
        if self._heard.final is not None:
            raise shut_out(self.settings, self._heard.final)


class _Heard:
    """What a client's callback was told.

    The client holds it, so it must not hold the client: the end of a client, which has threads, must not be left to the
    garbage collector, which may run in one of them.
    """

    def __init__(self) -> None:
        self.last: KafkaError | None = None
        self.final: KafkaError | None = None

    def note(self, error: KafkaError) -> None:
        if error.code() != KafkaError._ALL_BROKERS_DOWN:
            self.last = error
        if is_final(error):
            self.final = error


def _partition(found: Any) -> Partition:
    led = found.leader is not None and found.leader.id >= 0
    return Partition(found.id, len(found.replicas), len(found.isr), led)
