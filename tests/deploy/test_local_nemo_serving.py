from __future__ import annotations

import asyncio
import math
import threading
from collections.abc import Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray

from deploy.local_nemo.serving import Batcher
from deploy.local_nemo.settings import Settings
from tests.deploy.local_nemo_kit import LABELS, ask, dataset, serve, toy, train
from tests.models import minilm_folder

CHAT = "/v1/chat/completions"


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    return Settings(tmp_path_factory.mktemp("nemo"), labels=LABELS)


@pytest.fixture(scope="module")
def client(settings: Settings) -> Generator[httpx.Client]:
    with serve(settings) as url, httpx.Client(base_url=url, timeout=30) as client:
        dataset(client, "toy", toy(90, 1))
        train(client, "toy", "acme/toy@1", epochs=4)
        yield client


def test_logprobs_are_the_whole_distribution(client: httpx.Client) -> None:
    (choice,) = ask(client, "acme/toy@1", "lost luggage", logprobs=True, top_logprobs=20)["choices"]
    (token,) = choice["logprobs"]["content"]
    top = [entry["logprob"] for entry in token["top_logprobs"]]
    assert sum(map(math.exp, top)) == pytest.approx(1)
    assert top == sorted(top, reverse=True)
    assert choice["message"]["content"] == token["token"] == token["top_logprobs"][0]["token"] == "travel"
    assert bytes(token["bytes"]).decode() == "travel"
    assert ask(client, "acme/toy@1", "lost luggage")["choices"][0]["logprobs"] is None


def test_only_the_last_user_message_counts(client: httpx.Client) -> None:
    messages = [
        {"role": "system", "content": "Route to one of the teams."},
        {"role": "user", "content": "recipe for soup"},
        {"role": "assistant", "content": "kitchen"},
        {"role": "user", "content": [{"type": "text", "text": "freeze my"}, {"type": "text", "text": "card"}]},
    ]
    answer = client.post(CHAT, json={"model": "acme/toy@1", "messages": messages}).json()
    assert answer["choices"][0]["message"]["content"] == "banking"


def test_many_at_once_get_their_own_answers(client: httpx.Client) -> None:
    pairs = toy(60, 5)
    with ThreadPoolExecutor(8) as pool:
        answers = pool.map(lambda pair: ask(client, "acme/toy@1", pair[0]), pairs)
        said = [answer["choices"][0]["message"]["content"] for answer in answers]
    assert said == [ask(client, "acme/toy@1", text)["choices"][0]["message"]["content"] for text, _ in pairs]


@pytest.mark.parametrize(
    ("change", "status", "word"),
    [
        ({"model": "acme/none"}, 404, "Model acme/none not found"),
        ({"messages": []}, 422, "messages"),
        ({"messages": [{"role": "assistant", "content": "hi"}]}, 422, "role user"),
        ({"stream": True}, 422, "stream"),
        ({"n": 2}, 422, '"n"'),
        ({"top_logprobs": -1}, 422, "top_logprobs"),
        ({"model": None}, 422, "model"),
    ],
)
def test_what_is_wrong_is_said_and_not_quoted(client: httpx.Client, change: Any, status: int, word: str) -> None:
    body = {"model": "acme/toy@1", "messages": [{"role": "user", "content": "my secret"}], **change}
    answer = client.post(CHAT, json=body)
    assert answer.status_code == status
    assert word in answer.text
    assert "secret" not in answer.text


def test_odd_text_is_answered(client: httpx.Client) -> None:
    for body in (b'""', b'"\\ud800"', b'"\\u0000"'):
        content = b'{"model": "acme/toy@1", "messages": [{"role": "user", "content": ' + body + b"}]}"
        assert client.post(CHAT, content=content).status_code in {200, 422}


def test_models_are_listed_for_both_kinds_of_client(client: httpx.Client) -> None:
    listed = {model["id"]: model for model in client.get("/v1/models").json()["data"]}
    assert {"local/minilm", "acme/toy@1"} <= set(listed)
    assert listed["acme/toy@1"]["base_model"] == "local/minilm"
    assert client.get("/v1/models/acme/none").status_code == 404


def test_deleting_a_model(client: httpx.Client, settings: Settings) -> None:
    train(client, "toy", "acme/brief@1", epochs=1)
    files = set((settings.data_dir / "models").iterdir())
    client.put("/v1/rollout/groups/router", json={"live": "acme/brief@1"}).raise_for_status()
    assert "in use by router" in client.delete("/v1/models/acme/brief@1").json()["detail"]
    client.delete("/v1/rollout/groups/router").raise_for_status()
    assert client.delete("/v1/models/acme/brief@1").status_code == 200
    assert len(files - set((settings.data_dir / "models").iterdir())) == 1
    assert client.delete("/v1/models/acme/brief@1").status_code == 404
    assert client.delete("/v1/models/local/minilm").status_code == 404, "a base model is a target: delete that"


def test_a_target_without_labels_says_so_and_new_labels_count_at_once(client: httpx.Client) -> None:
    body = {"name": "bare", "namespace": "acme", "num_parameters": 1, "precision": "fp32"}
    client.post("/v1/customization/targets", json=body).raise_for_status()
    answer = client.post(CHAT, json={"model": "acme/bare", "messages": [{"role": "user", "content": "x"}]})
    assert (answer.status_code, "custom_fields.labels" in answer.text) == (422, True)
    for label in ("one", "two"):
        change = {"custom_fields": {"labels": {label: "something"}}}
        client.patch("/v1/customization/targets/acme/bare", json=change).raise_for_status()
        assert ask(client, "acme/bare", "x")["choices"][0]["message"]["content"] == label
    bad = client.patch("/v1/customization/targets/acme/bare", json={"custom_fields": {"labels": {"one": 1}}})
    assert bad.status_code == 422


def test_a_model_is_not_served_on_vectors_it_was_not_trained_on(client: httpx.Client, settings: Settings) -> None:
    folder = minilm_folder()
    copy = settings.data_dir.parent / f"{settings.data_dir.name}-copy"
    copy.mkdir()
    for name in ("local_nemo.sqlite", "local_nemo.sqlite-wal"):
        (copy / name).write_bytes((settings.data_dir / name).read_bytes())
    (settings.data_dir / "models").rename(copy / "models")
    (copy / "models").rename(settings.data_dir / "models")
    (copy / "models").mkdir()
    for path in (settings.data_dir / "models").iterdir():
        (copy / "models" / path.name).write_bytes(path.read_bytes())
    with serve(replace(settings, data_dir=copy, model_folder=folder)) as url:
        body = {"model": "acme/toy@1", "messages": [{"role": "user", "content": "x"}]}
        answer = httpx.post(url + CHAT, json=body)
    assert (answer.status_code, "train it again" in answer.text) == (409, True)


def test_nothing_of_a_request_is_on_disk_or_in_the_log(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    secret = "my name is Ottoline Quibblewick"
    with serve(Settings(tmp_path, labels=LABELS)) as url, httpx.Client(base_url=url) as client:
        target = {"name": "b", "num_parameters": 1, "precision": "fp32", "custom_fields": {"labels": LABELS}}
        client.post("/v1/customization/targets", json=target).raise_for_status()
        group = {"live": "local/minilm", "candidate": "default/b", "shadow": True}
        client.put("/v1/rollout/groups/router", json=group).raise_for_status()
        ask(client, "router", secret, metadata={"session_id": "s-1"})
        client.post(CHAT, content=b'{"messages": "' + secret.encode() + b'"')
    for path in tmp_path.rglob("*"):
        assert path.is_dir() or b"Quibblewick" not in path.read_bytes(), path
    assert "Quibblewick" not in "".join(capfd.readouterr())


def test_what_waits_together_is_embedded_together() -> None:
    asked: list[int] = []
    gate = threading.Event()

    class Slow:
        name, dimension = "slow", 1

        def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
            asked.append(len(texts))
            gate.wait(5)
            return np.array([[len(text)] for text in texts], np.float32)

    async def run() -> list[float]:
        batcher = Batcher(Slow())
        first = asyncio.create_task(batcher.embed("x"))
        while not asked:
            await asyncio.sleep(0)
        rest = [asyncio.create_task(batcher.embed("x" * i)) for i in range(40)]
        await asyncio.sleep(0)
        gate.set()
        return [float(row[0]) for row in await asyncio.gather(first, *rest)]

    assert asyncio.run(run()) == [1, *range(40)]
    assert asked == [1, 32, 8]
