from __future__ import annotations

import hashlib
import io
from collections.abc import Generator
from pathlib import Path

import httpx
import pytest

from deploy.local_nemo.settings import Settings
from tests.deploy.local_nemo_kit import commit, send_lfs, serve, upload

SMALL, LARGE = b'{"a": 1}\n', b'{"b": "' + b"x" * 3000 + b'"}\n'
FILES = {"training/a.jsonl": SMALL, "testing/b.jsonl": LARGE}
API = "/v1/hf/api/datasets/acme"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("nemo")


@pytest.fixture(scope="module")
def client(folder: Path) -> Generator[httpx.Client]:
    with serve(Settings(folder, lfs_threshold=1000)) as url, httpx.Client(base_url=url) as client:
        yield client


def blobs(folder: Path) -> set[str]:
    return {path.name for path in (folder / "blobs").iterdir()}


def sha(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


def test_upload_list_and_read_back(client: httpx.Client) -> None:
    answer = upload(client, "both", FILES)
    assert answer.json()["success"]
    info = client.get(f"{API}/both").json()
    assert {line["rfilename"] for line in info["siblings"]} == set(FILES)
    assert info["sha"] == answer.json()["commitOid"]
    tree = client.get(f"{API}/both/tree/main/testing").json()
    assert tree == [{"type": "file", "path": "testing/b.jsonl", "oid": sha(LARGE), "size": len(LARGE)}]
    for path, body in FILES.items():
        assert client.get(f"/v1/hf/datasets/acme/both/resolve/main/{path}").content == body


def test_equal_files_have_an_equal_revision(client: httpx.Client) -> None:
    assert upload(client, "one", FILES).json()["commitOid"] == upload(client, "two", FILES).json()["commitOid"]


def test_the_hub_client_itself(client: httpx.Client, tmp_path: Path) -> None:
    hub = pytest.importorskip("huggingface_hub")
    api = hub.HfApi(endpoint=f"{client.base_url}/v1/hf", token="nothing")
    api.create_repo("acme/hub", repo_type="dataset")
    for path, body in FILES.items():
        api.upload_file(path_or_fileobj=io.BytesIO(body), path_in_repo=path, repo_id="acme/hub", repo_type="dataset")
    assert set(api.list_repo_files("acme/hub", repo_type="dataset")) == set(FILES)
    got = api.hf_hub_download("acme/hub", "testing/b.jsonl", repo_type="dataset", cache_dir=tmp_path)
    assert Path(got).read_bytes() == LARGE
    api.delete_repo("acme/hub", repo_type="dataset")
    assert client.get(f"{API}/hub").status_code == 404


def test_an_upload_must_hash_to_what_was_announced(client: httpx.Client, folder: Path) -> None:
    upload(client, "hash", {})
    oid = sha(b"announced")
    batch = {"operation": "upload", "objects": [{"oid": oid, "size": 9}]}
    answer = client.post("/v1/hf/datasets/acme/hash.git/info/lfs/objects/batch", json=batch).json()
    href = answer["objects"][0]["actions"]["upload"]["href"]
    assert httpx.put(href, content=b"ANNOUNCED").status_code == 400
    assert httpx.put(href, content=b"announced and more").status_code == 413
    assert httpx.put(href.replace("size=9", "size=99"), content=b"announced").status_code == 403
    assert httpx.put(href.partition("?")[0], content=b"announced").status_code == 403
    assert oid not in blobs(folder)
    line = {"key": "lfsFile", "value": {"path": "x.jsonl", "algo": "sha256", "oid": oid, "size": 9}}
    assert commit(client, "hash", [line]).status_code == 422
    assert httpx.put(href, content=b"announced").status_code == 200
    assert commit(client, "hash", [line]).status_code == 200
    assert send_lfs(client, "hash", b"announced") == oid, "what is here needs no second upload"


def test_deleting_the_last_name_deletes_the_content(client: httpx.Client, folder: Path) -> None:
    body = b'{"only": "here"}\n'
    upload(client, "gone", {"training/a.jsonl": body, "training/b.jsonl": body})
    commit(client, "gone", [{"key": "deletedFile", "value": {"path": "training/a.jsonl"}}])
    assert sha(body) in blobs(folder)
    repo = {"name": "gone", "organization": "acme", "type": "dataset"}
    assert client.request("DELETE", "/v1/hf/api/repos/delete", json=repo).status_code == 200
    assert sha(body) not in blobs(folder)
    assert client.request("DELETE", "/v1/hf/api/repos/delete", json=repo).status_code == 404


@pytest.mark.parametrize("path", ["../x.jsonl", "/etc/x", "a/../../b", "", "x" * 600])
def test_paths_stay_inside(client: httpx.Client, path: str) -> None:
    upload(client, "paths", {})
    assert commit(client, "paths", [{"key": "file", "value": {"path": path, "content": ""}}]).status_code == 422


def test_bad_commits_change_nothing(client: httpx.Client) -> None:
    upload(client, "bad", {"training/a.jsonl": SMALL})
    good = {"key": "file", "value": {"path": "b.jsonl", "content": ""}}
    for line in (
        {"key": "file", "value": {"path": "c.jsonl", "content": "***"}},
        {"key": "file", "value": {"path": "c.jsonl"}},
        {"key": "file", "value": {}},
        {"key": "rename", "value": {"path": "c.jsonl"}},
    ):
        assert commit(client, "bad", [good, line]).status_code == 422
    siblings = client.get(f"{API}/bad").json()["siblings"]
    assert siblings == [{"rfilename": "training/a.jsonl"}]


def test_names_that_exist_or_do_not(client: httpx.Client) -> None:
    for status in (201, 409):
        assert client.post("/v1/datastore/namespaces", data={"namespace": "acme"}).status_code == status
    assert client.post("/v1/datastore/namespaces").status_code == 422
    repo = {"name": "twice", "organization": "acme", "type": "dataset"}
    assert client.post("/v1/hf/api/repos/create", json=repo).json()["id"] == "acme/twice"
    assert client.post("/v1/hf/api/repos/create", json=repo).status_code == 409
    assert client.post("/v1/hf/api/repos/create", json={**repo, "type": "model"}).status_code == 422
    for path in (f"{API}/none", f"{API}/none/tree/main", "/v1/hf/datasets/acme/twice/resolve/main/x"):
        assert client.get(path).status_code == 404
    assert client.post(f"{API}/none/preupload/main", json={"files": []}).status_code == 404
