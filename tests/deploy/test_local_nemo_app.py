from __future__ import annotations

import json
import socket
from collections.abc import Generator
from pathlib import Path

import httpx
import pytest

from deploy.local_nemo.__main__ import listen, main
from deploy.local_nemo.settings import Settings
from tests.deploy.local_nemo_kit import LABELS, jsonl, serve, toy, upload

HEALTH = ["/health", "/v1/health/live", "/v1/health/ready"]


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Generator[httpx.Client]:
    with (
        serve(Settings(tmp_path_factory.mktemp("nemo"), labels=LABELS)) as url,
        httpx.Client(base_url=url, timeout=30) as client,
    ):
        yield client


@pytest.mark.parametrize("path", HEALTH)
def test_health(client: httpx.Client, path: str) -> None:
    assert client.get(path).json() == {"status": "ready"}


def test_who_is_told_the_address_may_call_at_once() -> None:
    """Before the server has begun: it is printed first."""
    with listen("127.0.0.1", 0) as listener:
        socket.create_connection(listener.getsockname(), timeout=10).close()


def test_unknown_paths_and_methods_are_told_in_nemos_form(client: httpx.Client) -> None:
    for answer, status in ((client.get("/v1/none"), 404), (client.put("/v1/datasets"), 405)):
        assert (answer.status_code, set(answer.json())) == (status, {"detail"})


def test_a_token_guards_all_but_health_and_signed_uploads(tmp_path: Path) -> None:
    with serve(Settings(tmp_path, labels=LABELS, token="right", lfs_threshold=10)) as url:
        for word in ("", "Bearer", "Bearer wrong", "Bearer righty", "right"):
            answer = httpx.get(f"{url}/v1/models", headers={"authorization": word} if word else {})
            assert (answer.status_code, "WWW-Authenticate" in answer.headers) == (401, True)
        assert [httpx.get(url + path).status_code for path in HEALTH] == [200] * 3
        assert httpx.put(f"{url}/v1/lfs/{'0' * 64}?size=1", content=b"x").status_code == 403
        with httpx.Client(base_url=url, headers={"authorization": "Bearer right"}) as client:
            assert upload(client, "big", {"training/x.jsonl": jsonl(toy(5, 1))}).status_code == 200


DATASET = {"namespace": "acme", "files_url": "hf://datasets/acme/d"}


def test_create_read_change_delete(client: httpx.Client) -> None:
    made = client.post("/v1/datasets", json={**DATASET, "name": "d", "project": "kept as sent"}).json()
    assert client.get("/v1/datasets/acme/d").json() == made
    assert made["project"] == "kept as sent"
    changed = client.patch("/v1/datasets/acme/d", json={"description": "new", "name": "other", "id": "other"}).json()
    assert (changed["description"], changed["name"], changed["id"]) == ("new", "d", made["id"])
    assert client.patch("/v1/datasets/acme/d", json={"files_url": "ftp://x"}).status_code == 422
    assert client.post("/v1/datasets", json={**DATASET, "name": "d"}).status_code == 409
    assert client.delete("/v1/datasets/acme/d").json()["id"] == made["id"]
    for method in ("GET", "PATCH", "DELETE"):
        assert client.request(method, "/v1/datasets/acme/d", json={}).status_code == 404


def test_lists_are_paged_sorted_and_filtered(client: httpx.Client) -> None:
    for i in range(5):
        body = {**DATASET, "name": f"p{i}", "project": "even" if i % 2 == 0 else "odd"}
        client.post("/v1/datasets", json=body).raise_for_status()
    page = client.get("/v1/datasets", params={"sort": "-name", "page_size": 2, "page": 2}).json()
    assert [d["name"] for d in page["data"]] == ["p2", "p1"]
    assert page["pagination"] == {
        "page": 2, "page_size": 2, "current_page_size": 2, "total_pages": 3, "total_results": 5,
    }  # fmt: skip
    odd = client.get("/v1/datasets", params={"filter[project]": "odd"}).json()["data"]
    assert [d["name"] for d in odd] == ["p1", "p3"]
    for bad in ({"page": 0}, {"page_size": "many"}, {"page_size": 10_000}):
        assert client.get("/v1/datasets", params=bad).status_code == 422


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/v1/namespaces", {}, 422),
        ("/v1/namespaces", {"id": "no/slash"}, 422),
        ("/v1/datasets", {"name": "x"}, 422),
        ("/v1/customization/targets", {"name": "x", "custom_fields": {"labels": ["a"]}}, 422),
        ("/v1/customization/configs", {"name": "x", "target": "local/minilm", "training_options": []}, 422),
        ("/v1/deployment/model-deployments", {"name": "x", "config": {"model": "acme/none"}}, 404),
        ("/v1/deployment/model-deployments", {"name": "x", "config": {"external_endpoint": {}}}, 422),
    ],
)
def test_bad_entities(client: httpx.Client, path: str, body: object, status: int) -> None:
    assert client.post(path, json=body).status_code == status
    assert client.post(path, content=b"not json").status_code == 422


def test_a_config_offers_only_what_can_be_done(client: httpx.Client) -> None:
    option = {"training_type": "sft", "finetuning_type": "lora"}
    body = {"name": "c", "target": "acme/none", "training_options": [option]}
    assert client.post("/v1/customization/configs", json=body).status_code == 404
    body |= {"target": "local/minilm", "training_options": [{**option, "training_type": "dpo"}]}
    (line,) = client.post("/v1/customization/configs", json=body).json()["detail"]
    assert line["loc"] == ["body", "training_options", 0, "training_type"]


def test_deployments_hold_their_model(client: httpx.Client) -> None:
    body = {"name": "t", "num_parameters": 1, "precision": "fp32", "custom_fields": {"labels": LABELS}}
    client.post("/v1/customization/targets", json=body).raise_for_status()
    deployment = {"name": "d", "config": {"model": "default/t"}}
    made = client.post("/v1/deployment/model-deployments", json=deployment).json()
    assert (made["status_details"]["status"], made["deployed"]) == ("ready", True)
    assert client.post("/v1/deployment/model-deployments", json=deployment).status_code == 409
    assert client.delete("/v1/customization/targets/default/t").status_code == 409
    assert client.delete("/v1/deployment/model-deployments/default/d").status_code == 200
    assert client.delete("/v1/customization/targets/default/t").status_code == 200
    assert client.delete("/v1/customization/targets/local/minilm").status_code == 409


def test_the_command_says_what_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    labels = tmp_path / "labels.json"
    start = ["--data-dir", str(tmp_path / "data")]
    for text in ("[]", "{", '{"a": 1}'):
        labels.write_text(text)
        assert main([*start, "--labels", str(labels)]) == 2
        assert "labels.json" in capsys.readouterr().err
    labels.write_text(json.dumps(LABELS))
    assert main([*start, "--models", str(tmp_path)]) == 1
    assert "driftwheel models fetch" in capsys.readouterr().err
