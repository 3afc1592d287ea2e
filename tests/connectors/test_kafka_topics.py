from __future__ import annotations

import json
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition

from connectors.kafka.admin import Admin
from connectors.kafka.settings import KafkaSettings, client_options
from connectors.kafka.topics import (
    MAX_MESSAGE_BYTES,
    QUARANTINE,
    Change,
    Wanted,
    apply,
    check,
    describe,
    lags,
    plan,
    wanted,
)
from driftwheel.topics_command import groups_of, run_apply, show_lag, show_plan, show_topics, topics_of
from processors import PIPELINE
from processors.stage import has_inbox
from schemas.errors import Refused, Retry
from schemas.topics import JOBS, OTLP_SPANS, SPANS, TOPICS, TURNS
from tests.brokers import Cluster

DAY_MS = 86_400_000
STAGES, ROUTED = ["redact", "assemble"], ["redact", "assemble"]


@pytest.fixture
def admin(kafka_settings: KafkaSettings) -> Admin:
    return Admin(kafka_settings)


def few(settings: KafkaSettings) -> list[Wanted]:
    """A deleted, a compacted and a state topic."""
    names = {settings.topic(SPANS), settings.topic(JOBS), settings.state_topic("assemble")}
    return [topic for topic in wanted(settings, STAGES, ROUTED) if topic.name in names]


def made(admin: Admin, name: str, partitions: int = 3, **config: str) -> None:
    """A topic that somebody else makes, there once this returns."""
    settings = {setting.replace("_", "."): value for setting, value in config.items()}
    apply(admin, [Change("create", Wanted(name, partitions, 0, settings))])


def kinds(changes: Sequence[Change]) -> list[str]:
    return [change.kind for change in changes]


# What is wanted.


def test_everything_that_the_wheel_needs_is_wanted_once_with_the_prefix() -> None:
    settings = KafkaSettings("x:1", prefix="acme.", partitions=4, replication=3, min_insync=2)
    topics = wanted(settings, STAGES, ["assemble"])
    names = [topic.name for topic in topics]
    own = ["driftwheel.assemble.inbox", "driftwheel.redact.state", "driftwheel.assemble.state"]
    assert names == ["acme." + name for name in (*(topic.name for topic in TOPICS), QUARANTINE, *own)]
    assert {(topic.partitions, topic.replication) for topic in topics} == {(4, 3)}
    assert {topic.config["min.insync.replicas"] for topic in topics} == {"2"}
    assert {topic.config["max.message.bytes"] for topic in topics} == {str(MAX_MESSAGE_BYTES)}


def test_what_is_not_set_is_left_to_the_cluster() -> None:
    assert all("min.insync.replicas" not in topic.config for topic in wanted(KafkaSettings("x:1"), [], []))


def test_records_are_kept_as_long_as_their_topic_says() -> None:
    found = {topic.name: topic.config for topic in wanted(KafkaSettings("x:1"), STAGES, ROUTED)}
    for topic in TOPICS:
        config = found[topic.name]
        assert config["cleanup.policy"] == ("compact" if topic.compacted else "delete")
        expected = None if topic.compacted else str(topic.retention // timedelta(milliseconds=1))
        assert config.get("retention.ms") == expected, topic.name
    assert found[QUARANTINE]["retention.ms"] == str(30 * DAY_MS)
    assert found[QUARANTINE]["cleanup.policy"] == "compact,delete", "what is deleted has to leave the disk"
    assert found["driftwheel.redact.inbox"]["retention.ms"] == str(DAY_MS)
    assert found["driftwheel.assemble.inbox"]["retention.ms"] == str(7 * DAY_MS)


def test_nothing_raw_outlives_its_retention_by_more_than_a_segment_of_an_hour() -> None:
    found = {topic.name: topic.config for topic in wanted(KafkaSettings("x:1"), STAGES, ROUTED)}
    for name in (OTLP_SPANS.name, "agent.signals.raw", "driftwheel.redact.inbox"):
        assert found[name]["segment.ms"] == str(DAY_MS // 24)


def test_state_keeps_deletions_for_a_week() -> None:
    [state] = [topic for topic in wanted(KafkaSettings("x:1"), ["score"], []) if topic.name.endswith(".state")]
    assert state.config["cleanup.policy"] == "compact"
    assert state.config["delete.retention.ms"] == str(7 * DAY_MS)


def test_inboxes_of_the_pipeline_are_those_of_its_stages_with_state() -> None:
    settings = KafkaSettings("x:1")
    names = {topic.name for topic in topics_of(settings, PIPELINE)}
    assert {settings.inbox(stage.name) for stage in PIPELINE if has_inbox(stage)} <= names
    assert not {settings.inbox(stage.name) for stage in PIPELINE if not has_inbox(stage)} & names
    assert {settings.state_topic(stage.name) for stage in PIPELINE} <= names
    kept = {topic.name: topic.config.get("retention.ms") for topic in topics_of(settings, PIPELINE)}
    assert kept[settings.inbox("redact")] == str(DAY_MS)


def test_policies_may_ask_for_less_than_a_topics_own_time() -> None:
    settings = KafkaSettings("x:1")
    plain = {topic.name: topic.config for topic in topics_of(settings, PIPELINE)}
    brief = {topic.name: topic.config for topic in topics_of(settings, PIPELINE, {"agent.turns": timedelta(days=2)})}
    name = settings.topic(TURNS)
    assert (plain[name]["retention.ms"], brief[name]["retention.ms"]) == (str(7 * DAY_MS), str(2 * DAY_MS))
    assert {one for one in plain if plain[one] != brief[one]} == {name}


# On a cluster.


def test_an_empty_cluster_gets_everything_and_then_there_is_nothing_to_do(
    kafka_settings: KafkaSettings, admin: Admin
) -> None:
    topics = wanted(kafka_settings, STAGES, ROUTED)
    first = plan(admin, topics)
    assert kinds(first) == ["create"] * len(topics)
    with pytest.raises(Refused, match=rf"{kafka_settings.prefix}otlp_spans is not on the cluster.*topics apply"):
        check(admin, topics)
    apply(admin, first)
    check(admin, topics)
    assert plan(admin, topics) == []
    apply(admin, first)  # as another process would that planned at the same time
    assert plan(admin, topics) == []
    found = describe(admin, [topic.name for topic in topics])
    assert all(one.partitions == 3 and one.in_sync >= 1 and not one.leaderless and one.entries == 0 for one in found)


def test_a_setting_that_was_changed_is_told_with_old_and_new_and_put_back(
    kafka_settings: KafkaSettings, admin: Admin
) -> None:
    topics = few(kafka_settings)
    apply(admin, plan(admin, topics))
    name = kafka_settings.topic(SPANS)
    admin.alter({name: {"retention.ms": "1234567", "flush.messages": "77"}})
    [change] = plan(admin, topics)
    assert (change.kind, change.topic.name, change.setting) == ("alter", name, "retention.ms")
    assert (change.old, change.new) == ("1234567", str(7 * DAY_MS))
    apply(admin, [change])
    assert plan(admin, topics) == []
    assert admin.configs([name])[name]["flush.messages"] == "77"  # what is not ours stays


def test_apply_returns_when_the_brokers_tell_the_new_settings(kafka_settings: KafkaSettings) -> None:
    topics = few(kafka_settings)
    admin = Late(kafka_settings)
    apply(admin, plan(admin, topics))
    wish = [replace(topic, config={**topic.config, "flush.messages": "77"}) for topic in topics]
    changes = plan(admin, wish)
    admin.late = 3
    apply(admin, changes)
    assert admin.late == 0
    admin.late = 10_000
    with pytest.raises(Retry, match="still has its old settings after 0 s"):
        apply(admin, changes, seconds=0.2)


class Late(Admin):
    """Brokers that hear of new settings late."""

    late = 0

    def configs(self, names: Sequence[str]) -> dict[str, dict[str, str]]:
        if self.late:
            self.late -= 1
            return {name: {} for name in names}
        return super().configs(names)


def test_another_number_of_partitions_is_refused_and_nothing_is_done(
    kafka_settings: KafkaSettings, admin: Admin
) -> None:
    topics = few(kafka_settings)
    made(admin, topics[0].name, 2)
    changes = plan(admin, topics)
    assert sorted(set(kinds(changes))) == ["alter", "create", "refused"]
    assert changes[0].kind == "refused"
    assert "state" in changes[0].why
    assert "kafka.prefix" in changes[0].why
    with pytest.raises(Refused, match=r"has 2 partitions instead of 3: keys would move"):
        apply(admin, changes)
    assert plan(admin, topics) == changes
    with pytest.raises(Refused, match=r"has 2 partitions and kafka.partitions is 3.*topics plan"):
        check(admin, topics)


def test_topics_of_others_under_our_prefix_are_left_alone(kafka_settings: KafkaSettings, admin: Admin) -> None:
    other = kafka_settings.topic("somebody.elses")
    made(admin, other, 1, retention_ms="5000000")
    changes = plan(admin, few(kafka_settings))
    apply(admin, changes)
    assert other not in {change.topic.name for change in changes}
    assert admin.configs([other])[other]["retention.ms"] == "5000000"


def test_four_processes_may_apply_at_once(kafka_settings: KafkaSettings) -> None:
    topics = wanted(kafka_settings, STAGES, ROUTED)
    start = threading.Barrier(4)

    def one(_: int) -> None:
        admin = Admin(kafka_settings)
        changes = plan(admin, topics)
        assert kinds(changes) == ["create"] * len(topics)
        start.wait(30)
        apply(admin, changes)
        check(admin, topics)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(one, range(4)))
    assert plan(Admin(kafka_settings), topics) == []


def test_a_topic_that_somebody_made_otherwise_meanwhile_is_mended_or_refused(
    kafka_settings: KafkaSettings, admin: Admin
) -> None:
    topics = few(kafka_settings)
    changes = plan(admin, topics)
    made(admin, topics[0].name, retention_ms="999999")
    apply(admin, changes)
    assert plan(admin, topics) == []
    late = replace(topics[0], name=kafka_settings.topic("late"))
    changes = plan(admin, [late])
    made(admin, late.name, 1)
    with pytest.raises(Refused, match="1 partitions instead of 3"):
        apply(admin, changes)


def test_more_replicas_than_brokers_is_refused_by_name(kafka_settings: KafkaSettings, admin: Admin) -> None:
    topics = [replace(few(kafka_settings)[0], replication=99)]
    with pytest.raises(Refused, match=r"cannot have 99 replicas \(kafka.replication\)"):
        apply(admin, plan(admin, topics))


def test_a_setting_that_the_cluster_does_not_know_is_refused(kafka_settings: KafkaSettings, admin: Admin) -> None:
    topics = [replace(few(kafka_settings)[0], config={"no.such.setting": "1"})]
    with pytest.raises(Refused, match=r"agent.spans: the cluster refuses it: .*no.such.setting"):
        apply(admin, plan(admin, topics))


def test_the_largest_record_fits(kafka_settings: KafkaSettings, admin: Admin) -> None:
    topics = [topic for topic in wanted(kafka_settings, [], []) if topic.name.endswith(QUARANTINE)]
    apply(admin, plan(admin, topics))
    small = kafka_settings.topic("small")
    made(admin, small, 1, max_message_bytes="1000000")
    payload = b"x" * (MAX_MESSAGE_BYTES - 10_000)
    assert _produced(kafka_settings, topics[0].name, payload) is None
    refused = _produced(kafka_settings, small, payload)  # the control: without the setting it does not
    assert refused is not None
    assert refused.name() == "MSG_SIZE_TOO_LARGE"


def _produced(settings: KafkaSettings, topic: str, value: bytes) -> Any:
    said: list[Any] = []
    producer = Producer(client_options(settings) | {"message.max.bytes": MAX_MESSAGE_BYTES})
    producer.produce(topic, value, b"key", on_delivery=lambda error, _: said.append(error))
    assert producer.flush(30) == 0
    return said[0]


def test_no_broker_is_worth_another_try_and_names_the_setting(free_port: int) -> None:
    settings = KafkaSettings(f"127.0.0.1:{free_port}")
    with pytest.raises(Retry, match=rf"127.0.0.1:{free_port} .*refused.*kafka.brokers") as caught:
        check(Admin(settings, seconds=1), few(settings))
    assert "KafkaError" not in str(caught.value)
    with pytest.raises(Retry, match=r"nowhere.invalid:9092.*kafka.brokers"):
        check(Admin(KafkaSettings("nowhere.invalid:9092"), seconds=1), few(settings))


@pytest.fixture
def free_port() -> int:
    from tests.machine import free_ports

    return free_ports(1)[0]


# How far the readers are.


def test_lag_counts_what_is_committed_and_not_read(kafka_settings: KafkaSettings, admin: Admin) -> None:
    topics = few(kafka_settings)
    apply(admin, plan(admin, topics))
    spans, jobs = kafka_settings.topic(SPANS), kafka_settings.topic(JOBS)
    writer = Producer(client_options(kafka_settings) | {"transactional.id": kafka_settings.group("test")})
    writer.init_transactions(30)
    writer.begin_transaction()
    for number in range(10):
        writer.produce(spans, b"x", partition=number % 2)
    writer.commit_transaction(30)
    writer.begin_transaction()
    writer.produce(spans, b"not yet", partition=0)
    assert writer.flush(30) == 0
    reader = Consumer(client_options(kafka_settings) | {"group.id": kafka_settings.group("assemble")})
    _until(lambda: _committed(reader, TopicPartition(spans, 0, 4)), lambda done: done)
    groups = {kafka_settings.group("assemble"): [spans, jobs], kafka_settings.group("new"): [spans]}
    reader.close()
    # 5 records and the mark of a commit make 6 offsets; the open transaction is nobody's to do.
    expected = {
        kafka_settings.group("assemble"): {(spans, 0): 2, (spans, 1): 6, (spans, 2): 0}
        | {(jobs, partition): 0 for partition in range(3)},
        kafka_settings.group("new"): {(spans, 0): 6, (spans, 1): 6, (spans, 2): 0},
    }
    _until(lambda: lags(admin, groups), lambda found: found == expected)  # marks are written after the commit
    writer.abort_transaction(30)
    _until(lambda: describe(admin, [spans])[0].entries, lambda found: found == 6 + 2 + 6)
    _until(lambda: lags(admin, groups)[kafka_settings.group("assemble")][spans, 0], lambda found: found == 4)


def test_missing_topics_have_no_lag_and_no_partitions(kafka_settings: KafkaSettings, admin: Admin) -> None:
    gone = kafka_settings.topic("gone")
    assert lags(admin, {kafka_settings.group("new"): [gone]}) == {kafka_settings.group("new"): {}}
    [described] = describe(admin, [gone])
    assert (described.partitions, described.entries) == (0, None)


# The commands.


def test_the_commands_say_what_they_see_and_do(
    kafka_settings: KafkaSettings, capsys: pytest.CaptureFixture[str]
) -> None:
    def said() -> list[dict[str, Any]]:
        return json.loads(capsys.readouterr().out)

    stages = [stage for stage in PIPELINE if stage.name == "assemble"]
    assert show_plan(kafka_settings, stages, as_json=True) == 0
    assert {row["change"] for row in said()} == {"create"}
    assert show_plan(kafka_settings, stages, check=True) == 1
    text = capsys.readouterr().out
    assert "create" in text
    run_apply(kafka_settings, stages, dry_run=True, as_json=True)
    assert len(said()) == len(topics_of(kafka_settings, stages))
    assert show_plan(kafka_settings, stages, check=True) == 1  # the control: a dry run does nothing
    run_apply(kafka_settings, stages)
    assert show_plan(kafka_settings, stages, check=True) == 0
    capsys.readouterr()
    show_topics(kafka_settings, stages, as_json=True)
    rows = {row["topic"]: row for row in said()}
    assert rows[kafka_settings.topic(OTLP_SPANS)]["retention_days"] == 1
    assert rows[kafka_settings.topic(JOBS)]["policy"] == "compact"
    assert {row["partitions"] for row in rows.values()} == {3}
    show_lag(kafka_settings, stages, {kafka_settings.group("sink"): [kafka_settings.topic(SPANS)]}, as_json=True)
    behind = said()
    assert {row["group"] for row in behind} == {kafka_settings.group("assemble"), kafka_settings.group("sink")}
    assert {row["lag"] for row in behind} == {0}


def test_every_stage_has_its_group_with_its_inbox() -> None:
    settings = KafkaSettings("x:1", prefix="p.")
    for stage in PIPELINE:
        reads = groups_of(settings, [stage])[f"p.driftwheel.{stage.name}"]
        assert (settings.inbox(stage.name) in reads) == has_inbox(stage)
        assert {settings.topic(topic) for topic in stage.sources} <= set(reads)


# Three brokers.


def test_replicas_on_three_brokers_one_of_which_is_killed(kafka_cluster: Callable[..., Cluster]) -> None:
    cluster = kafka_cluster(3)
    settings = KafkaSettings(cluster.bootstrap, partitions=3, replication=3, min_insync=2)
    admin = Admin(settings)
    topics = few(settings)
    apply(admin, plan(admin, topics))
    assert plan(admin, topics) == []
    wish = [replace(topic, replication=2) for topic in topics]
    told = plan(admin, wish)
    assert {(one.kind, one.setting, one.old, one.new) for one in told} == {("told", "replication", "3", "2")}
    apply(admin, told)  # it is left alone
    assert plan(admin, wish) == told
    single = replace(topics[0], name="single", replication=1, config={})
    apply(admin, plan(admin, [single]))
    cluster.kill(3)
    behind = _until(lambda: describe(admin, [topics[0].name])[0], lambda found: found.in_sync == 2)
    assert (behind.replication, behind.leaderless) == (3, 0)
    assert behind.entries == 0
    alone = _until(lambda: describe(admin, ["single"])[0], lambda found: found.leaderless > 0)
    assert alone.entries is None
    check(admin, topics)


def _committed(reader: Consumer, place: TopicPartition) -> bool:
    """Whether it could: the first group of a new cluster makes the brokers create their topic of positions."""
    try:
        reader.commit(offsets=[place], asynchronous=False)
    except KafkaException:
        return False
    return True


def _until(look: Callable[[], Any], good: Callable[[Any], bool]) -> Any:
    """What is seen once it is good."""
    found = None
    for _ in range(200):
        try:
            found = look()
        except Retry as error:  # a broker has just gone
            found = error
        else:
            if good(found):
                return found
        threading.Event().wait(0.1)
    raise AssertionError(f"not in time: {found}")
