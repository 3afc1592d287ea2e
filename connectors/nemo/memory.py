"""The NeMo contract in memory: a word-counting classifier behind the same calls, for tests and for trying things out.

It really learns from the rows it is given (naive Bayes over words) and really answers; it is not good at either. What
it cannot do: serve over HTTP.
"""

from __future__ import annotations

import json
import math
import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from connectors.nemo.port import Pair, RemoteStatus, RowResult, Split, Training
from schemas.errors import Refused, Retry


@dataclass(slots=True)
class _Job:
    training: Training | None
    polls: int
    status: RemoteStatus
    rows: list[RowResult] = field(default_factory=list[RowResult])


class WordModel:
    """Naive Bayes over lower-case words, with add-one smoothing."""

    def __init__(self, rows: Sequence[tuple[str, str]], labels: Sequence[str]) -> None:
        self._words: dict[str, Counter[str]] = {label: Counter(_words(label)) for label in sorted(labels)}
        self._rows = Counter(label for _, label in rows)
        for text, label in rows:
            self._words.setdefault(label, Counter()).update(_words(text))
        self._vocabulary = len({word for words in self._words.values() for word in words}) + 1

    def answer(self, text: str) -> str:
        """The likeliest label."""
        return max(sorted(self._words), key=lambda label: self._score(text, label))

    def _score(self, text: str, label: str) -> float:
        words = self._words[label]
        total = sum(words.values()) + self._vocabulary
        prior = math.log(self._rows[label] + 1)
        return prior + sum(math.log((words[word] + 1) / total) for word in _words(text))


def _words(text: str) -> list[str]:
    return text.lower().replace("_", " ").split()


class MemoryNemo:
    """A NemoPort in memory. A job ends after ``polls`` looks at it; while ``away``, every call raises Retry."""

    def __init__(self, namespace: str = "driftwheel", polls: int = 1) -> None:
        self.namespace = namespace
        self.files: dict[str, dict[str, bytes]] = {}
        self.registered: set[str] = set()
        self.models: dict[str, WordModel] = {}
        self.groups: dict[str, Split] = {}
        self.trainings = 0
        self.evaluations = 0
        self.away = False
        self.fail_training = ""
        self._polls = polls
        self._bases: dict[str, tuple[str, ...]] = {}
        self._jobs: dict[str, _Job] = {}
        self._pairs: dict[str, list[Pair]] = {}
        self._lock = threading.RLock()

    def _here(self) -> None:
        if self.away:
            raise Retry("NeMo is away")

    def ensure_namespace(self) -> None:
        """See NemoPort."""
        self._here()

    def ensure_base(self, labels: Sequence[str]) -> str:
        """See NemoPort."""
        self._here()
        name = f"{self.namespace}/words-{'-'.join(sorted(labels))}"
        self._bases[name] = tuple(labels)
        return name

    def upload_dataset(self, name: str, files: Mapping[str, bytes]) -> None:
        """See NemoPort."""
        self._here()
        self.files.setdefault(name, {}).update(files)

    def download(self, name: str, path: str) -> bytes:
        """See NemoPort."""
        self._here()
        return self.files.get(name, {}).get(path, b"")

    def register_dataset(self, name: str) -> None:
        """See NemoPort."""
        self._here()
        if name not in self.files:
            raise Refused(f"dataset {self.namespace}/{name} has no files: upload them first")
        self.registered.add(name)

    def create_training(self, training: Training) -> str:
        """See NemoPort."""
        self._here()
        job_id = f"train-{training.name}"
        known = self._jobs.get(job_id)
        if known is not None and known.training is not None:
            if known.training.output_model != training.output_model or known.training.dataset != training.dataset:
                raise Refused(f"the job {training.name} exists and trains {known.training.output_model}")
            return job_id
        if training.dataset not in self.registered:
            raise Refused(f"dataset {self.namespace}/{training.dataset} is not registered")
        if training.base not in self._bases:
            raise Refused(f"there is no configuration {training.base}")
        self.trainings += 1
        self._jobs[job_id] = _Job(training, self._polls, RemoteStatus("queued"))
        return job_id

    def training_status(self, job_id: str) -> RemoteStatus:
        """See NemoPort."""
        return self._look(job_id)

    def _look(self, job_id: str) -> RemoteStatus:
        self._here()
        job = self._jobs.get(job_id)
        if job is None:
            raise Refused(f"there is no job {job_id}")
        if job.polls > 0:
            job.polls -= 1
            job.status = RemoteStatus("running", 0.5)
        elif not job.status.ended:
            job.status = self._finish(job)
        return job.status

    def _finish(self, job: _Job) -> RemoteStatus:
        if job.training is None:
            return RemoteStatus("succeeded", 1.0)
        if self.fail_training:
            return RemoteStatus("failed", 0.5, self.fail_training)
        rows = [_said(row) for row in _rows(self.files[job.training.dataset].get("training/train.jsonl", b""))]
        if not rows:
            return RemoteStatus("failed", 0.0, "no rows in training/train.jsonl")
        self.models[job.training.output_model] = WordModel(rows, self._bases[job.training.base])
        return RemoteStatus("succeeded", 1.0)

    def create_evaluation(self, name: str, model: str, dataset: str, path: str) -> str:
        """See NemoPort."""
        self._here()
        served = self.models.get(model)
        if served is None:
            raise Refused(f"there is no model {model}")
        said = [_said(row) for row in _rows(self.files[dataset][path])]
        rows = [RowResult(i, label, served.answer(text)) for i, (text, label) in enumerate(said)]
        self.evaluations += 1
        self._jobs[f"eval-{name}"] = _Job(None, self._polls, RemoteStatus("queued"), rows)
        return f"eval-{name}"

    def evaluation_status(self, job_id: str) -> RemoteStatus:
        """See NemoPort."""
        return self._look(job_id)

    def evaluation_rows(self, job_id: str) -> list[RowResult]:
        """See NemoPort."""
        self._here()
        return list(self._jobs[job_id].rows)

    def ensure_deployed(self, model: str) -> bool:
        """See NemoPort."""
        self._here()
        return model in self.models

    def list_models(self) -> list[str]:
        """See NemoPort."""
        self._here()
        return sorted(self.models)

    def apply(self, group: str, split: Split) -> None:
        """See NemoPort."""
        self._here()
        for model in (split.live, split.candidate):
            if model and model not in self.models:
                raise Refused(f"there is no model {model}")
        self.groups[group] = split

    def observe(self, group: str) -> Split | None:
        """See NemoPort."""
        self._here()
        return self.groups.get(group)

    def pairs(self, group: str, after: int, limit: int = 500) -> list[Pair]:
        """See NemoPort."""
        self._here()
        with self._lock:
            return [pair for pair in self._pairs.get(group, []) if pair.number > after][:limit]

    def ask(self, group: str, session_id: str, turn_id: str, text: str) -> str:
        """The live model's answer; with a shadow on, a pair is kept."""
        split = self.groups[group]
        answer = self.models[split.live].answer(text)
        if split.shadow:
            shadow = self.models[split.candidate].answer(text)
            with self._lock:
                kept = self._pairs.setdefault(group, [])
                kept.append(Pair(len(kept) + 1, session_id, turn_id, split.live, answer, split.candidate, shadow))
        return answer


def _rows(content: bytes) -> list[dict[str, Any]]:
    return [json.loads(line) for line in content.decode().splitlines() if line.strip()]


def _said(row: dict[str, Any]) -> tuple[str, str]:
    """The last user message of a training row, and the answer."""
    messages = row["messages"]
    asked = [message["content"] for message in messages if message["role"] == "user"]
    return asked[-1], messages[-1]["content"]
