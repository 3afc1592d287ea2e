"""One contract, two implementations: the twin in memory, and the REST dialect against the local NeMo."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import httpx
import pytest

from connectors.nemo.memory import MemoryNemo
from connectors.nemo.microservices import Microservices, read_results
from connectors.nemo.port import NemoPort, RemoteStatus, Split, Training, remote_state
from deploy.local_nemo.settings import Settings
from schemas.errors import Refused, Retry
from tests.deploy.local_nemo_kit import LABELS, jsonl, serve, toy

FILES = {
    "training/train.jsonl": jsonl(toy(90, 1)),
    "validation/validation.jsonl": jsonl(toy(20, 2)),
    "testing/test.jsonl": jsonl(toy(40, 3)),
}


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Generator[str]:
    with serve(Settings(tmp_path_factory.mktemp("nemo"), lfs_threshold=4000)) as address:
        yield address


@pytest.fixture(scope="module", params=["memory", "microservices"])
def port(request: pytest.FixtureRequest, url: str) -> Generator[NemoPort]:
    if request.param == "memory":
        yield MemoryNemo("acme")
        return
    nemo = Microservices(url, "acme", timeout=30)
    yield nemo
    nemo.close()


@pytest.fixture(scope="module")
def training(port: NemoPort) -> Training:
    port.ensure_namespace()
    port.ensure_namespace()
    port.upload_dataset("toys", FILES)
    port.upload_dataset("toys", FILES)
    port.register_dataset("toys")
    port.register_dataset("toys")
    return Training("toys-1", "toys", port.ensure_base(list(LABELS)), "acme/toys@1", {"epochs": 6})


@pytest.fixture(scope="module")
def trained(port: NemoPort, training: Training) -> str:
    job = port.create_training(training)
    assert ended(lambda: port.training_status(job)).state == "succeeded"
    assert port.training_status(job).progress == 1.0
    return job


def ended(look: Callable[[], RemoteStatus]) -> RemoteStatus:
    for _ in range(600):
        status = look()
        if status.ended:
            return status
        time.sleep(0.05)
    raise AssertionError(f"not ended: {status}")


def test_files_come_back_as_they_went(port: NemoPort, training: Training) -> None:
    for path, content in FILES.items():
        assert port.download("toys", path) == content
    assert port.download("toys", "training/other.jsonl") == b""
    assert port.download("nothing", "training/train.jsonl") == b""


def test_a_training_is_made_once(port: NemoPort, training: Training, trained: str) -> None:
    assert port.create_training(training) == trained
    other = Training(training.name, training.dataset, training.base, "acme/toys@2", {})
    with pytest.raises(Refused, match=r"toys-1 exists and trains acme/toys@1"):
        port.create_training(other)
    assert "acme/toys@1" in port.list_models()


def test_what_is_not_there_is_refused(port: NemoPort, training: Training) -> None:
    with pytest.raises(Refused):
        port.create_training(Training("x", "no-such-data", training.base, "acme/x@1", {}))
    with pytest.raises(Refused):
        port.create_training(Training("y", "toys", "acme/no-such-config", "acme/y@1", {}))
    with pytest.raises(Refused):
        port.training_status("no-such-job")


def test_every_row_is_evaluated_in_order(port: NemoPort, trained: str) -> None:
    assert port.ensure_deployed("acme/toys@1")
    job = port.create_evaluation("one", "acme/toys@1", "toys", "testing/test.jsonl")
    assert ended(lambda: port.evaluation_status(job)).state == "succeeded"
    rows = port.evaluation_rows(job)
    assert [row.index for row in rows] == list(range(40))
    assert [row.expected for row in rows] == [label for _, label in toy(40, 3)]
    assert sum(row.answer == row.expected for row in rows) >= 36


def test_traffic_is_as_told(port: NemoPort, trained: str) -> None:
    assert port.observe("desk") is None
    for split in (Split("acme/toys@1"), Split("acme/toys@1", "acme/toys@1", 0.25), Split("acme/toys@1")):
        port.apply("desk", split)
        assert port.observe("desk") == split
    with pytest.raises(Refused, match="no-such-model"):
        port.apply("desk", Split("acme/no-such-model"))
    assert port.observe("desk") == Split("acme/toys@1")


def test_shadow_pairs_have_ids_and_both_answers(port: NemoPort, trained: str, url: str) -> None:
    port.apply("desk-2", Split("acme/toys@1", "acme/toys@1", 0.0, shadow=True))
    asked = [(f"s{i}", f"t{i}.r{i}", text) for i, (text, _) in enumerate(toy(5, 9))]
    said = [say(port, url, *one) for one in asked]
    deadline = time.monotonic() + 10
    while len(found := port.pairs("desk-2", 0)) < 5 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert [(p.session_id, p.turn_id) for p in found] == [one[:2] for one in asked]
    assert [p.live_answer for p in found] == said == [p.shadow_answer for p in found]
    assert {(p.live, p.shadow) for p in found} == {("acme/toys@1", "acme/toys@1")}
    assert port.pairs("desk-2", found[1].number, 2) == found[2:4]
    assert port.pairs("desk-2", found[-1].number) == []


def say(port: NemoPort, url: str, session: str, turn: str, text: str) -> str:
    if isinstance(port, MemoryNemo):
        return port.ask("desk-2", session, turn, text)
    body = {"model": "desk-2", "messages": [{"role": "user", "content": text}]}
    body["metadata"] = {"session_id": session, "turn_id": turn}
    return str(httpx.post(f"{url}/v1/chat/completions", json=body).json()["choices"][0]["message"]["content"])


def test_a_training_that_cannot_be_says_why(port: NemoPort, training: Training) -> None:
    port.upload_dataset("empty", {"testing/test.jsonl": FILES["testing/test.jsonl"]})
    port.register_dataset("empty")
    job = port.create_training(Training("empty-1", "empty", training.base, "acme/empty@1", {}))
    status = ended(lambda: port.training_status(job))
    assert status.state == "failed"
    assert "training" in status.message


def test_states_of_tomorrow_are_unknown() -> None:
    assert remote_state("ACTIVE") == "running"
    assert [remote_state(word) for word in ("hibernating", None, 7)] == ["unknown"] * 3


def answering(handler: Callable[[httpx.Request], httpx.Response], monkeypatch: pytest.MonkeyPatch) -> Microservices:
    """The dialect against a server that answers what ``handler`` says."""
    nemo = Microservices("http://nemo.invalid", "acme", token="t0ken")
    for wire in (nemo._nemo, nemo._nim, nemo._store):
        wire._client = httpx.Client(
            base_url=wire.url, headers=wire._client.headers, transport=httpx.MockTransport(handler)
        )
    return nemo


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503])
def test_a_busy_server_means_retry(status: int, monkeypatch: pytest.MonkeyPatch) -> None:
    nemo = answering(lambda _: httpx.Response(status, text="try later"), monkeypatch)
    with pytest.raises(Retry, match="try later"):
        nemo.training_status("j1")


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"detail": "Job j1 not found"}, "Job j1 not found"),
        ({"detail": [{"loc": ["body", "name"], "msg": "Field required"}]}, "body.name: Field required"),
        (["odd"], "odd"),
    ],
)
def test_a_no_carries_the_servers_words(body: Any, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    nemo = answering(lambda _: httpx.Response(422, json=body), monkeypatch)
    with pytest.raises(Refused, match=said):
        nemo.training_status("j1")


def test_no_server_means_retry() -> None:
    nemo = Microservices("http://127.0.0.1:9", "acme", timeout=1)
    with pytest.raises(Retry, match="ConnectError"):
        nemo.list_models()
    nemo.close()


def test_a_page_that_is_not_nemo_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    nemo = answering(lambda _: httpx.Response(200, text="<html>hello</html>"), monkeypatch)
    with pytest.raises(Refused, match="is this NeMo's address"):
        nemo.training_status("j1")


def test_status_of_a_broken_job_is_its_last_words(monkeypatch: pytest.MonkeyPatch) -> None:
    body = {"status": "failed", "percentage_done": 40, "status_logs": [{"message": "NotEnoughResources", "detail": ""}]}
    nemo = answering(lambda _: httpx.Response(200, json=body), monkeypatch)
    assert nemo.training_status("j1") == RemoteStatus("failed", 0.4, "NotEnoughResources")


def test_a_token_goes_with_every_call(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []

    def handler(request: httpx.Request) -> httpx.Response:
        seen.append(request.headers.get("authorization", ""))
        return httpx.Response(200, json={"data": []})

    nemo = answering(handler, monkeypatch)
    nemo.list_models()
    nemo.ensure_namespace()
    assert seen == ["Bearer t0ken"] * 3


def test_a_deployment_that_exists_is_fine_also_as_a_500(monkeypatch: pytest.MonkeyPatch) -> None:
    def handler(request: httpx.Request) -> httpx.Response:
        if request.method == "GET":
            return httpx.Response(200, json={"data": []})
        return httpx.Response(500, json={"detail": "model deployment already exists"})

    assert answering(handler, monkeypatch).ensure_deployed("acme/x@1") is False


def test_results_come_as_lines_or_as_an_archive(tmp_path: Path) -> None:
    import io
    import zipfile

    lines = b"\n".join(json.dumps({"index": i, "expected": "a", "output": "b"}).encode() for i in range(3))
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("job/results.jsonl", lines)
        archive.writestr("job/log.txt", "nothing")
    assert read_results(out.getvalue()) == read_results(lines)
    assert [row.index for row in read_results(lines)] == [0, 1, 2]
