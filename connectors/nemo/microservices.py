"""NeMo Microservices 25.x over its REST API: the ``/v1/...`` dialect of the port.

Weighted and shadow traffic is not part of NeMo 25.x; the rollout calls speak to the local NeMo's own
``/v1/rollout/groups``. On a platform without them ``apply`` says so.
"""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from connectors.nemo.hub import Hub
from connectors.nemo.port import Pair, RemoteStatus, RowResult, Split, Training, remote_state
from connectors.nemo.wire import Wire
from schemas.errors import Refused, Retry

_TAKEN = frozenset({409})
_MISSING = frozenset({404})
_PAGES = 50
_TASK, _METRIC = "answers", "right"


class Microservices:
    """A NemoPort over HTTP. ``nim_url`` and ``data_store_url``: their hosts, when not the same as ``url``.

    ``config``: the customization config to train with, as ``namespace/name``; empty: one is made for the labels,
    which is what the local NeMo wants and what a GPU platform refuses in plain words. ``timeout`` in seconds.
    """

    def __init__(
        self,
        url: str,
        namespace: str = "driftwheel",
        *,
        token: str = "",
        nim_url: str = "",
        data_store_url: str = "",
        config: str = "",
        timeout: float = 60.0,
    ) -> None:
        self.namespace = namespace
        self._config = config
        self._nemo = Wire(url, token, timeout)
        self._nim = Wire(nim_url or url, token, timeout)
        self._store = Wire(data_store_url or url, token, timeout)
        self._hub = Hub(self._store, namespace)

    def close(self) -> None:
        """Let go of the connections."""
        for wire in (self._nemo, self._nim, self._store):
            wire.close()

    def ensure_namespace(self) -> None:
        """See NemoPort."""
        self._nemo.call("POST", "/v1/namespaces", json={"id": self.namespace}, fine=_TAKEN)
        self._hub.ensure_namespace()

    def ensure_base(self, labels: Sequence[str]) -> str:
        """See NemoPort."""
        if self._config:
            return self._config
        described = {label: label.replace("_", " ") for label in sorted(labels)}
        name = f"labels-{hashlib.sha256(json.dumps(described).encode()).hexdigest()[:12]}"
        common = {"name": name, "namespace": self.namespace}
        target: dict[str, Any] = {**common, "num_parameters": 0, "precision": "fp32", "enabled": True}
        target["custom_fields"] = {"labels": described}
        self._nemo.call("POST", "/v1/customization/targets", json=target, fine=_TAKEN)
        option = {"training_type": "sft", "finetuning_type": "lora", "num_gpus": 0, "micro_batch_size": 1}
        config: dict[str, Any] = {**common, "target": f"{self.namespace}/{name}", "max_seq_length": 128}
        config["training_options"] = [option]
        self._nemo.call("POST", "/v1/customization/configs", json=config, fine=_TAKEN)
        return f"{self.namespace}/{name}"

    def upload_dataset(self, name: str, files: Mapping[str, bytes]) -> None:
        """See NemoPort."""
        self._hub.ensure_repository(name)
        self._hub.upload(name, files)

    def download(self, name: str, path: str) -> bytes:
        """See NemoPort."""
        return self._hub.download(name, path)

    def _files_url(self, name: str) -> str:
        return f"hf://datasets/{self.namespace}/{name}"

    def register_dataset(self, name: str) -> None:
        """See NemoPort."""
        body = {"name": name, "namespace": self.namespace, "files_url": self._files_url(name)}
        self._nemo.call("POST", "/v1/datasets", json=body, fine=_TAKEN)

    def create_training(self, training: Training) -> str:
        """See NemoPort. NeMo does not promise that names of jobs are unique: those there are looked through first."""
        known = self._find(training)
        if known:
            return known
        body = {
            "name": training.name,
            "namespace": self.namespace,
            "config": training.base,
            "dataset": {"name": training.dataset, "namespace": self.namespace},
            "output_model": training.output_model,
            "hyperparameters": {"training_type": "sft", "finetuning_type": "lora", **training.hyperparameters},
        }
        response = self._nemo.call("POST", "/v1/customization/jobs", json=body, fine=_TAKEN)
        if response.status_code not in _TAKEN:
            return str(response.json()["id"])
        known = self._find(training)
        if not known:
            raise Refused(f"the training {training.name} is said to exist, but cannot be found: {response.text[:300]}")
        return known

    def _find(self, training: Training) -> str:
        """The id of the job of this name; '' when there is none. Refused when it trains something else."""
        for job in self._jobs():
            if job.get("name") == training.name:
                if job.get("output_model") != training.output_model:
                    raise Refused(f"the job {training.name} exists and trains {job.get('output_model')}")
                return str(job["id"])
        return ""

    def _jobs(self) -> Iterator[dict[str, Any]]:
        for page in range(1, _PAGES + 1):
            asked = {"page": page, "page_size": 100, "sort": "-created_at"}
            found: list[dict[str, Any]] = self._nemo.json("GET", "/v1/customization/jobs", params=asked).get("data", [])
            yield from found
            if len(found) < 100:
                return

    def training_status(self, job_id: str) -> RemoteStatus:
        """See NemoPort."""
        body = self._nemo.json("GET", f"/v1/customization/jobs/{job_id}/status")
        logs = [line for line in body.get("status_logs") or [] if isinstance(line, dict)]
        last = logs[-1] if logs else {}
        progress = float(body.get("percentage_done") or 0.0) / 100
        return RemoteStatus(
            remote_state(body.get("status")), progress, str(last.get("detail") or last.get("message") or "")
        )

    def create_evaluation(self, name: str, model: str, dataset: str, path: str) -> str:
        """See NemoPort. A second one of the same name only costs time, so none is looked for."""
        task = {
            "type": "chat-completion",
            "dataset": {"files_url": f"{self._files_url(dataset)}/{path}"},
            "params": {"template": {"messages": "{{ item.messages[:-1] | tojson }}"}},
            "metrics": {_METRIC: {"type": "string-check", "params": {"check": [
                "{{ sample.output_text }}", "equals", "{{ item.messages[-1].content }}",
            ]}}},
        }  # fmt: skip
        body = {
            "namespace": self.namespace,
            "description": name,
            "config": {"type": "custom", "tasks": {_TASK: task}},
            "target": {"type": "model", "model": model},
        }
        return str(self._nemo.json("POST", "/v1/evaluation/jobs", json=body)["id"])

    def evaluation_status(self, job_id: str) -> RemoteStatus:
        """See NemoPort."""
        body = self._nemo.json("GET", f"/v1/evaluation/jobs/{job_id}")
        details: dict[str, Any] = body.get("status_details") or {}
        progress = float(details.get("progress") or 0.0) / 100
        return RemoteStatus(remote_state(body.get("status")), progress, str(details.get("message") or ""))

    def evaluation_rows(self, job_id: str) -> list[RowResult]:
        """See NemoPort."""
        response = self._nemo.call("GET", f"/v1/evaluation/jobs/{job_id}/download-results")
        try:
            return sorted(read_results(response.content), key=lambda row: row.index)
        except (ValueError, KeyError, TypeError) as error:
            raise Refused(f"the results of evaluation {job_id} cannot be read: {error}") from error

    def ensure_deployed(self, model: str) -> bool:
        """See NemoPort."""
        if model in self.list_models():
            return True
        namespace, _, name = model.partition("/")
        body = {"name": name.replace("@", "-"), "namespace": namespace, "config": {"model": model}}
        try:
            self._nemo.call("POST", "/v1/deployment/model-deployments", json=body, fine=_TAKEN)
        except Retry as error:
            if "already exists" not in str(error):  # 25.x says so with status 500
                raise
        return False

    def list_models(self) -> list[str]:
        """See NemoPort."""
        return sorted(str(one["id"]) for one in self._nim.json("GET", "/v1/models").get("data", []))

    def apply(self, group: str, split: Split) -> None:
        """See NemoPort."""
        body = {
            "live": split.live,
            "candidate": split.candidate or None,
            "weight": split.weight,
            "shadow": split.shadow,
            "salt": f"{group} {split.candidate}",
        }
        self._nim.call("PUT", f"/v1/rollout/groups/{group}", json=body)

    def observe(self, group: str) -> Split | None:
        """See NemoPort."""
        response = self._nim.call("GET", f"/v1/rollout/groups/{group}", fine=_MISSING)
        if response.status_code in _MISSING:
            return None
        body = response.json()
        return Split(body["live"], body.get("candidate") or "", body["weight"], body["shadow"])

    def pairs(self, group: str, after: int, limit: int = 500) -> list[Pair]:
        """See NemoPort."""
        asked = {"after": after, "limit": limit}
        body = self._nim.json("GET", f"/v1/rollout/groups/{group}/pairs", params=asked)
        return [_pair(one) for one in body.get("data", [])]


def _pair(body: Mapping[str, Any]) -> Pair:
    live, shadow = body["live"], body["shadow"]
    return Pair(
        number=int(body["id"]),
        session_id=str(body.get("session_id") or ""),
        turn_id=str(body.get("turn_id") or ""),
        live=str(live["model"]),
        live_answer=str(live["answer"]),
        shadow=str(shadow["model"]),
        shadow_answer=str(shadow["answer"]),
    )


def read_results(content: bytes) -> list[RowResult]:
    """Rows of a result file: JSON lines, or the ``.jsonl`` files of a zip archive."""
    if content[:2] == b"PK":
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            names = sorted(name for name in archive.namelist() if name.endswith(".jsonl"))
            content = b"\n".join(archive.read(name) for name in names)
    return [_result(number, json.loads(line)) for number, line in enumerate(content.splitlines()) if line.strip()]


def _result(number: int, row: Mapping[str, Any]) -> RowResult:
    return RowResult(int(row.get("index", number)), str(row["expected"]), str(row["output"]))
