"""What is built is what is here: the wheel's top-level names and its data files."""

from __future__ import annotations

import importlib
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

PACKAGES = ("schemas", "processors", "connectors", "deploy", "driftwheel")


def test_packages_come_from_this_checkout(root: Path) -> None:
    for name in PACKAGES:
        assert Path(str(importlib.import_module(name).__file__)).is_relative_to(root)


def test_wheel_holds_packages_and_data(root: Path, tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--disable-pip-version-check",
         "--wheel-dir", str(tmp_path), str(root)],
        check=True,
    )  # fmt: skip
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert {n.partition("/")[0] for n in names if "dist-info" not in n} == set(PACKAGES)
    for suffix in (".avsc", ".sql", ".html"):
        assert any(n.endswith(suffix) for n in names), f"no {suffix} in the wheel"
    assert "processors/dissatisfaction.json" in names
    assert "processors/cause_model.json" in names


def test_module_list_is_what_the_build_packs(root: Path) -> None:
    project = tomllib.loads((root / "pyproject.toml").read_text())
    assert tuple(project["tool"]["uv"]["build-backend"]["module-name"]) == PACKAGES


def test_constraints_name_no_address(root: Path) -> None:
    for line in (root / "constraints.txt").read_text().splitlines():
        assert "://" not in line
        assert "==" in line
