"""Dead letters on the embedded engine: what is known of them, and replays after which the ledger still adds up."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from connectors.clickhouse.sink import ClickHouseSink
from connectors.clickhouse.store import Store
from connectors.kafka.log import KafkaLog, KafkaLogSettings
from connectors.kafka.quarantine import KafkaQuarantine
from connectors.kafka.reader import Reader
from connectors.kafka.settings import KafkaSettings
from connectors.kafka.topics import QUARANTINE
from connectors.log import Entry, Log, entry_of
from connectors.otlp import PROTOBUF, accept_traces
from connectors.quarantine import Quarantine
from connectors.signals_api import SignalBody, append_bodies, parse
from connectors.sqlite_log import SqliteLog, SqliteLogSettings
from driftwheel.client import Client
from driftwheel.config import load
from driftwheel.deadletters import Behind, DeadLetters, LogMessages
from driftwheel.deadletters_kafka import Patient
from driftwheel.desk import open_letters
from driftwheel.embedded import Engine
from driftwheel.letters import LetterFilter, filter_of
from processors.redact import Redact, RedactSettings
from processors.stage import Event, Stage
from processors.state import KeyState
from schemas.errors import Invalid, Refused, Reject, UsageError
from schemas.events import DeadLetter, Job, LedgerEntry, Record, Span
from schemas.topics import DEAD_LETTERS, LEDGER, OTLP_SPANS, SIGNALS_RAW, SPANS, topic_of
from tests.brokers import free_ports
from tests.driftwheel.cli_kit import rows, run, start
from tests.driftwheel.engine_kit import until
from tests.driftwheel.kafka_kit import lane_settings, make_topics, records, stored, working
from tests.models import minilm_folder
from tests.processors.redacting import otlp, signal_message
from tests.store import temporary_store
from tests.world import AGENT

T0 = datetime(2026, 1, 5, 9, 0, 30, 250_000, tzinfo=UTC)
HOUR = timedelta(hours=1)
KEY = bytes(range(32))
LONG = "please reset my vpn " * 10
"""Longer than redaction may take in these tests, until its limit is raised."""
SHORT = "reset my vpn"
STRICT, LOOSE = 100, 2_000_000


def asked(text: str, session: str = "s1") -> dict[str, Any]:
    values = {"openinference.span.kind": "LLM", "input.value": text, "output.value": "it", "session.id": session}
    return {"attributes": values}


class Picky(ClickHouseSink):
    """A sink that refuses some spans."""

    def __init__(self, store: Store, refuses: str) -> None:
        super().__init__(store)
        self.refuses = refuses

    def write(self, records: Sequence[Record]) -> None:
        if any(isinstance(record, Span) and self.refuses in record.input for record in records):
            raise Invalid("unstorable", "spans: a column is too small")
        super().write(records)


class Counting(Stage):
    """What a stage behind redaction sees; it refuses what it is told to, once read."""

    name, sources, emits, memo_size = "counting", (SPANS,), (), 0

    def __init__(self, refuses: str = "\0") -> None:
        super().__init__()
        self.refuses, self.seen = refuses, list[str]()

    def step(self, event: Event, state: KeyState) -> Iterable[Record]:
        assert isinstance(event.record, Span)
        if self.refuses in event.record.input:
            raise Invalid("not_understood", "field input: of an unknown kind")
        self.seen.append(event.record.event_id)
        return ()


class Bench:
    """One installation in lock step: log, quarantine, store, redaction with a limit that can be raised."""

    def __init__(self, folder: Path, store: Store) -> None:
        self.folder, self.store, self.now = folder, store, T0
        self.log = SqliteLog(folder, SqliteLogSettings(key=KEY))
        self.quarantine = Quarantine(folder / "quarantine", KEY)
        self.counting = Counting()
        self.behind = Behind(self.quarantine, LogMessages(self.log), self.log)
        self.letters = DeadLetters(store, lambda: self.behind, self.clock)

    def clock(self) -> datetime:
        return self.now

    def run(self, limit: int = STRICT, refuses: str = "\0") -> None:
        """All that there is to do."""
        stages = [Redact(RedactSettings(max_text=limit)), self.counting]
        engine = Engine(self.log, stages, [Picky(self.store, refuses)], self.clock, quarantine=self.quarantine)
        engine.drain()
        engine.stop()

    def traces(self, *texts: str, gateway: bool = True) -> None:
        """One request with a span for each text, through the gateway or written by a Collector."""
        body = otlp(*[asked(text) for text in texts]).SerializeToString()
        if gateway:
            assert accept_traces(body, PROTOBUF, "acme", self.now, self.log) == (0, "")
        else:
            self.log.append([Entry(OTLP_SPANS.name, "", body, self.now)])

    def open(self) -> list[str]:
        return [row["event_id"] for row in self.letters.find(LetterFilter(state="open"))]

    def states(self) -> list[str]:
        return [row["state"] for row in self.letters.find(LetterFilter())]

    def sums(self) -> tuple[int, ...]:
        """Accepted, stored, quarantined, dropped; every minute of every tenant adds up."""
        rows = self.store.ledger().rows
        assert [row[-1] for row in rows] == [0] * len(rows), rows
        return tuple(sum(int(row[place]) for row in rows) for place in range(2, 6))

    def count(self, what: str) -> int:
        return int(self.store.select(f"SELECT count() FROM {what}").rows[0][0])

    def appended(self) -> int:
        """Replayed messages in the log."""
        topics = (OTLP_SPANS, SIGNALS_RAW, SPANS)
        return sum("replay" in entry.headers for topic in topics for entry in self.log.scan(topic))

    def replay(self, *ids: str, again: bool = False) -> dict[str, Any]:
        return self.letters.replay(ids or self.open(), again)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    with temporary_store() as store:
        made = Bench(tmp_path, store)
        yield made
        made.log.close()


# Replays of what redaction could not clean.


@pytest.mark.parametrize("gateway", [True, False], ids=["gateway", "collector"])
def test_one_span_of_three_is_read_at_last(bench: Bench, gateway: bool) -> None:
    bench.traces(SHORT, LONG, SHORT, gateway=gateway)
    bench.run()
    assert bench.sums() == (3, 2, 1, 0)
    bench.now += 3 * HOUR
    done = bench.replay()
    assert (done["messages"], len(done["replayed"]), done["left_out"]) == (1, 1, [])
    assert bench.states() == ["open"], "the store does not know yet"
    bench.run(LOOSE)
    assert bench.sums() == (4, 3, 1, 0)
    assert bench.states() == ["settled"]
    assert sorted(bench.counting.seen) == sorted(set(bench.counting.seen)), "its neighbours were not sent on again"
    (time,) = {row[0] for row in bench.store.select("SELECT received_time FROM spans FINAL").rows}
    assert time == T0, "it was accepted when it was accepted"


def test_letters_of_one_message_append_it_once(bench: Bench) -> None:
    bench.traces(LONG, SHORT, LONG + "b", LONG + "c")
    bench.run()
    first, *others = bench.open()
    done = bench.replay(first)
    assert (done["messages"], bench.appended()) == (1, 1)
    bench.run(LOOSE)
    assert bench.sums() == (5, 2, 3, 0)
    assert sorted(bench.states()) == ["open", "open", "settled"]
    assert bench.replay(*others)["messages"] == 1
    assert bench.appended() == 2
    bench.run(LOOSE)
    assert bench.sums() == (7, 4, 3, 0)
    assert bench.states() == ["settled"] * 3


@pytest.mark.parametrize("later", [timedelta(), timedelta(hours=30)], ids=["remembered", "forgotten"])
def test_a_second_replay_changes_nothing(bench: Bench, later: timedelta) -> None:
    bench.traces(SHORT, LONG)
    bench.run()
    (letter,) = bench.open()
    bench.replay(letter)
    bench.run(LOOSE)
    sums, spans = bench.sums(), bench.count("spans FINAL")
    bench.now += later
    bench.run(LOOSE)
    assert "--again" in bench.replay(letter)["left_out"][0]["why"]
    for _ in range(2):
        assert bench.replay(letter, again=True)["messages"] == 1
        bench.run(LOOSE)
        assert (bench.sums(), bench.count("spans FINAL")) == (sums, spans) == ((3, 2, 1, 0), 2)
    assert bench.states() == ["settled"]


def test_a_replay_after_redaction_has_forgotten(bench: Bench) -> None:
    bench.traces(SHORT, LONG, SHORT)
    bench.run()
    bench.now += timedelta(hours=30)
    bench.run()
    assert bench.log.stats().get("keys.redact", 0) == 0, "nothing is remembered"
    bench.replay()
    bench.run(LOOSE)
    assert bench.sums() == (4, 3, 1, 0)
    assert len(bench.counting.seen) == 3


def test_what_fails_as_before_does_not_pile_up(bench: Bench) -> None:
    bench.traces(SHORT, LONG)
    bench.run()
    (letter,) = bench.open()
    for _ in range(3):
        assert bench.replay(letter, again=True)["replayed"] == [letter]
        bench.run()
        assert bench.states() == ["refused"]
        assert bench.sums() == (2, 1, 1, 0)
    assert bench.count("dead_letters") == 1
    assert [path.name for path in (bench.folder / "quarantine").iterdir()] == [letter]
    assert bench.replay(letter)["replayed"] == []
    assert bench.letters.plan([], LetterFilter(), again=False)["messages"] == []


def test_what_fails_for_another_reason_is_another_letter(bench: Bench) -> None:
    bench.traces(SHORT, LONG)
    bench.run()
    (first,) = bench.open()
    bench.replay(first)
    bench.run(STRICT + 1)
    (second,) = bench.open()
    assert (bench.sums(), sorted(bench.states())) == ((3, 1, 2, 0), ["open", "settled"])
    assert bench.letters.show(second)["payload"] == "in the quarantine", "the first one's serves both"
    bench.replay(second)
    bench.run(STRICT)
    assert bench.sums() == (3, 1, 2, 0), "what the first one says was counted before"
    for limit in (STRICT, STRICT + 1, LOOSE, LOOSE):  # back and forth
        bench.replay(first, second, again=True)
        bench.run(limit)
        assert bench.sums()[2] == 2
    assert bench.sums() == (4, 2, 2, 0)
    assert bench.states() == ["settled", "settled"]


@pytest.mark.parametrize("gateway", [True, False], ids=["gateway", "collector"])
def test_a_copy_that_came_by_itself_counts_as_a_duplicate(bench: Bench, gateway: bool) -> None:
    bench.traces(SHORT, LONG, gateway=gateway)
    bench.run()
    bench.now += HOUR
    bench.traces(SHORT, LONG, gateway=gateway)
    bench.run(LOOSE)
    assert bench.sums() == (3, 2, 1, 0)
    bench.replay()
    bench.run(LOOSE)
    assert bench.sums() == (3, 2, 1, 0)
    assert bench.count("spans FINAL") == 2


def test_a_message_that_nobody_could_read(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.traces(SHORT, SHORT, LONG, gateway=False)
    with monkeypatch.context() as damaged:
        damaged.setattr("processors.redact.stage.spans_of", unreadable)
        bench.run()
        assert bench.sums() == (1, 0, 1, 0)
        bench.replay()
        bench.run()
        assert (bench.sums(), bench.states()) == ((1, 0, 1, 0), ["refused"])
    (whole,) = (row["event_id"] for row in bench.letters.find(LetterFilter()))
    bench.replay(whole, again=True)
    bench.run()
    assert bench.sums() == (4, 2, 2, 0), "one of its spans has a letter of its own now"
    assert sorted(bench.states()) == ["open", "settled"]
    bench.replay()
    bench.run(LOOSE)
    assert bench.sums() == (5, 3, 2, 0)
    bench.replay(whole, again=True)
    bench.run(LOOSE)
    assert (bench.sums(), bench.states()) == ((5, 3, 2, 0), ["settled"] * 2)


def unreadable(*_: Any) -> Any:
    raise Invalid("damaged_otlp", "12 bytes are no ExportTraceServiceRequest")


def test_bytes_that_stay_unreadable(bench: Bench) -> None:
    bench.log.append([Entry(OTLP_SPANS.name, "k", b"\xff no protobuf", bench.now)])
    bench.run()
    bench.replay()
    bench.run(LOOSE)
    assert (bench.sums(), bench.states()) == ((1, 0, 1, 0), ["refused"])


@pytest.mark.parametrize("gateway", [True, False], ids=["gateway", "other"])
def test_a_signal(bench: Bench, gateway: bool) -> None:
    body = {"name": "correction", "agent": AGENT, "session_id": "s1", "text": LONG}
    if gateway:
        data = json.dumps([body, body | {"text": SHORT}]).encode()
        append_bodies(parse(data, SignalBody, "signals"), data, "acme", bench.now, bench.log)
    else:
        for one in (body, body | {"text": SHORT}):
            bench.log.append([Entry(SIGNALS_RAW.name, "", signal_message(one).value, bench.now)])
    bench.run()
    assert bench.sums() == (2, 1, 1, 0)
    bench.now += 30 * HOUR
    bench.replay()
    bench.run(LOOSE)
    assert bench.sums() == (3, 2, 1, 0)
    assert bench.states() == ["settled"]


def test_what_has_no_consent_is_dropped_and_counted(bench: Bench) -> None:
    denied = asked(LONG)
    denied["attributes"] |= {"driftwheel.consent.store": True}
    body = otlp(denied).SerializeToString()
    accept_traces(body, PROTOBUF, "acme", bench.now, bench.log)
    bench.run()
    assert bench.sums() == (1, 0, 1, 0)
    later = otlp({"attributes": {"session.id": "s1", "driftwheel.consent.store": False}, "span": "b" * 16})
    accept_traces(later.SerializeToString(), PROTOBUF, "acme", bench.now, bench.log)
    bench.run()
    assert bench.sums() == (2, 0, 1, 1)
    bench.replay()
    bench.run(LOOSE)
    assert bench.sums() == (3, 0, 1, 2), "the trace's consent was denied since"


# Replays of clean messages.


def test_a_span_that_the_store_refused(bench: Bench) -> None:
    bench.traces(SHORT, "visa for Oslo")
    bench.run(refuses="visa")
    (row,) = bench.letters.find(LetterFilter())
    assert (row["stage"], row["reason"], row["state"]) == ("clickhouse", "unstorable", "open")
    assert [r[-1] for r in bench.store.ledger().rows] == [1], "a loss shows"
    seen = list(bench.counting.seen)
    bench.now += timedelta(days=2)
    assert bench.letters.show(row["event_id"])["payload"] == "in the log"
    bench.replay()
    bench.run(refuses="visa")
    assert (bench.count("dead_letters FINAL"), bench.states()) == (1, ["refused"])
    bench.replay(row["event_id"], again=True)
    bench.run()
    assert bench.sums() == (2, 2, 0, 0)
    assert bench.counting.seen == seen, "stages that had read it do not read it again"


def test_a_span_that_a_stage_refused(bench: Bench) -> None:
    bench.counting.refuses = "visa"
    bench.traces(SHORT, "visa for Oslo")
    bench.run()
    (row,) = bench.letters.find(LetterFilter())
    assert (row["stage"], len(bench.counting.seen)) == ("counting", 1)
    bench.counting.refuses = "\0"
    bench.replay()
    bench.run()
    assert len(set(bench.counting.seen)) == len(bench.counting.seen) == 2
    assert bench.count("spans FINAL") == 2


def test_a_message_that_has_left_the_log(bench: Bench) -> None:
    bench.traces("visa for Oslo")
    bench.run(refuses="visa")
    bench.now += timedelta(days=8)
    bench.log.trim(bench.now)
    (letter,) = bench.open()
    assert bench.letters.show(letter)["payload"] == "gone"
    (left,) = bench.replay()["left_out"]
    assert left["why"] == "its message has left the log, where agent.spans keeps messages for 7 days"


def test_an_old_state_does_not_replace_a_newer_one(bench: Bench) -> None:
    job = Job(event_id="j-running", tenant="t", agent="a", event_time=T0, job_id="j", trigger_id="x", state="running")
    bench.log.append([entry_of(job, T0)])
    letter = letter_about(job, 0)
    bench.store.write([letter])
    assert bench.letters.plan([letter.event_id], LetterFilter(), again=False)["messages"] != []
    bench.log.append([entry_of(job.model_copy(update={"event_id": "j-passed", "state": "passed"}), T0)])
    (left,) = bench.replay()["left_out"]
    assert left["why"] == "a newer record of flywheel.jobs has replaced its message"


def letter_about(record: Record, offset: int, **given: Any) -> DeadLetter:
    return DeadLetter.model_validate({
        "event_id": f"letter-{record.event_id}", "tenant": record.tenant, "agent": record.agent, "event_time": T0,
        "received_time": T0, "stage": "clickhouse", "topic": topic_of(record).name, "offset": offset,
        "reason": "unstorable", "detail": "a column is too small", **given,
    })  # fmt: skip


# What goes wrong.


def test_a_full_log_takes_nothing_and_a_later_replay_all(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.traces(LONG)
    bench.run()
    with monkeypatch.context() as full:
        full.setattr(bench.log, "append", reject)
        (left,) = bench.replay()["left_out"]
        assert left["why"] == "the disk is full"
    bench.run(LOOSE)
    assert (bench.appended(), bench.states(), bench.sums()) == (0, ["open"], (1, 0, 1, 0))
    bench.replay()
    bench.run(LOOSE)
    assert bench.sums() == (2, 1, 1, 0)


def reject(entries: Sequence[Entry]) -> None:
    del entries
    raise Reject("the disk is full")


def test_a_message_and_its_marks_are_one_append(bench: Bench) -> None:
    bench.traces(LONG, LONG)
    bench.run()
    calls: list[list[str]] = []

    class Watched:
        def append(self, entries: Sequence[Entry]) -> None:
            calls.append([entry.topic for entry in entries])
            bench.log.append(entries)

    log: Log = Watched()
    bench.behind = Behind(bench.quarantine, LogMessages(bench.log), log)
    bench.replay()
    assert calls == [[OTLP_SPANS.name, LEDGER.name, LEDGER.name]]


def test_payloads_that_cannot_be_had(bench: Bench) -> None:
    bench.traces(LONG)
    bench.run()
    (letter,) = bench.open()
    bench.behind = Behind(Quarantine(bench.folder / "quarantine", bytes(32)), bench.behind.messages, bench.log)
    (left,) = bench.replay()["left_out"]
    assert "was sealed under another key" in left["why"]
    bench.quarantine.purge(T0 + timedelta(days=31))
    (left,) = bench.replay()["left_out"]
    assert "was purged after 30 days" in left["why"]
    assert bench.letters.show(letter)["payload"] == "gone"
    assert bench.appended() == 0


def test_letters_that_cannot_be_replayed_are_named(bench: Bench) -> None:
    ledger = LedgerEntry(event_id="x", tenant="t", agent="a", event_time=T0, entry="accepted", source="traces", count=1)
    strange = letter_about(ledger, 0, event_id="strange", topic="a.topic.of.old")
    bare = letter_about(ledger, 0, event_id="bare", topic=OTLP_SPANS.name)
    bench.store.write([strange, bare])
    left = bench.letters.plan([], LetterFilter(), again=False)["left_out"]
    assert {one["event_id"]: one["why"] for one in left} == {
        "strange": "a.topic.of.old is no topic of this Driftwheel",
        "bare": "its payload was not kept",
    }


# What is known of them.


def test_lists_counts_and_filters(bench: Bench) -> None:
    bench.traces(LONG, LONG + "b")
    bench.run()
    bench.now += HOUR
    bench.log.append([Entry(SIGNALS_RAW.name, "", b"garbage", bench.now)])
    bench.traces("visa for Oslo")
    bench.run(refuses="visa")
    find = bench.letters.find
    reasons = [row["reason"] for row in find(LetterFilter())]
    assert sorted(reasons[:2]) != reasons[2:] == ["text_too_long"] * 2, "the newest first"
    assert [len(find(filter_of(one))) for one in FILTERS] == [3, 1, 2, 1, 2, 1, 0]
    counts = {row["reason"]: (row["letters"], row["items"]) for row in bench.letters.counts(LetterFilter())}
    assert counts.pop("text_too_long") == (2, 2)
    assert set(counts.values()) == {(1, 1)}
    assert bench.letters.counts(filter_of({"stage": "clickhouse"}))[0]["letters"] == 1


FILTERS = [
    {"tenant": "acme"}, {"tenant": "unknown"}, {"reason": "text_too_long"}, {"topic": SPANS.name},
    {"since": "2026-01-05T09:30Z"}, {"limit": "1"}, {"state": "settled"},
]  # fmt: skip


def test_show_never_shows_the_payload(bench: Bench) -> None:
    bench.traces(LONG)
    bench.run()
    (letter,) = bench.open()
    shown = bench.letters.show(letter[:8])
    assert shown["event_id"] == letter
    assert (shown["payload"], shown["payload_until"]) == (
        "in the quarantine",
        T0 + timedelta(days=30),
    )
    told = json.dumps([shown, bench.letters.plan([letter], LetterFilter(), again=False), bench.replay()], default=str)
    assert "please" not in told
    with pytest.raises(UsageError, match="no dead letter has the id 'nothing'; see: driftwheel deadletters list"):
        bench.letters.show("nothing")
    bench.store.write([letter_about(Job.model_construct(event_id=n, tenant="t", agent="a"), 0) for n in ("1", "2")])
    with pytest.raises(UsageError, match="more than one dead letter has an id that begins 'letter-'"):
        bench.letters.show("letter-")


@pytest.mark.parametrize(
    ("texts", "problem"),
    [
        ({"since": "yesterday"}, "since: 'yesterday' is no time"),
        ({"state": "gone"}, "state: 'gone' is none; there are: open, sent, refused, settled"),
        ({"limit": "0"}, "limit: must be 1 to 100000"),
        ({"agent": "a"}, "agent: no such filter"),
    ],
)
def test_filters_that_are_wrong(texts: dict[str, str], problem: str) -> None:
    with pytest.raises(UsageError, match=problem):
        filter_of(texts)


def test_a_filter_survives_the_way_to_the_product() -> None:
    one = LetterFilter("t", "redact", "r", "x", "open", T0, 7)
    assert filter_of(one.texts()) == one


# The command, whether or not the product runs.


@contextmanager
def up(folder: Path, limit: int) -> Iterator[str]:
    """``driftwheel up`` with this limit; its address."""
    [port] = free_ports(1)
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("DRIFTWHEEL__STAGES__REDACT__MAX_TEXT", str(limit))
        process = start("up", "--data-dir", str(folder), "--port", str(port))
    try:
        url = f"http://127.0.0.1:{port}"
        until(lambda: answers(url))
        yield url
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)


def answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/readyz", timeout=2, trust_env=False).is_success
    except httpx.HTTPError:
        return False


def test_the_command_running_and_not(tmp_path: Path) -> None:
    minilm_folder()
    folder = tmp_path / "data"
    here = ("--data-dir", str(folder))

    def letters(*words: str) -> list[dict[str, Any]]:
        return rows("deadletters", "list", *words, *here)

    with up(folder, STRICT) as url:
        with Client(url) as client:
            for session in ("s1", "s2"):
                client.signal("rating", agent="desk", session_id=session, value=-1, text=LONG)
        until(lambda: len(letters()) == 2)
        found = letters("--stage", "redact", "--since", "1h")
        assert {(row["reason"], row["state"]) for row in found} == {("text_too_long", "open")}
        (count,) = rows("deadletters", "list", "--summary", *here)
        assert (count["letters"], count["topic"]) == (2, SIGNALS_RAW.name)
        done = run("deadletters", "replay", found[0]["event_id"][:10], "--yes", "--json", *here)
        assert json.loads(done.stdout)["replayed"] == [found[0]["event_id"]], done.stderr
        until(lambda: {row["state"] for row in letters()} == {"open", "refused"})

    (letter,) = letters("--state", "open")
    done = run("deadletters", "show", letter["event_id"], *here)
    assert "payload: in the quarantine" in done.stdout
    done = run("deadletters", "replay", "--all", *here)
    assert (done.returncode, done.stdout.count("it was replayed before (refused)")) == (2, 1)
    assert "1 messages will be appended again: 1 of agent.signals.raw" in done.stdout
    assert "nothing was replayed; --yes replays without asking" in done.stderr
    dry = run("deadletters", "replay", "--all", "--again", "--dry-run", "--json", *here)
    assert len(json.loads(dry.stdout)["planned"]) == 2
    done = run("deadletters", "replay", "--all", "--again", "--yes", *here)
    assert (done.returncode, "replayed 2 dead letters, 2 messages" in done.stdout) == (0, True), done.stderr
    assert {row["state"] for row in letters()} == {"open", "refused"}, "nobody works on it yet"
    assert "please" not in done.stdout + done.stderr + dry.stdout

    with up(folder, LOOSE):
        until(lambda: [row["state"] for row in letters()] == ["settled", "settled"])
        assert {row["difference"] for row in rows("ledger", *here)} == {0}
        query = "SELECT count() AS n FROM signals_current WHERE source = 'user'"
        assert rows("sql", query, *here) == [{"n": 2}]


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["replay"], "name letters by their ids, or give --all"),
        (["replay", "abc", "--all"], "name letters by their ids, or give --all"),
        (["list", "--since", "soon"], "since: 'soon' is no time"),
    ],
)
def test_wrong_usage(words: list[str], problem: str) -> None:
    done = run("deadletters", *words)
    assert (done.returncode, problem in done.stderr) == (2, True), done.stderr


# On Kafka.


def test_patience_ends() -> None:
    class Full:
        calls = 0

        def append(self, entries: Sequence[Entry]) -> None:
            self.calls += 1
            if self.calls < 3:
                raise Reject("not now", 0.001)

    log = Full()
    with pytest.raises(Reject, match="not now"):
        Patient(log, 0.0).append([])
    Patient(log, 60.0).append([])
    assert log.calls == 3


class KafkaBench:
    """One installation on a cluster: a worker for redaction, a sink when it is told to."""

    def __init__(self, settings: KafkaSettings, folder: Path, store: Store) -> None:
        self.settings, self.folder, self.store = settings, folder, store
        make_topics(settings, [Redact])
        self.stack = ExitStack()
        self.quarantine = self.stack.enter_context(closing(KafkaQuarantine(settings, KEY)))
        made = self.stack.enter_context(closing(KafkaLog(settings, tuning=KafkaLogSettings("t", 30.0, 30.0))))
        self.log = Patient(made)
        reader = self.stack.enter_context(closing(Reader(settings)))
        self.behind = Behind(self.quarantine, reader, self.log)
        self.letters = DeadLetters(store, lambda: self.behind, lambda: T0 + HOUR)

    def run(self, limit: int, check: Callable[[], bool]) -> None:
        """A worker with this limit, until the store has it."""
        lanes = lane_settings(self.settings, self.folder, lambda: T0 + HOUR, seal=self.quarantine)

        def done() -> bool:
            self.sink()
            return check()

        with working([Redact(RedactSettings(max_text=limit))], lanes):
            until(done)

    def sink(self) -> None:
        """Everything so far into the store, which knows records by their ids."""
        for topic in (SPANS, LEDGER, DEAD_LETTERS):
            if found := records(self.settings, topic):
                self.store.write(found)

    def states(self) -> list[str]:
        return sorted(row["state"] for row in self.letters.find(LetterFilter()))

    def sums(self) -> tuple[int, ...]:
        rows = self.store.ledger().rows
        return tuple(sum(int(row[place]) for row in rows) for place in range(2, 7))


@pytest.fixture
def kafka_bench(kafka_settings: KafkaSettings, tmp_path: Path) -> Iterator[KafkaBench]:
    with temporary_store() as store:
        made = KafkaBench(kafka_settings, tmp_path, store)
        yield made
        made.stack.close()


@pytest.mark.parametrize("gateway", [True, False], ids=["gateway", "collector"])
def test_on_kafka_a_replay_is_exact(kafka_bench: KafkaBench, gateway: bool) -> None:
    bench = kafka_bench
    body = otlp(asked(SHORT), asked(LONG), asked(LONG + "b")).SerializeToString()
    if gateway:
        accept_traces(body, PROTOBUF, "acme", T0, bench.log)
    else:
        bench.log.append([Entry(OTLP_SPANS.name, "", body, T0)])
    bench.run(STRICT, lambda: bench.sums() == (3, 1, 2, 0, 0))
    first, second = (row["event_id"] for row in bench.letters.find(LetterFilter()))
    assert bench.letters.show(first)["payload"] == "in the quarantine"
    kept = stored(bench.settings, bench.settings.topic(QUARANTINE))
    assert sorted(one.key for one in kept) == sorted([first, second])

    assert bench.letters.replay([first], again=False)["replayed"] == [first]
    bench.run(STRICT, lambda: bench.states() == ["open", "refused"])
    assert bench.sums() == (3, 1, 2, 0, 0)
    done = bench.letters.replay([first, second], again=True)
    assert (done["messages"], sorted(done["replayed"])) == (1, sorted([first, second]))
    bench.run(LOOSE, lambda: bench.sums() == (5, 3, 2, 0, 0))
    assert bench.states() == ["settled", "settled"]
    bench.letters.replay([first, second], again=True)
    entries = 1 + len(["sent", "refused"]) + 2 * 2 * len(["sent", "accepted", "settled"])
    bench.run(LOOSE, lambda: len(records(bench.settings, LEDGER)) == entries)
    assert bench.sums() == (5, 3, 2, 0, 0)
    assert len(stored(bench.settings, bench.settings.topic(QUARANTINE))) == 2


def test_on_kafka_a_clean_message_comes_from_the_log(kafka_bench: KafkaBench) -> None:
    bench = kafka_bench
    body = otlp(asked(SHORT)).SerializeToString()
    accept_traces(body, PROTOBUF, "acme", T0, bench.log)
    bench.run(STRICT, lambda: bench.sums()[1] == 1)
    (span,) = stored(bench.settings, bench.settings.topic(SPANS))
    record = records(bench.settings, SPANS)[0]
    letter = letter_about(record, span.offset, partition=span.partition)
    bench.store.write([letter])
    assert bench.letters.show(letter.event_id)["payload"] == "in the log"
    assert bench.letters.replay([letter.event_id], again=False)["replayed"] == [letter.event_id]
    again = stored(bench.settings, bench.settings.topic(SPANS))
    assert [(one.key, one.value, one.partition) for one in again] == [(span.key, span.value, span.partition)] * 2
    bench.store.write([letter_about(record, span.offset + 1, event_id="marker", partition=span.partition)])
    (left,) = bench.letters.replay(["marker"], again=False)["left_out"]
    assert "has left the log" in left["why"]


def test_on_kafka_the_command_needs_the_brokers_for_payloads_alone(
    kafka_bench: KafkaBench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench, kept = kafka_bench, kafka_bench.store.settings
    monkeypatch.chdir(tmp_path)
    kafka = {"brokers": bench.settings.brokers, "prefix": bench.settings.prefix, "partitions": 3}
    store = {"url": kept.url, "database": kept.database}
    folder = kept.path.parent if kept.path else tmp_path
    bench.log.append([entry_of(LEDGER_ENTRY, T0)])
    (entry,) = stored(bench.settings, bench.settings.topic(LEDGER))
    bench.store.write([letter_about(LEDGER_ENTRY, entry.offset, partition=entry.partition)])
    name = f"letter-{LEDGER_ENTRY.event_id}"

    with open_letters(load(data_dir=folder, kafka=kafka | {"brokers": "127.0.0.1:1"}, store=store)) as letters:
        assert [row["event_id"] for row in letters.find(LetterFilter())] == [name]
        with pytest.raises(Refused, match=r"redact.key is not set"):
            letters.show(name)
    with open_letters(load(data_dir=folder, kafka=kafka, store=store, redact={"key": "k"})) as letters:
        assert letters.show(name)["payload"] == "in the log"
        assert letters.replay([name], again=False)["replayed"] == [name]
    twice = [one.value for one in stored(bench.settings, bench.settings.topic(LEDGER))]
    assert twice.count(entry.value) == 2
    with (
        pytest.raises(Refused, match="name the ClickHouse server that the sink writes to"),
        open_letters(load(data_dir=tmp_path / "none", kafka=kafka)),
    ):
        pass


LEDGER_ENTRY = LedgerEntry(
    event_id="x", tenant="t", agent="a", event_time=T0, entry="accepted", source="traces", count=1
)
