"""The documentation keeps up with the code."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from driftwheel import reference
from driftwheel.pipeline import WHEEL


def test_generated_parts_are_up_to_date() -> None:
    for path, text in reference.outputs().items():
        assert path.read_text() == text, f"{path.name} is out of date: run `make docs`"


@pytest.mark.parametrize("stage", [stage.name for stage in WHEEL])
def test_every_stage_has_its_page(stage: str, root: Path) -> None:
    page = root / "docs" / "stages" / f"{stage}.md"
    assert len(page.read_text()) > 400


def test_links_lead_somewhere(root: Path) -> None:
    for page in [*root.glob("*.md"), *(root / "docs").rglob("*.md")]:
        for target in re.findall(r"\]\(([^)#\s]+)", page.read_text()):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page.relative_to(root)} links to {target}"


def test_no_machine_paths_and_no_registries(root: Path) -> None:
    homes = "|".join(f"/{name}/" for name in ("root", "work", "home/[a-z]+"))
    bad = re.compile(rf"{homes}|PIP_INDEX|registry\.(?:npm|maven)")
    for path in root.rglob("*"):
        parts = path.relative_to(root).parts
        if path.suffix in {".py", ".md", ".toml", ".txt", ".sql", ".html"} and not parts[0].startswith("."):
            found = bad.search(path.read_text())
            assert not found or path.name == "test_docs.py", f"{path}: {found and found.group()}"
