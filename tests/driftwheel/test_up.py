"""``driftwheel up`` and the commands beside it, as a user runs them."""

from __future__ import annotations

import json
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from driftwheel.client import Client
from driftwheel.folder import LAYOUT
from tests.driftwheel.cli_kit import rows, run, start
from tests.models import minilm_folder


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until(check: object, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if check():  # type: ignore[operator]  # a callable
            return
        time.sleep(0.1)
    raise AssertionError("not in time")


def ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/readyz", timeout=2, trust_env=False).is_success
    except httpx.HTTPError:
        return False


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    minilm_folder()
    folder, port = tmp_path_factory.mktemp("up") / "data", free_port()
    process = start("up", "--data-dir", str(folder), "--port", str(port))
    try:
        wait_until(lambda: ready(f"http://127.0.0.1:{port}"))
        yield f"http://127.0.0.1:{port}", folder
    finally:
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0, process.stderr and process.stderr.read()
        assert process.stderr is not None
        process.stderr.close()


def test_signals_arrive_clean_and_counted(running: tuple[str, Path]) -> None:
    url, folder = running
    with Client(url) as client:
        client.signal("rating", agent="desk", session_id="s1", value=-1, text="mail me at jo@example.com")
    query = "SELECT name, value, text FROM signals_current WHERE source = 'user'"
    wait_until(lambda: rows("sql", query, "--data-dir", str(folder)))
    (row,) = rows("sql", query, "--data-dir", str(folder))
    assert (row["name"], row["value"]) == ("rating", -1.0)
    assert "example.com" not in row["text"]
    assert {r["difference"] for r in rows("ledger", "--data-dir", str(folder))} == {0}
    for path in folder.rglob("*"):
        assert not path.is_file() or b"jo@example.com" not in path.read_bytes(), path


def test_formats_and_exit_codes(running: tuple[str, Path]) -> None:
    _, folder = running
    done = run("sql", "SELECT 1 AS a, 'x' AS b", "--csv", "--data-dir", str(folder))
    assert done.stdout == "a,b\n1,x\n"
    done = run("sql", "DROP TABLE turns", "--data-dir", str(folder))
    assert (done.returncode, done.stdout) == (2, "")
    assert "driftwheel:" in done.stderr
    assert run("sql").returncode == 2


def test_a_second_owner_is_refused(running: tuple[str, Path]) -> None:
    _, folder = running
    done = run("up", "--data-dir", str(folder), "--port", str(free_port()))
    assert done.returncode == 1
    assert "has the data folder" in done.stderr
    assert "another" in done.stderr


def test_the_api_needs_the_owners_token(running: tuple[str, Path]) -> None:
    url, _ = running
    for path in ("/v1/ledger", "/v1/queue"):
        assert httpx.get(url + path, trust_env=False).status_code == 401
    wrong = {"authorization": "Bearer x"}
    assert httpx.post(f"{url}/v1/sql", json={"query": "SELECT 1"}, headers=wrong, trust_env=False).status_code == 401
    assert "driftwheel_stage_messages_total" in httpx.get(f"{url}/metrics", trust_env=False).text


def test_erasure_removes_a_person(running: tuple[str, Path]) -> None:
    url, folder = running
    with Client(url) as client:
        client.signal("copy", agent="desk", session_id="s2", user_id="u-1")
        client.signal("copy", agent="desk", session_id="s3", user_id="u-2")
    query = "SELECT session_id FROM signals_current WHERE name = 'copy' ORDER BY session_id"
    wait_until(lambda: len(rows("sql", query, "--data-dir", str(folder))) == 2)
    where = ("--data-dir", str(folder))
    looked = run("erase", "--subject", "u-1", "--dry-run", "--json", *where)
    assert json.loads(looked.stdout)["found"]["signals"] == 1
    done = run("erase", "--subject", "u-1", "--wait", "--json", *where)
    assert done.returncode == 0, done.stderr
    erasure = json.loads(done.stdout)
    assert (erasure["state"], erasure["deleted"]["signals"]) == ("done", 1)
    assert rows("sql", query, *where) == [{"session_id": "s3"}]
    proof = f"SELECT place, rows FROM subject_places WHERE subject_hash = '{erasure['subject_hash']}'"
    assert rows("sql", proof, *where) == []
    again = run("erase", "--subject", "u-1", "--json", *where)
    assert json.loads(again.stdout)["erasure_id"] == erasure["erasure_id"]
    assert [row["erasure_id"] for row in rows("erase", "list", *where)] == [erasure["erasure_id"]]
    shown = run("erase", "show", erasure["erasure_id"][:8], "--json", *where)
    assert json.loads(shown.stdout)["obligations"] == []
    assert run("erase").returncode == 2
    token = json.loads((folder / "owner.json").read_text())["token"]
    headers = {"authorization": f"Bearer {token}"}
    body = {"tenant": "default", "user_id": "u-1"}
    answer = httpx.post(f"{url}/v1/erasures", json=body, headers=headers, trust_env=False)
    assert (answer.status_code, answer.json()["erasure_id"]) == (202, erasure["erasure_id"])
    answer = httpx.get(f"{url}/v1/erasures/{erasure['erasure_id']}", headers=headers, trust_env=False)
    assert (answer.status_code, answer.json()["state"]) == (200, "done")
    assert httpx.get(f"{url}/v1/erasures/nonsense", headers=headers, trust_env=False).status_code == 422
    assert httpx.get(f"{url}/v1/erasures", trust_env=False).status_code == 401


def test_a_port_in_use_is_named(tmp_path: Path) -> None:
    minilm_folder()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        done = run("up", "--data-dir", str(tmp_path / "data"), "--port", port)
    assert done.returncode == 1
    assert f"port {port} on 127.0.0.1" in done.stderr


def test_a_newer_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "VERSION").write_text(f"{LAYOUT + 1}\n")
    done = run("ledger", "--data-dir", str(tmp_path))
    assert done.returncode == 1
    assert "newer Driftwheel" in done.stderr
    assert "--data-dir" in done.stderr


def test_a_question_to_nothing_makes_no_folder(tmp_path: Path) -> None:
    done = run("sql", "SELECT 1", "--data-dir", str(tmp_path / "typo"))
    assert done.returncode == 1
    assert "no Driftwheel data" in done.stderr
    assert not (tmp_path / "typo").exists()


def test_a_foreign_folder_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    done = run("ledger", "--data-dir", str(tmp_path))
    assert done.returncode == 1
    assert "not a Driftwheel data folder" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_doctor_says_how_to_mend(tmp_path: Path) -> None:
    minilm_folder()
    data = str(tmp_path / "data")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        done = run("doctor", "--data-dir", data, DRIFTWHEEL__GATEWAY__PORT=port)
    assert done.returncode == 1
    assert "FAIL  port" in done.stdout
    assert "--port" in done.stdout
    done = run("doctor", "--json", "--data-dir", data, DRIFTWHEEL__MODELS__FOLDER=str(tmp_path))
    (model,) = [finding for finding in json.loads(done.stdout) if finding["name"] == "embedding model"]
    assert not model["ok"]
    assert "models fetch" in model["mend"]


def test_a_wrong_setting_is_named(tmp_path: Path) -> None:
    done = run("ledger", "--data-dir", str(tmp_path / "d"), DRIFTWHEEL__GATEWAY__PORT="many")
    assert done.returncode == 2
    assert "gateway.port" in done.stderr
    path = tmp_path / "driftwheel.toml"
    path.write_text("[stages.curate]\nbudgets = 3\n")
    done = run("stage", "run", "score", DRIFTWHEEL_CONFIG=str(path))
    assert done.returncode == 2
    assert "stages.curate.budgets" in done.stderr


def test_other_addresses_need_a_token(tmp_path: Path) -> None:
    minilm_folder()
    done = run("up", "--host", "0.0.0.0", "--port", str(free_port()), "--data-dir", str(tmp_path / "data"))
    assert done.returncode == 1
    assert "gateway.token" in done.stderr
