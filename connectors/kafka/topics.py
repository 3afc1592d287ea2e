"""What has to be on the cluster: every topic, as values; how the cluster differs; how it comes to agree.

All topics have the same number of partitions: partition *n* of a stage's sources, inbox and state is one lane.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from types import MappingProxyType
from typing import Literal

from confluent_kafka import KafkaError

from connectors.kafka.admin import Admin, Partition, Place
from connectors.kafka.failures import meaning
from connectors.kafka.settings import KafkaSettings
from schemas.errors import DriftwheelError, Refused, Retry
from schemas.topics import TOPICS, Topic

QUARANTINE = "flywheel.quarantine"
"""The topic of encrypted payloads that could not be read or cleaned; its retention is that of dead letters."""
RAW_STAGES = ("redact",)
"""The stages that read raw topics: what waits in their inboxes may not outlive its source."""
MAX_MESSAGE_BYTES = 32 << 20
"""Of every topic. The gateway takes 16 MiB; envelopes, encryption and Avro add to it.

One number for all: a record that fits into one topic must fit into those that it causes, or its lane would stand still.
"""
APPLY_SECONDS = 30.0
"""How long ``apply`` waits for the brokers to have done what they were told."""
_GLANCE = 0.05
_DAY = timedelta(days=1)
_HOUR = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class Wanted:
    """A topic as it has to be; ``name`` as on the cluster, ``replication`` 0: the cluster's default."""

    name: str
    partitions: int
    replication: int
    config: Mapping[str, str] = field(default_factory=dict[str, str])


@dataclass(frozen=True, slots=True)
class Change:
    """One way in which the cluster differs.

    ``create`` and ``alter`` are what ``apply`` does. ``refused``: nobody may do it in place, ``why`` has the way out.
    ``told``: it is worth knowing and left alone.
    """

    kind: Literal["create", "alter", "refused", "told"]
    topic: Wanted
    setting: str = ""
    old: str = ""
    new: str = ""
    why: str = ""


@dataclass(frozen=True, slots=True)
class Described:
    """A topic as it is. ``partitions`` 0: it is missing.

    ``in_sync`` is of the partition that has fewest; ``leaderless`` counts partitions that nobody can read or write;
    ``entries`` is offsets from first to last (compaction and transactions leave holes), None when nobody knows.
    """

    topic: str
    partitions: int
    replication: int
    in_sync: int
    leaderless: int
    entries: int | None
    retention: timedelta | None
    compacted: bool


def wanted(
    settings: KafkaSettings,
    stages: Sequence[str],
    told: Sequence[str],
    raw: Collection[str] = RAW_STAGES,
    kept: Mapping[str, timedelta] = MappingProxyType({}),
) -> tuple[Wanted, ...]:
    """Every topic that has to be there: the published ones, the quarantine, state of ``stages``, inboxes of ``told``.

    ``raw``: stages whose sources are raw topics. ``kept``: retention by topic, where it is not the topic's own.
    """
    named: list[tuple[str, dict[str, str]]] = [
        (settings.topic(topic), _published(topic, kept.get(topic.name, topic.retention))) for topic in TOPICS
    ]
    both = _deleted(30 * _DAY) | _compacted() | {"cleanup.policy": "compact,delete"}
    named.append((settings.topic(QUARANTINE), both))
    named += [(settings.inbox(stage), _deleted(_DAY if stage in raw else 7 * _DAY)) for stage in told]
    named += [(settings.state_topic(stage), _state()) for stage in stages]
    insync = {"min.insync.replicas": str(settings.min_insync)} if settings.min_insync else {}
    return tuple(
        Wanted(name, settings.partitions, settings.replication, config | _common() | insync) for name, config in named
    )


def _common() -> dict[str, str]:
    return {"compression.type": "producer", "max.message.bytes": str(MAX_MESSAGE_BYTES)}


def _published(topic: Topic, retention: timedelta) -> dict[str, str]:
    return _compacted() if topic.compacted else _deleted(retention)


def _deleted(retention: timedelta) -> dict[str, str]:
    """Kafka deletes whole segments, when their newest record is old enough: so a segment must not last long itself."""
    return {
        "cleanup.policy": "delete",
        "retention.ms": _ms(retention),
        "segment.ms": _ms(max(retention / 24, _HOUR)),
    }


def _compacted() -> dict[str, str]:
    """Replaced and deleted values are gone within a day or so, which erasure counts on."""
    return {"cleanup.policy": "compact", "max.compaction.lag.ms": _ms(_DAY)}


def _state() -> dict[str, str]:
    """Compacted soon, in small segments, so that a lane on a new machine reads little more than what is true.

    Deletions stay for a week: a table on a disk that has been away for less learns of them.
    """
    return _compacted() | {
        "min.compaction.lag.ms": "0",
        "min.cleanable.dirty.ratio": "0.2",
        "delete.retention.ms": _ms(7 * _DAY),
        "segment.bytes": str(64 << 20),
    }


def _ms(time: timedelta) -> str:
    return str(time // timedelta(milliseconds=1))


def plan(admin: Admin, topics: Iterable[Wanted]) -> list[Change]:
    """How the cluster differs from ``topics`` (see ``wanted``). Topics that are not among them are left alone.

    Raises Retry when the brokers are away, Refused when they do not let us in.
    """
    some = list(topics)
    found = admin.topics([topic.name for topic in some])
    configs = admin.configs(list(found))
    changes: list[Change] = []
    for topic in some:
        if topic.name in found:
            changes += _differences(topic, found[topic.name], configs[topic.name])
        else:
            changes.append(Change("create", topic))
    return changes


def _differences(topic: Wanted, found: Sequence[Partition], config: Mapping[str, str]) -> Iterator[Change]:
    replicas = min(one.replicas for one in found)
    if len(found) != topic.partitions:
        yield Change("refused", topic, "partitions", str(len(found)), str(topic.partitions), _other_partitions(topic))
    if topic.replication and replicas != topic.replication:
        yield Change("told", topic, "replication", str(replicas), str(topic.replication), _OTHER_REPLICATION)
    for name, value in topic.config.items():
        if config.get(name) != value:
            yield Change("alter", topic, name, config.get(name, ""), value)


_OTHER_REPLICATION = (
    "moving replicas between brokers is yours to do, at a quiet hour (kafka-reassign-partitions); "
    "or set kafka.replication to what is there"
)


def _other_partitions(topic: Wanted) -> str:
    return (
        "keys would move to other partitions, away from their state and order. Set kafka.partitions to what is there, "
        "or move: stop the senders, let the workers read all there is (`driftwheel topics describe --lag`), stop them, "
        f"choose a new kafka.prefix with kafka.partitions = {topic.partitions}, `driftwheel topics apply`, start again"
    )


def apply(admin: Admin, changes: Sequence[Change], seconds: float = APPLY_SECONDS) -> None:
    """Create and alter; on return every new partition has a leader that answers, and the brokers tell the new settings.

    Doing it again, or in two processes at once, is the same as once. Raises Refused, before anything is done, when the
    plan has a refusal; also when a right is missing or the cluster cannot do it. Raises Retry when the brokers are
    away or not done after ``seconds``; what has been done then stays done.
    """
    _refuse(changes)
    new = [change.topic for change in changes if change.kind == "create"]
    raced = _create(admin, new)
    _await_leaders(admin, new, seconds)
    also = plan(admin, raced)
    _refuse(also)
    alter: dict[str, dict[str, str]] = {}
    for change in (*changes, *also):
        if change.kind == "alter":
            alter.setdefault(change.topic.name, {})[change.setting] = change.new
    admin.alter(alter)
    _await_settings(admin, alter, seconds)


def _refuse(changes: Iterable[Change]) -> None:
    for change in changes:
        if change.kind == "refused":
            text = f"topic {change.topic.name} has {change.old} {change.setting} instead of {change.new}"
            raise Refused(f"{text}: {change.why}")


def _create(admin: Admin, topics: Sequence[Wanted]) -> list[Wanted]:
    """Create topics; returns those that somebody else has just created."""
    failed = admin.create([(topic.name, topic.partitions, topic.replication, topic.config) for topic in topics])
    raced: list[Wanted] = []
    for topic in topics:
        error = failed.get(topic.name)
        if error is not None and error.code() != KafkaError.TOPIC_ALREADY_EXISTS:
            raise _not_created(admin.settings, topic, error)
        if error is not None:
            raced.append(topic)
    return raced


def _not_created(settings: KafkaSettings, topic: Wanted, error: KafkaError) -> DriftwheelError:
    if error.code() == KafkaError.INVALID_REPLICATION_FACTOR:
        replicas = f"{topic.replication} replicas (kafka.replication)"
        return Refused(f"topic {topic.name} cannot have {replicas}: {error.str()}")
    return meaning(settings, error, f"topic {topic.name}", "Create")


def _await_leaders(admin: Admin, topics: Sequence[Wanted], seconds: float) -> None:
    def waiting(names: list[str]) -> list[str]:
        found = admin.topics(names)
        led = admin.first(_readable(found))
        return [name for name in names if name not in found or any((name, p.number) not in led for p in found[name])]

    left = _await(waiting, [topic.name for topic in topics], seconds)
    if left:
        raise Retry(f"topic {left[0]} has partitions without a leader after {seconds:.0f} s: are brokers down?")


def _await_settings(admin: Admin, altered: Mapping[str, Mapping[str, str]], seconds: float) -> None:
    def waiting(names: list[str]) -> list[str]:
        found = admin.configs(names)
        return [name for name in names if not altered[name].items() <= found[name].items()]

    left = _await(waiting, list(altered), seconds)
    if left:
        raise Retry(f"topic {left[0]} still has its old settings after {seconds:.0f} s")


def _await(waiting: Callable[[list[str]], list[str]], names: list[str], seconds: float) -> list[str]:
    """The names that are still waiting when the time is up."""
    deadline = time.monotonic() + seconds
    while names := waiting(names) if names else names:
        if time.monotonic() > deadline:
            return names
        time.sleep(_GLANCE)
    return []


def check(admin: Admin, topics: Iterable[Wanted]) -> None:
    """Raise Refused, with the way out, for the first topic that is missing or has another number of partitions.

    The right to Describe is enough, and whoever may read or write a topic has it.
    """
    expected = list(topics)
    found = admin.topics([topic.name for topic in expected])
    for topic in expected:
        if topic.name not in found:
            raise Refused(f"topic {topic.name} is not on the cluster: run `driftwheel topics apply`")
        if len(found[topic.name]) != topic.partitions:
            raise Refused(
                f"topic {topic.name} has {len(found[topic.name])} partitions and kafka.partitions is "
                f"{topic.partitions}: `driftwheel topics plan` tells what to do"
            )


def describe(admin: Admin, names: Sequence[str]) -> list[Described]:
    """What is on the cluster under these names, in their order."""
    found = admin.topics(names)
    configs = admin.configs(list(found))
    places = _readable(found)
    first, last = admin.first(places), admin.last(places)
    entries = {place: last[place] - first[place] for place in places if place in first and place in last}
    return [_described(name, found.get(name, []), configs.get(name, {}), entries) for name in names]


def _readable(topics: Mapping[str, Sequence[Partition]]) -> list[Place]:
    return [(name, one.number) for name, found in topics.items() for one in found if one.led]


def _described(
    name: str, found: Sequence[Partition], config: Mapping[str, str], entries: Mapping[Place, int]
) -> Described:
    if not found:
        return Described(name, 0, 0, 0, 0, None, None, compacted=False)
    known = [entries[name, one.number] for one in found if (name, one.number) in entries]
    policy, kept = config["cleanup.policy"], int(config["retention.ms"])
    return Described(
        name,
        partitions=len(found),
        replication=min(one.replicas for one in found),
        in_sync=min(one.in_sync for one in found),
        leaderless=sum(not one.led for one in found),
        entries=sum(known) if len(known) == len(found) else None,
        retention=timedelta(milliseconds=kept) if kept >= 0 and "delete" in policy else None,
        compacted="compact" in policy,
    )


def lags(admin: Admin, groups: Mapping[str, Collection[str]]) -> dict[str, dict[Place, int]]:
    """By consumer group and (topic, partition): how many offsets it is behind the last committed transaction.

    ``groups``: the topics that each reads, all names as on the cluster. Where a group has committed nothing yet, all
    that is there is to do. Topics that are missing and partitions without a leader are left out.
    """
    found = admin.topics(sorted({name for names in groups.values() for name in names}))
    places = _readable(found)
    first, last = admin.first(places), admin.last(places, committed=True)
    known = [place for place in places if place in first and place in last]
    behind: dict[str, dict[Place, int]] = {}
    for group, names in groups.items():
        mine = [place for place in known if place[0] in names]
        done = admin.committed(group, mine) if mine else {}
        behind[group] = {place: max(0, last[place] - done.get(place, first[place])) for place in mine}
    return behind
