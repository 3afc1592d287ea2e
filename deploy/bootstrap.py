"""The first model of an agent, from rows that exist before the wheel turns: seed rows, already redacted."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from datetime import datetime

from connectors.nemo.port import NemoPort, RemoteStatus, Split, Training
from deploy.dataset import Dataset, DatasetSettings, LabelledRow, Replay, freeze
from deploy.names import dataset_name, group_name, model_name
from deploy.run_jobs import Wait, version_record
from schemas.errors import Refused
from schemas.events import EPOCH, Deployment, Job, Record, identity

_LOOK = 0.2
_LOOKS = 18_000


def bootstrap(
    port: NemoPort,
    tenant: str,
    agent: str,
    rows: Sequence[tuple[str, str]],
    now: datetime,
    wait: Wait = time.sleep,
    settings: DatasetSettings | None = None,
) -> list[Record]:
    """Train on (text, label) rows, wait for it, let it answer for the agent; the records for the log.

    What is held out of training guards every later model as golden rows. The same rows again train nothing and give
    the same records. Raises Refused when the rows cannot train a model, Retry when NeMo is away.
    """
    dataset = _frozen(rows, settings or DatasetSettings())
    group = group_name(tenant, agent)
    name, model = dataset_name(group, dataset.dataset_id), model_name(port.namespace, group, dataset.dataset_id)
    port.ensure_namespace()
    port.upload_dataset(name, dataset.files())
    port.register_dataset(name)
    base = port.ensure_base(dataset.labels)
    remote = port.create_training(Training(f"{name}-1", name, base, model, {}))
    _await(lambda: port.training_status(remote), wait)
    _await(lambda: _served(port, model), wait)
    port.apply(group, Split(model))
    trigger = identity("bootstrap", tenant, agent, dataset.dataset_id)
    job = Job(
        event_id=identity("job", trigger, "passed"),
        job_id=identity("job", trigger),
        trigger_id=trigger,
        state="passed",
        base_model=base,
        candidate=model,
        dataset_id=dataset.dataset_id,
        remote_job=remote,
        progress=1.0,
        message=f"first model, from {len(dataset.train)} seed rows",
        tenant=tenant,
        agent=agent,
        event_time=now,
    )
    release = identity("release", job.job_id)
    live = Deployment(
        event_id=identity("deployment", release, "live"),
        release_id=release,
        job_id=job.job_id,
        candidate=model,
        incumbent="",
        state="live",
        weight=1.0,
        reason="first model: there is none to compare it with",
        tenant=tenant,
        agent=agent,
        event_time=now,
    )
    return [version_record(dataset, tenant, agent, trigger, now), job, live]


def _frozen(rows: Sequence[tuple[str, str]], settings: DatasetSettings) -> Dataset:
    made = [_seed_row(text, label) for text, label in rows]
    dataset = freeze(made, Replay(), settings)
    if len({row.label for row in dataset.train}) < 2:
        raise Refused(f"{len(rows)} seed rows leave fewer than two labels to train on: bring more rows")
    return dataset


def _seed_row(text: str, label: str) -> LabelledRow:
    return LabelledRow(
        sample_id="",
        turn_id="",
        session_id="",
        subject_hash="",
        text=text,
        label=label,
        output="",
        model_version="",
        reason="random",
        propensity=1.0,
        verdict="unknown",
        rater="seed",
        time=EPOCH,
    )


def _served(port: NemoPort, model: str) -> RemoteStatus:
    return RemoteStatus("succeeded", 1.0) if port.ensure_deployed(model) else RemoteStatus("running", 1.0)


def _await(look: Callable[[], RemoteStatus], wait: Wait) -> None:
    for _ in range(_LOOKS):
        status = look()
        if status.state == "succeeded":
            return
        if status.ended:
            raise Refused(f"the first model was not trained: {status.state}: {status.message}")
        wait(_LOOK)
    raise Refused("the first model was not trained within an hour")
