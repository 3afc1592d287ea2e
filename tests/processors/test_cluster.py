"""Failed turns that ask for the like share a cluster; ids stay, names are of words that several people use."""

from __future__ import annotations

import random
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import numpy as np

from processors.cluster import Cluster, ClusterSettings
from processors.groups import PEOPLE, GroupRules, join, merge, name_of
from processors.state import KeyState, MemoryState, plain
from schemas.events import Failure, FailureCluster, Redaction
from schemas.subjects import Subject
from tests.world import AGENT, START, TENANT, message

VPN = ["my vpn token does not work", "the vpn token is broken", "vpn token expired again", "vpn asks for a token"]
PAY = ["payslip for march is missing", "where is my march payslip", "no payslip in march", "payslip march download"]
KEY = f"{TENANT}/{AGENT}"


def failure(number: int, text: str, **given: Any) -> Failure:
    base = {
        "event_id": f"f{number}", "tenant": TENANT, "agent": AGENT, "subject_hash": f"p{number}",
        "event_time": START + timedelta(seconds=number), "redaction": Redaction(policy_version="1", detector="d"),
        "session_id": f"s{number}", "turn_id": f"t{number}.r", "trace_id": f"t{number}", "input": text,
        "p_failure": 0.9,
    }  # fmt: skip
    return Failure.model_validate(base | given)


def run(failures: Sequence[Failure], store: MemoryState | None = None, **settings: Any) -> list[FailureCluster]:
    stage = Cluster(ClusterSettings(**settings))
    messages = [message(one, place) for place, one in enumerate(failures)]
    found = stage.process(messages, store if store is not None else MemoryState())
    return [one for one in found if isinstance(one, FailureCluster)]


def interleaved() -> list[Failure]:
    texts = [text for pair in zip(VPN, PAY, strict=True) for text in pair]
    return [failure(number, text) for number, text in enumerate(texts)]


def test_like_failures_share_a_cluster_with_a_name() -> None:
    found = run(interleaved())
    assert len({one.cluster_id for one in found[::2]}) == len({one.cluster_id for one in found[1::2]}) == 1
    assert found[0].cluster_id != found[1].cluster_id
    assert [one.size for one in found] == [1, 1, 2, 2, 3, 3, 4, 4]
    assert set(found[-2].name.split(", ")) >= {"vpn", "token"}
    assert set(found[-1].name.split(", ")) >= {"payslip", "march"}
    assert (found[0].turn_id, found[0].p_failure, found[0].subject_hash) == ("t0.r", 0.9, "p0")


def test_shuffled_words_make_no_such_clusters() -> None:
    """The control: without what the texts say there is nothing to find."""
    words = [word for one in interleaved() for word in one.input.split()]
    random.Random(3).shuffle(words)
    found = run([failure(number, " ".join(words[4 * number : 4 * number + 4])) for number in range(8)])
    assert len({one.cluster_id for one in found[::2]}) > 1 or found[0].cluster_id == found[1].cluster_id


def test_no_one_persons_words_become_a_name() -> None:
    secret = [
        failure(number, "call zebulon about vpn", subject_hash="p", session_id=f"s{number}") for number in range(9)
    ]
    assert {one.name for one in run(secret)} == {""}
    others = [failure(20 + number, "vpn call") for number in range(PEOPLE - 1)]
    assert [one.name for one in run([*secret, *others])][-1] == "call, vpn"


def test_placeholders_and_numbers_are_no_names() -> None:
    texts = [failure(number, f"<PERSON_{number}> lost badge 4711") for number in range(4)]
    assert run(texts)[-1].name in ("badge, lost", "lost, badge")


def test_a_turn_that_comes_again_or_is_revised_keeps_its_cluster_and_counts_once() -> None:
    store = MemoryState()
    first = run(interleaved(), store)
    revised = failure(0, VPN[0], event_id="later", revision=2, cause="tool")
    again = run([*interleaved(), revised], store)
    assert [one.event_id for one in again[:-1]] == [one.event_id for one in first]
    assert (again[-1].cluster_id, again[-1].size, again[-1].cause) == (first[0].cluster_id, 4, "tool")
    assert again[-1].event_id != first[0].event_id


def test_clusters_that_come_close_become_one_and_the_older_id_survives() -> None:
    rules = GroupRules(near=0.9, merge=0.95)
    groups: dict[str, Any] = {}
    axes = np.eye(4)
    assert join(groups, "old", axes[0], "vpn", "a", 0, rules) == "old"
    assert join(groups, "new", axes[0] * 0.8 + axes[1] * 0.6, "token", "b", 0, rules) == "new"
    assert merge(groups, "new", rules) == ("new", [])
    groups["new"]["c"] = groups["old"]["c"]
    assert merge(groups, "new", rules) == ("old", ["new"])
    assert (list(groups), groups["old"]["n"], groups["old"]["was"]) == (["old"], 2, ["new"])
    join(groups, "third", axes[2], "pay", "c", 0, rules)
    groups["third"]["c"] = groups["old"]["c"]
    groups = {"third": groups["third"], "old": groups["old"]}
    assert merge(groups, "old", rules) == ("third", ["old", "new"]), "what had been merged is told again"


def test_a_merge_is_told_and_moves_the_turns() -> None:
    store = MemoryState()
    found = run([failure(0, "vpn token"), failure(1, "token of the vpn gate"), failure(2, "vpn token gate")], store,
                near_at=0.95, merge_at=0.6)  # fmt: skip
    told = [one for one in found if one.merged_into]
    assert told
    assert {one.turn_id for one in told} == {""}
    assert {one.merged_into for one in told} == {found[0].cluster_id}
    state = store.get(KEY)
    assert state is not None
    assert {held[0] for held in state.data["turns"].values()} <= set(state.data["groups"])


def test_state_is_bounded_and_small_clusters_fade() -> None:
    chance, store = random.Random(5), MemoryState()
    letters = "bcdfghjklmnpqrstvwz"
    odd = ["".join(chance.choice(letters) for _ in range(9)) for _ in range(200)]
    run([failure(number, VPN[number % 4]) for number in range(20)], store, clusters=8)
    run([failure(100 + number, text) for number, text in enumerate(odd)], store, clusters=8, turns=50)
    state = store.get(KEY)
    assert state is not None
    assert len(state.data["groups"]) == 8
    assert len(state.data["turns"]) == 50
    assert max(one["n"] for one in state.data["groups"].values()) == 20, "the large one has stayed"
    assert len(state.dump()) < 150_000


def test_silence_forgets_everything() -> None:
    store = MemoryState()
    run(interleaved(), store)
    Cluster().expire(store, START + timedelta(days=59))
    assert store.get(KEY) is not None
    Cluster().expire(store, START + timedelta(days=61))
    assert store.get(KEY) is None


def test_an_erased_person_leaves_no_word_behind() -> None:
    store = MemoryState()
    run([failure(0, "zebulon cannot open his vault"), *[failure(1 + n, text) for n, text in enumerate(VPN)]], store)
    state = store.get(KEY)
    assert state is not None
    assert "zebulon" in plain(state.dump())
    found = Cluster().erased(KEY, state.dump(), Subject(TENANT, "p0", turns=frozenset({"t0.r"})))
    assert found is not None
    text = plain(found[0].dump())
    assert "zebulon" not in text
    assert '"p0"' not in text
    assert len(found[0].data["groups"]) == 1
    assert Cluster().erased(KEY, text, Subject(TENANT, "p0")) is None


def test_another_measure_begins_anew() -> None:
    store = MemoryState()
    run(interleaved(), store)
    state = store.get(KEY)
    assert state is not None
    state.data["measure"] = "another"
    store.put(KEY, state)
    assert run([failure(50, VPN[0], event_id="new")], store)[0].size == 1


def test_numbers_survive_json_bit_for_bit() -> None:
    groups: dict[str, Any] = {}
    rules, chance = GroupRules(near=0.4), np.random.default_rng(1)
    copy: dict[str, Any] = {}
    for place in range(300):
        row = chance.normal(size=16) + 3 * np.eye(16)[place % 5]
        row /= np.linalg.norm(row)
        copy = KeyState.load(KeyState(copy).dump()).data
        for one in (groups, copy):
            join(one, str(place), row, f"word{place % 5} it", str(place), place, rules)
    assert copy == groups
    assert "word1" in {name_of(groups, name) for name in groups}
