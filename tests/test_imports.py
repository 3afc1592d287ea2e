"""Imports run one way: schemas <- processors, connectors, deploy <- driftwheel; processors stay pure."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

LAYERS = {
    "schemas": {"schemas"},
    "processors": {"schemas", "processors"},
    "connectors": {"schemas", "connectors"},
    "deploy": {"schemas", "processors", "connectors", "deploy"},
    "driftwheel": {"schemas", "processors", "connectors", "deploy", "driftwheel"},
}
IMPURE = {
    "asyncio", "chdb", "clickhouse_connect", "confluent_kafka", "faust", "http", "httpx", "os", "random", "requests",
    "secrets", "socket", "sqlite3", "starlette", "subprocess", "threading", "time", "urllib", "uuid", "uvicorn",
}  # fmt: skip


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module or ""


@pytest.mark.parametrize("package", LAYERS)
def test_direction(package: str, root: Path) -> None:
    for path in (root / package).rglob("*.py"):
        for name in imports(path):
            top = name.partition(".")[0]
            assert top not in LAYERS or top in LAYERS[package], f"{path}: imports {name}"


def test_processors_are_pure(root: Path) -> None:
    for path in (root / "processors").rglob("*.py"):
        bad = {name.partition(".")[0] for name in imports(path)} & IMPURE
        assert not bad, f"{path}: imports {sorted(bad)}"


def test_only_config_reads_the_environment(root: Path) -> None:
    for package in LAYERS:
        for path in (root / package).rglob("*.py"):
            if path != root / "driftwheel" / "config.py":
                text = path.read_text()
                assert "os.environ" not in text, path
                assert "getenv" not in text, path
