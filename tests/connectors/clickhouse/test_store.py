"""The store: the newest state is shown, the ledger is honest, erasure and retention are for good."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from connectors.clickhouse.store import Store
from connectors.clickhouse.tables import TABLES
from schemas import events
from tests.connectors.clickhouse.records import MINUTE, NOW, count, label, ledger_entry, sample, span, sums
from tests.schemas.test_contract import example


def test_the_newest_revision_and_state_win_whatever_comes_last(shared: Store, tenant: str) -> None:
    outcome, job, release = (
        example(kind).model_copy(update={"tenant": tenant}) for kind in (events.Outcome, events.Job, events.Deployment)
    )
    failed = example(events.Failure).model_copy(update={"tenant": tenant})
    shared.write([
        outcome.model_copy(update={"event_id": "o1", "revision": 1, "verdict": "failure"}),
        outcome.model_copy(update={"event_id": "o0", "revision": 0, "verdict": "success"}),
        failed.model_copy(update={"event_id": "f1", "revision": 1, "cause": "tool"}),
        failed.model_copy(update={"event_id": "f0", "revision": 0, "cause": "routing"}),
        job.model_copy(update={"event_id": "j2", "state": "running"}),
        job.model_copy(update={"event_id": "j1", "state": "queued"}),
        release.model_copy(update={"event_id": "d2", "state": "live", "event_time": NOW + timedelta(hours=2)}),
        release.model_copy(update={"event_id": "d1", "state": "canary", "event_time": NOW + timedelta(hours=1)}),
    ])  # fmt: skip
    for view, column, newest in (
        ("outcomes", "verdict", "failure"),
        ("failures", "cause", "tool"),
        ("jobs", "state", "running"),
        ("deployments", "state", "live"),
    ):
        assert shared.select(f"SELECT {column} FROM {view}_current WHERE tenant = '{tenant}'").rows == [[newest]]
        assert count(shared, view, tenant) == 2


def test_the_ledger_adds_up_and_shows_a_loss(shared: Store, tenant: str) -> None:
    dead = example(events.DeadLetter).model_copy(
        update={"tenant": tenant, "topic": "otlp_spans", "items": 2, "received_time": NOW}
    )
    later = dead.model_copy(update={"event_id": "other", "topic": "agent.turns"})
    implicit = example(events.Signal).model_copy(update={"tenant": tenant})
    entries = [ledger_entry(tenant, *pair) for pair in (("accepted", 10), ("duplicate", 1), ("dropped", 1))]
    shared.write([*entries, dead, later, implicit])
    assert sums(shared, tenant) == [[9, 0, 2, 1, 6]]
    shared.write([span(n, tenant=tenant) for n in range(4)])
    shared.write([label(1, tenant, received_time=NOW)])
    assert sums(shared, tenant) == [[9, 5, 2, 1, 1]], "a planted loss must show"
    signal = implicit.model_copy(update={"event_id": "explicit", "received_time": NOW})
    shared.write([signal])
    shared.write([signal, *entries, dead])
    assert sums(shared, tenant) == [[9, 6, 2, 1, 0]], "redelivery counts nothing twice"


def test_of_feedback_the_newest_is_current_and_the_ledger_counts_all(shared: Store, tenant: str) -> None:
    first = example(events.Signal).model_copy(
        update={"tenant": tenant, "event_id": "a", "feedback_id": "f", "value": 1.0, "received_time": NOW}
    )
    hours_later = {"event_id": "b", "value": -1.0, "event_time": first.event_time + timedelta(hours=30)}
    plain = {"event_id": "c", "feedback_id": "", "value": 0.5}
    shared.write([first.model_copy(update=hours_later), first, first.model_copy(update=plain)])
    shared.write([first.model_copy(update=plain | {"event_id": "d"})])
    found = shared.select(f"SELECT event_id, value FROM signals_current WHERE tenant = '{tenant}' ORDER BY event_id")
    assert found.rows == [["b", -1.0], ["c", 0.5], ["d", 0.5]]
    dead = example(events.DeadLetter).model_copy(
        update={"tenant": tenant, "topic": "otlp_logs", "items": 1, "received_time": NOW}
    )
    dropped = ledger_entry(tenant, "dropped", 2).model_copy(update={"reason": "not_feedback"})
    shared.write([ledger_entry(tenant, "accepted", 7), dead, dropped])
    assert sums(shared, tenant) == [[7, 4, 1, 2, 0]]


def test_every_minute_stands_for_itself(shared: Store, tenant: str) -> None:
    after = MINUTE + timedelta(minutes=1)
    shared.write([ledger_entry(tenant, "accepted", 1), ledger_entry(tenant, "accepted", 2, event_time=after)])
    shared.write([span(n, tenant=tenant, received_time=after) for n in range(3)])
    assert sums(shared, tenant) == [[1, 0, 0, 0, 1], [2, 3, 0, 0, -1]]


def test_labelled_samples_are_joined_with_their_newest_label(shared: Store, tenant: str) -> None:
    first = sample(1, tenant, input="text")
    refused = sample(2, tenant, consent_train=False)
    old = label(1, tenant, value="old", rater="one")
    new = label(2, tenant, value="new", rater="two", event_time=old.event_time + timedelta(minutes=1))
    unwilling = label(4, tenant, sample_id="s3", consent_train=False)
    shared.write([first, refused, sample(3, tenant), new, old, label(3, tenant, sample_id="s2"), unwilling])
    (row,) = shared.labelled(tenant, "a")
    assert (row["sample_id"], row["text"], row["label"], row["rater"]) == ("s1", "text", "new", "two")
    assert (row["time"], row["evaluate"]) == (first.event_time, True)
    shared.write([label(9, tenant, consent_evaluate=False, event_time=new.event_time + timedelta(minutes=1))])
    assert [row["evaluate"] for row in shared.labelled(tenant, "a")] == [False]
    assert shared.labelled(tenant, "b") == []
    assert shared.labelled("another", "a") == []


def test_samples_without_a_label_wait_in_the_queue(store: Store) -> None:
    store.write([sample(n, "t") for n in range(3)])
    store.write([label(1, "t")])
    assert [row["sample_id"] for row in store.named("label_queue", limit=9)] == ["s0", "s2"]
    assert [row["sample_id"] for row in store.named("label_queue", limit=1)] == ["s0"]


def test_counts_are_of_what_is_current(store: Store) -> None:
    store.write([span(1), span(2)])
    store.write([span(2), ledger_entry("t", "accepted", 2)])
    assert store.counts() == dict.fromkeys(TABLES.values(), 0) | {"spans": 2, "ledger": 1}


def aged(store: Store, table: str, seconds: int) -> None:
    """The clock cannot be set: the rows are made older."""
    store.command(
        f"ALTER TABLE {table} UPDATE stored_time = stored_time - INTERVAL {seconds} SECOND WHERE 1 "
        "SETTINGS mutations_sync = 1"
    )


def test_retention_counts_from_storing_and_is_fixed_in_the_row(store: Store) -> None:
    long_ago = NOW - timedelta(days=9_000)
    short = Store(replace(store.settings, retention_days=2))
    store.command("SYSTEM STOP TTL MERGES spans")
    short.write([span(1), span(2, event_time=long_ago), example(events.Job)])
    store.write([span(3), span(4, event_time=long_ago)])
    aged(store, "jobs", 2 * 86_400 + 60)
    aged(store, "spans", 2 * 86_400 - 2)
    past = "SELECT count() FROM spans WHERE stored_time + toIntervalDay(retention_days) <= now()"
    for _ in range(100):  # without merges nothing goes by itself: both are still there when they are past it
        if store.select(past).rows == [[2]]:
            break
        time.sleep(0.1)
    assert count(store, "spans_current") == 4
    store.materialise_retention()
    assert store.select("SELECT span_id FROM spans ORDER BY span_id").rows == [["s3"], ["s4"]]
    assert count(store, "jobs", "a tenant") == 1, "what the flywheel decided is kept longer"
    short.close()


def test_merges_remove_what_is_past_its_retention(store: Store) -> None:
    short = Store(replace(store.settings, retention_days=0))
    short.write([span(1)])
    short.close()
    store.write([span(2)])
    store.command("OPTIMIZE TABLE spans FINAL")
    assert store.select("SELECT span_id FROM spans").rows == [["s2"]]


def test_an_expiring_minute_leaves_the_ledger_before_its_rows_do(store: Store) -> None:
    short = Store(replace(store.settings, retention_days=1))
    short.write([ledger_entry("t", "accepted", 2), span(1)])
    store.write([ledger_entry("u", "accepted", 1), span(2, tenant="u")])
    assert [row[0] for row in store.ledger().rows] == ["t", "u"]
    aged(store, "spans", 23 * 3_600 + 60)
    assert [row[0] for row in store.ledger().rows] == ["u"]
    assert count(store, "spans_current") == 1
    short.close()


def test_times_are_aware(shared: Store) -> None:
    assert shared.query("SELECT toDateTime64('2026-01-05 08:00:00', 6, 'UTC')").rows == [
        [datetime(2026, 1, 5, 8, tzinfo=UTC)]
    ]


def test_threads_write_and_ask_at_once(shared: Store, tenant: str) -> None:
    def work(number: int) -> list[list[object]]:
        shared.write([span(10 * number + n, tenant=tenant) for n in range(10)])
        return shared.query(f"SELECT count() >= 10 FROM spans_current WHERE tenant = '{tenant}'").rows

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(work, range(8))) == [[[1]]] * 8
    assert count(shared, "spans_current", tenant) == 80
