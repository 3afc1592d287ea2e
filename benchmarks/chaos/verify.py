"""Was anything lost, doubled or miscounted? ``python verify.py RUN_FOLDER`` once everything has come to rest.

Holds the store (chDB, whose owner has to have ended) and the topics against what the load says, what the raw topics
hold, and what the stages make of it in memory without faults. Writes verdict.json: a list of ids for every kind of
difference, each of which has to be empty.
"""

from __future__ import annotations

import json
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

sys.path.insert(0, str(Path(__file__).parent.parent.parent))

from benchmarks.chaos.load import Load
from benchmarks.chaos.oracle import Oracle
from benchmarks.chaos.topics import Topics
from benchmarks.chaos.truth import Accepted, Truth, accepted
from connectors.clickhouse.store import Store, StoreSettings
from connectors.kafka.settings import KafkaSettings
from driftwheel.config import load
from driftwheel.pipeline import build_stage
from processors import PIPELINE
from processors.assemble import AssembleSettings
from processors.attribute import AttributeSettings
from processors.calibrating import p_failure
from processors.cluster import Cluster
from processors.detect_drift import DetectDrift
from processors.score import RULES, ScoreSettings, rules_p_failure, scorer_of
from processors.sessions import unpack
from processors.stage import Event
from processors.state import KeyState
from schemas.events import Calibration, Deployment, Failure, Outcome, Record, Signal, Span, Turn

SHOWN = 5
"""So many ids of a difference are written down."""


class Findings:
    """Differences by kind."""

    def __init__(self) -> None:
        self._found: dict[str, list[str]] = {}
        self.facts: dict[str, int] = {}

    def note(self, kind: str, ids: Iterable[Any]) -> None:
        """These are wrong."""
        self._found.setdefault(kind, []).extend(map(str, ids))

    def same(self, kind: str, expected: set[str], found: set[str]) -> None:
        """Both have to be equal."""
        self.note(f"lost {kind}", sorted(expected - found))
        self.note(f"extra {kind}", sorted(found - expected))

    def as_json(self) -> dict[str, Any]:
        """Counts and examples."""
        return {
            "wrong": {kind: len(ids) for kind, ids in self._found.items() if ids},
            "examples": {kind: ids[:SHOWN] for kind, ids in self._found.items() if ids},
            "checked": sorted(self._found),
            "facts": self.facts,
        }


@dataclass
class Case:
    """A run at rest."""

    run: dict[str, Any]
    truth: Truth
    topics: Topics
    store: Store
    findings: Findings

    def column(self, sql: str) -> list[Any]:
        """The first column of a query."""
        return [row[0] for row in self.store.select(sql).rows]


def open_case(folder: Path) -> Case:
    run = json.loads((folder / "run.json").read_text())
    load = Load(run["seed"], run["events"], run["poison"])
    truth = Truth(load, frozenset(run["refused"]), tuple(run["extra"]))
    kafka = KafkaSettings(run["brokers"], run["prefix"], run["partitions"])
    store = Store(StoreSettings(path=Path(run["store"])))
    return Case(run, truth, Topics(kafka), store, Findings())


def check_ids(case: Case) -> None:
    """The views hold exactly what they have to, each once."""
    truth, findings = case.truth, case.findings
    spans = case.column("SELECT event_id FROM spans_current")
    explicit = case.column("SELECT event_id FROM signals_current WHERE kind = 'explicit'")
    turns = case.column("SELECT turn_id FROM turns_current")
    scores = case.column("SELECT turn_id FROM scores_current")
    outcomes = case.column("SELECT turn_id FROM outcomes_current")
    found = {
        "spans": (truth.spans, spans), "signals": (truth.signals, explicit), "turns": (set(truth.turns), turns),
        "scores": (truth.settled, scores), "outcomes": (truth.settled, outcomes),
    }  # fmt: skip
    for kind, (expected, held) in found.items():
        findings.same(kind, expected, set(held))
        findings.note(f"doubled {kind}", _twice(held))
        findings.facts[kind] = len(held)
    for table in ("signals", "samples", "alarms", "dead_letters", "labels", "triggers"):
        findings.note(f"doubled {table}", _twice(case.column(f"SELECT event_id FROM {table}_current")))
    findings.note("readable e-mail addresses", case.column(_LEAKS))


_LEAKS = """
SELECT event_id FROM spans_current WHERE input LIKE '%@example.com%' OR output LIKE '%@example.com%'
UNION ALL SELECT event_id FROM turns_current WHERE input LIKE '%@example.com%'
"""


def _twice(ids: Iterable[Any]) -> list[str]:
    return [f"{one} x{count}" for one, count in Counter(ids).items() if count > 1]


def check_ledger(case: Case, raw: Accepted) -> None:
    """Every minute adds up, and what was accepted is what the raw topics hold without the copies."""
    table = case.store.ledger()
    rows = [dict(zip(table.columns, row, strict=True)) for row in table.rows]
    findings = case.findings
    findings.note("ledger", [f"{r['tenant']} {r['minute']}: {r['difference']}" for r in rows if r["difference"]])
    total = sum(raw.items.values())
    findings.facts |= {
        "ledger difference": sum(int(r["difference"]) for r in rows),
        "ledger off": sum(abs(int(r["difference"])) for r in rows),
        "accepted": total,
        "copies": raw.copies,
    }
    sums = "SELECT toInt64(sum(count)) FROM ledger FINAL WHERE entry = '{}'"
    for entry, expected in (("accepted", total), ("duplicate", raw.copies)):
        found = int(case.column(sums.format(entry))[0])
        findings.note(f"ledger {entry}", [f"{found} instead of {expected}"] if found != expected else [])


def check_dead(case: Case, raw: Accepted) -> None:
    """Dead letters are the poison's, and only those; in the store and in the topic."""
    refused = {
        ("score", "agent.turns", found.partition, found.offset, "0")
        for found, turn in case.topics.records("agent.turns")
        if cast("Turn", turn).turn_id in case.truth.refused
    }
    expected = raw.dead | refused
    sql = "SELECT stage, topic, partition, offset, detail FROM dead_letters_current"
    found = [(*row[:4], _item(row[4])) for row in case.store.select(sql).rows]
    case.findings.same("dead letters", set(map(str, expected)), set(map(str, found)))
    case.findings.note("doubled dead letters", _twice(map(str, found)))
    case.findings.facts |= {"dead letters expected": len(expected), "dead letters": len(found)}
    case.findings.note("dead letters doubled in the topic", _twice(_ids(case, "flywheel.deadletters")))


def _item(detail: str) -> str:
    if detail.startswith(("item ", "span ")):
        return detail.partition(":")[0].partition(" ")[2].split(" ")[0]
    return "0"


def _ids(case: Case, topic: str) -> list[str]:
    return [record.event_id for _, record in case.topics.records(topic)]


def check_topics(case: Case) -> None:
    """Exactly once means the topics, too: no clean record is there twice."""
    for topic in ("agent.spans", "agent.signals", "agent.outcomes", "flywheel.samples", "flywheel.alarms"):
        case.findings.note(f"{topic} twice", _twice(_ids(case, topic)))


def check_sessions(case: Case) -> None:
    """Turns, implicit signals, scores and verdicts are what the stages make of the stored spans without faults."""
    settings = case.run["stages"]
    oracle = Oracle(
        AssembleSettings(**settings["assemble"]), AttributeSettings(**settings["attribute"]), case.truth.refused
    )
    spans: dict[str, list[Span]] = defaultdict(list)
    for _, record in case.topics.records("agent.spans"):
        spans[cast("Span", record).session_id].append(cast("Span", record))
    ratings: dict[str, list[Signal]] = defaultdict(list)
    implicit: dict[str, set[str]] = defaultdict(set)
    for _, record in case.topics.records("agent.signals"):
        signal = cast("Signal", record)
        if signal.kind == "explicit":
            ratings[signal.session_id].append(signal)
    for session, event_id in case.store.select(
        "SELECT session_id, event_id FROM signals_current WHERE kind = 'implicit'"
    ).rows:
        implicit[session].add(event_id)
    stored, learnt = _stored(case), check_scores(case)
    skipped = 0
    for session, some in spans.items():
        if not oracle.judgeable(some):
            skipped += 1
            continue
        expected = oracle.session(some, ratings[session], learnt)
        case.findings.note("implicit signals that differ", set(expected.signals) ^ implicit[session])
        for turn in expected.turns.values():
            _compare(case, "turns that differ", turn.turn_id, _TURN, turn, stored["turns"])
        for score in expected.scores.values():
            _compare(case, "scores that differ", score.turn_id, _SCORE, score, stored["scores"])
        for outcome in expected.outcomes.values():
            _compare(case, "outcomes that differ", outcome.turn_id, _OUTCOME, outcome, stored["outcomes"])
    case.findings.facts |= {"sessions": len(spans), "sessions not judged": skipped}
    case.findings.facts["implicit signals"] = sum(map(len, implicit.values()))


def check_scores(case: Case) -> dict[str, dict[str, Any]]:
    """Which calibration a turn met depends on chance; so a score is held to the one that it names.

    Returns what each turn's score has from it. Calibrations are on every partition, once.
    """
    partitions, copies = case.topics.settings.partitions, Counter[str]()
    known: dict[tuple[str, str, str], Calibration] = {}
    for _, record in case.topics.records("flywheel.calibrations"):
        calibration = cast("Calibration", record)
        copies[calibration.event_id] += 1
        known[calibration.tenant, calibration.agent, scorer_of(calibration.number)] = calibration
    case.findings.note("calibrations not once on every partition", [i for i, n in copies.items() if n != partitions])
    forces = {(one.tenant, one.agent, tuple(sorted(one.forces.items()))) for one in known.values()}
    learnt: dict[str, dict[str, Any]] = {}
    wrong: list[str] = []
    columns = "tenant, agent, turn_id, scorer, p_failure, features, forces"
    for tenant, agent, turn_id, scorer, p, features, own in case.store.select(
        f"SELECT {columns} FROM scores_current"
    ).rows:
        calibration = known.get((str(tenant), str(agent), str(scorer)))
        if scorer == RULES:
            expected = rules_p_failure(features, ScoreSettings())
        else:
            expected = p_failure(features, json.loads(calibration.model)) if calibration else -1.0
        if p != round(expected, 6) or (own and (tenant, agent, tuple(sorted(own.items()))) not in forces):
            wrong.append(f"{turn_id}: {p} by {scorer}")
        learnt[str(turn_id)] = {"p_failure": p, "forces": own}
    case.findings.note("scores that are not their calibration's", wrong)
    case.findings.facts |= {
        "calibrations": len(known),
        "scores with forces": sum(bool(o["forces"]) for o in learnt.values()),
    }
    return learnt


_TURN = ("turn_index", "input", "output", "tool_calls", "tool_errors", "session_id", "trace_id", "category")
_SCORE = ("uncertainty", "turn_index", "tool_errors")
_OUTCOME = ("verdict", "expected")
"""What makes a new revision when it changes; the rest is as of that revision."""


def _stored(case: Case) -> dict[str, dict[str, tuple[Any, ...]]]:
    wanted = {"turns": _TURN, "scores": _SCORE, "outcomes": _OUTCOME}
    return {
        table: {
            str(row[0]): tuple(row[1:])
            for row in case.store.select(f"SELECT turn_id, {', '.join(columns)} FROM {table}_current").rows
        }
        for table, columns in wanted.items()
    }


def _compare(
    case: Case, kind: str, turn_id: str, names: tuple[str, ...], record: Record, stored: dict[str, tuple[Any, ...]]
) -> None:
    values = tuple(getattr(record, name) for name in names)
    held = stored.get(turn_id)
    differ = [
        f"{name}: {b!r} instead of {a!r}" for name, a, b in zip(names, values, held or values, strict=True) if a != b
    ]
    case.findings.note(kind, [f"{turn_id} {'; '.join(differ)}"] if differ else [])


def check_counters(case: Case) -> None:
    """What is counted in keyed state is what is in the store, or what a replay gives."""
    _count_turns(case)
    _count_revisions(case)
    _count_samples(case)
    _count_spans(case)
    _count_sessions(case)
    _count_lessons(case)
    _count_failures(case)


def _wrong(expected: dict[str, Any], found: dict[str, Any]) -> list[str]:
    return [
        f"{key}: {found.get(key)} instead of {expected.get(key)}"
        for key in expected.keys() | found.keys()
        if expected.get(key) != found.get(key)
    ]


def _count_turns(case: Case) -> None:
    """assemble: turns of a session."""
    state, _ = case.topics.state("assemble")
    found = {key.partition("/")[2]: one.data["next"] for key, one in state.items()}
    case.findings.note("counter assemble.next", _wrong(dict(case.truth.sessions), found))
    case.findings.facts["assemble.next"] = sum(found.values())


def _count_revisions(case: Case) -> None:
    """attribute: revisions of a turn's verdict; every one of them is stored, and each session has one value."""
    state, _ = case.topics.state("attribute")
    found = {turn["turn_id"]: turn["revision"] + 1 for one in state.values() if one.data for turn in unpack(one.data)}
    rows = case.store.select("SELECT turn_id, toInt64(count()) FROM outcomes FINAL GROUP BY turn_id").rows
    case.findings.note("counter attribute.revision", _wrong(dict(map(tuple, rows)), found))  # type: ignore[arg-type]
    values = case.store.select(
        "SELECT session_id, toInt64(countIf(session_value IS NOT NULL)) FROM outcomes FINAL GROUP BY session_id"
    ).rows
    case.findings.note("session values", [f"{session}: {count}" for session, count in values if count != 1])
    case.findings.facts["attribute.revision"] = sum(found.values())


def _count_samples(case: Case) -> None:
    """Curate and plan: samples of an agent."""
    rows = case.store.select("SELECT concat(tenant, '/', agent), toInt64(count()) FROM samples_current GROUP BY 1").rows
    stored = {str(agent): count for agent, count in rows}
    spent = {key: one.data["spent"] for key, one in case.topics.state("curate")[0].items() if one.data["spent"]}
    case.findings.note("counter curate.spent", _wrong(stored, spent))
    known = {key: len(one.data["samples"]) for key, one in case.topics.state("plan")[0].items() if one.data["samples"]}
    case.findings.note("counter plan.samples", _wrong(stored, known))
    case.findings.facts["curate.spent"] = sum(spent.values())


def _count_spans(case: Case) -> None:
    """redact: spans of a trace and what was said about it."""
    rows = case.store.select(
        "SELECT concat(tenant, '/', trace_id), toInt64(count()) FROM ("
        "SELECT tenant, trace_id FROM spans_current UNION ALL "
        "SELECT tenant, trace_id FROM signals_current WHERE kind = 'explicit' AND trace_id != '') GROUP BY 1"
    ).rows
    state, _ = case.topics.state("redact")
    found = {key: len(one.memo) for key, one in state.items() if "/signal/" not in key}
    case.findings.note("counter redact.memo", _wrong({str(key): count for key, count in rows}, found))
    case.findings.facts["redact.memo"] = sum(found.values())


def _count_sessions(case: Case) -> None:
    """detect_drift: its state is that of a replay of its inbox, which has every session value and release once."""
    stage, replayed, seen = DetectDrift(), dict[str, KeyState](), Counter[str]()
    alarms: set[str] = set()
    for item in case.topics.inbox("detect_drift"):
        seen[f"{item['event_id']} {item['key']}"] += 1
        state = replayed.setdefault(item["key"], KeyState())
        event = Event(item["key"], item["event_id"], item["origin"], item["record"])
        alarms |= {record.event_id for record in stage.step(event, state)}
    valued = sum(cast("Outcome", one).session_value is not None for _, one in case.topics.records("agent.outcomes"))
    released = sum(
        cast("Deployment", one).state in ("live", "rolled_back")
        for _, one in case.topics.records("flywheel.deployments")
    )
    found = {key: one.data for key, one in case.topics.state("detect_drift")[0].items() if one.data}
    findings = case.findings
    findings.note("detect_drift inbox twice", [one for one, count in seen.items() if count > 1])
    if len(seen) != valued + released:
        findings.note("detect_drift inbox", [f"{len(seen)} events instead of {valued + released}"])
    expected = {key: one.data for key, one in replayed.items() if one.data}
    findings.note("counter detect_drift", _wrong(expected, found))
    findings.same("alarms", alarms, set(case.column("SELECT event_id FROM alarms_current")))
    findings.facts["detect_drift.n"] = sum(
        one["rate"]["n"] for data in found.values() for one in data["cohorts"].values()
    )


def _count_lessons(case: Case) -> None:
    """learn: every turn that a person rated has taught once, or waits to."""
    rated: dict[str, set[str]] = defaultdict(set)
    for _, record in case.topics.records("agent.outcomes"):
        outcome = cast("Outcome", record)
        if outcome.basis == "said":
            rated[f"{outcome.tenant}/{outcome.agent}"].add(outcome.turn_id)
    found = {
        key: len(one.data["rated"]) + (one.data["fusion"] or {"lessons": 0})["lessons"]
        for key, one in case.topics.state("learn")[0].items()
        if one.data
    }
    case.findings.note("counter learn.lessons", _wrong({key: len(turns) for key, turns in rated.items()}, found))
    case.findings.facts["learn.lessons"] = sum(found.values())


def _count_failures(case: Case) -> None:
    """cluster: its state is that of a replay of its topic, and every failed turn has a cluster."""
    stage, replayed, failed = build_stage(Cluster, load()), dict[str, KeyState](), set[str]()
    seen: set[str] = set()
    for found, record in case.topics.records("flywheel.failures"):
        failed.add(cast("Failure", record).turn_id)
        if record.event_id not in seen:
            seen.add(record.event_id)
            event = Event(stage.key(record), record.event_id, str(found.offset), record)
            list(stage.step(event, replayed.setdefault(event.key, KeyState())))
    clustered = case.column("SELECT turn_id FROM clusters_current WHERE turn_id != ''")
    case.findings.same("clustered turns", failed, set(clustered))
    case.findings.note("doubled clustered turns", _twice(clustered))
    held = {key: one.data for key, one in case.topics.state("cluster")[0].items() if one.data}
    case.findings.note("counter cluster", _wrong({key: one.data for key, one in replayed.items()}, held))
    case.findings.facts["clustered turns"] = len(clustered)


def check_positions(case: Case) -> None:
    """Every lane has read its topics to their ends."""
    settings, ends = case.topics.settings, case.topics.ends
    for stage in PIPELINE:
        _, positions = case.topics.state(stage.name)
        for topic in stage.sources:
            if (topic.name, 0) not in ends:
                list(case.topics.read(settings.topic(topic), topic.name))
            at = {n: (positions.get((topic.name, n), 0), ends[topic.name, n]) for n in range(settings.partitions)}
            short = [f"{stage.name} {topic.name}/{n}: {a} of {end}" for n, (a, end) in at.items() if a < end]
            case.findings.note("not read to the end", short)


def main() -> int:
    folder = Path(sys.argv[1])
    case = open_case(folder)
    raw = accepted(case.topics)
    check_ids(case)
    check_ledger(case, raw)
    check_dead(case, raw)
    check_topics(case)
    check_sessions(case)
    check_counters(case)
    check_positions(case)
    case.store.close()
    verdict = case.findings.as_json()
    (folder / "verdict.json").write_text(json.dumps(verdict, indent=1))
    return 1 if verdict["wrong"] else 0


if __name__ == "__main__":
    sys.exit(main())
