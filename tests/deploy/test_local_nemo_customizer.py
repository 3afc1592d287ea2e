from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Generator
from pathlib import Path
from typing import Any

import httpx
import pytest

from deploy.local_nemo.settings import Settings
from tests.deploy.local_nemo_kit import (
    LABELS,
    ask,
    begin,
    commit,
    dataset,
    finished,
    serve,
    toy,
    train,
    upload,
    wait,
)

LONG = {"epochs": 100_000, "batch_size": 4}
JOBS = "/v1/customization/jobs"


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Generator[httpx.Client]:
    settings = Settings(tmp_path_factory.mktemp("nemo"), labels=LABELS)
    with serve(settings) as url, httpx.Client(base_url=url, timeout=30) as client:
        dataset(client, "toy", toy(90, 1), val=toy(30, 2))
        yield client


def running(client: httpx.Client, number: str) -> dict[str, Any]:
    return dict(wait(lambda: (s := client.get(f"{JOBS}/{number}/status").json())["epochs_completed"] and s))


def reason(job: dict[str, Any]) -> str:
    assert job["status"] == "failed", job
    return str(job["status_details"]["status_logs"][-1]["detail"])


def test_progress_and_curves(client: httpx.Client) -> None:
    job = finished(client, begin(client, "toy", "acme/curves@1", epochs=4, batch_size=32))
    details = job["status_details"]
    assert (details["epochs_completed"], details["steps_completed"], details["percentage_done"]) == (4, 4 * 3, 100.0)
    curves = details["metrics"]["metrics"]
    assert [point["step"] for point in curves["train_loss"]] == [3, 6, 9, 12]
    losses = [point["value"] for point in curves["val_loss"]]
    assert losses[-1] < losses[0]
    assert details["val_loss"] == min(losses)
    assert details["best_epoch"] == 1 + losses.index(min(losses))


def test_new_labels_are_learnt(client: httpx.Client) -> None:
    dataset(client, "new", [*toy(60, 1), *((f"renew my passport {i}", "passport_office") for i in range(20))])
    train(client, "new", "acme/new@1")
    said = ask(client, "acme/new@1", "renew my passport please", logprobs=True, top_logprobs=9)
    tokens = said["choices"][0]["logprobs"]["content"][0]["top_logprobs"]
    assert tokens[0]["token"] == "passport_office"
    assert {token["token"] for token in tokens} == {*LABELS, "passport_office"}


def test_cancel(client: httpx.Client) -> None:
    first, second = begin(client, "toy", "acme/long@1", **LONG), begin(client, "toy", "acme/long@2", **LONG)
    running(client, first)
    assert client.post(f"{JOBS}/{second}/cancel").json()["status"] == "cancelled"
    assert client.post(f"{JOBS}/{first}/cancel").json()["status"] == "cancelling"
    for number in (first, second):
        job = finished(client, number)
        assert (job["status"], job["status_details"]["status"]) == ("cancelled", "cancelled")
        assert client.get(f"/v1/models/{job['output_model']}").status_code == 404
    train(client, "toy", "acme/long@1", epochs=1)


def test_serving_goes_on_while_training(client: httpx.Client) -> None:
    number = begin(client, "toy", "acme/busy@1", **LONG)
    running(client, number)
    assert ask(client, "local/minilm", "book a flight")["choices"]
    assert client.get(f"{JOBS}/{number}").json()["status"] == "running"
    client.post(f"{JOBS}/{number}/cancel")
    finished(client, number)


def test_a_deleted_training_file_fails_the_job(client: httpx.Client) -> None:
    dataset(client, "gone", toy(30, 1), val=toy(10, 2))
    blocker = begin(client, "toy", "acme/blocker@1", **LONG)
    number = begin(client, "gone", "acme/gone@1")
    commit(client, "gone", [{"key": "deletedFile", "value": {"path": "training/train.jsonl"}}])
    client.post(f"{JOBS}/{blocker}/cancel")
    assert "no training/*.jsonl" in reason(finished(client, number))
    assert client.get("/v1/models/acme/gone@1").status_code == 404


def test_a_bad_row_is_named_by_file_and_line_and_not_quoted(client: httpx.Client) -> None:
    for name, body, place in (
        ("line", b'{"prompt": "q", "completion": "a"}\nsecret words\n', "line 2"),
        ("row", b'{"prompt": "secret words"}\n', "row 1"),
    ):
        upload(client, name, {"training/x.jsonl": body})
        url = f"hf://datasets/acme/{name}"
        client.post("/v1/datasets", json={"name": name, "namespace": "acme", "files_url": url})
        told = reason(finished(client, begin(client, name, f"acme/{name}@1")))
        assert f"training/x.jsonl, {place}" in told
        assert "secret" not in told


def test_a_name_is_never_trained_twice(client: httpx.Client) -> None:
    number = begin(client, "toy", "acme/once@1", epochs=1)
    body = client.get(f"{JOBS}/{number}").json()
    again = {key: body[key] for key in ("config", "dataset", "output_model", "hyperparameters")}
    assert client.post(JOBS, json=again).status_code == 409
    finished(client, number)
    assert client.post(JOBS, json=again).status_code == 409
    listed = client.get(JOBS, params={"filter[output_model]": "acme/once@1"}).json()
    assert [job["id"] for job in listed["data"]] == [number]


@pytest.mark.parametrize(
    ("change", "status", "word"),
    [
        ({"config": "acme/none"}, 404, "config acme/none"),
        ({"dataset": "acme/none"}, 404, "Dataset acme/none"),
        ({"dataset": {"namespace": "acme"}}, 422, "name"),
        ({"output_model": "no namespace"}, 422, "output_model"),
        ({"output_model": "local/minilm"}, 409, "already exists"),
        ({"hyperparameters": {"finetuning_type": "all_weights"}}, 422, "finetuning_type"),
        ({"hyperparameters": {"finetuning_type": "lora", "training_type": "dpo"}}, 422, "training_type"),
        ({"hyperparameters": {"finetuning_type": "lora", "epochs": -1}}, 422, "epochs"),
        ({"hyperparameters": {"finetuning_type": "lora", "learning_rate": 0}}, 422, "learning_rate"),
        ({"hyperparameters": {"finetuning_type": "lora", "optimizer": "sgd"}}, 422, "optimizer"),
        ({"hyperparameters": None}, 422, "hyperparameters"),
    ],
)
def test_what_is_wrong_is_said(client: httpx.Client, change: dict[str, Any], status: int, word: str) -> None:
    body = {"config": "local/minilm", "dataset": "acme/toy", "hyperparameters": {"finetuning_type": "lora"}}
    answer = client.post(JOBS, json={**body, **change})
    assert answer.status_code == status
    assert word in answer.text


def test_what_means_nothing_here_is_warned_of(client: httpx.Client) -> None:
    number = begin(client, "toy", "acme/warned@1", epochs=1, lora={"adapter_dim": 8})
    assert finished(client, number)["warnings"][0]["message"] == "hyperparameters.lora is not used"


def test_an_inline_config_and_the_default_name(client: httpx.Client) -> None:
    option = {"training_type": "sft", "finetuning_type": "lora"}
    config = {"target": "local/minilm", "training_options": [option]}
    body = {"config": config, "dataset": "acme/toy", "hyperparameters": {"finetuning_type": "lora", "epochs": 1}}
    job = finished(client, client.post(JOBS, json=body).json()["id"])
    assert job["output_model"] == f"default/minilm-toy@{job['id']}"
    assert client.get(f"/v1/models/{job['output_model']}").status_code == 200


def test_a_killed_server_never_says_completed(tmp_path: Path) -> None:
    """Killed with SIGKILL in the middle of training; the next start keeps all but the unfinished job."""
    command = [sys.executable, "-m", "deploy.local_nemo", "--data-dir", str(tmp_path), "--port", "0"]
    with tempfile.TemporaryFile() as trash:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=trash, text=True)
        assert process.stdout
        try:
            url = process.stdout.readline().split()[-1]
            with httpx.Client(base_url=url, timeout=30) as client:
                dataset(client, "toy", toy(60, 1))
                train(client, "toy", "acme/kept@1", epochs=1)
                number = begin(client, "toy", "acme/lost@1", **LONG)
                queued = begin(client, "toy", "acme/lost@2", **LONG)
                running(client, number)
        finally:
            process.kill()
            process.wait()
            process.stdout.close()
    with serve(Settings(tmp_path)) as url, httpx.Client(base_url=url, timeout=30) as client:
        for lost in (number, queued):
            assert "restarted" in reason(client.get(f"{JOBS}/{lost}").json())
        assert client.get("/v1/models/acme/lost@1").status_code == 404
        assert client.get("/v1/datasets/acme/toy").status_code == 200
        assert ask(client, "acme/kept@1", "book a flight")["model"] == "acme/kept@1"
        train(client, "toy", "acme/lost@1", epochs=1)
