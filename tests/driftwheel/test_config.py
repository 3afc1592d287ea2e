"""Configuration for child processes."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import SecretStr

from driftwheel import config as configuration
from driftwheel.config import Config, KafkaConfig, OAuthConfig, environment_of


def test_a_child_reads_the_very_same_configuration(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DRIFTWHEEL__GATEWAY__PORT", "1")
    oauth = OAuthConfig(client_secret=SecretStr("hidden"))
    config = Config(
        data_dir=tmp_path / "données",
        kafka=KafkaConfig(brokers="a:1,b:2", password=SecretStr('"quoted"\n'), oauth=oauth),
        stages={"curate": {"budget": 5, "focus": 0.5}, "run_jobs": {"dataset": {"test": 0.1}}},
    )
    child = environment_of(config)
    for name in list(child):
        if name.startswith("DRIFTWHEEL"):
            monkeypatch.setenv(name, child[name])
    assert configuration.load() == config
    monkeypatch.setenv("DRIFTWHEEL__KAFKA", '{"brokers": "c:3"}')
    assert configuration.load() != config


def test_nothing_else_of_driftwheels_reaches_the_child(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DRIFTWHEEL_CONFIG", "/dev/null")
    monkeypatch.setenv("HOME_OF_OTHERS", "kept")
    child = environment_of(Config())
    assert ("DRIFTWHEEL_CONFIG" in child, child["HOME_OF_OTHERS"]) == (False, "kept")
