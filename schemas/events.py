"""One frozen record per event, in the order of the flow. The published contract is ``schemas/avro``.

Every record has a deterministic ``event_id`` (from its content's identity, never random), its ``tenant`` and
``agent``, the ``subject_hash`` of the person it is about ('' when about nobody), the ``event_time`` (UTC) and a
``schema_version``. Unknown fields are ignored when a record is read, so that an older reader follows a newer
writer. Records that carry text also carry the :class:`Redaction` envelope; every sink refuses them without one.
"""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from typing import Annotated, Literal

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def _to_utc(time: datetime) -> datetime:
    try:
        return time.astimezone(UTC)
    except OverflowError as error:
        raise ValueError("is outside of the years 1 to 9999 in UTC") from error


Time = Annotated[AwareDatetime, AfterValidator(_to_utc)]
"""An instant, UTC, to the microsecond."""

Verdict = Literal["success", "failure", "unknown"]
Cause = Literal["retrieval", "generation", "routing", "rephrasal", "knowledge_gap", "tool", "unknown"]
Basis = Literal["said", "judged", "done", "expected", ""]
GivenCause = Literal["", "retrieval", "generation", "routing", "rephrasal", "knowledge_gap", "tool", "unknown"]
"""A cause as a person gives it; '' when they do not."""
SpanKind = Literal["agent", "llm", "tool", "retrieval", "chain", "other", "evaluator"]
SignalKind = Literal["explicit", "implicit"]
JobState = Literal["queued", "running", "evaluating", "passed", "refused", "failed"]
ReleaseState = Literal["shadow", "canary", "live", "rolled_back", "stopped"]
Entry = Literal["accepted", "duplicate", "quarantined", "dropped"]
ErasureState = Literal["requested", "running", "done"]

SignalName = Literal[
    # explicit: somebody said so
    "rating", "comparison", "correction", "adoption", "rejection", "knowledge_relevance", "missing_knowledge",
    "evaluation",
    # implicit: somebody acted so
    "rephrase", "repeat", "explicit_correction", "escalation", "abandonment", "copy", "accepted", "edited",
    "regenerate", "task_complete", "proceeded", "dwell", "forgetfulness", "divergence", "stopped",
    "manual_takeover",
]  # fmt: skip
"""The signals a producer may send; readers tolerate names that they do not know."""


def identity(*parts: str) -> str:
    """A deterministic id from the parts that make a record what it is.

    >>> identity("span", "t1", "s1") == identity("span", "t1", "s1") != identity("span", "t1s", "1")
    True
    """
    return hashlib.sha256("\x1f".join(parts).encode("utf-8", "replace")).hexdigest()[:32]


class Part(BaseModel):
    """A piece of a record; frozen, tolerant of fields that it does not know."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)


class Record(Part):
    """What every event has."""

    schema_version: int = 1
    event_id: str
    tenant: str
    agent: str
    subject_hash: str = ""
    event_time: Time


class Redaction(Part):
    """Proof that a text was cleaned: by which policy and detector, and how many finds of each type."""

    policy_version: str
    detector: str
    counts: dict[str, int] = Field(default_factory=dict)


class Clean(Record):
    """A record that carries text made by people or agents, after redaction.

    ``consent_train``, ``consent_evaluate``: whether models may learn from it, and be judged by it.
    """

    redaction: Redaction
    consent_train: bool = True
    consent_evaluate: bool = True


class RawSignal(Record):
    """A signal or a label as its producer sent it: raw zone only. ``payload`` is the validated JSON body."""

    payload: str


class Span(Clean):
    """One clean operation of an agent. ``event_time`` is its start; ``received_time`` when it was accepted.

    ``tools`` are the names of those that a model could call, ``called_tools`` of those it asked for, in its
    answer or else since the user's message. ``cost`` is in US
    dollars, None when nobody said it. ``document_ids`` and ``document_scores`` are as long as each other: what a
    retrieval found, in its order; an id is '' and a score None where the source has none. ``estimates``: how sure its
    model was, by the names of ``processors.redact.estimates``, where the trace shows it.
    """

    session_id: str
    trace_id: str
    span_id: str
    parent_span_id: str = ""
    kind: SpanKind = "other"
    name: str = ""
    status: Literal["ok", "error", "unset"] = "unset"
    status_message: str = ""
    duration_us: int = 0
    received_time: Time = EPOCH
    model: str = ""
    model_version: str = ""
    provider: str = ""
    prompt_name: str = ""
    prompt_version: str = ""
    tool_name: str = ""
    tool_call_id: str = ""
    category: str = ""
    input: str = ""
    output: str = ""
    input_tokens: int = 0
    output_tokens: int = 0
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0
    reasoning_tokens: int = 0
    cost: float | None = None
    tools: list[str] = Field(default_factory=list)
    called_tools: list[str] = Field(default_factory=list)
    document_ids: list[str] = Field(default_factory=list)
    document_scores: list[float | None] = Field(default_factory=list)
    logprob_top1: float | None = None
    logprob_top2: float | None = None
    retrieval_score: float | None = None
    retrieval_documents: int = 0
    attributes: dict[str, str] = Field(default_factory=dict)
    estimates: dict[str, float] = Field(default_factory=dict)


class Signal(Clean):
    """One piece of feedback about a turn (``turn_id`` or ``trace_id`` set) or a session (both empty).

    ``value`` runs from -1 (failure) to 1 (success); ``weight`` is how much to believe it, 0 to 1. ``text`` is a
    correction's new answer or a comment; ``text_before`` what it replaces. ``span_id``: which span of the trace.
    ``feedback_id``: of the signals that share one the newest counts; '' is shared by none.
    """

    session_id: str
    turn_id: str = ""
    trace_id: str = ""
    name: str
    kind: SignalKind
    source: str = "user"
    value: float = 0.0
    weight: float = 1.0
    text: str = ""
    text_before: str = ""
    received_time: Time = EPOCH
    attributes: dict[str, str] = Field(default_factory=dict)
    span_id: str = ""
    feedback_id: str = ""


class Turn(Clean):
    """One user message, everything the agent did about it, and its answer. ``event_time`` is its start.

    ``called_tools`` are the tools that have spans, or else those that its model asked for; ``tool_calls`` counts them.
    ``cost`` adds up what its spans say, in US dollars; None when none says it. ``estimates``: see Span. ``faults``:
    what its spans show that may be a fault (``processors.faults`` explains each), only what is there; ``fault_spans``:
    where. ``sketch``: what a session's first message is about (``processors.mmd``), in base64; '' for others, and
    without a model.
    """

    session_id: str
    turn_id: str
    turn_index: int
    trace_id: str
    model: str = ""
    model_version: str = ""
    category: str = ""
    input: str
    output: str
    end_time: Time
    tool_calls: int = 0
    tool_errors: int = 0
    failed_tool: str = ""
    retrievals: int = 0
    retrieval_score: float | None = None
    input_tokens: int = 0
    output_tokens: int = 0
    cost: float | None = None
    prompt_name: str = ""
    prompt_version: str = ""
    called_tools: list[str] = Field(default_factory=list)
    logprob_top1: float | None = None
    logprob_top2: float | None = None
    error: str = ""
    estimates: dict[str, float] = Field(default_factory=dict)
    faults: dict[str, float] = Field(default_factory=dict)
    fault_spans: dict[str, str] = Field(default_factory=dict)
    sketch: str = ""


class Score(Record):
    """How sure the agent could be of a turn: ``uncertainty`` and ``p_failure`` in [0, 1], and what they rest on.

    ``scorer`` names what made ``p_failure`` of ``features``: the rules, or a calibration. ``forces``: what implicit
    signals are worth for this agent, -1 (failure) to 1, as far as it was learnt.
    ``features`` hold the turn's ``faults`` too, ``fault_spans`` its spans. ``causes``: the model of causes that the
    agent's labels taught (JSON of ``processors.cause_model``); '' is the default model.
    """

    session_id: str
    turn_id: str
    turn_index: int
    trace_id: str
    model_version: str = ""
    category: str = ""
    end_time: Time
    uncertainty: float
    p_failure: float
    scorer: str
    features: dict[str, float] = Field(default_factory=dict)
    tool_errors: int = 0
    retrievals: int = 0
    retrieval_score: float | None = None
    forces: dict[str, float] = Field(default_factory=dict)
    fault_spans: dict[str, str] = Field(default_factory=dict)
    causes: str = ""
    sketch: str = ""


class Outcome(Record):
    """The settled verdict on a turn with its first cause and the evidence for both.

    ``session_value`` is set on exactly one outcome of a session: 1 with its first failure, 0 when it closed without
    any; that is the value drift detectors take, since turns of one session are not independent. ``basis``: what the
    verdict rests on: what a person said, what an evaluator judged, what was done, or what the score expects; '' when it
    is unknown. ``features`` are the score's, where a person said it, and ``judge_spread``, how far judges disagree.
    ``sketch``: of the session's first message, with the session's value.
    """

    session_id: str
    turn_id: str
    trace_id: str
    model_version: str = ""
    category: str = ""
    revision: int = 0
    verdict: Verdict
    p_failure: float
    uncertainty: float
    cause: Cause = "unknown"
    cause_confidence: float = 0.0
    evidence: list[str] = Field(default_factory=list)
    expected: str = ""
    session_value: int | None = None
    basis: Basis = ""
    features: dict[str, float] = Field(default_factory=dict)
    sketch: str = ""


class Failure(Clean):
    """A turn that failed, with what its user had asked: what failures are grouped by.

    ``input``: at most 400 characters. A later revision of the turn's verdict or cause that is a failure still gives
    another record; whether the newest verdict is one, ``Outcome`` says.
    """

    session_id: str
    turn_id: str
    trace_id: str
    model_version: str = ""
    category: str = ""
    input: str
    cause: Cause = "unknown"
    p_failure: float
    revision: int = 0


class FailureCluster(Clean):
    """The cluster of a turn that failed: others' that asked for the like; ``name`` and ``size`` are as of now.

    ``name``: words that several people used, at most four; '' while there is none. ``size``: turns ever. A record
    without ``turn_id`` says that the cluster was merged into ``merged_into``, whose name and size it tells.
    """

    session_id: str = ""
    turn_id: str = ""
    trace_id: str = ""
    model_version: str = ""
    category: str = ""
    cause: Cause = "unknown"
    p_failure: float = 0.0
    revision: int = 0
    cluster_id: str
    name: str = ""
    size: int = 0
    merged_into: str = ""


class Alarm(Record):
    """A drift detector's evidence that a cohort changed. ``subject_hash`` is always ''.

    ``moved``: the features that changed with it, and by how much: numbers and shares of the cohort's outcomes.
    """

    cohort: str
    model_version: str = ""
    category: str = ""
    detector: str
    signal: str
    level: Literal["warn", "alarm"]
    statistic: float
    threshold: float
    baseline: float
    current: float
    sessions: int
    moved: dict[str, float] = Field(default_factory=dict)


class Sample(Clean):
    """A turn chosen for learning, with the reason and the probability with which it was chosen.

    ``features``: its score's; ``signals``: the names of the signals about it, so far.
    """

    session_id: str
    turn_id: str
    model_version: str = ""
    category: str = ""
    reason: Literal["random", "uncertain", "failed", "novel", "correction"]
    propensity: float
    input: str
    output: str
    uncertainty: float
    verdict: Verdict
    cause: Cause = "unknown"
    cluster: str = ""
    features: dict[str, float] = Field(default_factory=dict)
    signals: list[str] = Field(default_factory=list)


class Label(Clean):
    """A verdict on a sample by a person or a rule: the answer that would have been right.

    ``cause``: what went wrong first, where the rater says so.
    """

    sample_id: str
    turn_id: str = ""
    value: str
    rater: str
    rubric_version: str = "1"
    received_time: Time = EPOCH
    cause: GivenCause = ""


class Calibration(Record):
    """What was learnt of an agent from verdicts that somebody gave: the ``number``-th of its calibrations.

    ``lessons``: how many verdicts it rests on, of which ``audited`` came from the random audit. ``model``: JSON of
    ``processors.calibrating``, from a turn's features to its probability of failure; '' while too little is known, and
    the rules hold. ``forces``: what implicit signals are worth, -1 (failure) to 1. ``metrics``: how well failures were
    foretold, each verdict before it was learnt from: ``name`` for all turns, ``name:cohort`` for a cohort. ``causes``:
    what labels taught of causes (JSON of ``processors.cause_model``); '' while they taught nothing.
    """

    number: int
    lessons: int
    audited: int
    model: str = ""
    forces: dict[str, float] = Field(default_factory=dict)
    metrics: dict[str, float] = Field(default_factory=dict)
    causes: str = ""


class Trigger(Record):
    """The decision to intervene with all its evidence. One open trigger at most per agent and model version."""

    trigger_id: str
    model_version: str
    intervention: Literal["fine_tune"] = "fine_tune"
    cohort: str
    alarms: list[str] = Field(default_factory=list)
    labels: int
    expected_gain: float
    cost: float
    reason: str


class DatasetVersion(Record):
    """A frozen, content-addressed set of labelled samples, split. ``dataset_id`` is the hash of its rows.

    ``erased``: how many rows have been taken out of its files since, for people who were erased.
    """

    dataset_id: str
    trigger_id: str
    rows: int
    train: int
    validation: int
    test: int
    labels: list[str] = Field(default_factory=list)
    samples: list[str] = Field(default_factory=list)
    subjects: list[str] = Field(default_factory=list)
    erased: int = 0


class Job(Record):
    """One run of an intervention; each change of state is one record. Remote ids are known before polling."""

    job_id: str
    trigger_id: str
    state: JobState
    base_model: str = ""
    incumbent: str = ""
    candidate: str = ""
    dataset_id: str = ""
    remote_job: str = ""
    progress: float = 0.0
    message: str = ""


class Evaluation(Record):
    """The gate's decision on a candidate: paired test, non-inferiority per slice, and every reason."""

    job_id: str
    candidate: str
    incumbent: str
    dataset_id: str
    rows: int
    candidate_accuracy: float
    incumbent_accuracy: float
    wins: int
    losses: int
    p_value: float
    passed: bool
    reasons: list[str] = Field(default_factory=list)
    slices: dict[str, float] = Field(default_factory=dict)


class Deployment(Record):
    """A deploy event: a release changed state. ``weight`` is the candidate's share of live traffic."""

    release_id: str
    job_id: str
    candidate: str
    incumbent: str
    state: ReleaseState
    weight: float
    reason: str
    evidence: dict[str, float] = Field(default_factory=dict)


class Erasure(Record):
    """A subject's data is to be removed, or was: what was found where, and which models had learnt from it.

    Each change of state is one record. ``waiting``: what is not gone yet, and until when or for what it waits.
    """

    requested_by: str = ""
    deleted: dict[str, int] = Field(default_factory=dict)
    dataset_versions: list[str] = Field(default_factory=list)
    models: list[str] = Field(default_factory=list)
    erasure_id: str = ""
    state: ErasureState = "done"
    waiting: dict[str, str] = Field(default_factory=dict)


class DeadLetter(Record):
    """A record that could not be processed: why, where from, and where its encrypted payload is kept."""

    stage: str
    topic: str
    offset: int
    reason: str
    detail: str = ""
    items: int = 1
    quarantine: str = ""
    received_time: Time = EPOCH
    partition: int = 0


class LedgerEntry(Record):
    """So many records of a tenant met this fate; ``event_time`` is the minute in which they were accepted.

    ``reason``: why they were dropped; '' is want of consent.
    """

    entry: Entry
    source: str
    count: int
    reason: str = ""


RECORDS: tuple[type[Record], ...] = (
    RawSignal, Span, Signal, Turn, Score, Outcome, Failure, FailureCluster, Alarm, Sample, Label, Calibration, Trigger,
    DatasetVersion, Job, Evaluation, Deployment, Erasure, DeadLetter, LedgerEntry,
)  # fmt: skip
"""Every record, in the order of the flow."""
