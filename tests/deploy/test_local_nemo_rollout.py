from __future__ import annotations

import threading
from collections.abc import Generator
from typing import Any

import httpx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy.local_nemo.rollout import Copy, Said, Shadow, Turn, fraction
from deploy.local_nemo.settings import Settings
from deploy.local_nemo.wire import Problem
from tests.deploy.local_nemo_kit import LABELS, ask, serve, wait

GROUPS = "/v1/rollout/groups"
LIVE, CANDIDATE = "local/minilm", "acme/candidate"
ROW = np.zeros(2, np.float32)


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    return Settings(tmp_path_factory.mktemp("nemo"), labels=LABELS, pairs_kept=20)


@pytest.fixture(scope="module")
def client(settings: Settings) -> Generator[httpx.Client]:
    with serve(settings) as url, httpx.Client(base_url=url, timeout=30) as client:
        labels = {label: f"{label} and so on" for label in LABELS}
        body = {"name": "candidate", "namespace": "acme", "num_parameters": 1, "precision": "fp32"}
        client.post("/v1/customization/targets", json={**body, "custom_fields": {"labels": labels}}).raise_for_status()
        yield client


def put(client: httpx.Client, name: str, **fields: Any) -> dict[str, Any]:
    answer = client.put(f"{GROUPS}/{name}", json={"live": LIVE, "salt": "s", **fields})
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


@given(st.text(), st.text())
def test_a_fraction_is_a_fraction(salt: str, session: str) -> None:
    assert 0 <= fraction(salt, session) < 1


def test_share_and_stickiness_over_2000_sessions() -> None:
    for weight in (0.01, 0.2, 0.5):
        share = sum(fraction("salt", f"session-{i}") < weight for i in range(2000)) / 2000
        assert share == pytest.approx(weight, abs=4 * (weight * (1 - weight) / 2000) ** 0.5)
    other = sum(
        (fraction("salt", f"session-{i}") < 0.5) == (fraction("pepper", f"session-{i}") < 0.5) for i in range(2000)
    )
    assert other == pytest.approx(1000, abs=100), "another salt is another split"


def test_sessions_are_split_stick_and_are_counted(client: httpx.Client) -> None:
    def models() -> dict[int, str]:
        return {i: ask(client, "acme/split", "hi", metadata={"session_id": f"s{i}"})["model"] for i in range(120)}

    put(client, "acme/split", candidate=CANDIDATE, weight=0.3)
    first = models()
    assert first == models()
    assert first == {i: CANDIDATE if fraction("s", f"s{i}") < 0.3 else LIVE for i in range(120)}
    put(client, "acme/split", candidate=CANDIDATE, weight=0.6)
    second = models()
    assert {i for i in first if first[i] == CANDIDATE} < {i for i in second if second[i] == CANDIDATE}
    put(client, "acme/split", candidate=CANDIDATE, weight=0)
    assert set(models().values()) == {LIVE}
    counts = client.get(f"{GROUPS}/acme/split").json()["counts"]
    assert sum(counts.values()) == 4 * 120
    assert counts[CANDIDATE] == sum(m == CANDIDATE for part in (first, first, second) for m in part.values())


def test_where_the_session_may_stand(client: httpx.Client) -> None:
    put(client, "where", candidate=CANDIDATE, weight=0.5)
    name = next(f"s{i}" for i in range(99) if fraction("s", f"s{i}") < 0.5)
    body = {"model": "where", "messages": [{"role": "user", "content": "hi"}]}
    for more, headers in (({"user": name}, {}), ({}, {"x-session-id": name}), ({"metadata": {"session_id": name}}, {})):
        for _ in range(5):
            answer = client.post("/v1/chat/completions", json={**body, **more}, headers=headers)
            assert answer.json()["model"] == CANDIDATE
    seen = {client.post("/v1/chat/completions", json=body).json()["model"] for _ in range(40)}
    assert seen == {LIVE, CANDIDATE}, "without a session every request is its own"


def test_shadow_pairs(client: httpx.Client) -> None:
    put(client, "shadow", candidate=CANDIDATE, shadow=True)
    said = ask(client, "shadow", "lost luggage", logprobs=True, metadata={"session_id": "s", "turn_id": "t1"})
    assert said["model"] == LIVE
    (pair,) = wait(lambda: client.get(f"{GROUPS}/shadow/pairs").json()["data"])
    direct = ask(client, CANDIDATE, "lost luggage", logprobs=True)["choices"][0]
    assert pair["request_id"] == said["id"]
    assert (pair["session_id"], pair["turn_id"]) == ("s", "t1")
    assert pair["live"] == {
        "model": LIVE,
        "answer": said["choices"][0]["message"]["content"],
        "logprob": said["choices"][0]["logprobs"]["content"][0]["logprob"],
    }
    assert pair["shadow"]["answer"] == direct["message"]["content"]
    assert pair["shadow"]["logprob"] == pytest.approx(direct["logprobs"]["content"][0]["logprob"])
    put(client, "shadow", candidate=CANDIDATE, shadow=False)
    ask(client, "shadow", "lost luggage")
    assert client.get(f"{GROUPS}/shadow").json()["shadow_counts"]["queued"] == 1


def test_pairs_are_paged_by_growing_ids_and_bounded(client: httpx.Client) -> None:
    put(client, "pages", candidate=CANDIDATE, shadow=True)
    for i in range(30):
        ask(client, "pages", f"text {i}", metadata={"turn_id": str(i)})
    wait(lambda: client.get(f"{GROUPS}/pages").json()["shadow_counts"]["answered"] == 30)
    first = client.get(f"{GROUPS}/pages/pairs", params={"limit": 7}).json()
    rest = client.get(f"{GROUPS}/pages/pairs", params={"after": first["next_after"], "limit": 1000}).json()
    turns = [pair["turn_id"] for pair in first["data"] + rest["data"]]
    assert turns == [str(i) for i in range(10, 30)], "the newest 20 are kept"
    ids = [pair["id"] for pair in first["data"] + rest["data"]]
    assert ids == sorted(set(ids))
    none = client.get(f"{GROUPS}/pages/pairs", params={"after": rest["next_after"]}).json()
    assert (none["data"], none["next_after"]) == ([], rest["next_after"])
    client.delete(f"{GROUPS}/pages").raise_for_status()
    put(client, "pages", candidate=CANDIDATE, shadow=True)
    assert client.get(f"{GROUPS}/pages/pairs").json()["data"] == []


def copy(i: int) -> Copy:
    return Copy("g", Turn(f"r{i}", None, None), "live", ("a", -0.1), "candidate", ROW)


def test_a_shadow_that_hangs_never_holds_up_the_live_answer() -> None:
    gate, written = threading.Event(), list[str]()

    def ask_slowly(_: str, __: Any) -> Said:
        gate.wait(10)
        return "b", -0.2

    shadow = Shadow(ask_slowly, lambda c, said: written.append(c.turn.request_id + said[0]), 3)
    shadow.start()
    shadow.offer(copy(0))
    wait(shadow._queue.empty)  # the first is now being answered
    assert [shadow.offer(copy(i)) for i in range(1, 6)] == [True, True, True, False, False]
    assert written == []
    gate.set()
    shadow.stop()
    assert written == ["r0b", "r1b", "r2b", "r3b"]
    assert shadow.counts["g"] == {"queued": 4, "dropped": 2, "answered": 4}


def test_a_candidate_that_fails_is_counted() -> None:
    def fail(_: str, __: Any) -> Said:
        raise Problem(404, "gone")

    shadow = Shadow(fail, lambda _c, _s: None, 3)
    shadow.start()
    shadow.offer(copy(0))
    shadow.stop()
    assert shadow.counts["g"] == {"queued": 1, "failed": 1}


@pytest.mark.parametrize(
    ("name", "fields", "status"),
    [
        ("g", {"live": "acme/none"}, 404),
        ("g", {"candidate": "acme/none"}, 404),
        ("g", {"weight": 0.1}, 422),
        ("g", {"shadow": True}, 422),
        ("g", {"candidate": CANDIDATE, "weight": 1.1}, 422),
        ("g", {"candidate": CANDIDATE, "weight": -0.1}, 422),
        (LIVE, {}, 409),
        ("a/b/c", {}, 422),
        ("a/pairs", {}, 422),
        ("sp ace", {}, 422),
    ],
)
def test_wrong_groups(client: httpx.Client, name: str, fields: dict[str, Any], status: int) -> None:
    assert client.put(f"{GROUPS}/{name}", json={"live": LIVE, **fields}).status_code == status


def test_groups_and_pairs_survive_a_restart(settings: Settings) -> None:
    folder = settings.data_dir / "second"
    with serve(Settings(folder, labels=LABELS)) as url, httpx.Client(base_url=url) as client:
        body = {"name": "b", "num_parameters": 1, "precision": "fp32", "custom_fields": {"labels": LABELS}}
        client.post("/v1/customization/targets", json=body).raise_for_status()
        put(client, "kept", candidate="default/b", shadow=True)
        ask(client, "kept", "hi")
    with serve(Settings(folder, labels=LABELS)) as url, httpx.Client(base_url=url) as client:
        (before,) = client.get(f"{GROUPS}/kept/pairs").json()["data"]
        ask(client, "kept", "hi")
        wait(lambda: client.get(f"{GROUPS}/kept/pairs", params={"after": before["id"]}).json()["data"])
        assert [group["name"] for group in client.get(GROUPS).json()["data"]] == ["kept"]
        assert client.delete(f"{GROUPS}/kept").status_code == 200
        assert client.get(f"{GROUPS}/kept").status_code == 404
        assert client.get(f"{GROUPS}/kept/pairs").status_code == 404
