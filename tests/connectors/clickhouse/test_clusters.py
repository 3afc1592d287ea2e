"""The store's views of failure clusters: merges are followed, and what was revised to a success falls out."""

from __future__ import annotations

from typing import Any

from connectors.clickhouse.store import Store
from schemas.events import FailureCluster, Outcome
from tests.schemas.test_contract import example


def clustered(turn: str, cluster: str, size: int, **given: Any) -> FailureCluster:
    base = {"event_id": f"{turn}{cluster}{size}", "turn_id": turn, "session_id": f"s{turn}", "cluster_id": cluster,
            "size": size, "name": f"name {size}", "merged_into": "", "cause": "tool", "revision": 0}  # fmt: skip
    return example(FailureCluster).model_copy(update=base | given)


def outcome(turn: str, verdict: str, revision: int = 0, p_failure: float = 0.5) -> Outcome:
    given = {"event_id": f"{turn}/{revision}", "turn_id": turn, "verdict": verdict, "revision": revision}
    return example(Outcome).model_copy(update=given | {"p_failure": p_failure})


def test_top_clusters_are_volume_times_badness_of_what_still_failed(shared: Store, tenant: str) -> None:
    records = [
        clustered("t1", "a", 1), clustered("t2", "b", 1), clustered("t3", "b", 2, model_version="m2"),
        clustered("t4", "c", 1), clustered("t5", "a", 2),
        clustered("", "b", 4, event_id="merged", merged_into="a", name="vpn, token", session_id=""),
        outcome("t1", "failure"), outcome("t2", "failure", p_failure=0.75), outcome("t3", "failure"),
        outcome("t4", "failure"), outcome("t5", "failure"), outcome("t5", "success", 1),
    ]  # fmt: skip
    shared.write([one.model_copy(update={"tenant": tenant}) for one in records])
    where = f"WHERE tenant = '{tenant}'"
    turns = shared.select(f"SELECT turn_id, cluster_id, name, size FROM clustered_failures {where} ORDER BY turn_id")
    merged = ["a", "vpn, token", 4]
    assert turns.rows == [["t1", *merged], ["t2", *merged], ["t3", *merged], ["t4", "c", "name 1", 1]]
    own = example(FailureCluster).model_version
    top = shared.select(
        f"SELECT model_version, cluster_id, turns, sessions, badness, main_cause FROM top_clusters {where} "
        "ORDER BY badness DESC, cluster_id, model_version"
    )
    assert top.rows[0] == [own, "a", 2, 2, 1.25, "tool"]
    assert sorted(top.rows[1:]) == sorted([["m2", "a", 1, 1, 0.5, "tool"], [own, "c", 1, 1, 0.5, "tool"]])


def test_a_revised_turn_counts_once_in_its_newest_cluster(shared: Store, tenant: str) -> None:
    records = [clustered("t1", "a", 1), clustered("t1", "b", 7, revision=2), outcome("t1", "failure", 2)]
    shared.write([one.model_copy(update={"tenant": tenant}) for one in records])
    found = shared.select(f"SELECT cluster_id FROM clusters_current WHERE tenant = '{tenant}'")
    assert found.rows == [["b"]]
