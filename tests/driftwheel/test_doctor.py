"""What ``driftwheel doctor`` says of the models that redaction's settings and policies name."""

from __future__ import annotations

from pathlib import Path

from driftwheel.config import load
from driftwheel.doctor import Finding, examine
from processors.redact.settings import MODEL


def told(folder: Path, **redact: str) -> Finding:
    config = load(data_dir=folder / "data", stages={"redact": redact}, redact={"canaries": 0})
    return next(one for one in examine(config) if one.name == "redaction models")


def test_the_default_model_is_there(tmp_path: Path) -> None:
    found = told(tmp_path)
    assert (found.ok, found.seen, found.mend) == (True, f"{MODEL} is ready", "")


def test_every_model_that_a_policy_names_is_looked_for(tmp_path: Path) -> None:
    policies = tmp_path / "policies"
    policies.mkdir()
    (policies / "acme.toml").write_text(f'[languages]\nen = "{MODEL}"\nde = "de_core_news_lg"\n')
    (policies / "bolt.toml").write_text(f'[languages]\nany = "gliner:{tmp_path / "nowhere"}"\n')
    found = told(tmp_path, policies=str(policies))
    assert not found.ok
    assert found.seen == f"{MODEL} is ready; de_core_news_lg is missing; gliner:nowhere is missing"
    assert "de_core_news_lg is not installed" in found.mend
    assert f"{tmp_path / 'nowhere'} is not there" in found.mend


def test_the_setting_is_looked_at(tmp_path: Path) -> None:
    found = told(tmp_path, model="en_core_web_huge")
    assert (found.ok, found.seen) == (False, "en_core_web_huge is missing")


def test_a_policy_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "acme.toml").write_text("[languages\n")
    found = told(tmp_path, policies=str(tmp_path))
    assert not found.ok
    assert "acme.toml" in found.seen
