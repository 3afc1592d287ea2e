"""Every topic: its name, record, key and retention. The closed list that both engines create.

Keys keep together what must stay in order: clean records by session, alarms by cohort, control by agent.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Literal

from schemas import events
from schemas.events import Record


def _attribute(name: str) -> Callable[[Record], str]:
    def read(record: Record) -> str:
        return str(getattr(record, name))

    return read


def _agent(record: Record) -> str:
    return f"{record.tenant}/{record.agent}"


By = Literal["producer", "trace", "session", "cohort", "agent"]
"""What records share a partition."""


@dataclass(frozen=True, slots=True)
class Topic:
    """A named log of one kind of record. ``record`` None: OTLP protobuf bytes, unchanged, of the request ``carries``.

    ``compacted`` topics keep the newest record of every ``identity`` for ever; the others drop what is older
    than ``retention``. ``raw`` topics hold what has not been redacted and have one reader. ``by``: what shares a
    partition, by the record's ``key``; raw topics by what their producers choose. ``broadcast``: a copy of every record
    goes to every partition, so that whoever works on one partition of another topic has them all.
    """

    name: str
    record: type[Record] | None
    key: Callable[[Record], str]
    retention: timedelta = timedelta(days=7)
    compacted: bool = False
    identity: Callable[[Record], str] = lambda record: record.event_id
    raw: bool = False
    by: By = "agent"
    carries: str = ""
    broadcast: bool = False


_DAY = timedelta(days=1)
_session, _cohort = _attribute("session_id"), _attribute("cohort")

OTLP_SPANS = Topic(
    "otlp_spans", None, _agent, retention=_DAY, raw=True, by="producer", carries="ExportTraceServiceRequest"
)
OTLP_LOGS = Topic(
    "otlp_logs", None, _agent, retention=_DAY, raw=True, by="producer", carries="ExportLogsServiceRequest"
)
SIGNALS_RAW = Topic("agent.signals.raw", events.RawSignal, _agent, retention=_DAY, raw=True, by="producer")
SPANS = Topic("agent.spans", events.Span, _session, by="session")
SIGNALS = Topic("agent.signals", events.Signal, _session, by="session")
TURNS = Topic("agent.turns", events.Turn, _session, by="session")
SCORES = Topic("agent.scores", events.Score, _session, by="session")
OUTCOMES = Topic("agent.outcomes", events.Outcome, _session, by="session")
FAILURES = Topic("flywheel.failures", events.Failure, _agent, retention=30 * _DAY)
CLUSTERS = Topic("flywheel.clusters", events.FailureCluster, _agent, retention=30 * _DAY)
ALARMS = Topic("flywheel.alarms", events.Alarm, _cohort, retention=30 * _DAY, by="cohort")
SAMPLES = Topic("flywheel.samples", events.Sample, _agent, retention=30 * _DAY)
LABELS = Topic("flywheel.labels", events.Label, _agent, compacted=True)
CALIBRATIONS = Topic("flywheel.calibrations", events.Calibration, _agent, retention=90 * _DAY, broadcast=True)
TRIGGERS = Topic("flywheel.triggers", events.Trigger, _agent, compacted=True)
DATASETS = Topic("flywheel.datasets", events.DatasetVersion, _agent, compacted=True)
JOBS = Topic("flywheel.jobs", events.Job, _agent, compacted=True, identity=_attribute("job_id"))
EVALUATIONS = Topic("flywheel.evaluations", events.Evaluation, _agent, compacted=True)
DEPLOYMENTS = Topic("flywheel.deployments", events.Deployment, _agent, retention=90 * _DAY)
ERASURES = Topic("flywheel.erasures", events.Erasure, _agent, retention=90 * _DAY)
DEAD_LETTERS = Topic("flywheel.deadletters", events.DeadLetter, _agent, retention=30 * _DAY)
LEDGER = Topic("flywheel.ledger", events.LedgerEntry, _agent, retention=30 * _DAY)

TOPICS: tuple[Topic, ...] = (
    OTLP_SPANS, OTLP_LOGS, SIGNALS_RAW, SPANS, SIGNALS, TURNS, SCORES, OUTCOMES, FAILURES, CLUSTERS, ALARMS, SAMPLES,
    LABELS, CALIBRATIONS, TRIGGERS, DATASETS, JOBS, EVALUATIONS, DEPLOYMENTS, ERASURES, DEAD_LETTERS, LEDGER,
)  # fmt: skip
"""Every topic, in the order of the flow."""

BY_NAME: dict[str, Topic] = {topic.name: topic for topic in TOPICS}
BY_RECORD: dict[type[Record], Topic] = {topic.record: topic for topic in TOPICS if topic.record}


def topic_of(record: Record) -> Topic:
    """The one topic that carries this kind of record."""
    return BY_RECORD[type(record)]
