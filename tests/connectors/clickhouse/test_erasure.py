"""Erasure is for good, for one person, and may be repeated; what was erased is dropped in the ledger, not lost."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import pytest

from connectors.clickhouse.erasure import KEPT, Found, tables
from connectors.clickhouse.store import Store
from connectors.clickhouse.tables import TABLES
from schemas import events
from schemas.errors import Refused, Retry, UsageError
from tests.connectors.clickhouse.records import NOW, count, label, ledger_entry, sample, span, sums, turn
from tests.schemas.test_contract import example


def plant(store: Store, subject: str, number: int, tenant: str = "t") -> None:
    """A person's whole trail."""
    mine = {"tenant": tenant, "subject_hash": subject, "agent": "a", "turn_id": f"turn{number}"}
    who = {"tenant": tenant, "subject_hash": subject, "trace_id": f"trace{number}", "session_id": f"x{number}"}
    spans = [span(10 * number + n, input=f"secret of {subject}", **who) for n in range(3)]
    kinds = (events.Signal, events.Score, events.Outcome, events.Failure, events.FailureCluster)
    others = [example(kind).model_copy(update=mine | {"event_id": f"{kind.__name__}{number}"}) for kind in kinds]
    chosen = sample(number, tenant, subject_hash=subject)
    by_reviewer = label(number, tenant, sample_id=chosen.event_id, received_time=NOW)
    by_turn = label(10 + number, tenant, sample_id="", turn_id=f"turn{number}", received_time=NOW)
    store.write([*spans, *others, turn(number, **who), chosen, by_reviewer, by_turn])
    store.write([ledger_entry(tenant, "accepted", 5, event_id=subject)])


def erase(store: Store, tenant: str = "t", subject: str = "me", erasure_id: str = "e1") -> Found:
    """All steps; what was found before them."""
    one = store.erasure(tenant, subject, erasure_id)
    one.note_keys()
    found = one.found()
    one.erase()
    return found


def dataset(**fields: object) -> events.DatasetVersion:
    values = {"tenant": "t", "agent": "a", "dataset_id": "d1", "subjects": ["me", "you"], "samples": ["s1", "s2"]}
    return example(events.DatasetVersion).model_copy(update=values | fields)


def job(model: str = "m1", dataset_id: str = "d1", **fields: object) -> events.Job:
    values = {"tenant": "t", "agent": "a", "dataset_id": dataset_id, "candidate": model, "event_id": model}
    return example(events.Job).model_copy(update=values | {"job_id": model, "state": "passed"} | fields)


def release(candidate: str, incumbent: str, state: str, minute: int) -> events.Deployment:
    values = {"tenant": "t", "agent": "a", "candidate": candidate, "incumbent": incumbent, "state": state}
    time = NOW + timedelta(minutes=minute)
    return example(events.Deployment).model_copy(
        update=values | {"event_id": f"{candidate}{state}", "release_id": candidate, "event_time": time}
    )


def test_erasure_leaves_nothing_of_one_person_and_all_of_the_other(store: Store) -> None:
    plant(store, "me", 1)
    plant(store, "you", 2)
    store.write([dataset(), job()])
    assert sums(store, "t") == [[10, 10, 0, 0, 0]]
    found = erase(store)
    once = {"signals", "turns", "scores", "outcomes", "failures", "clusters", "samples", "dataset_versions"}
    assert found.rows == dict.fromkeys(once, 1) | {"spans": 3, "labels": 2}
    assert (found.datasets, found.models) == (["d1"], ["m1"])
    for table in ("spans", "signals", "turns", "scores", "outcomes", "failures", "clusters", "samples"):
        assert store.select(f"SELECT DISTINCT subject_hash FROM {table} FINAL").rows == [["you"]]
    assert store.select("SELECT event_id FROM labels ORDER BY event_id").rows == [["l12"], ["l2"]]
    assert store.select("SELECT subjects, samples FROM dataset_versions").rows == [[["you"], ["s2"]]]
    assert on_disk(store) == {"spans": 3, "labels": 2} | dict.fromkeys(once, 1)
    assert sums(store, "t") == [[10, 5, 0, 5, 0]], "what was erased is dropped, not lost"
    assert places(store, "me") == {}
    assert set(places(store, "you")) == {*once, "spans"}


def places(store: Store, subject: str) -> dict[str, int]:
    """The proof, as the documentation gives it."""
    query = "SELECT place, rows FROM subject_places WHERE tenant = 't' AND subject_hash = {s:String}"
    return {str(place): int(rows) for place, rows in store.select(query, {"s": subject}).rows}


def on_disk(store: Store) -> dict[str, int]:
    """Rows in the parts, deleted ones that are only masked included."""
    found = store.select(
        "SELECT table, sum(rows) FROM system.parts WHERE database = currentDatabase() AND active "
        "AND table NOT IN ('schema_migrations', 'ledger', 'jobs', 'erasure_keys') GROUP BY table HAVING sum(rows) > 0"
    )
    return {str(table): int(rows) for table, rows in found.rows}


def test_what_names_nobody_goes_with_the_trace_the_turn_and_the_session(store: Store) -> None:
    mine = {"tenant": "t", "agent": "a", "subject_hash": "", "turn_id": "", "trace_id": "", "session_id": ""}
    signal = example(events.Signal)

    def comment(number: int, **about: str) -> events.Signal:
        return signal.model_copy(update=mine | {"event_id": f"c{number}"} | about)

    store.write([
        span(1, subject_hash="me", trace_id="mine", session_id="alone"),
        span(2, subject_hash="me", trace_id="mine", session_id="both"),
        span(3, subject_hash="you", trace_id="yours", session_id="both"),
        span(4, trace_id="mine", session_id="both"),
        turn(1, subject_hash="me", trace_id="mine", session_id="alone"),
        comment(1, session_id="alone"), comment(2, session_id="both"), comment(3, trace_id="mine"),
        comment(4, turn_id="turn1"), comment(5, trace_id="yours"), comment(6, trace_id="mine", subject_hash="you"),
    ])  # fmt: skip
    erase(store)
    assert store.select("SELECT span_id FROM spans").rows == [["s3"]]
    assert store.select("SELECT event_id FROM signals ORDER BY event_id").rows == [["c2"], ["c5"], ["c6"]]


def test_looking_alone_finds_the_same_and_changes_nothing(store: Store) -> None:
    plant(store, "me", 1)
    store.write([dataset(), job(), span(9, trace_id="trace1")])
    before = on_disk(store)
    seen = store.erasure("t", "me").found(noted=False)
    assert on_disk(store) == before
    assert store.select("SELECT count() FROM erasure_keys").rows == [[0]]
    assert seen == erase(store)
    assert seen.rows["spans"] == 4


def test_erasure_may_be_repeated_and_still_names_the_models(store: Store) -> None:
    plant(store, "me", 1)
    store.write([dataset(subjects=["me"], samples=["s1"]), job()])
    found = erase(store)
    proof = example(events.Erasure).model_copy(
        update={
            "tenant": "t", "subject_hash": "me", "deleted": found.rows, "dataset_versions": found.datasets,
            "models": found.models,
        }
    )  # fmt: skip
    store.write([proof])
    assert erase(store, erasure_id="e2") == Found({}, ["d1"], ["m1"])
    assert sums(store, "t") == [[5, 0, 0, 5, 0]]
    assert count(store, "erasures_current") == 1


def test_who_comes_back_is_counted_and_erased_again(store: Store) -> None:
    plant(store, "me", 1)
    erase(store)
    store.write([span(10, subject_hash="me", input="the same span once more")])
    store.write([ledger_entry("t", "accepted", 1, event_id="again")])
    assert sums(store, "t") == [[6, 1, 0, 5, 0]]
    erase(store, erasure_id="e2")
    assert sums(store, "t") == [[6, 0, 0, 6, 0]]


def test_a_dataset_version_that_lost_rows_is_newer(store: Store) -> None:
    before = dataset()
    store.write([before])
    store.write([before.model_copy(update={"subjects": ["you"], "erased": 1})])
    store.write([before])
    assert store.select("SELECT subjects, erased FROM dataset_versions_current").rows == [[["you"], 1]]


def test_erasure_stays_within_its_tenant_and_names_someone(store: Store) -> None:
    store.write([span(1, subject_hash="me", tenant="other"), span(2)])
    assert erase(store) == Found({}, [], [])
    with pytest.raises(UsageError, match="nobody"):
        store.erasure("t", "")
    assert on_disk(store) == {"spans": 2}


class Dying:
    """A client's ``command`` that dies at its n-th call."""

    def __init__(self, real: Callable[..., object], at: int) -> None:
        self.real, self.left = real, at

    def __call__(self, *args: object, **settings: object) -> object:
        self.left -= 1
        if self.left == 0:
            raise ConnectionError("gone")
        return self.real(*args, **settings)


@pytest.mark.parametrize("step", [2, 5, 7, 8, 9, 12, 16])
def test_an_interrupted_erasure_is_run_again(shared: Store, monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """Whichever change it dies at, the next run ends where a run without a death ends."""
    tenant = f"dying{step}"
    plant(shared, "me", 1, tenant)
    shared.write([dataset(tenant=tenant)])
    monkeypatch.setattr(shared._client, "command", Dying(shared._client.command, step))
    with pytest.raises(Retry, match="gone"):
        erase(shared, tenant, erasure_id=tenant)
    monkeypatch.undo()
    erase(shared, tenant, erasure_id=tenant)
    assert shared.erasure(tenant, "me").found(noted=False).rows == {}
    assert sums(shared, tenant) == [[5, 0, 0, 5, 0]]


def test_every_table_is_reached_or_kept_for_a_reason(store: Store) -> None:
    """A new table cannot be forgotten: it has a subject, or says why nobody has to be erased from it."""
    found = tables(store)
    assert set(found) == {*TABLES.values(), *KEPT}
    make = "CREATE TABLE notes (event_id String, tenant String, subject_hash String, text String) ENGINE = MergeTree"
    store.command(f"{make} ORDER BY event_id")
    store.command("INSERT INTO notes VALUES ('1', 't', 'me', 'x'), ('2', 't', 'you', 'y')")
    assert erase(store).rows == {"notes": 1}
    assert store.select("SELECT event_id FROM notes").rows == [["2"]]
    store.command("CREATE TABLE scribbles (text String) ENGINE = MergeTree ORDER BY text")
    with pytest.raises(Refused, match="scribbles"):
        tables(store)


def test_the_proof_looks_at_every_table(store: Store) -> None:
    for kind, table in TABLES.items():
        if table not in ("erasures", "dataset_versions"):
            store.write([example(kind).model_copy(update={"tenant": "t", "subject_hash": "me", "event_id": table})])
    store.write([dataset(subjects=["me"])])
    assert set(places(store, "me")) == set(TABLES.values()) - {"erasures"}


def obligations(store: Store) -> dict[str, tuple[str, str]]:
    return {row["model"]: (row["state"], row["how"]) for row in store.named("erasure_obligations", erasure="e1")}


def test_an_obligation_is_open_until_a_model_without_the_person_is_live(store: Store) -> None:
    erasure = example(events.Erasure).model_copy(
        update={"tenant": "t", "erasure_id": "e1", "subject_hash": "me", "dataset_versions": ["d1", "d2"]}
    )
    store.write([erasure, job(), release("m1", "m0", "live", 0)])
    assert obligations(store) == {"m1": ("open", "")}
    store.write([job("m2", "d2"), release("m2", "m1", "shadow", 1)])
    assert obligations(store) == {"m1": ("open", ""), "m2": ("open", "")}
    store.write([release("m2", "m1", "live", 2)])
    assert obligations(store) == {"m1": ("fulfilled", "retired"), "m2": ("open", "")}
    store.write([job("m3", "d3"), release("m3", "m2", "canary", 3)])
    assert obligations(store)["m2"] == ("open", "")
    store.write([release("m3", "m2", "live", 4)])
    assert obligations(store) == {"m1": ("fulfilled", "retrained"), "m2": ("fulfilled", "retrained")}
    store.write([release("m3", "m2", "rolled_back", 5)])
    assert obligations(store)["m2"] == ("open", "")


def test_a_model_that_may_yet_be_released_is_owed_and_one_that_failed_is_not(store: Store) -> None:
    erasure = example(events.Erasure).model_copy(
        update={"tenant": "t", "erasure_id": "e1", "subject_hash": "me", "dataset_versions": ["d1", "d2"]}
    )
    store.write([erasure, job("m1", "d1", state="running"), job("m2", "d2", state="refused")])
    assert obligations(store) == {"m1": ("open", ""), "m2": ("fulfilled", "retired")}
