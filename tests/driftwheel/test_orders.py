"""Erasures reach what lanes keep, on a real broker: while they work, and after they were away."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from connectors.kafka.admin import Admin
from connectors.kafka.inboxes import Inboxes
from connectors.kafka.log import KafkaLog, KafkaLogSettings
from connectors.kafka.settings import KafkaSettings
from connectors.kafka.state import POSITIONS
from connectors.kafka.wire import Plain
from connectors.log import entry_of
from driftwheel.buffered import BufferedState
from driftwheel.erasure import Order
from driftwheel.erasure_kafka import UNDER_WAY, KafkaLanes
from driftwheel.lane import LaneSettings
from driftwheel.orders import carry_out, is_order, orders_of
from driftwheel.routing import INBOX
from processors import PIPELINE
from processors.redact import Redact
from processors.stage import Message, Stage
from processors.state import KeyState, plain
from schemas import codec
from schemas.events import Record, Span
from schemas.subjects import Subject
from tests.driftwheel.engine_kit import T0, Clock, Tally, until
from tests.driftwheel.kafka_kit import lane_settings, make_topics, stored, working
from tests.world import World

Texts = dict[tuple[str, str], str]


def stages() -> list[Stage]:
    return [stage() for stage in PIPELINE if stage is not Redact]


def world() -> list[Record]:
    return [codec.decode(one.value) for one in World(seed=3, sessions=6).clean()]


def texts(settings: KafkaSettings, chosen: Sequence[Stage]) -> Texts:
    """The newest text of every key, by stage; deleted keys are not there."""
    found: Texts = {}
    for stage in chosen:
        for one in stored(settings, settings.state_topic(stage.name)):
            if one.key != POSITIONS:
                found[stage.name, one.key] = plain(one.value.decode())
    return {place: text for place, text in found.items() if text}


def subject(spans: Sequence[Record]) -> Subject:
    """The person with most spans, with the traces and sessions that are theirs."""
    seen = [one.subject_hash for one in spans if one.subject_hash]
    who = max(sorted(set(seen)), key=seen.count)
    mine = [one for one in spans if isinstance(one, Span) and one.subject_hash == who]
    traces, sessions = frozenset(one.trace_id for one in mine), frozenset(one.session_id for one in mine)
    return Subject(mine[0].tenant, who, traces, frozenset(f"{trace}.r1" for trace in traces), sessions)


def without(about: Subject, before: Texts) -> Texts:
    """What is to be left, by the stages' own word."""
    by_name = {stage.name: stage for stage in stages()}
    left = dict(before)
    for (name, key), text in before.items():
        found = by_name[name].erased(key, text, about)
        if found is not None:
            left[name, key] = plain(found[0].dump())
            if not (found[0].data or found[0].memo or found[0].due):
                del left[name, key]
    return left


def read_all(settings: KafkaSettings, lanes: LaneSettings) -> Texts:
    """Let workers read a world; the state that stands then."""
    log = KafkaLog(settings, Plain(), KafkaLogSettings(name="test"))
    log.append([entry_of(record, T0) for record in world()])
    log.close()
    with working(stages(), lanes) as worker:
        last: list[int] = []

        def quiet() -> bool:
            last.append(sum(n for lane in worker.positions().values() for p in lane.values() for n in p.values()))
            return len(last) > 30 and last[-1] > 0 and len(set(last[-20:])) == 1

        until(quiet)
    return texts(settings, stages())


@pytest.fixture
def settings(kafka_settings: KafkaSettings) -> KafkaSettings:
    make_topics(kafka_settings, [stage for stage in PIPELINE if stage is not Redact])
    return kafka_settings


def test_lanes_let_go_of_a_person_while_they_work_and_when_they_come_back(
    settings: KafkaSettings, tmp_path: Path
) -> None:
    clock = Clock()
    before = read_all(settings, lane_settings(settings, tmp_path, clock))
    about = subject(world())
    wanted = without(about, before)
    assert wanted != before
    assert any(about.hash in text for text in before.values())
    order = Order(about, clock(), (), frozenset())

    away = KafkaLanes(Inboxes(settings), PIPELINE[1:], clock, patience=0)
    assert "assemble" in away.erase(order)["state"]
    assert texts(settings, stages()) == before
    with working(stages(), lane_settings(settings, tmp_path, clock)):
        until(lambda: not away.erase(order))
        assert texts(settings, stages()) == wanted
        assert not any(about.hash in text for text in wanted.values())
        clock.now += UNDER_WAY  # a second time, from another process: nothing is left to erase
        assert KafkaLanes(Inboxes(settings), PIPELINE[1:], clock).erase(order) == {}
    assert texts(settings, stages()) == wanted
    with working(stages(), lane_settings(settings, tmp_path / "elsewhere", clock)):
        pass
    assert texts(settings, stages()) == wanted


def test_only_lanes_that_have_state_are_told(settings: KafkaSettings) -> None:
    states = [(settings.state_topic(name), number) for name in ("assemble", "plan") for number in range(3)]
    until(lambda: len(Admin(settings).last(states)) == len(states))  # brokers have to know of their new topics
    assert Inboxes(settings).tell(["assemble", "plan"], [b"\x02{}"]) == {}
    assert stored(settings, settings.inbox("assemble")) == []


def test_many_ids_make_several_orders_and_all_of_them_arrive() -> None:
    about = Subject("t", "h", frozenset(f"t{n}" for n in range(7_000)), sessions=frozenset({"s"}))
    told = [Message(INBOX, n, "", value, T0) for n, value in enumerate(orders_of(about))]
    assert len(told) == 2
    assert all(map(is_order, told))
    assert [is_order(Message(INBOX, 0, "", value, T0)) for value in (b"", b"\x01\x00")] == [False, False]

    class Heard(Tally):
        heard: list[Subject] = []  # noqa: RUF012  # of the test alone

        def erased(self, key: str, text: str, about: Subject) -> tuple[KeyState, list[Record]] | None:
            self.heard.append(about)
            return None

    for message in told:
        carry_out(Heard(), message, BufferedState(lambda _: None, lambda _: []), iter([("t/a", "{}")]))
    assert {one.hash for one in Heard.heard} == {"h"}
    assert frozenset().union(*(one.traces for one in Heard.heard)) == about.traces
    assert frozenset().union(*(one.sessions for one in Heard.heard)) == about.sessions
