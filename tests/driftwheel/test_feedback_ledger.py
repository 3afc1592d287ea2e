"""Feedback of every form through the embedded engine into the store: the ledger adds up, replays included."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from connectors.clickhouse.sink import ClickHouseSink
from connectors.clickhouse.store import Store
from connectors.log import Entry
from connectors.otlp import PROTOBUF, accept_logs, accept_traces
from connectors.quarantine import Quarantine
from connectors.sqlite_log import SqliteLog, SqliteLogSettings
from driftwheel.deadletters import Behind, DeadLetters, LogMessages
from driftwheel.embedded import Engine
from driftwheel.gateway import GatewaySettings, create_app
from driftwheel.letters import LetterFilter
from processors.attribute import Attribute
from processors.redact import Redact, RedactSettings
from schemas.topics import OTLP_LOGS
from tests.asgi import TestClient
from tests.processors.redacting import TRACE, otlp
from tests.processors.test_redact_feedback import ASKED, RESULT, ROOT, linked, logs
from tests.store import temporary_store

T0 = datetime(2026, 1, 5, 9, 0, 30, tzinfo=UTC)
KEY = bytes(range(32))
MAIL = "anna.petrov@example.com"
LONG = {"gen_ai.evaluation.explanation": "far too long " * 20}
STRICT, LOOSE = 100, 2_000_000


class Bench:
    """Log, quarantine, store and redaction, in lock step."""

    def __init__(self, folder: Path, store: Store) -> None:
        self.store, self.now = store, T0
        self.log = SqliteLog(folder, SqliteLogSettings(key=KEY))
        self.quarantine = Quarantine(folder / "quarantine", KEY)
        behind = Behind(self.quarantine, LogMessages(self.log), self.log)
        self.letters = DeadLetters(store, lambda: behind, lambda: self.now)

    def run(self, limit: int = LOOSE) -> None:
        """All that there is to do, the wait for sessions included."""
        for _ in range(2):
            stages = [Redact(RedactSettings(max_text=limit)), Attribute()]
            engine = Engine(
                self.log, stages, [ClickHouseSink(self.store)], lambda: self.now, quarantine=self.quarantine
            )
            engine.drain()
            engine.stop()
            self.now += timedelta(seconds=11)

    def sums(self) -> tuple[int, ...]:
        """Accepted, stored, quarantined, dropped; every minute of every tenant adds up."""
        rows = self.store.ledger().rows
        assert [row[-1] for row in rows] == [0] * len(rows), rows
        return tuple(sum(int(row[place]) for row in rows) for place in range(2, 6))

    def select(self, sql: str) -> list[list[Any]]:
        return self.store.select(sql).rows


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    with temporary_store() as store:
        made = Bench(tmp_path, store)
        yield made
        made.log.close()


def test_every_form_is_counted_and_stored(bench: Bench) -> None:
    span = otlp({"span": ROOT, "attributes": ASKED, "events": [("gen_ai.evaluation.result", RESULT)] * 2})
    accept_traces(span.SerializeToString(), PROTOBUF, "acme", T0, bench.log)
    accept_traces(linked({"annotations.0.annotation.name": "a", "annotations.0.annotation.label": "good",
                          "annotations.1.annotation.name": "b", "annotations.1.annotation.label": "bad"}).value,
                  PROTOBUF, "acme", T0, bench.log)  # fmt: skip
    accept_logs(logs({}, {"name": "log"}, {"name": "gen_ai.choice"}).value, PROTOBUF, "acme", T0, bench.log)
    bench.log.append([Entry(OTLP_LOGS.name, "", logs({}, {"name": "log"}).value, T0, {"tenant": "acme"})])
    app = TestClient(create_app(bench.log, lambda: bench.now, GatewaySettings(), list))
    for value in (1, 0):
        body = {"id": "one", "name": "user-feedback", "dataType": "BOOLEAN", "traceId": TRACE, "value": value}
        head = {"x-driftwheel-tenant": "acme"}
        assert app.post("/api/public/scores", json=body | {"comment": MAIL}, headers=head).status_code == 200
        bench.now += timedelta(seconds=1)
    bench.run()
    accepted, stored, quarantined, dropped = bench.sums()
    assert (accepted - stored, quarantined, dropped) == (3, 0, 3)
    reasons = "SELECT reason, sum(count) FROM ledger FINAL WHERE entry = 'dropped' GROUP BY reason ORDER BY reason"
    assert bench.select(reasons) == [["message_event", 1], ["not_feedback", 2]]
    newest = "SELECT value, session_id, text FROM signals_current WHERE source = 'human'"
    ((value, session, text),) = bench.select(newest)
    assert (value, session, text.startswith("<EMAIL_ADDRESS_")) == (-1.0, "s1", True)
    assert bench.select("SELECT count() FROM spans FINAL") == [[1]], "a carrier is no span"
    everything = json.dumps(bench.select("SELECT * FROM signals FINAL"), default=str)
    assert MAIL not in everything
    assert bench.select("SELECT uniqExact(session_id) FROM signals FINAL") == [[1]]


@pytest.mark.parametrize("gateway", [True, False], ids=["gateway", "collector"])
def test_what_could_not_be_read_is_read_at_last(bench: Bench, gateway: bool) -> None:
    value = logs({}, {"name": "log"}, {"attributes": RESULT | LONG, "span": "22" * 8}).value
    if gateway:
        accept_logs(value, PROTOBUF, "acme", T0, bench.log)
    else:
        bench.log.append([Entry(OTLP_LOGS.name, "", value, T0, {"tenant": "acme"})])
    span = otlp({"span": ROOT, "attributes": ASKED, "events": [("gen_ai.evaluation.result", RESULT | LONG)]})
    accept_traces(span.SerializeToString(), PROTOBUF, "acme", T0, bench.log)
    bench.run(STRICT)
    assert bench.sums() == (5, 2, 2, 1)
    found = [row["event_id"] for row in bench.letters.find(LetterFilter(state="open"))]
    assert len(bench.letters.replay(found, again=False)["replayed"]) == 2
    bench.run()
    assert bench.sums() == (7, 4, 2, 1)
    assert {row["state"] for row in bench.letters.find(LetterFilter())} == {"settled"}
