"""Erasure is for good, for one person, and may be repeated; what was erased is dropped in the ledger, not lost."""

from __future__ import annotations

import pytest

from connectors.clickhouse.store import Store
from schemas import events
from schemas.errors import Retry, UsageError
from tests.connectors.clickhouse.records import NOW, count, label, ledger_entry, sample, span, sums, turn
from tests.schemas.test_contract import example


def plant(store: Store, subject: str, number: int) -> None:
    """A person's whole trail."""
    mine = {"tenant": "t", "subject_hash": subject, "agent": "a"}
    spans = [span(10 * number + n, input=f"secret of {subject}", subject_hash=subject) for n in range(3)]
    kinds = (events.Signal, events.Score, events.Outcome)
    others = [example(kind).model_copy(update=mine | {"event_id": f"{kind.__name__}{number}"}) for kind in kinds]
    chosen = sample(number, "t", subject_hash=subject)
    by_reviewer = label(number, "t", sample_id=chosen.event_id, received_time=NOW)
    by_turn = label(10 + number, "t", sample_id="", turn_id=f"turn{number}", received_time=NOW)
    store.write([*spans, *others, turn(number, subject_hash=subject), chosen, by_reviewer, by_turn])
    store.write([ledger_entry("t", "accepted", 5, event_id=subject)])


def test_erasure_leaves_nothing_of_one_person_and_all_of_the_other(store: Store) -> None:
    plant(store, "me", 1)
    plant(store, "you", 2)
    dataset = example(events.DatasetVersion).model_copy(
        update={"tenant": "t", "dataset_id": "d1", "subjects": ["me", "you"], "samples": ["s1", "s2"]}
    )
    job = example(events.Job).model_copy(update={"tenant": "t", "dataset_id": "d1", "candidate": "m1"})
    store.write([dataset, job])
    assert sums(store, "t") == [[10, 10, 0, 0, 0]]
    deleted, datasets, models = store.erase_subject("t", "me")
    once = {"signals", "turns", "scores", "outcomes", "samples", "dataset_versions"}
    assert deleted == dict.fromkeys(once, 1) | {"spans": 3, "labels": 2}
    assert (datasets, models) == (["d1"], ["m1"])
    for table in ("spans", "signals", "turns", "scores", "outcomes", "samples"):
        assert store.select(f"SELECT DISTINCT subject_hash FROM {table} FINAL").rows == [["you"]]
    assert store.select("SELECT event_id FROM labels ORDER BY event_id").rows == [["l12"], ["l2"]]
    assert store.select("SELECT subjects, samples FROM dataset_versions").rows == [[["you"], ["s2"]]]
    assert on_disk(store) == {"spans": 3, "labels": 2} | dict.fromkeys(once, 1)
    assert sums(store, "t") == [[10, 5, 0, 5, 0]], "what was erased is dropped, not lost"


def on_disk(store: Store) -> dict[str, int]:
    """Rows in the parts, deleted ones that are only masked included."""
    found = store.select(
        "SELECT table, sum(rows) FROM system.parts WHERE database = currentDatabase() AND active "
        "AND table NOT IN ('schema_migrations', 'ledger', 'jobs') GROUP BY table HAVING sum(rows) > 0"
    )
    return {str(table): int(rows) for table, rows in found.rows}


def test_erasure_may_be_repeated_and_still_names_the_models(store: Store) -> None:
    plant(store, "me", 1)
    dataset = example(events.DatasetVersion).model_copy(
        update={"tenant": "t", "dataset_id": "d1", "subjects": ["me"], "samples": ["s1"]}
    )
    job = example(events.Job).model_copy(update={"tenant": "t", "dataset_id": "d1", "candidate": "m1"})
    store.write([dataset, job])
    deleted, datasets, models = store.erase_subject("t", "me")
    proof = example(events.Erasure).model_copy(
        update={"tenant": "t", "subject_hash": "me", "deleted": deleted, "dataset_versions": datasets, "models": models}
    )
    store.write([proof])
    assert store.erase_subject("t", "me") == ({}, ["d1"], ["m1"])
    assert sums(store, "t") == [[5, 0, 0, 5, 0]]
    assert count(store, "erasures_current") == 1


def test_erasure_stays_within_its_tenant_and_names_someone(store: Store) -> None:
    store.write([span(1, subject_hash="me", tenant="other"), span(2)])
    assert store.erase_subject("t", "me") == ({}, [], [])
    with pytest.raises(UsageError, match="nobody"):
        store.erase_subject("t", "")
    assert on_disk(store) == {"spans": 2}


def test_an_interrupted_erasure_is_run_again(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(store, "me", 1)
    real, calls = store._client.command, 0

    def dies(*args: object, **settings: object) -> object:
        nonlocal calls
        calls += 1
        if calls == 4:
            raise ConnectionError("gone")
        return real(*args, **settings)  # type: ignore[arg-type]  # handed on as it came

    monkeypatch.setattr(store._client, "command", dies)
    with pytest.raises(Retry, match="gone"):
        store.erase_subject("t", "me")
    monkeypatch.undo()
    store.erase_subject("t", "me")
    assert on_disk(store) == {}
    assert sums(store, "t") == [[5, 0, 0, 5, 0]]
