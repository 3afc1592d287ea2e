from __future__ import annotations

import random
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from connectors.log import Entry, entry_of
from connectors.sqlite_log import SqliteLog, SqliteLogSettings
from schemas.errors import Refused, Reject
from schemas.events import Erasure, Job, identity
from schemas.topics import ERASURES, JOBS, LEDGER, OTLP_SPANS, SIGNALS_RAW, SPANS, Topic

T0 = datetime(2026, 1, 1, tzinfo=UTC)
SECOND = timedelta(seconds=1)
KEY = bytes(range(32))
SETTINGS = SqliteLogSettings(KEY)

Open = Callable[..., SqliteLog]


@pytest.fixture
def reopen(tmp_path: Path) -> Iterator[Open]:
    """Opens the log in the test's folder anew, closing the one that was open."""
    logs: list[SqliteLog] = []

    def make(settings: SqliteLogSettings = SETTINGS) -> SqliteLog:
        while logs:
            logs.pop().close()
        logs.append(SqliteLog(tmp_path, settings))
        return logs[-1]

    yield make
    while logs:
        logs.pop().close()


def entry(topic: Topic, number: int, time: datetime = T0, size: int = 10) -> Entry:
    return Entry(topic.name, f"k{number % 3}", str(number).encode().ljust(size), time, {"tenant": "t"})


def values(log: SqliteLog, consumer: str, *topics: Topic, limit: int = 1000) -> list[int]:
    entries, nexts = log.read(consumer, topics, limit)
    with log.transaction() as transaction:
        transaction.advance(consumer, nexts)
    return [int(e.value) for e in entries]


def test_what_is_appended_is_read_in_order_once_by_every_consumer_also_after_reopening(reopen: Open) -> None:
    log = reopen()
    for name in ("one", "two"):
        log.join(name, [SPANS])
    log.append([entry(SPANS, n) for n in range(5)])
    assert values(log, "one", SPANS, limit=3) == [0, 1, 2]
    assert log.lags() == {"one": 2, "two": 5}
    log = reopen()
    log.append([entry(SPANS, n) for n in range(5, 7)])
    log.join("one", [SPANS])
    log.join("late", [SPANS])
    assert values(log, "one", SPANS) == [3, 4, 5, 6]
    assert values(log, "one", SPANS) == []
    assert values(log, "late", SPANS) == list(range(7)), "a new consumer starts at the beginning"
    assert log.lag("one") == 0


def test_an_entry_comes_back_as_it_was_with_dense_offsets_per_topic(reopen: Open) -> None:
    log = reopen()
    time = datetime(2026, 1, 1, 12, 30, 59, 123457, UTC)
    log.append([Entry("agent.spans", "a key", bytes(range(256)), time, {"tenant": "t\u00e4"}), entry(LEDGER, 1)])
    log.append([entry(SPANS, 2)])
    first, second = log.scan(SPANS)
    assert (first.key, first.value, first.time, first.headers) == (
        "a key",
        bytes(range(256)),
        time,
        {"tenant": "t\u00e4"},
    )
    assert [first.offset, second.offset, log.scan(LEDGER)[0].offset] == [0, 1, 0]


def test_topics_are_read_fairly_by_time_and_each_in_its_own_order(reopen: Open) -> None:
    log = reopen()
    log.append([entry(SPANS, n, T0 + n * SECOND) for n in (0, 2, 4, 6)])
    log.append([entry(LEDGER, n, T0 + n * SECOND) for n in (1, 3, 5)])
    assert values(log, "c", SPANS, LEDGER) == [0, 1, 2, 3, 4, 5, 6]
    log.append([entry(SPANS, n, T0 - n * SECOND) for n in (7, 8, 9)])
    log.join("d", [SPANS])
    assert [int(e.value) for e in log.read("d", [SPANS], 100)[0]][-3:] == [7, 8, 9], "times run backwards: offsets rule"


def test_a_fair_read_in_any_batch_size_reads_everything_once(reopen: Open) -> None:
    log, draw = reopen(), random.Random(1)
    topics = (SPANS, LEDGER, ERASURES)
    log.append([entry(draw.choice(topics), n, T0 + draw.randrange(50) * SECOND) for n in range(200)])
    for size in (1, 7, 500):
        log.join(f"c{size}", topics)
        seen: list[int] = []
        while batch := values(log, f"c{size}", *topics, limit=size):
            seen += batch
        assert sorted(seen) == list(range(200))


def test_a_batch_is_bounded_in_bytes_but_never_empty(reopen: Open) -> None:
    log = reopen()
    log.append([entry(SPANS, n, size=1000) for n in range(5)])
    assert len(log.read("c", [SPANS], 100, max_bytes=2500)[0]) == 3
    assert len(log.read("c", [SPANS], 100, max_bytes=1)[0]) == 1


def test_a_transaction_that_fails_leaves_nothing(reopen: Open) -> None:
    log = reopen()
    log.join("c", [SPANS])
    log.append([entry(SPANS, 0)])

    def fail_late() -> None:
        with log.transaction() as transaction:
            transaction.append([entry(SPANS, 1), entry(LEDGER, 1)])
            transaction.advance("c", {"agent.spans": 1})
            transaction.put_state("s", "k", "{}", T0)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_late()
    assert log.lags() == {"c": 1}
    assert (log.scan(LEDGER), log.state("s", "k"), log.due_keys("s", T0)) == ([], None, [])
    log.append([entry(SPANS, 2)])
    assert [e.offset for e in log.scan(SPANS)] == [0, 1], "offsets stay dense"


def test_state_with_its_timers(reopen: Open) -> None:
    log = reopen()
    with log.transaction() as transaction:
        for key, due in (("a", T0 + SECOND), ("b", T0), ("c", None), ("d", T0)):
            transaction.put_state("s", key, f'"{key}"', due)
        transaction.put_state("other", "a", "1", T0 - SECOND)
    log = reopen()
    assert (log.state("s", "a"), log.state("s", "c"), log.state("s", "x")) == ('"a"', '"c"', None)
    assert log.due_keys("s", T0) == ["b", "d"]
    assert log.due_keys("s", T0 + SECOND) == ["b", "d", "a"]
    assert (log.next_due("s"), log.next_due("none")) == (T0, None)
    with log.transaction() as transaction:
        transaction.put_state("s", "b", "2", None)
        transaction.delete_state("s", "d")
    assert log.due_keys("s", T0) == []
    assert (log.state("s", "b"), log.state("s", "d"), log.stats()["keys.s"]) == ("2", None, 3)


def test_back_pressure_comes_from_the_slowest_consumer_and_goes_when_it_has_read(reopen: Open) -> None:
    log = reopen(SqliteLogSettings(KEY, max_lag=3))
    log.append([entry(SPANS, n) for n in range(5)])
    log.join("fast", [SPANS])
    log.join("slow", [SPANS])
    values(log, "fast", SPANS)
    with pytest.raises(Reject, match=r"agent\.spans: the slowest consumer is 5 entries behind"):
        log.append([entry(LEDGER, 9), entry(SPANS, 5)])
    assert log.scan(LEDGER) == [], "nothing of the batch was taken"
    log.append([entry(LEDGER, 1)])
    values(log, "slow", SPANS)
    log.append([entry(SPANS, 5)])


def test_a_consumer_that_is_not_there_any_more_holds_nobody_back(reopen: Open) -> None:
    log = reopen(SqliteLogSettings(KEY, max_lag=3))
    log.join("gone", [SPANS])
    log.append([entry(SPANS, n) for n in range(3)])
    log = reopen(SqliteLogSettings(KEY, max_lag=3))
    log.append([entry(SPANS, 3)])
    assert log.lags() == {}
    assert log.drop_consumed(SPANS) == 0, "what it has not read is kept for it"
    log.leave("gone")
    assert log.drop_consumed(SPANS) == 4


def test_a_full_disk_is_a_reject_and_nothing_is_half_written(reopen: Open) -> None:
    reopen()
    log = reopen(SqliteLogSettings(KEY, max_pages=40))
    taken = 0

    def fill() -> None:
        nonlocal taken
        for _ in range(100):
            log.append([entry(SPANS, taken + n, size=1000) for n in range(10)])
            taken += 10

    with pytest.raises(Reject, match="full: free some space; nothing was taken"):
        fill()
    assert 0 < taken < 1000
    assert [int(e.value) for e in log.scan(SPANS)] == list(range(taken))
    log = reopen()
    assert [int(e.value) for e in log.scan(SPANS)] == list(range(taken))
    log.append([entry(SPANS, taken)])
    assert log.scan(SPANS)[-1].offset == taken


def test_a_topic_may_be_kept_for_less_than_its_own_time(reopen: Open) -> None:
    log = reopen()
    log.append([entry(topic, 0) for topic in (SPANS, OTLP_SPANS)])
    log.trim(T0 + timedelta(hours=3), {SPANS.name: timedelta(hours=2)})
    assert (log.scan(SPANS), len(log.scan(OTLP_SPANS))) == ([], 1)


def test_retention_drops_what_is_old_and_says_what_nobody_had_read(reopen: Open) -> None:
    log = reopen()
    for name in ("quick", "slow"):
        log.join(name, [OTLP_SPANS])
    log.append([entry(OTLP_SPANS, n, T0 + timedelta(hours=n)) for n in range(10)])
    values(log, "quick", OTLP_SPANS)
    values(log, "slow", OTLP_SPANS, limit=2)
    assert log.trim(T0 + timedelta(hours=24)) == {}
    assert log.trim(T0 + timedelta(hours=26)) == {}
    assert [int(e.value) for e in log.scan(OTLP_SPANS)] == list(range(2, 10))
    assert log.trim(T0 + timedelta(hours=29)) == {"otlp_spans": 3}
    assert log.lags() == {"quick": 0, "slow": 5}
    assert values(log, "slow", OTLP_SPANS) == [5, 6, 7, 8, 9]
    assert log.trim(T0 + timedelta(days=9)) == {}
    assert (log.scan(OTLP_SPANS), log.lags()) == ([], {"quick": 0, "slow": 0})
    log.append([entry(OTLP_SPANS, 10, T0 + timedelta(days=9))])
    assert log.scan(OTLP_SPANS)[0].offset == 10


def test_compacted_topics_keep_the_newest_of_every_identity_for_ever(reopen: Open) -> None:
    def job(number: int, state: str) -> Entry:
        what = {"event_id": identity(f"{number}", state), "tenant": "t", "agent": "a", "event_time": T0}
        return entry_of(Job.model_validate(what | {"job_id": f"j{number}", "trigger_id": "x", "state": state}), T0)

    log = reopen()
    log.join("c", [JOBS])
    log.append([job(1, "queued"), job(2, "queued"), job(1, "running"), Entry("flywheel.jobs", "k", b"garbage", T0)])
    log.trim(T0 + timedelta(days=999))
    assert len(log.scan(JOBS)) == 4, "nobody has read them yet"
    _, nexts = log.read("c", [JOBS], 10)
    with log.transaction() as transaction:
        transaction.advance("c", nexts)
    log.append([job(1, "passed")])
    log.trim(T0 + timedelta(days=999))
    assert [e.offset for e in log.scan(JOBS)] == [1, 4], "of job 1 the newest; read by all but the last"
    assert [e.offset for e in log.read("new", [JOBS], 10)[0]] == [1, 4]
    assert log.lag("c") == 1


def test_erased_entries_leave_no_lag_behind(reopen: Open) -> None:
    log = reopen()
    log.join("c", [SPANS])
    log.append([entry(SPANS, n) for n in range(5)])
    log.delete(SPANS, [0, 3, 4])
    assert log.lag("c") == 4
    assert values(log, "c", SPANS) == [1, 2]
    log.append([entry(SPANS, 5)])
    log.delete(SPANS, [5])
    assert log.lag("c") == 0


@pytest.mark.parametrize("shredded", [True, False])
def test_what_is_shredded_is_nowhere_on_disk(reopen: Open, tmp_path: Path, shredded: bool) -> None:
    """Also what a state was replaced by; the control shows that a plain deletion leaves it in the file."""
    log = reopen()
    secret = b"maria said something " * 3
    log.append([Entry(SPANS.name, "k", secret + bytes([n]), T0) for n in range(40)])
    with log.transaction() as transaction:
        transaction.put_state("stage", "k", "ana said something " * 300, None)
    assert log.states("stage") == [("k", "ana said something " * 300)]
    with log.shredding() if shredded else nullcontext():
        log.delete(SPANS, range(40))
        with log.transaction() as transaction:
            transaction.put_state("stage", "k", "{}", None)
    found = b"".join(path.read_bytes() for path in tmp_path.iterdir() if path.name.startswith("log.db"))
    left = b"maria said" in found, b"ana said something" in found
    assert left == ((False, False) if shredded else (True, True))


def test_what_everybody_has_read(reopen: Open) -> None:
    log = reopen()
    for name in ("one", "two"):
        log.join(name, [SPANS])
    log.append([entry(SPANS, n) for n in range(5)])
    values(log, "one", SPANS, limit=4)
    values(log, "two", SPANS, limit=2)
    assert (log.read_by_all(SPANS), log.read_by_all(LEDGER)) == (2, 0)
    assert [one.offset for one in log.scan(SPANS, 2)] == [2, 3, 4]


def test_one_entry_by_its_offset(reopen: Open) -> None:
    log = reopen()
    log.append([entry(OTLP_SPANS, n) for n in range(3)])
    found = log.at(OTLP_SPANS, 1)
    assert found == log.scan(OTLP_SPANS)[1]
    log.delete(OTLP_SPANS, [1])
    assert [log.at(OTLP_SPANS, n) is not None for n in range(4)] == [True, False, True, False]
    assert log.at(SPANS, 0) is None


def test_raw_topics_are_encrypted_on_disk_and_clean_ones_are_not(reopen: Open, tmp_path: Path) -> None:
    log = reopen()
    log.append([Entry("otlp_spans", "k", b"mary@example.org", T0), Entry("agent.signals.raw", "k", b"4111-1111", T0)])
    log.append([Entry("agent.spans", "k", b"<EMAIL_1>", T0)])
    assert [log.scan(t)[0].value for t in (OTLP_SPANS, SIGNALS_RAW)] == [b"mary@example.org", b"4111-1111"]
    disk = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert b"mary@" not in disk
    assert b"4111-" not in disk
    assert b"<EMAIL_1>" in disk, "control: the search would have found it"


def test_another_key_is_refused(reopen: Open) -> None:
    reopen()
    with pytest.raises(Refused, match="written with another key"):
        reopen(SqliteLogSettings(bytes(32)))
    reopen()


def test_a_newer_folder_is_refused_with_both_versions(reopen: Open, tmp_path: Path) -> None:
    reopen().close()
    with sqlite3.connect(tmp_path / "log.db") as connection:
        connection.execute("UPDATE meta SET value = '7' WHERE name = 'version'")
    connection.close()
    with pytest.raises(Refused, match=r"newer Driftwheel \(log version 7; this one knows 1\)"):
        reopen()


def test_what_is_no_database_is_refused(reopen: Open, tmp_path: Path) -> None:
    (tmp_path / "log.db").write_bytes(b"not a database, really" * 500)
    with pytest.raises(Refused, match="cannot be opened"):
        reopen()


def test_one_process_owns_a_folder(reopen: Open, tmp_path: Path, root: Path) -> None:
    program = (
        "import sys, pathlib\nfrom connectors.sqlite_log import *\n"
        "log = SqliteLog(pathlib.Path(sys.argv[1]), SqliteLogSettings(bytes(range(32))))\n"
        "print('open', flush=True)\ninput()"
    )
    command = [sys.executable, "-c", program, str(tmp_path)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=root, stdin=pipe, stdout=pipe, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "open\n"
        with pytest.raises(Refused, match=rf"process {other.pid} has the data folder .* open"):
            reopen()
        other.kill()
    reopen().append([entry(SPANS, 0)])


def test_threads_append_side_by_side_and_waiters_hear_of_it(reopen: Open) -> None:
    log = reopen()
    log.join("c", [SPANS])
    seen: list[int] = []

    def produce(start: int) -> None:
        for n in range(start, start + 50):
            log.append([entry(SPANS, n)])

    def consume() -> None:
        while len(seen) < 200:
            generation = log.generation
            if batch := values(log, "c", SPANS, limit=7):
                seen.extend(batch)
            else:
                log.wait(generation, 10)

    threads = [threading.Thread(target=produce, args=(n * 50,)) for n in range(4)]
    threads.append(threading.Thread(target=consume))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sorted(seen) == list(range(200))
    assert [e.offset for e in log.scan(SPANS)] == list(range(200))


def test_oldest_unread(reopen: Open) -> None:
    log = reopen()
    log.join("c", [SPANS, LEDGER])
    assert log.oldest_unread("c", [SPANS, LEDGER]) is None
    log.append([entry(SPANS, 0, T0 + SECOND), entry(LEDGER, 0, T0)])
    assert log.oldest_unread("c", [SPANS, LEDGER]) == T0
    values(log, "c", LEDGER)
    assert log.oldest_unread("c", [SPANS, LEDGER]) == T0 + SECOND


def test_records_survive_the_log(reopen: Open) -> None:
    log = reopen()
    record = Erasure(event_id="e", tenant="t", agent="a", event_time=T0, deleted={"turns": 3})
    log.append([entry_of(record, T0)])
    (found,) = log.scan(ERASURES)
    assert entry_of(record, T0).value == found.value
    assert found.key == "t/a"


@pytest.mark.parametrize("durable", [False, True])
def test_durable_means_synchronous_full(reopen: Open, durable: bool) -> None:
    log = reopen(SqliteLogSettings(KEY, durable=durable))
    with log.transaction():
        (level,) = log._writer.execute("PRAGMA synchronous").fetchone()
    assert level == (2 if durable else 1)
