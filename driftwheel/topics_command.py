"""``driftwheel topics``: what the cluster lacks, bringing it there, how it is.

``stages`` are those that run on the cluster, classes or objects; their state topics and inboxes belong to them.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import timedelta
from types import MappingProxyType

from connectors.clickhouse.sink import ClickHouseSink
from connectors.kafka.admin import Admin
from connectors.kafka.settings import KafkaSettings
from connectors.kafka.topics import Change, Described, Wanted, apply, describe, lags, plan, wanted
from connectors.registry.client import RegistryClient, RegistrySettings
from connectors.registry.subjects import register_all
from driftwheel.api import Table
from driftwheel.tables import show
from processors.stage import Stage, has_inbox, is_routed
from schemas.topics import TOPICS

Stages = Sequence[type[Stage] | Stage]
Kept = Mapping[str, timedelta]
NOTHING: Kept = MappingProxyType({})
"""Every topic keeps its records for its own time."""
_COLUMNS = ["change", "topic", "setting", "is", "should_be", "why"]


def topics_of(settings: KafkaSettings, stages: Stages, kept: Kept = NOTHING) -> tuple[Wanted, ...]:
    """Every topic that has to be there for these stages, the published ones among them. ``kept``: see ``wanted``."""
    told = [stage.name for stage in stages if has_inbox(stage)]
    raw = [stage.name for stage in stages if any(topic.raw for topic in stage.sources)]
    return wanted(settings, [stage.name for stage in stages], told, raw, kept)


def groups_of(settings: KafkaSettings, stages: Stages) -> dict[str, list[str]]:
    """The consumer group of each stage, and the topics that it reads."""
    groups: dict[str, list[str]] = {}
    for stage in stages:
        reads = groups[settings.group(stage.name)] = [settings.topic(topic) for topic in stage.sources]
        if has_inbox(stage):
            reads.append(settings.inbox(stage.name))
    return groups


def hops_of(settings: KafkaSettings, stages: Stages) -> list[tuple[str, list[str]]]:
    """The same in the order of the flow: a group with an inbox reads twice, and puts itself what it reads then."""
    hops: list[tuple[str, list[str]]] = []
    for stage in stages:
        hops.append((settings.group(stage.name), [settings.topic(topic) for topic in stage.sources]))
        if is_routed(stage):
            hops.append((settings.group(stage.name), [settings.inbox(stage.name)]))
    return hops


def sink_groups(settings: KafkaSettings) -> dict[str, list[str]]:
    """The sink's consumer group and its topics."""
    return {settings.group(ClickHouseSink.name): [settings.topic(topic) for topic in ClickHouseSink.topics]}


def show_plan(
    settings: KafkaSettings, stages: Stages, kept: Kept = NOTHING, *, check: bool = False, as_json: bool = False
) -> int:
    """Print what `topics apply` would do, and what it would not. Returns the exit code.

    1 with ``check`` when the cluster is not as it has to be; replication alone does not count.
    """
    changes = plan(Admin(settings), topics_of(settings, stages, kept))
    _show(changes, as_json=as_json)
    return 1 if check and any(change.kind != "told" for change in changes) else 0


def run_apply(
    settings: KafkaSettings, stages: Stages, kept: Kept = NOTHING, *, dry_run: bool = False, as_json: bool = False
) -> None:
    """Bring the cluster there and print what was done; ``dry_run``: print what would be.

    Raises Refused before anything is done when something may not be done in place.
    """
    admin = Admin(settings)
    changes = plan(admin, topics_of(settings, stages, kept))
    if not dry_run:
        apply(admin, changes)
    _show(changes, as_json=as_json)


def register_schemas(settings: RegistrySettings) -> None:
    """Register the schema of every topic. Raises Refused for one that is incompatible, Retry."""
    client = RegistryClient(settings)
    try:
        register_all(client, TOPICS, settings.topic_prefix)
    finally:
        client.close()


def show_topics(settings: KafkaSettings, stages: Stages, *, as_json: bool = False) -> None:
    """Print every topic as it is on the cluster; one with 0 partitions is missing."""
    names = [topic.name for topic in topics_of(settings, stages)]
    rows = [_row(one) for one in describe(Admin(settings), names)]
    columns = ["topic", "partitions", "replication", "in_sync", "leaderless", "entries", "policy", "retention_days"]
    show(Table(columns, rows), as_json=as_json)


def show_lag(
    settings: KafkaSettings, stages: Stages, more: Mapping[str, Collection[str]] | None = None, *, as_json: bool = False
) -> None:
    """Print how far each consumer group is behind, by topic. ``more`` groups and their topics, as on the cluster."""
    groups = {**groups_of(settings, stages), **(more or {})}
    rows: list[list[object]] = []
    for group, behind in lags(Admin(settings), groups).items():
        for name in groups[group]:
            counts = [count for place, count in behind.items() if place[0] == name]
            rows.append([group, name, sum(counts) if counts else None, max(counts, default=None)])
    show(Table(["group", "topic", "lag", "worst_partition"], rows), as_json=as_json)


def _show(changes: Sequence[Change], *, as_json: bool) -> None:
    rows = [[one.kind, one.topic.name, one.setting, one.old, _should_be(one), one.why] for one in changes]
    show(Table(_COLUMNS, rows), as_json=as_json)


def _should_be(change: Change) -> str:
    if change.kind != "create":
        return change.new
    config = change.topic.config
    kept = int(config.get("retention.ms", "0"))
    how = f"kept {timedelta(milliseconds=kept).days} d" if kept else "compacted"
    copies = f", {change.topic.replication} replicas" if change.topic.replication else ""
    return f"{change.topic.partitions} partitions{copies}, {how}"


def _row(one: Described) -> list[object]:
    policy = "" if not one.partitions else "compact" if one.compacted else "delete"
    days = one.retention / timedelta(days=1) if one.retention else None
    shape = [one.partitions, one.replication, one.in_sync, one.leaderless]
    return [one.topic, *shape, one.entries, policy, days]
