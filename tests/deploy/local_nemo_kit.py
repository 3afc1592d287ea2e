"""A local NeMo on a free port for a test, and the few calls of the wire that NVIDIA's SDK leaves to others."""

from __future__ import annotations

import base64
import hashlib
import json
import random
import threading
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from typing import Any

import httpx
import uvicorn

from deploy.local_nemo.__main__ import listen
from deploy.local_nemo.app import create_app
from deploy.local_nemo.settings import Settings

DONE = {"completed", "failed", "cancelled"}
WORDS = {
    "travel": ["book a flight", "find a hotel", "rent a car", "lost luggage", "plane ticket", "boarding pass"],
    "banking": ["account balance", "transfer money", "freeze my card", "pay the bill", "routing number", "cheque"],
    "kitchen": ["recipe for soup", "how many calories", "cook the pasta", "oven temperature", "meal ideas", "spices"],
}
LABELS = {label: label for label in WORDS}

Pair = tuple[str, str]


@contextmanager
def serve(settings: Settings) -> Generator[str]:
    """The address of a running server."""
    with listen("127.0.0.1", 0) as listener:
        server = uvicorn.Server(uvicorn.Config(create_app(settings), log_level="warning", ws="none"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        wait(lambda: server.started or not thread.is_alive())
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()


def wait(ready: Callable[[], Any], seconds: float = 90) -> Any:
    """The first true thing that ``ready`` gives."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := ready():
            return found
        time.sleep(0.02)
    raise AssertionError(f"not ready after {seconds} s")


def toy(count: int, seed: int) -> list[Pair]:
    """Sentences that three labels can be told apart by, even without a language model."""
    rng = random.Random(seed)
    fill = ["please", "could you", "today", "for me", "I need", "quickly", "now", "again", "help with"]
    return [
        (f"{rng.choice(fill)} {rng.choice(WORDS[label])} {rng.choice(fill)} {i}", label)
        for i, label in enumerate(rng.choices(list(WORDS), k=count))
    ]


def row(text: str, label: str) -> dict[str, Any]:
    """A row as NeMo's trainer and evaluator read it."""
    return {"messages": [{"role": "user", "content": text}, {"role": "assistant", "content": label}]}


def jsonl(pairs: Sequence[Pair]) -> bytes:
    return b"".join(json.dumps(row(*pair)).encode() + b"\n" for pair in pairs)


def upload(client: httpx.Client, name: str, files: dict[str, bytes]) -> httpx.Response:
    """A repository with these files, by the hub's wire: preupload, LFS where the server wants it, commit."""
    client.post("/v1/hf/api/repos/create", json={"name": name, "organization": "acme", "type": "dataset"})
    sizes = [{"path": path, "sample": "", "size": len(body)} for path, body in files.items()]
    ways = client.post(f"/v1/hf/api/datasets/acme/{name}/preupload/main", json={"files": sizes}).json()["files"]
    lines: list[dict[str, Any]] = [{"key": "header", "value": {"summary": "upload", "description": ""}}]
    for way in ways:
        body = files[way["path"]]
        if way["uploadMode"] == "lfs":
            oid = send_lfs(client, name, body)
            lines.append(
                {"key": "lfsFile", "value": {"path": way["path"], "algo": "sha256", "oid": oid, "size": len(body)}}
            )
        else:
            content = base64.b64encode(body).decode()
            lines.append({"key": "file", "value": {"path": way["path"], "content": content, "encoding": "base64"}})
    return commit(client, name, lines)


def send_lfs(client: httpx.Client, name: str, body: bytes) -> str:
    """One object by Git LFS; its sha256."""
    oid = hashlib.sha256(body).hexdigest()
    batch = {
        "operation": "upload",
        "transfers": ["basic"],
        "objects": [{"oid": oid, "size": len(body)}],
        "hash_algo": "sha256",
    }
    (entry,) = client.post(f"/v1/hf/datasets/acme/{name}.git/info/lfs/objects/batch", json=batch).json()["objects"]
    if "actions" in entry:
        httpx.put(entry["actions"]["upload"]["href"], content=body).raise_for_status()
    return oid


def commit(client: httpx.Client, name: str, lines: list[dict[str, Any]]) -> httpx.Response:
    body = "\n".join(map(json.dumps, lines)).encode()
    kind = {"content-type": "application/x-ndjson"}
    return client.post(f"/v1/hf/api/datasets/acme/{name}/commit/main", content=body, headers=kind)


def dataset(
    client: httpx.Client, name: str, train: Sequence[Pair], test: Sequence[Pair] = (), val: Sequence[Pair] = ()
) -> None:
    """Upload and register a dataset ``acme/<name>``."""
    parts = {"training/train.jsonl": train, "validation/val.jsonl": val, "testing/test.jsonl": test}
    upload(client, name, {path: jsonl(pairs) for path, pairs in parts.items() if pairs}).raise_for_status()
    body = {"name": name, "namespace": "acme", "files_url": f"hf://datasets/acme/{name}"}
    client.post("/v1/datasets", json=body).raise_for_status()


def begin(client: httpx.Client, name: str, output: str, **hyperparameters: Any) -> str:
    """Start training on a dataset; the job's id."""
    body = {
        "config": "local/minilm",
        "dataset": {"name": name, "namespace": "acme"},
        "output_model": output,
        "hyperparameters": {"training_type": "sft", "finetuning_type": "lora", **hyperparameters},
    }
    answer = client.post("/v1/customization/jobs", json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()["id"]


def finished(client: httpx.Client, number: str, path: str = "/v1/customization/jobs") -> dict[str, Any]:
    """The job, once it is over."""
    job = wait(lambda: (doc := client.get(f"{path}/{number}").json())["status"] in DONE and doc)
    return dict(job)


def train(client: httpx.Client, name: str, output: str, **hyperparameters: Any) -> dict[str, Any]:
    """Train to the end, which must be good; the model."""
    job = finished(client, begin(client, name, output, **hyperparameters))
    assert job["status"] == "completed", job["status_details"]
    return dict(client.get(f"/v1/models/{output}").json())


def evaluation(model: str, name: str) -> dict[str, Any]:
    """The body of an evaluation by exact match of the label."""
    check = ["{{ sample.output_text }}", "equals", "{{ item.messages[-1].content }}"]
    task = {
        "type": "chat-completion",
        "dataset": {"files_url": f"hf://datasets/acme/{name}"},
        "params": {"template": {"messages": "{{ item.messages[:-1] | tojson }}"}},
        "metrics": {"accuracy": {"type": "string-check", "params": {"check": check}}},
    }
    return {"config": {"type": "custom", "tasks": {"route": task}}, "target": {"type": "model", "model": model}}


def accuracy(client: httpx.Client, model: str, name: str) -> float:
    """Exact match of a model on the test part of a dataset."""
    number = client.post("/v1/evaluation/jobs", json=evaluation(model, name)).json()["id"]
    job = finished(client, number, "/v1/evaluation/jobs")
    assert job["status"] == "completed", job
    result = client.get(f"/v1/evaluation/jobs/{number}/results").json()
    return float(result["tasks"]["route"]["metrics"]["accuracy"]["scores"]["accuracy"]["value"])


def ask(client: httpx.Client, model: str, text: str, **more: Any) -> dict[str, Any]:
    """One completion."""
    body = {"model": model, "messages": [{"role": "user", "content": text}], **more}
    answer = client.post("/v1/chat/completions", json=body)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())
