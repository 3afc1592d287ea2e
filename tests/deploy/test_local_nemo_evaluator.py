from __future__ import annotations

import json
import math
from collections.abc import Generator
from typing import Any

import httpx
import pytest

from deploy.local_nemo.settings import Settings
from tests.deploy.local_nemo_kit import (
    LABELS,
    begin,
    commit,
    dataset,
    evaluation,
    finished,
    serve,
    toy,
    train,
    upload,
)

JOBS = "/v1/evaluation/jobs"


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Generator[httpx.Client]:
    settings = Settings(tmp_path_factory.mktemp("nemo"), labels=LABELS)
    with serve(settings) as url, httpx.Client(base_url=url, timeout=30) as client:
        dataset(client, "toy", toy(30, 1), toy(70, 2))
        yield client


def run(client: httpx.Client, body: dict[str, Any]) -> tuple[dict[str, Any], list[dict[str, Any]], dict[str, Any]]:
    """The job, its lines and its results."""
    number = client.post(JOBS, json=body).json()["id"]
    job = finished(client, number, JOBS)
    assert job["status"] == "completed", job
    lines = client.get(f"{JOBS}/{number}/download-results").text.splitlines()
    return job, [json.loads(line) for line in lines], client.get(f"{JOBS}/{number}/results").json()


def test_lines_and_aggregate_agree(client: httpx.Client) -> None:
    job, lines, results = run(client, evaluation("local/minilm", "toy"))
    score = results["tasks"]["route"]["metrics"]["accuracy"]["scores"]["accuracy"]
    hits = [line["output"] == line["expected"] for line in lines]
    assert [line["scores"]["accuracy"] for line in lines] == hits
    assert 0 < score["value"] == sum(hits) / 70 < 1
    p = score["value"]
    assert score["stats"]["stderr"] == pytest.approx(math.sqrt(p * (1 - p) / 70))
    assert score["stats"]["count"] == job["status_details"]["samples_processed"] == 70
    assert job["status_details"]["task_status"] == {"route": "completed"}
    assert [line["index"] for line in lines] == list(range(70))
    assert set(lines[0]) == {
        "task", "index", "item_id", "item_sha256", "expected", "output", "logprob", "scores",
    }  # fmt: skip


def test_templates_operators_and_limit(client: httpx.Client) -> None:
    rows = [{"id": f"r{i}", "q": text, "team": label.upper()} for i, (text, label) in enumerate(toy(40, 3))]
    upload(client, "own", {"eval/rows.jsonl": "\n".join(map(json.dumps, rows)).encode()})
    body = evaluation("local/minilm", "own")
    task = body["config"]["tasks"]["route"]
    task["dataset"] = {"files_url": "hf://datasets/acme/own/eval/rows.jsonl", "limit": 10}
    task["params"]["template"]["messages"] = [{"role": "user", "content": "{{ item.q }}"}]
    sides = {"same": "equals", "differ": "!=", "part": "contains", "start": "startswith"}
    task["metrics"] = {
        name: {
            "type": "string-check",
            "params": {"check": ["{{ item.team | lower }}", way, "{{ sample.output_text }}"]},
        }
        for name, way in sides.items()
    }
    _, lines, _ = run(client, body)
    assert [line["item_id"] for line in lines] == [f"r{i}" for i in range(10)]
    for line in lines:
        scores = line["scores"]
        assert scores["same"] == scores["part"] == scores["start"] == 1 - scores["differ"]
    assert {line["scores"]["same"] for line in lines} == {0.0, 1.0}


def test_the_same_rows_in_the_same_order_for_two_models(client: httpx.Client) -> None:
    train(client, "toy", "acme/pair@1", epochs=2)
    first, second = (run(client, evaluation(model, "toy"))[1] for model in ("local/minilm", "acme/pair@1"))
    assert [line["item_sha256"] for line in first] == [line["item_sha256"] for line in second]
    assert first != second


def changed(path: str, value: Any) -> dict[str, Any]:
    body = evaluation("local/minilm", "toy")
    *way, last = path.split(".")
    place: Any = body
    for part in way:
        place = place[part]
    place[last] = value
    return body


TASK, CHECK = "config.tasks.route", "config.tasks.route.metrics.accuracy.params.check"


@pytest.mark.parametrize(
    ("path", "value", "status", "word"),
    [
        ("target.model", "acme/none", 404, "acme/none"),
        ("target.type", "rag", 422, "type"),
        ("config.type", "lm-eval", 422, "type"),
        (f"{TASK}.type", "completion", 422, "type"),
        (f"{TASK}.metrics.accuracy.type", "llm-judge", 422, "string-check"),
        (CHECK, ["a", "resembles", "b"], 422, "known are equals"),
        (CHECK, ["{{ broken", "equals", "b"], 422, "accuracy.params.check"),
        (CHECK, ["x" * 5000, "equals", "b"], 422, "at most 4000"),
        (f"{TASK}.params.template.messages", "{% if %}", 422, "template.messages"),
        (f"{TASK}.dataset.files_url", "/etc/passwd", 422, "files_url"),
    ],
)
def test_what_is_wrong_is_said_at_once(client: httpx.Client, path: str, value: Any, status: int, word: str) -> None:
    answer = client.post(JOBS, json=changed(path, value))
    assert answer.status_code == status
    assert word in answer.text


@pytest.mark.parametrize(
    ("path", "value", "word"),
    [
        (f"{TASK}.dataset.files_url", "hf://datasets/acme/none", "not found"),
        (f"{TASK}.dataset.files_url", "hf://datasets/acme/toy/nowhere", "no rows"),
        (f"{TASK}.params.template.messages", "not json", "JSONDecodeError"),
        (f"{TASK}.params.template.messages", "[]", "no user message"),
        (f"{TASK}.params.template.messages", "{{ item.__class__.__mro__ }}", "SecurityError"),
    ],
)
def test_what_only_the_run_can_tell_fails_the_job(client: httpx.Client, path: str, value: str, word: str) -> None:
    number = client.post(JOBS, json=changed(path, value)).json()["id"]
    job = finished(client, number, JOBS)
    assert (job["status"], word in job["status_details"]["message"]) == ("failed", True)
    assert client.get(f"{JOBS}/{number}/results").status_code == 404
    assert client.get(f"{JOBS}/{number}/download-results").status_code == 404


def test_a_deleted_test_file_fails_the_job(client: httpx.Client) -> None:
    dataset(client, "gone", toy(10, 1), toy(10, 2))
    commit(client, "gone", [{"key": "deletedFile", "value": {"path": "testing/test.jsonl"}}])
    job = finished(client, client.post(JOBS, json=evaluation("local/minilm", "gone")).json()["id"], JOBS)
    assert "no rows" in job["status_details"]["message"]


def test_delete_and_unknown(client: httpx.Client) -> None:
    job, _, _ = run(client, evaluation("local/minilm", "toy"))
    one = f"{JOBS}/{job['id']}"
    assert client.post(f"{one}/cancel").json()["status"] == "completed", "what is over stays as it is"
    assert client.delete(one).status_code == 200
    for path in (one, f"{one}/results", f"{one}/status", f"{one}/download-results"):
        assert client.get(path).status_code == 404


def test_customization_jobs_are_not_evaluation_jobs(client: httpx.Client) -> None:
    number = begin(client, "toy", "acme/other@1", epochs=0)
    assert client.get(f"{JOBS}/{number}").status_code == 404
    finished(client, number)
