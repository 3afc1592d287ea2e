"""Evaluation jobs: a model answers every row of a dataset, the answers are compared, every outcome is kept.

Kinds offered: config ``custom``, task ``chat-completion``, metric ``string-check``. The results give NeMo's
aggregate; ``download-results`` gives one JSON line for each row, so that two models can be compared in pairs.
"""

from __future__ import annotations

import hashlib
import json
import queue
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from jinja2 import Template, TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment
from pydantic import Field
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route

from connectors.embeddings import Embedder
from deploy.local_nemo.datastore import DataStore
from deploy.local_nemo.entities import deleted
from deploy.local_nemo.rows import answer as label_of
from deploy.local_nemo.rows import parse_rows, question
from deploy.local_nemo.serving import Answer, Models, answer
from deploy.local_nemo.settings import Settings
from deploy.local_nemo.storage import Store, write_whole
from deploy.local_nemo.wire import Body, Doc, Problem, listing, new_id, now, parse, require
from schemas.errors import Invalid

JOBS = "/v1/evaluation/jobs"
KIND = "evaluation job"
UNFINISHED = {"created", "running", "cancelling"}
CHUNK = 32
MAX_TEMPLATE = 4000
ENVIRONMENT = ImmutableSandboxedEnvironment()
COMPARE: dict[str, Callable[[str, str], bool]] = {
    "equals": lambda a, b: a == b,
    "not equals": lambda a, b: a != b,
    "contains": lambda a, b: b in a,
    "not contains": lambda a, b: b not in a,
    "starts with": lambda a, b: a.startswith(b),
    "ends with": lambda a, b: a.endswith(b),
}
ALIASES = {"==": "equals", "!=": "not equals", "<>": "not equals", "startswith": "starts with", "endswith": "ends with"}


class CheckParams(Body):
    """Left template, operator, right template; they see ``item`` and ``sample``."""

    check: tuple[str, str, str]


class MetricBody(Body):
    """One metric."""

    type: Literal["string-check"]
    params: CheckParams


class DatasetPart(Body):
    """Files of a repository; without a path the folder ``testing``."""

    files_url: str = Field(pattern=r"^hf://(datasets/)?[^/]+/[^/]+")
    limit: int | None = Field(default=None, ge=1)


class TemplateBody(Body):
    """The messages: a template that gives a JSON list, or a list with templates as contents."""

    messages: str | list[dict[str, Any]]


class TaskParams(Body):
    """Parameters of a task."""

    template: TemplateBody


class TaskBody(Body):
    """One task."""

    type: Literal["chat-completion"]
    dataset: str | DatasetPart
    params: TaskParams
    metrics: dict[str, MetricBody] = Field(min_length=1)


class ConfigPart(Body):
    """The inline config."""

    type: Literal["custom"]
    tasks: dict[str, TaskBody] = Field(min_length=1)


class Endpoint(Body):
    """A model behind an address: here always this server's own."""

    model_id: str


class ModelPart(Body):
    """A model said at length."""

    api_endpoint: Endpoint


class TargetPart(Body):
    """The inline target."""

    type: Literal["model"]
    model: str | ModelPart

    def name(self) -> str:
        """The model's name."""
        return self.model if isinstance(self.model, str) else self.model.api_endpoint.model_id


class JobBody(Body):
    """``POST /v1/evaluation/jobs``."""

    config: ConfigPart
    target: TargetPart
    namespace: str = "default"


@dataclass(frozen=True)
class Task:
    """A task, ready to run: its compiled templates and its rows."""

    name: str
    messages: list[tuple[str, Template]] | Template
    checks: dict[str, tuple[Template, str, Template]]
    rows: list[Doc]

    def text(self, item: Doc) -> str:
        """What the model is asked for one row."""
        if isinstance(self.messages, Template):
            messages: Any = json.loads(self.messages.render(item=item))
        else:
            messages = [{"role": role, "content": part.render(item=item)} for role, part in self.messages]
        text = question(messages)
        if text is None:
            raise Invalid("bad_row", "the template gives no user message with text")
        return text

    def outcome(self, index: int, item: Doc, said: Answer) -> Doc:
        """One line of the results: no text of the question."""
        sample = {"output_text": said.labels[0]}
        scores = {}
        for name, (left, operator, right) in self.checks.items():
            sides = [side.render(item=item, sample=sample).strip() for side in (left, right)]
            scores[name] = 1.0 if COMPARE[operator](*sides) else 0.0
        canonical = json.dumps(item, sort_keys=True).encode()
        return {
            "task": self.name, "index": index, "item_id": item.get("id"),
            "item_sha256": hashlib.sha256(canonical).hexdigest(), "expected": label_of(item),
            "output": said.labels[0], "logprob": said.log_probs[0], "scores": scores,
        }  # fmt: skip


class Evaluator:
    """The routes, and the thread that runs one job after another."""

    def __init__(self, settings: Settings, store: Store, data: DataStore, models: Models, embedder: Embedder) -> None:
        self._store = store
        self._data = data
        self._models = models
        self._embedder = embedder
        self._queue: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._work, name="evaluator")
        self._folder = settings.data_dir / "results"
        self._folder.mkdir(exist_ok=True)

    def routes(self) -> list[Route]:
        """All routes of evaluation jobs."""
        one = f"{JOBS}/{{id}}"
        return [
            Route(JOBS, self.create, methods=["POST"]),
            Route(JOBS, self.list),
            Route(one, self.get, methods=["GET"]),
            Route(one, self.delete, methods=["DELETE"]),
            Route(f"{one}/status", self.status),
            Route(f"{one}/cancel", self.cancel, methods=["POST"]),
            Route(f"{one}/results", self.results),
            Route(f"{one}/download-results", self.download),
        ]

    def start(self) -> None:
        """Fail what a restart interrupted, begin to work."""
        for number, job in self._store.all(KIND).items():
            if job["status"] in UNFINISHED:
                self._settle(number, "failed", "the server was restarted before this job had finished: create it again")
        self._thread.start()

    def stop(self) -> None:
        """End the running job and the thread."""
        self._stopping.set()
        self._queue.put(None)
        self._thread.join()

    async def create(self, request: Request) -> Response:
        """Accept a job, or say what is wrong with it."""
        body = await parse(request, JobBody)
        self._models.head(body.target.name())
        for name, task in body.config.tasks.items():
            compile_task(name, task, [])
        number = new_id("eval")
        states = dict.fromkeys(body.config.tasks, "pending")
        details = {"progress": 0.0, "samples_processed": 0, "task_status": states}
        job = {**body.model_dump(exclude_none=True, mode="json"), "id": number, "status": "created"}
        job |= {"status_details": details, "created_at": now(), "updated_at": now()}
        self._store.add(KIND, number, job)
        self._queue.put(number)
        return JSONResponse(job)

    async def list(self, request: Request) -> Response:
        """One page."""
        return listing(request, [*self._store.all(KIND).values()])

    async def get(self, request: Request) -> Response:
        """The job."""
        return JSONResponse(self._job(request))

    async def status(self, request: Request) -> Response:
        """The job's progress."""
        return JSONResponse(self._job(request)["status_details"])

    async def cancel(self, request: Request) -> Response:
        """Stop a job that has not finished."""
        number = self._job(request)["id"]

        def edit(job: Doc) -> None:
            if job["status"] in UNFINISHED:
                job["status"] = "cancelling" if job["status"] == "running" else "cancelled"

        return JSONResponse(self._store.change(KIND, number, edit))

    async def delete(self, request: Request) -> Response:
        """A finished job with its results; 409 while it runs."""
        job = self._job(request)
        if job["status"] in UNFINISHED:
            raise Problem(409, f"Evaluation job {job['id']} is {job['status']}: cancel it first")
        self._store.delete(KIND, job["id"])
        self._store.delete("evaluation result", job["id"])
        (self._folder / f"{job['id']}.jsonl").unlink(missing_ok=True)
        return deleted(job["id"], f"Evaluation job {job['id']} deleted")

    async def results(self, request: Request) -> Response:
        """The aggregate; 404 until the job has completed."""
        number = self._job(request)["id"]
        return JSONResponse(require(self._store.get("evaluation result", number), f"Results of {number}"))

    async def download(self, request: Request) -> Response:
        """One JSON line for each row; 404 until the job has completed."""
        number = self._job(request)["id"]
        require(self._store.get("evaluation result", number), f"Results of {number}")
        return FileResponse(self._folder / f"{number}.jsonl", media_type="application/x-ndjson")

    def _job(self, request: Request) -> Doc:
        number = request.path_params["id"]
        return require(self._store.get(KIND, number), f"Evaluation job {number}")

    def _work(self) -> None:
        while (number := self._queue.get()) is not None and not self._stopping.is_set():
            job = self._store.get(KIND, number)
            if job and job["status"] == "created":
                try:
                    self._run(number, JobBody.model_validate(job))
                except Problem as problem:
                    self._settle(number, "failed", str(problem.detail))
                except (Invalid, TemplateError, ValueError) as error:
                    self._settle(number, "failed", f"{type(error).__name__}: {error}")

    def _run(self, number: str, body: JobBody) -> None:
        """Answer and compare all rows of all tasks, write the results, then say completed."""
        self._settle(number, "running")
        tasks = [compile_task(name, task, self._rows(task)) for name, task in body.config.tasks.items()]
        total, lines = sum(len(task.rows) for task in tasks), list[Doc]()
        for task in tasks:
            for part in self._outcomes(task, body.target.name()):
                lines += part
                if self._report(number, task.name, len(lines), total):
                    return
        text = "".join(json.dumps(line) + "\n" for line in lines)
        write_whole(self._folder / f"{number}.jsonl", text.encode())
        self._store.put("evaluation result", number, summary(number, lines))
        self._settle(number, "completed")

    def _rows(self, task: TaskBody) -> list[Doc]:
        """The rows a task asks for; 422 when there are none."""
        part = task.dataset
        if isinstance(part, str):
            url, limit = require(self._store.get("dataset", part), f"Dataset {part}")["files_url"], None
        else:
            url, limit = part.files_url, part.limit
        files = self._data.files(url, "testing")
        rows = [row for name, oid in files.items() for row in parse_rows(name, self._data.read(oid))][:limit]
        if not rows:
            raise Problem(422, f"no rows to evaluate on in {url}")
        return rows

    def _outcomes(self, task: Task, model: str) -> Iterator[list[Doc]]:
        """The outcomes of a task, some rows at a time, so that serving gets its turn."""
        head = self._models.head(model)
        for start in range(0, len(task.rows), CHUNK):
            items = task.rows[start : start + CHUNK]
            rows = self._embedder.embed([task.text(item) for item in items])
            yield [task.outcome(start + i, item, answer(head, rows[i])) for i, item in enumerate(items)]

    def _report(self, number: str, task: str, done: int, total: int) -> bool:
        """Show the progress; True when the job should stop."""

        def edit(job: Doc) -> None:
            job["status_details"].update(progress=100 * done / total, samples_processed=done)
            job["status_details"]["task_status"][task] = "running"

        job = self._store.change(KIND, number, edit)
        if job is None or job["status"] == "cancelling":
            self._settle(number, "cancelled")
            return True
        return self._stopping.is_set()

    def _settle(self, number: str, status: str, message: str = "") -> None:
        def edit(job: Doc) -> None:
            job.update(status=status, updated_at=now())
            if message:
                job["status_details"]["message"] = message
            if status in {"completed", "failed"}:
                job["status_details"]["task_status"] = dict.fromkeys(job["status_details"]["task_status"], status)

        self._store.change(KIND, number, edit)


def compile_task(name: str, task: TaskBody, rows: list[Doc]) -> Task:
    """The task with its templates compiled; 422 names the one that is wrong."""
    given = task.params.template.messages
    place = f"config.tasks.{name}"
    if isinstance(given, str):
        messages: list[tuple[str, Template]] | Template = template(given, f"{place}.params.template.messages")
    else:
        where = f"{place}.params.template.messages.content"
        messages = [(str(part.get("role")), template(str(part.get("content")), where)) for part in given]
    checks: dict[str, tuple[Template, str, Template]] = {}
    for metric, body in task.metrics.items():
        left, operator, right = body.params.check
        where = f"{place}.metrics.{metric}.params.check"
        operator = ALIASES.get(operator, operator)
        if operator not in COMPARE:
            raise Problem(422, f"{where}: unknown operator {operator!r}; known are {', '.join(COMPARE)}")
        checks[metric] = template(left, where), operator, template(right, where)
    return Task(name, messages, checks, rows)


def template(text: str, where: str) -> Template:
    """A template that can reach nothing but its variables."""
    if len(text) > MAX_TEMPLATE:
        raise Problem(422, f"{where}: a template has at most {MAX_TEMPLATE} characters")
    try:
        return ENVIRONMENT.from_string(text)
    except TemplateError as error:
        raise Problem(422, f"{where}: {error}") from None


def summary(number: str, lines: list[Doc]) -> Doc:
    """NeMo's results of these outcomes."""
    tasks: Doc = {}
    for task in dict.fromkeys(line["task"] for line in lines):
        mine = [line["scores"] for line in lines if line["task"] == task]
        tasks[task] = {"metrics": {m: {"scores": {m: score([scores[m] for scores in mine])}} for m in mine[0]}}
    times = {"created_at": now(), "updated_at": now()}
    return {"id": new_id("evaluation_result"), "job": number, "tasks": tasks, "groups": {}, **times}


def score(values: list[float]) -> Doc:
    """Mean and spread of a metric (population variance, as NeMo has it)."""
    v = np.array(values)
    stats = {"count": len(v), "sum": v.sum(), "sum_squared": (v * v).sum(), "mean": v.mean(), "min": v.min()}
    stats |= {"max": v.max(), "variance": v.var(), "stddev": v.std(), "stderr": v.std() / np.sqrt(len(v))}
    plain = {name: value if name == "count" else float(value) for name, value in stats.items()}
    return {"value": plain["mean"], "stats": {**plain, "nan_count": 0}}
