"""Outcomes and labels leave the store in both forms, and come back as the same signals, which are no evidence."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from connectors.clickhouse.store import Store
from connectors.judge.judge import Opinion
from connectors.otlp import LOGS, TRACES
from connectors.otlp_feedback import Form
from driftwheel import feedback_export
from driftwheel.api import Table
from driftwheel.feedback_export import Exported, export_feedback
from driftwheel.judge_rows import Told, verdict_signal
from driftwheel.library import table_of
from processors.attribute import Attribute
from processors.redact import Redact
from processors.stage import Message
from processors.state import MemoryState
from schemas.errors import UsageError
from schemas.events import EPOCH, LedgerEntry, Outcome, Record, Signal
from tests.driftwheel.cli_kit import run
from tests.store import temporary_store
from tests.world import REDACTION, START, TENANT, label, message, outcome, sample, score, turn

TRACE = "0af7651916cd43dd8448eb211c8031"
RECEIVED = START + timedelta(days=1)
FORMS: tuple[Form, ...] = ("otlp-logs", "openinference")


def turn_id(number: int) -> str:
    return f"{TRACE}{number:02x}.{number + 1:016x}"


def told(number: int, revision: int = 0, **given: object) -> Outcome:
    about = {"turn_id": turn_id(number), "trace_id": turn_id(number)[:32], "revision": revision, "session_id": "s1"}
    return outcome(**{**about, "event_id": f"o{number}-{revision}", "verdict": "failure", "p_failure": 0.9, **given})


RECORDS: list[Record] = [
    told(0),
    told(1, verdict="success", p_failure=0.125, session_id=f"trace:{TRACE}01"),
    told(
        1,
        1,
        session_id=f"trace:{TRACE}01",
        cause="routing",
        cause_confidence=0.9,
        evidence=["rule:corrected_route"],
        expected="it_help",
    ),
    told(2, turn_id="no-trace"),
    told(3, tenant="another"),
    sample(event_id="x1", turn_id=turn_id(0), session_id="s1"),
    label(event_id="l1", sample_id="x1", value="it_help", rater="ann"),
    label(event_id="l2", sample_id="nothing", value="it_help", rater="ann"),
]


class Desk:
    """A store that answers as the command line's desk does."""

    def __init__(self, store: Store) -> None:
        self.store, self.asked = store, 0

    def sql(self, query: str) -> Table:
        self.asked += 1
        return table_of(self.store.query(query))


@pytest.fixture(scope="module")
def desk() -> Iterator[Desk]:
    with temporary_store() as store:
        store.write(RECORDS)
        yield Desk(store)


def requests(desk: Desk, form: Form, path: Path, since: datetime = EPOCH) -> tuple[Exported, list[str]]:
    exported = export_feedback(desk, TENANT, since, form, str(path / form))
    return exported, (path / form).read_text().splitlines()


def imported(form: Form, lines: list[str], offset: int = 0) -> list[Message]:
    export = LOGS if form == "otlp-logs" else TRACES
    values = [export.from_json(line.encode()).SerializeToString() for line in lines]
    headers = {"tenant": TENANT, "agent": "driftwheel", "ledger": "gateway"}
    return [Message(export.topic.name, offset + n, "", v, RECEIVED, headers) for n, v in enumerate(values)]


def signals(records: list[Record]) -> list[Signal]:
    return sorted((one for one in records if isinstance(one, Signal)), key=lambda one: one.event_id)


def test_both_forms_come_back_as_the_same_signals(desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found: dict[Form, list[Signal]] = {}
    for form in FORMS:
        exported, lines = requests(desk, form, tmp_path)
        assert exported == Exported(outcomes=2, labels=1, left_out=1)
        stage, store = Redact(), MemoryState()
        records = stage.process(imported(form, lines), store)
        found[form] = signals([*records, *stage.expire(store, RECEIVED + timedelta(minutes=1))])
        again = stage.process(imported(form, lines, 10), store)
        repeats = [one for one in again if isinstance(one, LedgerEntry) and one.entry == "duplicate"]
        assert (len(signals(again)), len(repeats)) == (0, 3 if form == "otlp-logs" else 6)
    assert found["otlp-logs"] == found["openinference"]
    assert len(found["otlp-logs"]) == 3
    names = {one.attributes["gen_ai.evaluation.name"]: one for one in found["otlp-logs"] if one.session_id == "s1"}
    assert names["driftwheel.label"].attributes["gen_ai.evaluation.score.label"] == "it_help"
    assert names["driftwheel.label"].source == "human"
    (second,) = [one for one in found["otlp-logs"] if one.trace_id.endswith("01")]
    assert (second.value, second.source, second.text) == (-1.0, "code", "first fault: routing")
    assert (second.event_time, second.session_id) == (START + timedelta(microseconds=1), f"trace:{TRACE}01")
    assert json.loads(second.attributes["annotation.metadata"])["cause"] == "routing"
    monkeypatch.setattr(feedback_export, "PAGE", 1)
    before = desk.asked
    assert requests(desk, "otlp-logs", tmp_path / "..", EPOCH)[0] == exported
    assert desk.asked - before > 4, "page by page comes to the same"


def test_what_came_from_here_is_no_evidence(desk: Desk, tmp_path: Path) -> None:
    _, lines = requests(desk, "otlp-logs", tmp_path)
    own = signals(Redact().process(imported("otlp-logs", lines), MemoryState()))
    assert {one.weight for one in own} == {0.0}
    stage, store = Attribute(), MemoryState()
    stage.process([message(score(turn_id=turn_id(0), p_failure=0.5)), *map(message, own)], store)
    (closed,) = [one for one in stage.expire(store, START + timedelta(days=2)) if isinstance(one, Outcome)]
    assert (closed.verdict, closed.evidence) == ("unknown", [])


def test_since_goes_by_when_it_was_stored(desk: Desk, tmp_path: Path) -> None:
    later = datetime.now(UTC) + timedelta(hours=1)
    exported, lines = requests(desk, "openinference", tmp_path, later)
    assert (exported, lines) == (Exported(), [])


def test_a_tenant_that_cannot_be_and_the_command(desk: Desk, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--tenant"):
        export_feedback(desk, "x' OR 1", EPOCH, "otlp-logs", str(tmp_path / "x"))
    done = run("export", "feedback", "--since", "soon")
    assert done.returncode == 2
    assert "36h or 7d" in done.stderr
    done = run("export", "feedback", "--data-dir", str(tmp_path / "none"))
    assert (done.returncode, "driftwheel up" in done.stderr) == (1, True)


def test_what_judges_say_goes_round_in_both_forms(tmp_path: Path) -> None:
    about = turn(turn_id=turn_id(7), trace_id=turn_id(7)[:32], session_id="s7", end_time=START, event_time=START)
    told, good = Told(0.4, 0.1, REDACTION), Opinion("tone:1-ab/m", "tone", "1-ab", "m", 0.25, "it is curt", "", 99)
    silent = replace(good, judge="factuality:1-cd/m", rubric="factuality", score=None, abstained="unparsable")
    found: dict[Form, list[Signal]] = {}
    with temporary_store() as store:
        store.write([verdict_signal(about, good, told), verdict_signal(about, silent, told)])
        for form in FORMS:
            exported, lines = requests(Desk(store), form, tmp_path)
            assert exported == Exported(verdicts=1)
            stage, state = Redact(), MemoryState()
            records = stage.process(imported(form, lines), state)
            found[form] = signals([*records, *stage.expire(state, RECEIVED + timedelta(minutes=1))])
    assert found["otlp-logs"] == found["openinference"]
    (one,) = found["otlp-logs"]
    assert (one.value, one.weight, one.source, one.text) == (-1.0, 0.0, "llm", "it is curt"), "no echo is evidence"
    assert (one.trace_id, one.session_id, one.event_time) == (about.trace_id, "s7", START)
    assert one.attributes["gen_ai.evaluation.name"] == "tone"
    assert one.attributes["gen_ai.evaluation.score.value"] == "0.25"
    assert one.attributes["annotation.identifier"] == "driftwheel:judge:tone:1-ab/m"
