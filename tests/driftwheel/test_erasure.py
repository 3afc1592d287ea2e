"""Erasure over every place at once: nothing is left, others stay, deaths at any step change nothing, work goes on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from connectors.clickhouse.sink import ClickHouseSink
from connectors.clickhouse.store import Store
from connectors.log import Entry, MemoryLog, entry_of
from connectors.nemo.memory import MemoryNemo
from connectors.quarantine import Quarantine
from connectors.sqlite_log import SqliteLog, SqliteLogSettings
from deploy.dataset import TRAIN, Replay, freeze
from deploy.names import dataset_name, group_name
from deploy.run_jobs import version_record
from driftwheel.embedded import Engine, EngineSettings
from driftwheel.erasure import ErasureRunner, Erasures
from driftwheel.erasure_kafka import KafkaTopics
from driftwheel.erasure_places import DatasetFiles, EmbeddedLog, QuarantinedPayloads
from driftwheel.library import StoreLibrary
from driftwheel.retention import DatasetRetention
from processors import PIPELINE
from processors.redact import Redact
from processors.redact.settings import subject_hash, tenant_key
from processors.stage import Stage
from processors.state import plain
from schemas import codec
from schemas.errors import Retry, UsageError
from schemas.events import DatasetVersion, DeadLetter, Deployment, Job, RawSignal, Record, Span
from schemas.topics import DATASETS, LABELS, OTLP_SPANS, SPANS, TOPICS
from tests.driftwheel.engine_kit import until
from tests.store import temporary_store
from tests.world import AGENT, START, World, hex_id, label, otlp_message, sample

KEY = bytes(range(32))
USERS = [f"u{number}" for number in range(7)]
LATER = START + timedelta(minutes=6)


class Bench:
    """One installation in lock step, in a tenant of its own: everything but redaction, which is not needed here."""

    def __init__(self, folder: Path, store: Store, tenant: str) -> None:
        self.store, self.tenant, self.now = store, tenant, LATER
        self.log = SqliteLog(folder, SqliteLogSettings(key=KEY))
        self.quarantine = Quarantine(folder / "quarantine", KEY)
        self.nemo = MemoryNemo()
        self.stages: list[Stage] = [stage() for stage in PIPELINE if stage is not Redact]
        self.me = subject_hash(tenant_key(KEY, tenant), "u1")
        self.erasures = self.opened()

    def opened(self) -> Erasures:
        """As after a new start."""
        places = [
            DatasetFiles(self.store, self.log, lambda: self.nemo, self.clock),
            QuarantinedPayloads(self.store, lambda: self.quarantine, KEY),
            EmbeddedLog(self.log, self.stages, self.clock),
        ]
        return Erasures(self.store, self.log, places, KEY, self.clock)

    def clock(self) -> datetime:
        return self.now

    def run(self) -> None:
        engine = Engine(
            self.log, self.stages, [ClickHouseSink(self.store)], self.clock, EngineSettings(sink_batch=50_000)
        )
        engine.drain()
        engine.stop()

    def append(self, *records: Record) -> None:
        self.log.append([entry_of(record, self.now) for record in records])

    def visits(self, sessions: int = 8) -> None:
        """Spans and feedback of all users; the last sessions are still open."""
        hashes = {hex_id(user, size=32): subject_hash(tenant_key(KEY, self.tenant), user) for user in USERS}
        for one in World(seed=3, sessions=sessions).clean():
            record = codec.decode(one.value)
            mine = {"tenant": self.tenant, "subject_hash": hashes.get(record.subject_hash, "")}
            self.append(record.model_copy(update=mine))
        self.run()

    def learn(self) -> DatasetVersion:
        """A sample, a label, a dataset and a live model of two people."""
        for user in ("u1", "u2"):
            who = {"tenant": self.tenant, "subject_hash": subject_hash(tenant_key(KEY, self.tenant), user)}
            chosen = sample(event_id=f"{self.tenant} {user}", turn_id=f"{user}.1", input=f"question of {user}", **who)
            self.append(chosen, label(event_id=f"l {user}", tenant=self.tenant, sample_id=chosen.event_id, value="hr"))
        self.run()
        dataset = freeze(StoreLibrary(self.store).labelled(self.tenant, AGENT), Replay())
        self.nemo.upload_dataset(self.files_of(dataset.dataset_id), dataset.files())
        who = {"tenant": self.tenant, "agent": AGENT, "event_time": START}
        version = version_record(dataset, self.tenant, AGENT, "t1", START)
        job = Job.model_validate(
            {**who, "event_id": "j", "job_id": "j", "trigger_id": "t1", "state": "passed", "candidate": "m1",
             "dataset_id": dataset.dataset_id}
        )  # fmt: skip
        live = Deployment.model_validate(
            {**who, "event_id": "d", "release_id": "r", "job_id": "j", "candidate": "m1", "incumbent": "", "weight": 1,
             "state": "live", "reason": ""}
        )  # fmt: skip
        self.append(version, job, live)
        self.run()
        return version

    def files_of(self, dataset_id: str) -> str:
        return dataset_name(group_name(self.tenant, AGENT), dataset_id)

    def letter(self, name: str, topic: str, payload: bytes) -> None:
        """A dead letter with its payload in the quarantine."""
        self.quarantine.put(name, self.tenant, payload, self.now)
        self.append(
            DeadLetter(
                event_id=name, tenant=self.tenant, agent=AGENT, event_time=self.now, stage="redact", topic=topic,
                offset=1, reason="r", quarantine=name, received_time=self.now,
            )
        )  # fmt: skip

    def traces(self, subject: str) -> dict[str, int]:
        """Where somebody's hash stands, entries that prove erasures aside."""
        found: dict[str, int] = {}
        for topic in TOPICS:
            count = sum(subject.encode() in entry.value for entry in self.log.scan(topic) if not topic.raw)
            if topic.name != "flywheel.erasures" and count:
                found[topic.name] = count
        for stage in self.stages:
            count = sum(subject in plain(text) for _, text in self.log.states(stage.name))
            found |= {stage.name: count} if count else {}
        files = b"".join(content for some in self.nemo.files.values() for content in some.values())
        found |= {"files": 1} if subject.encode() in files else {}
        query = "SELECT place, rows FROM subject_places WHERE tenant = {t:String} AND subject_hash = {s:String}"
        rows = self.store.select(query, {"t": self.tenant, "s": subject}).rows
        return found | {f"store {place}": int(count) for place, count in rows}


@pytest.fixture(scope="module")
def store() -> Iterator[Store]:
    with temporary_store() as made:
        yield made


@pytest.fixture
def bench(tmp_path: Path, store: Store, request: pytest.FixtureRequest) -> Iterator[Bench]:
    made = Bench(tmp_path / "log", store, request.node.name)
    yield made
    made.log.close()


def raw_signal(user: str, tenant: str) -> bytes:
    payload = f'{{"name": "rating", "value": 1, "session_id": "s", "user_id": "{user}"}}'
    return codec.encode(RawSignal(event_id="x", tenant=tenant, agent=AGENT, event_time=START, payload=payload))


def test_nothing_of_one_person_is_left_anywhere_and_all_of_the_others(bench: Bench) -> None:
    bench.visits()
    version = bench.learn()
    spans = [op for op in World(seed=3, sessions=8).ops if op.user == "u1"][:2]
    bench.letter("theirs", "agent.signals.raw", raw_signal("u1", bench.tenant))
    bench.letter("others", "agent.signals.raw", raw_signal("u2", bench.tenant))
    bench.letter("batch", OTLP_SPANS.name, otlp_message(spans).value)
    bench.letter("cut", OTLP_SPANS.name, otlp_message(spans).value[:-1])
    bench.letter("noise", OTLP_SPANS.name, b"\xff" * 50)
    bench.run()
    before = bench.traces(bench.me)
    assert {"agent.spans", "agent.turns", "assemble", "attribute", "curate", "files", "store spans"} <= set(before)
    you = subject_hash(tenant_key(KEY, bench.tenant), "u2")
    others = bench.traces(you)
    planned = bench.erasures.plan(bench.tenant, "u1")
    assert bench.traces(bench.me) == before
    done = bench.erasures.run(bench.erasures.request(bench.tenant, "u1", "me")["erasure_id"])
    assert (done["state"], done["waiting"]) == ("done", {})
    assert bench.traces(bench.me) == {}
    assert bench.traces(you) == others | {"store dataset_versions": 2}, "the version before and the one without me"
    assert [name for name in ("theirs", "others", "batch", "cut", "noise") if name in bench.quarantine] == [
        "others", "noise",
    ]  # fmt: skip
    assert counts(done["deleted"]) == counts(planned["found"])
    assert (done["models"], done["dataset_versions"]) == (["m1"], [version.dataset_id])
    [owed] = done["obligations"]
    assert (owed["model"], owed["state"]) == ("m1", "open")
    rows = [codec.decode(entry.value) for entry in bench.log.scan(DATASETS)]
    assert [row.erased for row in rows if isinstance(row, DatasetVersion)] == [1]
    assert [row.text for row in StoreLibrary(bench.store).labelled(bench.tenant, AGENT)] == ["question of u2"]
    assert bench.store.select("SELECT count() FROM erasure_keys").rows == [[0]]


def test_the_wheel_goes_on_and_says_nothing_more_of_them(bench: Bench) -> None:
    bench.visits()
    bench.erasures.run(bench.erasures.request(bench.tenant, "u1", "me")["erasure_id"])
    for hours in (3, 6):
        bench.now = START + timedelta(hours=hours)
        bench.run()
    assert bench.traces(bench.me) == {}
    assert not [text for stage in ("assemble", "attribute") for _, text in bench.log.states(stage)]


def test_the_same_person_again_is_the_same_erasure_unless_there_is_new_data(bench: Bench) -> None:
    bench.visits()
    first = bench.erasures.request(bench.tenant, "u1", "me")
    assert first["state"] == "requested"
    assert bench.erasures.request(bench.tenant, "u1", "me")["erasure_id"] == first["erasure_id"]
    bench.erasures.run(first["erasure_id"])
    again = bench.erasures.request(bench.tenant, "u1", "me")
    assert (again["erasure_id"], again["state"]) == (first["erasure_id"], "done")
    bench.visits(2)
    more = bench.erasures.request(bench.tenant, "u1", "me")
    assert (more["erasure_id"] == first["erasure_id"], more["state"]) == (False, "requested")
    assert [row["erasure_id"] for row in bench.erasures.find(bench.tenant, "open")] == [more["erasure_id"]]
    assert bench.erasures.run(more["erasure_id"][:8])["state"] == "done"
    assert bench.traces(bench.me) == {}
    with pytest.raises(UsageError, match="erase list"):
        bench.erasures.show("nonsense")
    with pytest.raises(UsageError, match="the person"):
        bench.erasures.request(bench.tenant, "", "me")


def test_what_somebody_has_still_to_read_waits_for_them(bench: Bench) -> None:
    bench.visits(2)
    late = next(one for entry in bench.log.scan(SPANS) if isinstance(one := codec.decode(entry.value), Span))
    bench.append(late.model_copy(update={"event_id": "late", "span_id": "late", "subject_hash": bench.me}))
    bench.log.join("redact", Redact.sources)
    bench.log.append([Entry(OTLP_SPANS.name, "", b"raw", bench.now)])
    name = bench.erasures.request(bench.tenant, "u1", "me")["erasure_id"]
    stands = bench.erasures.run(name)
    assert (stands["state"], sorted(stands["waiting"])) == ("running", ["agent.spans", "otlp_spans"])
    bench.stages.insert(0, Redact())
    bench.run()
    assert bench.erasures.run(name)["state"] == "done"
    assert bench.traces(bench.me) == {}


def counts(found: dict[str, int]) -> dict[str, int]:
    """Without the log's, to which the erasure itself adds a dataset version."""
    return {name: count for name, count in found.items() if name != "log"}


class Killed(BaseException):
    """The process dies."""


class Deaths:
    """Counts calls that change something, and dies at one of them."""

    def __init__(self, at: int) -> None:
        self.left = at

    def before(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **named: Any) -> Any:
            self.left -= 1
            if self.left == 0:
                raise Killed
            return real(*args, **named)

        return call


@pytest.mark.parametrize("at", [1, 4, 8, 13, 19, 25])
def test_a_death_at_any_step_changes_nothing(bench: Bench, at: int, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.visits(3)
    bench.learn()
    bench.letter("theirs", "agent.signals.raw", raw_signal("u1", bench.tenant))
    bench.run()
    expected = bench.erasures.plan(bench.tenant, "u1")["found"]
    name = bench.erasures.request(bench.tenant, "u1", "me")["erasure_id"]
    log, deaths = bench.log, Deaths(at)
    changes = [(log, ("append", "delete", "transaction")), (bench.nemo, ("upload_dataset",)),
               (bench.quarantine, ("delete",)), (bench.store, ("write", "command"))]  # fmt: skip
    for owner, names in changes:
        for one in names:
            monkeypatch.setattr(owner, one, deaths.before(getattr(owner, one)))
    with pytest.raises(Killed):
        bench.erasures.run(name)
    monkeypatch.undo()
    found = bench.opened()
    assert found.open() in ([name], [])
    done = found.run(name)
    assert (done["state"], bench.traces(bench.me)) == ("done", {})
    assert counts(done["deleted"]) == counts(expected)
    rows = [codec.decode(entry.value) for entry in log.scan(DATASETS)]
    assert [row.erased for row in rows if isinstance(row, DatasetVersion)][-1] == 1


def test_what_is_open_at_the_start_is_gone_on_with_and_tried_again(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.visits(2)
    bench.learn()
    name = bench.erasures.request(bench.tenant, "u1", "me")["erasure_id"]
    bench.nemo.away = True
    with pytest.raises(Retry, match="NeMo"):
        bench.erasures.run(name)
    states: list[str] = []

    def run(erasure_id: str) -> dict[str, Any]:
        found = Erasures.run(bench.erasures, erasure_id)
        states.append(found["state"])
        return found

    monkeypatch.setattr(bench.erasures, "run", run)
    monkeypatch.setattr(bench.erasures, "open", lambda: [] if "done" in states else [name])
    runner = ErasureRunner(bench.erasures, pause=0.01)
    bench.nemo.away = False
    until(lambda: "done" in states, 300)
    runner.close()
    assert bench.opened().show(name)["state"] == "done"
    assert bench.traces(bench.me) == {}


def test_without_the_trainer_it_is_not_done(bench: Bench) -> None:
    bench.learn()
    places = [DatasetFiles(bench.store, bench.log, lambda: None, bench.clock)]
    erasures = Erasures(bench.store, bench.log, places, KEY, bench.clock)
    stands = erasures.run(erasures.request(bench.tenant, "u1", "me")["erasure_id"])
    assert (stands["state"], list(stands["waiting"])) == ("running", ["dataset files"])


def test_rows_that_were_taken_over_are_found_in_later_datasets(bench: Bench) -> None:
    """A row of an earlier dataset keeps its owner; without a manifest it is found by what was said."""
    version = bench.learn()
    name = bench.files_of(version.dataset_id)
    del bench.nemo.files[name]["manifest.json"]
    bench.erasures.run(bench.erasures.request(bench.tenant, "u1", "me")["erasure_id"])
    left = b"".join(bench.nemo.files[name].values())
    assert (b"question of u1" in left, b"question of u2" in left) == (False, True)
    assert {TRAIN, "manifest.json"} <= set(bench.nemo.files[name])


def test_on_kafka_labels_get_tombstones_and_the_rest_a_date(bench: Bench) -> None:
    bench.learn()
    log = MemoryLog()
    erasures = Erasures(bench.store, log, [KafkaTopics(log, bench.clock)], KEY, bench.clock)
    name = erasures.request(bench.tenant, "u1", "me")["erasure_id"]
    stands = erasures.run(name)
    [gone] = [entry for entry in log.entries if entry.topic == LABELS.name]
    assert (gone.value, gone.identity, gone.key) == (b"", "l u1", f"{bench.tenant}/{AGENT}")
    assert (stands["state"], "stages" in stands["waiting"]) == ("running", True)
    bench.now += timedelta(hours=2)
    done = erasures.run(name)
    assert (done["state"], "stages" in done["waiting"]) == ("done", False)
    assert (
        done["waiting"]["agent.turns"]
        == f"by itself until {(LATER + timedelta(days=7, hours=2)).isoformat(timespec='minutes')}"
    )
    people = {
        topic.name
        for topic in TOPICS
        if topic.record and not topic.raw and topic.record.model_fields.keys() & {"session_id"}
    }
    assert people <= set(done["waiting"])


def test_files_of_old_datasets_are_emptied_unless_their_model_is_live(bench: Bench) -> None:
    version = bench.learn()
    files = bench.nemo.files[bench.files_of(version.dataset_id)]

    def applied(days: int | None) -> tuple[bool, int]:
        DatasetRetention(bench.store, bench.log, lambda: bench.nemo, {bench.tenant: days}.get, bench.clock).apply()
        bench.run()
        [now] = bench.store.named("dataset_versions", tenant=bench.tenant, datasets=[version.dataset_id])
        return b"question of" in b"".join(files.values()), now["erased"]

    bench.now = START + timedelta(days=9)
    assert applied(8) == (True, 0), "its model is live"
    other = {"event_id": "d2", "release_id": "r2", "job_id": "j2", "candidate": "m2", "incumbent": "m1"}
    where = {"tenant": bench.tenant, "agent": AGENT, "event_time": START + timedelta(days=1)}
    bench.append(Deployment.model_validate({**where, **other, "state": "live", "weight": 1, "reason": ""}))
    bench.run()
    assert applied(None) == applied(10) == (True, 0)
    bench.nemo.away = True
    with pytest.raises(Retry, match="NeMo"):
        applied(8)
    bench.nemo.away = False
    assert applied(8) == (False, version.rows)
    [row] = bench.store.named("dataset_versions", tenant=bench.tenant, datasets=[version.dataset_id])
    assert (row["rows"], row["samples"], row["subjects"]) == (version.rows, [], [])
    before = bench.log.stats()
    assert applied(8) == (False, version.rows)
    assert bench.log.stats()["entries.flywheel.datasets"] == before["entries.flywheel.datasets"], "once is enough"


def test_datasets_of_jobs_under_way_keep_their_rows(bench: Bench) -> None:
    version = bench.learn()
    where = {"tenant": bench.tenant, "agent": AGENT, "event_time": START + timedelta(days=1), "job_id": "j3"}
    moved = {"candidate": "m2", "state": "live", "weight": 1, "reason": "", "release_id": "r2", "incumbent": "m1"}
    job = {"trigger_id": "t3", "state": "running", "dataset_id": version.dataset_id}
    bench.append(
        Deployment.model_validate({**where, **moved, "event_id": "d2"}),
        Job.model_validate({**where, **job, "event_id": "j3"}),
    )
    bench.run()
    old = {"before": START + timedelta(days=99)}
    assert not [one for one in bench.store.named("old_datasets", **old) if one["tenant"] == bench.tenant]
    later = where | {"event_time": START + timedelta(days=2)}
    bench.append(Job.model_validate({**later, **job, "event_id": "j3x", "state": "refused"}))
    bench.run()
    assert [one for one in bench.store.named("old_datasets", **old) if one["tenant"] == bench.tenant]
