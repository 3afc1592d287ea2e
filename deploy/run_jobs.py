"""Run jobs: a trigger becomes a frozen dataset, a trained candidate, an evaluation and the gate's decision.

Each tick takes one step on the platform, and what the step made (a dataset id, a remote job's id) is in the state
before the next. Names come from content: after a crash at any point the step is repeated, meets what is there, and
nothing is trained twice. One job at a time per agent; further triggers wait in order.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from connectors.nemo.port import NemoPort, RemoteStatus, Training
from deploy.dataset import (
    FILES,
    TEST,
    Dataset,
    DatasetSettings,
    Library,
    Replay,
    freeze,
    judges_of,
    replay_of,
    slices_of,
)
from deploy.gate import GateSettings, Paired, judge
from deploy.names import dataset_name, dataset_of, group_name, model_name
from processors.moments import micros, moment
from processors.stage import Event, Stage
from processors.state import KeyState
from schemas.errors import Refused
from schemas.events import DatasetVersion, Deployment, Evaluation, Job, JobState, Record, Trigger, identity
from schemas.topics import DATASETS, DEPLOYMENTS, EVALUATIONS, JOBS, TRIGGERS

Wait = Callable[[float], None]
Step = Callable[[dict[str, Any], dict[str, Any], KeyState, datetime], Iterator[Record]]
_LOOK = 0.2


@dataclass(frozen=True, slots=True)
class RunJobsSettings:
    """Durations in seconds, on the engine's clock but for ``poll``, which one tick may really wait for.

    ``patience``: how long the library may hold fewer labels than the trigger counted. ``stall``: without progress
    for so long a remote job has failed. ``attempts``: trainings of one dataset, when the platform breaks them off.
    ``hyperparameters``: passed on to NeMo's customizer.
    """

    patience: float = 600.0
    stall: float = 3_600.0
    poll: float = 1.0
    again: float = 5.0
    attempts: int = 2
    dataset: DatasetSettings = field(default_factory=DatasetSettings)
    gate: GateSettings = field(default_factory=GateSettings)
    hyperparameters: dict[str, Any] = field(default_factory=dict[str, Any])


class RunJobs(Stage):
    """Triggers to jobs, dataset versions and evaluations, per agent."""

    name = "run_jobs"
    sources = (TRIGGERS, DEPLOYMENTS)
    emits = (JOBS, DATASETS, EVALUATIONS)
    effects = True

    def __init__(
        self, port: NemoPort, library: Library, settings: RunJobsSettings | None = None, wait: Wait = time.sleep
    ) -> None:
        self._settings = settings or RunJobsSettings()
        self._port, self._library, self._wait = port, library, wait
        self._steps: dict[str, Step] = {
            "freeze": self._freeze,
            "train": self._train,
            "running": self._running,
            "serve": self._serve,
            "evaluate": self._evaluate,
            "evaluating": self._evaluating,
        }
        super().__init__(self._settings)

    def step(self, event: Event, state: KeyState) -> Iterable[Record]:
        """Queue a trigger; remember which model is live."""
        data, record = _opened(state), event.record
        if isinstance(record, Deployment):
            _follow(data, record)
        elif isinstance(record, Trigger):
            job = _new_job(record)
            data["queue"].append(job)
            state.due = state.due or record.event_time
            yield _job_record(job, "queued", record.event_time)

    def tick(self, key: str, state: KeyState, now: datetime) -> Iterable[Record]:
        """One step of the job at the head of the queue. Raises Retry, with nothing changed, when NeMo is away."""
        del key
        data = _opened(state)
        if not data["queue"]:
            state.due = None
            return []
        job, state.due = data["queue"][0], now
        try:
            records = list(self._steps[job["phase"]](data, job, state, now))
        except Refused as error:
            records = [_ended(job, "failed", str(error), now)]
        if job["phase"] == "done":
            data["queue"].pop(0)
            state.due = now if data["queue"] else None
        return records

    def _freeze(self, data: dict[str, Any], job: dict[str, Any], state: KeyState, now: datetime) -> Iterator[Record]:
        """Freeze what the library holds with the incumbent's rows, upload and register it."""
        rows = self._library.labelled(job["tenant"], job["agent"])
        if len(rows) < job["labels"] and micros(now) < job["time"] + round(self._settings.patience * 1e6):
            state.due = now + timedelta(seconds=self._settings.again)
            return
        if not rows:
            raise Refused("there are no labelled samples that may train: the library is empty")
        job["incumbent"] = data["live"] or job["model_version"]
        dataset = freeze(rows, self._replay(job["incumbent"]), self._settings.dataset)
        job["dataset_id"] = dataset.dataset_id
        name = _stored(job)
        self._port.ensure_namespace()
        self._port.upload_dataset(name, dataset.files())
        self._port.register_dataset(name)
        job.update(
            phase="train",
            answers=dataset.labels,
            candidate=model_name(self._port.namespace, _group(job), dataset.dataset_id),
        )
        yield version_record(dataset, job["tenant"], job["agent"], job["trigger_id"], now)

    def _replay(self, incumbent: str) -> Replay:
        name = dataset_of(incumbent)
        files = {path: self._port.download(name, path) for path in FILES} if name else {}
        return replay_of(files)

    def _train(self, data: dict[str, Any], job: dict[str, Any], state: KeyState, now: datetime) -> Iterator[Record]:
        del data, state
        training = Training(
            name=f"{_stored(job)}-{job['attempt']}",
            dataset=_stored(job),
            base=self._port.ensure_base(job["answers"]),
            output_model=job["candidate"],
            hyperparameters=self._settings.hyperparameters,
        )
        job.update(phase="running", base=training.base, remote=self._port.create_training(training))
        job.update(progress=0.0, moved=micros(now))
        yield _job_record(job, "running", now)

    def _running(self, data: dict[str, Any], job: dict[str, Any], state: KeyState, now: datetime) -> Iterator[Record]:
        del data, state
        status = self._watch(lambda: self._port.training_status(job["remote"]))
        if status.state == "succeeded":
            job.update(phase="serve", progress=1.0, moved=micros(now))
        elif not status.ended:
            self._progress(job, status, now)
        elif job["attempt"] < self._settings.attempts:
            job.update(phase="train", attempt=job["attempt"] + 1)
        else:
            yield _ended(job, "failed", f"training {job['remote']} {status.state}: {status.message}", now)

    def _watch(self, look: Callable[[], RemoteStatus]) -> RemoteStatus:
        """The status now, or as soon as it is final within ``poll`` seconds."""
        status, waited = look(), 0.0
        while not status.ended and waited < self._settings.poll:
            self._wait(_LOOK)
            status, waited = look(), waited + _LOOK
        return status

    def _progress(self, job: dict[str, Any], status: RemoteStatus, now: datetime) -> None:
        if status.progress > job["progress"]:
            job.update(progress=status.progress, moved=micros(now))
        elif now > moment(job["moved"]) + timedelta(seconds=self._settings.stall):
            raise Refused(f"{job['remote']} is {status.state} and has not moved for {self._settings.stall:g} s")

    def _serve(self, data: dict[str, Any], job: dict[str, Any], state: KeyState, now: datetime) -> Iterator[Record]:
        """Wait until the candidate answers."""
        del data
        if self._port.ensure_deployed(job["candidate"]):
            job.update(phase="evaluate", evaluations={})
            yield _job_record(job, "evaluating", now)
            return
        self._wait(self._settings.poll)
        self._progress(job, RemoteStatus("running"), now)
        state.due = now

    def _evaluate(self, data: dict[str, Any], job: dict[str, Any], state: KeyState, now: datetime) -> Iterator[Record]:
        """Start one evaluation; candidate and incumbent answer the same file."""
        del data, state
        yield from ()
        name = _stored(job)
        role = "incumbent" if "candidate" in job["evaluations"] else "candidate"
        label = f"{name}-{role}-{job['trigger_id'][:8]}"
        job["evaluations"][role] = self._port.create_evaluation(label, job[role], name, TEST)
        job.update(phase="evaluating" if role == "incumbent" else "evaluate", progress=0.0, moved=micros(now))

    def _evaluating(
        self, data: dict[str, Any], job: dict[str, Any], state: KeyState, now: datetime
    ) -> Iterator[Record]:
        del data, state
        for role, remote in job["evaluations"].items():
            status = self._watch(lambda remote=remote: self._port.evaluation_status(remote))
            if not status.ended:
                self._progress(job, status, now)
                return
            if status.state != "succeeded":
                raise Refused(f"evaluation {remote} of the {role} {status.state}: {status.message}")
        yield from self._judge(job, now)

    def _judge(self, job: dict[str, Any], now: datetime) -> Iterator[Record]:
        rows = self._paired(job)
        standings = self._library.standings(job["tenant"]) if any(row.judge for row in rows) else {}
        verdict = judge(rows, self._settings.gate, standings)
        yield Evaluation(
            event_id=identity("evaluation", job["job_id"]),
            tenant=job["tenant"],
            agent=job["agent"],
            event_time=now,
            job_id=job["job_id"],
            candidate=job["candidate"],
            incumbent=job["incumbent"],
            dataset_id=job["dataset_id"],
            rows=verdict.rows,
            candidate_accuracy=verdict.candidate_accuracy,
            incumbent_accuracy=verdict.incumbent_accuracy,
            wins=verdict.wins,
            losses=verdict.losses,
            p_value=verdict.p_value,
            passed=verdict.passed,
            reasons=verdict.reasons,
            slices=verdict.slices,
        )
        yield _ended(job, "passed" if verdict.passed else "refused", "; ".join(verdict.reasons), now)

    def _paired(self, job: dict[str, Any]) -> list[Paired]:
        ours, theirs = (self._port.evaluation_rows(job["evaluations"][role]) for role in ("candidate", "incumbent"))
        test = self._port.download(_stored(job), TEST)
        golden, judges = slices_of(test), judges_of(test)
        if not len(ours) == len(theirs) == len(golden):
            found = f"{len(ours)} of the candidate, {len(theirs)} of the incumbent, {len(golden)} in the dataset"
            raise Refused(f"the evaluations do not cover the same rows: {found}")
        return [
            Paired(one.expected, one.answer, two.answer, held, by)
            for one, two, held, by in zip(ours, theirs, golden, judges, strict=True)
        ]


def _opened(state: KeyState) -> dict[str, Any]:
    if not state.data:
        state.data.update(version=1, live="", queue=[])
    return state.data


def _follow(data: dict[str, Any], release: Deployment) -> None:
    if release.state == "live":
        data["live"] = release.candidate
    elif release.state == "rolled_back" and data["live"] == release.candidate:
        data["live"] = release.incumbent


def _new_job(trigger: Trigger) -> dict[str, Any]:
    return {
        "phase": "freeze",
        "job_id": identity("job", trigger.trigger_id),
        "trigger_id": trigger.trigger_id,
        "tenant": trigger.tenant,
        "agent": trigger.agent,
        "model_version": trigger.model_version,
        "labels": trigger.labels,
        "time": micros(trigger.event_time),
        "attempt": 1,
        "incumbent": trigger.model_version,
        "candidate": "",
        "dataset_id": "",
        "remote": "",
        "base": "",
        "progress": 0.0,
    }


def _group(job: dict[str, Any]) -> str:
    return group_name(job["tenant"], job["agent"])


def _stored(job: dict[str, Any]) -> str:
    return dataset_name(_group(job), job["dataset_id"])


def _ended(job: dict[str, Any], state: JobState, message: str, now: datetime) -> Job:
    job["phase"] = "done"
    return _job_record(job, state, now, message)


def _job_record(job: dict[str, Any], state: JobState, time: datetime, message: str = "") -> Job:
    return Job(
        event_id=identity("job", job["job_id"], state),
        tenant=job["tenant"],
        agent=job["agent"],
        event_time=time,
        job_id=job["job_id"],
        trigger_id=job["trigger_id"],
        state=state,
        base_model=job["base"],
        incumbent=job["incumbent"],
        candidate=job["candidate"],
        dataset_id=job["dataset_id"],
        remote_job=job["remote"],
        progress=job["progress"],
        message=message,
    )


def version_record(dataset: Dataset, tenant: str, agent: str, trigger_id: str, time: datetime) -> DatasetVersion:
    """The record of a frozen dataset; its golden rows count as test."""
    return DatasetVersion(
        event_id=identity("dataset", tenant, agent, dataset.dataset_id),
        tenant=tenant,
        agent=agent,
        event_time=time,
        dataset_id=dataset.dataset_id,
        trigger_id=trigger_id,
        rows=len(dataset.rows),
        train=len(dataset.train),
        validation=len(dataset.validation),
        test=len(dataset.test) + len(dataset.golden),
        labels=dataset.labels,
        samples=sorted({row.sample_id for row in dataset.rows} - {""}),
        subjects=sorted({row.subject for row in dataset.rows} - {""}),
    )
