"""``driftwheel keys``: made once, shown once, rotated and revoked; and when a gateway asks for one."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
from pydantic import SecretStr

from driftwheel.config import load
from driftwheel.keys import api_keys_path, key_ring
from driftwheel.keys_command import create_key, list_keys, revoke_key, rotate_key
from schemas.errors import Refused
from tests.driftwheel.cli_kit import run

NOW = datetime(2026, 3, 1, tzinfo=UTC)


def test_the_life_of_a_key(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = load(data_dir=tmp_path / "data")

    def told() -> dict[str, str] | list[dict[str, str]]:
        return json.loads(capsys.readouterr().out)

    create_key(config, "acme", 30.0, True, agents=("bot",), rate=5.0, burst=10, note="staging")
    made = told()
    assert isinstance(made, dict)
    assert made["key"].startswith(f"dw_{made['id']}_")
    assert (made["tenant"], made["agents"]) == ("acme", "bot")
    rotate_key(config, made["id"][:6], 24.0, True)
    other = told()
    assert isinstance(other, dict)
    assert other["key"] != made["key"]
    list_keys(config, True)
    rows = told()
    assert [row["id"] for row in rows] == [made["id"], other["id"]]  # type: ignore[index]
    assert made["key"] not in json.dumps(rows)
    revoke_key(config, made["id"], True)
    assert told() == {"revoked": made["id"], "tenant": "acme"}
    ring = key_ring(config, lambda: NOW, loopback=False)
    assert ring.key(made["key"]) is None
    assert ring.key(other["key"]) is not None


def test_a_gateway_for_others_needs_a_key_or_a_token(tmp_path: Path) -> None:
    config = load(data_dir=tmp_path / "data")
    with pytest.raises(Refused, match="driftwheel keys create"):
        key_ring(config, lambda: NOW, loopback=False)
    assert not key_ring(config, lambda: NOW, loopback=True).asked_for
    gateway = config.gateway.model_copy(update={"token": SecretStr("x"), "keys_file": tmp_path / "elsewhere.json"})
    other = config.model_copy(update={"gateway": gateway})
    assert api_keys_path(other) == tmp_path / "elsewhere.json"
    assert not key_ring(other, lambda: NOW, loopback=False).asked_for


def test_the_command_line(tmp_path: Path) -> None:
    folder = str(tmp_path / "data")
    made = run("keys", "create", "--tenant", "acme", "--agent", "bot", "--data-dir", folder)
    assert made.returncode == 0, made.stderr
    assert "key: dw_" in made.stdout
    assert "shown this once" in made.stdout
    listed = run("keys", "list", "--data-dir", folder)
    assert "acme" in listed.stdout
    wrong = run("keys", "revoke", "zz", "--data-dir", folder)
    assert (wrong.returncode, "beginning of 0 keys" in wrong.stderr) == (2, True)
