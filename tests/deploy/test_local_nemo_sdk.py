"""The whole loop, driven by NVIDIA's own SDK with strict validation of every answer, on real sentences."""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Generator
from pathlib import Path
from typing import Any

import httpx
import pytest
from nemo_microservices import ConflictError, NeMoMicroservices, NotFoundError, UnprocessableEntityError

from deploy.local_nemo.settings import Settings
from tests.deploy.local_nemo_kit import DONE, Pair, accuracy, ask, dataset, evaluation, serve, train, wait
from tests.models import minilm_folder

DESCRIPTIONS = {
    "auto_and_commute": "driving, directions, traffic, car maintenance, gas",
    "banking": "bank accounts, transfers, balances, bills",
    "credit_cards": "credit cards, limits, rewards, credit score",
    "home": "smart home, shopping lists, reminders, calendar, music",
    "kitchen_and_dining": "cooking, recipes, restaurants, calories",
    "meta": "settings of this device, language, names, cancel, repeat",
    "small_talk": "chat about the assistant itself, jokes, greetings",
    "travel": "flights, hotels, luggage, visas, translation",
    "utility": "time, weather, alarms, calculator, definitions",
    "work": "payday, time off, meetings, insurance, taxes",
}


@pytest.fixture(scope="module")
def clinc(shared_data: Path) -> dict[str, list[Pair]]:
    """340 training and 200 test sentences of ten domains, in the published split."""
    with gzip.open(shared_data / "intent_clinc150" / "clinc150.jsonl.gz", "rt") as lines:
        rows = [row for row in map(json.loads, lines) if row["domain"]]
    out: dict[str, list[Pair]] = {}
    for split, count in (("train", 340), ("test", 200)):
        mine = [(row["text"], row["domain"]) for row in rows if row["split"] == split]
        out[split] = random.Random(7).sample(mine, count)
    return out


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Generator[str]:
    settings = Settings(tmp_path_factory.mktemp("nemo"), minilm_folder(), labels=DESCRIPTIONS)
    with serve(settings) as address:
        yield address


@pytest.fixture(scope="module")
def client(url: str, clinc: dict[str, list[Pair]]) -> Generator[httpx.Client]:
    with httpx.Client(base_url=url, timeout=60) as client:
        dataset(client, "clinc", clinc["train"][:300], clinc["test"], clinc["train"][300:])
        yield client


@pytest.fixture(scope="module")
def sdk(url: str) -> Generator[NeMoMicroservices]:
    with NeMoMicroservices(
        base_url=url, inference_base_url=url, _strict_response_validation=True, max_retries=0
    ) as client:
        yield client


def evaluate(sdk: NeMoMicroservices, model: str) -> Any:
    body: Any = evaluation(model, "clinc")
    job = sdk.evaluation.jobs.create(**body)
    wait(lambda: sdk.evaluation.jobs.retrieve(job.id or "").status in DONE)
    assert sdk.evaluation.jobs.status(job.id or "").progress == 100
    result = sdk.evaluation.jobs.results(job.id or "")
    assert result.tasks
    lines = sdk.evaluation.jobs.download_results(job.id or "").read().splitlines()
    return result.tasks["route"].metrics["accuracy"].scores["accuracy"], [json.loads(line) for line in lines]


def test_the_whole_loop(sdk: NeMoMicroservices, client: httpx.Client, clinc: dict[str, list[Pair]]) -> None:
    assert sdk.namespaces.create(id="acme").id == "acme"
    target = sdk.customization.targets.create(
        name="router", namespace="acme", num_parameters=1, precision="fp32", enabled=True,
        custom_fields={"labels": DESCRIPTIONS},
    )  # fmt: skip
    assert target.status == "ready"
    config = sdk.customization.configs.create(
        name="router", namespace="acme", target="acme/router", max_seq_length=128,
        training_options=[{"training_type": "sft", "finetuning_type": "lora", "num_gpus": 0, "micro_batch_size": 1}],
    )  # fmt: skip
    assert config.target == "acme/router"
    base, base_lines = evaluate(sdk, "acme/router")
    job = sdk.customization.jobs.create(
        config="acme/router", dataset={"name": "clinc", "namespace": "acme"}, output_model="acme/router@v1",
        hyperparameters={"training_type": "sft", "finetuning_type": "lora", "epochs": 12, "batch_size": 16, "seed": 3},
    )  # fmt: skip
    wait(lambda: sdk.customization.jobs.status(job.id or "").status in DONE)
    status = sdk.customization.jobs.status(job.id or "")
    assert (status.status, status.epochs_completed, status.steps_per_epoch) == ("completed", 12, 19)
    assert status.steps_completed == 12 * 19
    tuned, tuned_lines = evaluate(sdk, "acme/router@v1")
    assert tuned.stats.count == 200
    assert tuned.value > 0.78
    assert tuned.value > base.value + 0.1
    assert [line["item_sha256"] for line in base_lines] == [line["item_sha256"] for line in tuned_lines]
    assert sum(line["scores"]["accuracy"] for line in tuned_lines) == tuned.stats.sum
    by_chat = [ask(client, "acme/router@v1", text)["choices"][0]["message"]["content"] for text, _ in clinc["test"]]
    assert by_chat == [line["output"] for line in tuned_lines]
    assert tuned.value == pytest.approx(sum(a == b for a, (_, b) in zip(by_chat, clinc["test"], strict=True)) / 200)
    said = sdk.chat.completions.create(
        model="acme/router@v1", messages=[{"role": "user", "content": "where is my suitcase"}],
        logprobs=True, top_logprobs=3, max_tokens=8,
    )  # fmt: skip
    (token,) = said.choices[0].logprobs.content  # type: ignore[union-attr]  # asked for, so it is there
    assert said.choices[0].message.content == token.token == "travel"
    assert len(token.top_logprobs or []) == 3
    deployment = sdk.deployment.model_deployments.create(
        name="router", namespace="acme",
        config={"model": "acme/router@v1", "nim_deployment": {"gpu": 0, "image_name": "local", "image_tag": "0"}},
    )  # fmt: skip
    assert (deployment.status_details.status, deployment.deployed) == ("ready", True)
    assert sdk.deployment.model_deployments.retrieve(deployment_name="router", namespace="acme").url
    assert "acme/router@v1" in {m.id for m in sdk.inference.models.list().data}
    assert "router@v1" in {m.name for m in sdk.models.list().data}
    assert sdk.models.retrieve("router@v1", namespace="acme").base_model == "acme/router"
    assert client.delete("/v1/models/acme/router@v1").status_code == 409, "a deployment uses it"
    with pytest.raises(ConflictError):
        sdk.namespaces.create(id="acme")


def test_errors_are_the_sdk_s_own(sdk: NeMoMicroservices, client: httpx.Client) -> None:
    with pytest.raises(NotFoundError):
        sdk.customization.jobs.retrieve("nope")
    for training, tuning, field in (
        ("dpo", "lora", "training_type"), ("grpo", "lora", "training_type"),
        ("distillation", "lora", "training_type"), ("sft", "all_weights", "finetuning_type"),
    ):  # fmt: skip
        kind: Any = {"training_type": training, "finetuning_type": tuning}
        with pytest.raises(UnprocessableEntityError) as refused:
            sdk.customization.jobs.create(config="local/minilm", dataset="acme/clinc", hyperparameters=kind)
        assert refused.value.body["detail"][0]["loc"] == ["body", "hyperparameters", field]  # type: ignore[index]  # JSON
    listed = sdk.datasets.list(page_size=5)
    assert [d.name for d in listed.data] == ["clinc"]
    assert sdk.datasets.update("clinc", namespace="acme", description="ten domains").description == "ten domains"


def test_controls(client: httpx.Client, clinc: dict[str, list[Pair]]) -> None:
    """Shuffled labels teach nothing, no epochs change nothing, and all of it is reproducible."""
    texts, labels = zip(*clinc["train"], strict=True)
    mixed = random.Random(1).sample(labels, len(labels))
    dataset(client, "shuffled", list(zip(texts, mixed, strict=True)), clinc["test"])
    base = accuracy(client, "local/minilm", "clinc")
    train(client, "clinc", "acme/zero@1", epochs=0)
    assert accuracy(client, "acme/zero@1", "clinc") == base
    tuned = train(client, "clinc", "acme/tuned@1", seed=1)
    again = train(client, "clinc", "acme/tuned@2", seed=1)
    other = train(client, "clinc", "acme/tuned@3", seed=2)
    assert tuned["custom_fields"]["sha256"] == again["custom_fields"]["sha256"] != other["custom_fields"]["sha256"]
    train(client, "shuffled", "acme/shuffled@1")
    noise = accuracy(client, "acme/shuffled@1", "clinc")
    assert noise < base + 0.11  # three standard errors at n = 200
    assert accuracy(client, "acme/tuned@1", "clinc") > noise + 0.4
