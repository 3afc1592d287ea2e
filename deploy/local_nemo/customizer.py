"""Training jobs: accepted at once, run one at a time in a process of their own, told of by epoch.

Only what is really done is accepted: supervised training of the classifier. Other kinds of training are refused
with the name of the field; settings that mean nothing here are listed in the job's ``warnings``. A job that a
restart interrupts becomes ``failed``: a model appears only when its file is whole and its hash is known.
"""

from __future__ import annotations

import multiprocessing
import queue
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any, Literal

from pydantic import Field
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from deploy.local_nemo.classifier import Epoch, Recipe
from deploy.local_nemo.datastore import DataStore
from deploy.local_nemo.entities import (
    ConfigBody,
    FinetuningType,
    Name,
    TrainingType,
    target_labels,
)
from deploy.local_nemo.settings import Settings
from deploy.local_nemo.storage import Blobs, Store
from deploy.local_nemo.trainer import Run, run
from deploy.local_nemo.wire import Body, Doc, Problem, listing, new_id, now, parse, require

JOBS = "/v1/customization/jobs"
KIND = "customization job"
UNFINISHED = {"created", "pending", "running", "cancelling"}
UNUSED = ("lora", "micro_batch_size", "sequence_packing_enabled", "val_check_interval", "log_every_n_steps")
MODEL = r"^[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._@+-]{0,190}$"

Optimizer = Literal[
    "adam_with_cosine_annealing", "adam_with_flat_lr", "adamw_with_cosine_annealing", "adamw_with_flat_lr"
]


class Hyperparameters(Body):
    """NeMo's names; the defaults are this trainer's."""

    training_type: TrainingType = "sft"
    finetuning_type: FinetuningType
    epochs: int = Field(default=16, ge=0, le=100_000)
    batch_size: int = Field(default=16, ge=1, le=65_536)
    learning_rate: float = Field(default=0.01, gt=0, le=10)
    min_learning_rate: float = Field(default=0, ge=0)
    warmup_steps: int = Field(default=0, ge=0)
    weight_decay: float = Field(default=4, ge=0)
    adam_beta1: float = Field(default=0.9, ge=0, lt=1)
    adam_beta2: float = Field(default=0.98, ge=0, lt=1)
    optimizer: Optimizer = "adamw_with_cosine_annealing"
    max_steps: int = Field(default=0, ge=-1)
    seed: int = Field(default=0, ge=0)

    def recipe(self) -> Recipe:
        """The same in the trainer's words."""
        return Recipe(
            epochs=self.epochs,
            batch_size=self.batch_size,
            learning_rate=self.learning_rate,
            min_learning_rate=self.min_learning_rate,
            warmup_steps=self.warmup_steps,
            weight_decay=self.weight_decay,
            beta1=self.adam_beta1,
            beta2=self.adam_beta2,
            decoupled=self.optimizer.startswith("adamw"),
            cosine=self.optimizer.endswith("cosine_annealing"),
            max_steps=max(0, self.max_steps),
            seed=self.seed,
        )


class DatasetRef(Body):
    """A registered dataset."""

    name: Name
    namespace: Name = "default"


class JobBody(Body):
    """``POST /v1/customization/jobs``."""

    config: str | ConfigBody
    dataset: str | DatasetRef
    hyperparameters: Hyperparameters
    output_model: str | None = Field(default=None, pattern=MODEL)
    name: Name | None = None
    namespace: Name = "default"
    custom_fields: dict[str, Any] | None = None


class Customizer:
    """The routes, and the thread that runs one job after another."""

    def __init__(self, settings: Settings, store: Store, blobs: Blobs, data: DataStore) -> None:
        self._settings = settings
        self._store = store
        self._blobs = blobs
        self._data = data
        self._queue: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._work, name="customizer")
        self._folder = settings.data_dir / "models"
        self._folder.mkdir(exist_ok=True)

    def routes(self) -> list[Route]:
        """All routes of training jobs."""
        return [
            Route(JOBS, self.create, methods=["POST"]),
            Route(JOBS, self.list),
            Route(f"{JOBS}/{{id}}", self.get),
            Route(f"{JOBS}/{{id}}/status", self.status),
            Route(f"{JOBS}/{{id}}/cancel", self.cancel, methods=["POST"]),
        ]

    def start(self) -> None:
        """Fail what a restart interrupted, drop half-written models, begin to work."""
        for key, job in self._store.all(KIND).items():
            if job["status"] in UNFINISHED:
                self._fail(key, "the server was restarted before this job had finished: create it again")
        whole = {model["custom_fields"]["file"] for model in self._store.all("model").values()}
        for path in self._folder.iterdir():
            if path.name not in whole:
                path.unlink()
        self._thread.start()

    def stop(self) -> None:
        """End the running job and the thread."""
        self._stopping.set()
        self._queue.put(None)
        self._thread.join()

    async def create(self, request: Request) -> Response:
        """Accept a job, or say what is wrong with it."""
        body = await parse(request, JobBody)
        number = new_id("cust")
        config = self._config(body.config)
        dataset = self._dataset(body.dataset)
        output = body.output_model or f"{body.namespace}/{config['target'].split('/')[-1]}-{dataset['name']}@{number}"
        self._check_output(output)
        at = now()
        details = {"status": "created", "created_at": at, "updated_at": at, "steps_completed": 0}
        details |= {"epochs_completed": 0, "percentage_done": 0.0, "status_logs": []}
        job = {
            **body.model_dump(exclude_none=True, exclude={"hyperparameters"}),
            "hyperparameters": body.hyperparameters.model_dump(exclude_none=True),
            "id": number, "output_model": output, "status": "created", "status_details": details,
            "created_at": at, "updated_at": at, "warnings": warnings(body), "dataset_url": dataset["files_url"],
            "target": config["target"],
        }  # fmt: skip
        self._store.add(KIND, number, job)
        self._queue.put(number)
        return JSONResponse(job)

    async def list(self, request: Request) -> Response:
        """One page; ``filter[output_model]`` finds the job of a model."""
        return listing(request, [*self._store.all(KIND).values()])

    async def get(self, request: Request) -> Response:
        """The job."""
        return JSONResponse(self._job(request))

    async def status(self, request: Request) -> Response:
        """The job's progress."""
        return JSONResponse(self._job(request)["status_details"])

    async def cancel(self, request: Request) -> Response:
        """Stop a job that has not finished; one that has stays as it is and is given back."""
        number = self._job(request)["id"]

        def edit(job: Doc) -> None:
            if job["status"] in UNFINISHED:
                move(job, "cancelling" if job["status"] == "running" else "cancelled")

        return JSONResponse(self._store.change(KIND, number, edit))

    def _job(self, request: Request) -> Doc:
        number = request.path_params["id"]
        return require(self._store.get(KIND, number), f"Customization job {number}")

    def _config(self, config: str | ConfigBody) -> Doc:
        """The config, saved or inline, with a target that exists."""
        if isinstance(config, str):
            doc = require(self._store.get("config", config.partition("@")[0]), f"Customization config {config}")
        else:
            doc = config.model_dump(exclude_none=True)
        require(self._store.get("target", doc["target"]), f"Customization target {doc['target']}")
        return doc

    def _dataset(self, dataset: str | DatasetRef) -> Doc:
        key = f"{dataset.namespace}/{dataset.name}" if isinstance(dataset, DatasetRef) else dataset
        key = key if "/" in key else f"default/{key}"
        return require(self._store.get("dataset", key), f"Dataset {key}")

    def _check_output(self, output: str) -> None:
        """A model's bytes never change under its name."""
        taken = (
            self._store.get("model", output) or self._store.get("target", output) or self._store.get("group", output)
        )
        running = [job["id"] for job in self._store.all(KIND).values()
                   if job["output_model"] == output and job["status"] in UNFINISHED]  # fmt: skip
        if taken or running:
            by = f"is being trained by job {running[0]}" if running else "already exists"
            raise Problem(409, f"Model {output} {by}: choose another output_model")

    def _work(self) -> None:
        while (number := self._queue.get()) is not None and not self._stopping.is_set():
            job = self._store.get(KIND, number)
            if job and job["status"] == "created":
                try:
                    self._train(number, self._run(job))
                except Problem as problem:
                    self._fail(number, str(problem.detail))

    def _run(self, job: Doc) -> Run:
        """What the process needs; 404 or 422 when the data or the target are not there any more."""
        url = job["dataset_url"]
        train, val = self._data.files(url, "training"), self._data.files(url, "validation")
        if not train:
            raise Problem(422, f"no training rows: {url} has no training/*.jsonl")
        target = require(self._store.get("target", job["target"]), f"Customization target {job['target']}")
        return Run(
            train={name: self._blobs.path(oid) for name, oid in train.items()},
            val={name: self._blobs.path(oid) for name, oid in val.items()},
            descriptions=target_labels(target),
            recipe=Hyperparameters.model_validate(job["hyperparameters"]).recipe(),
            model_folder=self._settings.model_folder,
            output=self._folder / f"{job['id']}.safetensors",
        )

    def _train(self, number: str, job: Run) -> None:
        """Start the process, follow it, and settle the job."""
        self._edit(number, lambda doc: move(doc, "running"))
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe(duplex=False)
        process = context.Process(target=run, args=(job, theirs), daemon=True, name=f"train-{number}")
        process.start()
        theirs.close()
        try:
            self._follow(number, job, ours, process)
        finally:
            process.terminate()
            process.join()
            process.close()
            ours.close()

    def _follow(self, number: str, job: Run, pipe: Connection, process: BaseProcess) -> None:
        """Take the process's messages until it is done, cancelled or dead."""
        while not self._stopping.is_set():
            doc = self._store.get(KIND, number)
            if doc is None or doc["status"] == "cancelling":
                self._edit(number, lambda doc: move(doc, "cancelled"))
                return
            if not pipe.poll(0.05):
                continue
            try:
                word, value = pipe.recv()
            except EOFError:
                process.join()
                self._fail(number, f"the training process ended with exit code {process.exitcode}")
                return
            if self._take(number, job, word, value):
                return

    def _take(self, number: str, job: Run, word: str, value: object) -> bool:
        """One message; True when it was the last."""
        if isinstance(value, Epoch):
            self._edit(number, lambda doc: progress(doc, value))
            return False
        if word == "completed":
            self._complete(number, job, str(value))
        else:
            self._fail(number, str(value))
        return True

    def _complete(self, number: str, job: Run, sha256: str) -> None:
        """The model first, then the job: a job that says completed has its model."""
        doc = require(self._store.get(KIND, number), number)
        namespace, _, name = doc["output_model"].partition("/")
        data = sorted((path, blob.name) for path, blob in {**job.train, **job.val}.items())
        fields = {
            "sha256": sha256,
            "file": job.output.name,
            "job": number,
            "dataset": doc["dataset_url"],
            "files": dict(data),
        }
        model = {"name": name, "namespace": namespace, "base_model": doc["target"], "custom_fields": fields,
                 "peft": {"finetuning_type": "lora"}, "created_at": now(), "updated_at": now()}  # fmt: skip
        self._store.add("model", doc["output_model"], model)
        self._edit(number, finish)

    def _fail(self, number: str, reason: str) -> None:
        def edit(doc: Doc) -> None:
            move(doc, "failed")
            log = {"updated_at": now(), "message": "failed", "detail": reason}
            doc["status_details"]["status_logs"].append(log)

        self._edit(number, edit)

    def _edit(self, number: str, edit: Callable[[Doc], None]) -> None:
        self._store.change(KIND, number, edit)


def move(job: Doc, status: str) -> None:
    """A new status, in both places where NeMo shows it."""
    at = now()
    job.update(status=status, updated_at=at)
    job["status_details"].update(status=status, updated_at=at)


def progress(job: Doc, epoch: Epoch) -> None:
    """What an epoch brought."""
    details, epochs = job["status_details"], job["hyperparameters"]["epochs"]
    details["epochs_completed"], details["steps_completed"] = epoch.epoch, epoch.steps
    details["steps_per_epoch"] = -(-epoch.steps // epoch.epoch)
    details["percentage_done"] = round(100 * epoch.epoch / epochs, 3)
    details["train_loss"], details["updated_at"] = epoch.train_loss, now()
    curves = details.setdefault("metrics", {"keys": ["train_loss"], "metrics": {"train_loss": []}})["metrics"]
    values = {"train_loss": epoch.train_loss, "val_loss": epoch.val_loss}
    for key, value in values.items():
        if value is not None:
            curves.setdefault(key, []).append({"step": epoch.steps, "timestamp": now(), "value": value})
            details["metrics"]["keys"] = sorted(curves)
            curves[key] = curves[key][-200:]
    if epoch.val_loss is not None and epoch.val_loss < details.get("val_loss", float("inf")):
        details["val_loss"], details["best_epoch"] = epoch.val_loss, epoch.epoch


def finish(job: Doc) -> None:
    """The end of a job that went well."""
    move(job, "completed")
    job["status_details"]["percentage_done"] = 100.0


def warnings(body: JobBody) -> list[Doc]:
    """The settings that were sent and mean nothing to this trainer."""
    sent = body.hyperparameters.model_fields_set
    explanation = "this trainer trains one linear layer whole, in one process"
    return [
        {"message": f"hyperparameters.{name} is not used", "explanation": explanation}
        for name in UNUSED
        if name in sent
    ]
