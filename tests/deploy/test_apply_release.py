"""Applying releases: traffic is as the deploy event says, read back, and shadow pairs come in once."""

from __future__ import annotations

import json
from datetime import timedelta

import pytest

from connectors.nemo.memory import MemoryNemo, WordModel
from connectors.nemo.port import Split
from deploy.apply_release import ApplyRelease, ApplyReleaseSettings
from deploy.names import mark
from schemas.errors import Retry
from schemas.events import RawSignal
from tests.deploy.wheel_kit import Driver, deployment


@pytest.fixture
def port() -> MemoryNemo:
    nemo = MemoryNemo()
    nemo.models["m1"] = WordModel([("laptop broken", "it")], ["it", "hr"])
    nemo.models["m2"] = WordModel([("laptop broken", "hr"), ("laptop", "hr")], ["it", "hr"])
    return nemo


def test_every_state_becomes_traffic(port: MemoryNemo) -> None:
    one = Driver(ApplyRelease(port))
    wanted = {
        "live": Split("m2"),
        "shadow": Split("m1", "m2", 0.0, shadow=True),
        "canary": Split("m1", "m2", 0.25),
        "rolled_back": Split("m1"),
        "stopped": Split("m1"),
    }
    for state, split in wanted.items():
        one.give(deployment(state, weight=0.25 if state == "canary" else 0.0))
        one.tick()
        assert port.observe("desk") == split
        assert (one.state.due is None) == (state != "shadow")


def test_pairs_come_in_once_and_in_full(port: MemoryNemo) -> None:
    one = Driver(ApplyRelease(port, ApplyReleaseSettings(poll=5.0, page=3)))
    one.give(deployment("shadow"))
    one.tick()
    for number in range(8):
        port.ask("desk", f"s{number}", f"t{number}.r", "laptop broken")
    assert one.tick() == []
    one.now += timedelta(seconds=5)
    found = one.tick()
    assert len(found) == 8
    assert isinstance(found[0], RawSignal)
    body = json.loads(found[0].payload)
    assert (body["name"], body["source"], body["session_id"], body["turn_id"]) == ("comparison", "shadow", "s0", "t0.r")
    assert (body["text_before"], body["text"]) == ("it", "hr")
    assert body["attributes"] == {"live": "m1", "shadow": "m2", "release": mark("r1")}
    one.now += timedelta(seconds=5)
    assert one.tick() == []
    one.give(deployment("canary", weight=0.25))
    one.tick()
    assert one.state.due is None


def test_a_crash_gives_the_same_pairs(port: MemoryNemo) -> None:
    one = Driver(ApplyRelease(port))
    one.give(deployment("shadow"))
    one.tick()
    port.ask("desk", "s1", "t1.r", "laptop broken")
    one.now += timedelta(seconds=5)
    before = one.state.dump()
    first = one.tick()
    one.state = type(one.state).load(before)
    assert [r.event_id for r in one.tick()] == [r.event_id for r in first]


def test_pairs_of_nobody_are_left_out(port: MemoryNemo) -> None:
    one = Driver(ApplyRelease(port))
    one.give(deployment("shadow"))
    one.tick()
    port.ask("desk", "", "", "laptop broken")
    port.ask("desk", "s", "a-trace", "laptop broken")
    one.now += timedelta(seconds=5)
    (found,) = one.tick()
    assert json.loads(found.payload)["trace_id"] == "a-trace"


def test_an_outage_or_a_no_is_tried_again(port: MemoryNemo) -> None:
    one = Driver(ApplyRelease(port))
    one.give(deployment("canary", "m9", "m1", 0.25))
    before = one.state.dump()
    with pytest.raises(Retry, match="m9"):
        one.tick()
    port.away = True
    with pytest.raises(Retry, match="away"):
        one.tick()
    assert one.state.dump() == before


def test_a_platform_that_does_not_do_as_told_is_noticed(port: MemoryNemo, monkeypatch: pytest.MonkeyPatch) -> None:
    one = Driver(ApplyRelease(port))
    monkeypatch.setattr(port, "observe", lambda group: Split("m1", "m2", 0.9))
    one.give(deployment("canary", weight=0.25))
    with pytest.raises(Retry, match=r"was told .* and says"):
        one.tick()
