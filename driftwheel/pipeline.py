"""The whole wheel: the pure stages and those that act, and how a stage is made from the configuration."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from connectors.embeddings import Cached, Deferred, Embedder, Meaning, MeaningVectors, MiniLM
from connectors.nemo.port import NemoPort
from connectors.static_embeddings import APART, AT, Static
from deploy.apply_release import ApplyRelease, ApplyReleaseSettings
from deploy.dataset import Library
from deploy.rollout import Rollout
from deploy.run_jobs import RunJobs, RunJobsSettings
from driftwheel.config import Config
from driftwheel.weights import minilm_folder, static_folder
from processors import PIPELINE
from processors.assemble import Assemble
from processors.cluster import Cluster
from processors.likeness import LETTERS, Likeness
from processors.redact import Redact
from processors.stage import Stage
from processors.vectors import SPELLING, Vectors
from schemas.errors import Refused, UsageError

WHEEL: tuple[type[Stage], ...] = (*PIPELINE, RunJobs, Rollout, ApplyRelease)
"""Every stage, in the order of the flow."""
_VECTORS = 2_000
"""Texts whose vectors are remembered, at about 1.5 KB each."""


_DEFAULTS: dict[type[Stage], Callable[[], Any]] = {RunJobs: RunJobsSettings, ApplyRelease: ApplyReleaseSettings}
"""Settings of the stages that cannot be made without their ports."""


def stage_settings(stage: type[Stage], config: Config, **values: Any) -> Any:
    """The stage's settings: its defaults, ``stages.<name>`` of the configuration, then ``values``."""
    defaults = _DEFAULTS[stage]() if stage in _DEFAULTS else stage().settings
    given = config.stages.get(stage.name, {}) | values
    known = {field.name: getattr(defaults, field.name) for field in fields(defaults)}
    unknown = sorted(set(given) - set(known))
    if unknown:
        raise UsageError(f"stages.{stage.name}.{unknown[0]}: no such setting; there are: {', '.join(sorted(known))}")
    try:
        return TypeAdapter(type(defaults)).validate_python(known | given)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        raise UsageError(f"stages.{stage.name}.{place}: {first['msg']}") from error


def build_stage(stage: type[Stage], config: Config, **values: Any) -> Stage:
    """A pure stage with its settings."""
    settings = stage_settings(stage, config, **values)
    if stage is Assemble:
        return Assemble(settings, likeness(config), vectors(config)) if settings.vectors else Assemble(settings)
    if stage is Cluster:
        return Cluster(settings, vectors(config))
    return stage(settings)


def likeness(config: Config) -> Likeness:
    """By meaning where the embedding model is there, else by letters."""
    found = embedder(config)
    if found is None:
        return LETTERS
    return Meaning(found, at=AT, apart=APART) if found.name == Static.name else Meaning(found)


def vectors(config: Config) -> Vectors:
    """Of the static embedding where it is there and not switched off, else of spelling."""
    try:
        folder = static_folder(config)
    except Refused:
        return SPELLING
    if config.models.embedding == "none":
        return SPELLING
    return MeaningVectors(_static(folder))


def embedder(config: Config) -> Embedder | None:
    """The chosen embedding model, which is loaded when it is first asked; None where it is not there."""
    small = config.models.embedding != "minilm"
    try:
        folder = (static_folder if small else minilm_folder)(config)
    except Refused:
        return None
    if config.models.embedding == "none":
        return None
    if small:
        return _static(folder)
    return Cached(Deferred(MiniLM.name, MiniLM.dimension, lambda: MiniLM(folder)), _VECTORS)


@cache
def _static(folder: Path) -> Embedder:
    """The one static embedding of a process: what one stage has embedded, another need not embed again."""
    return Cached(Deferred(Static.name, Static.dimension, lambda: Static(folder)), _VECTORS)


def pure_stages(config: Config, key: bytes) -> list[Stage]:
    """PIPELINE, configured; ``key`` is the master key of redaction."""
    return [build_stage(stage, config, **({"key": key} if stage is Redact else {})) for stage in PIPELINE]


def wheel_stages(config: Config, key: bytes, nemo: NemoPort | None, library: Library) -> list[Stage]:
    """The whole wheel; without ``nemo`` only the pure stages before training."""
    stages = pure_stages(config, key)
    if nemo is not None:
        run_jobs = RunJobs(nemo, library, stage_settings(RunJobs, config))
        follow = ApplyRelease(nemo, stage_settings(ApplyRelease, config))
        stages += [run_jobs, build_stage(Rollout, config), follow]
    return stages


WORKER_STAGES: tuple[type[Stage], ...] = tuple(stage for stage in WHEEL if not stage.effects)
"""What workers on Kafka run; stages with effects belong to the job-runner."""
JOB_STAGES: tuple[type[Stage], ...] = tuple(stage for stage in WHEEL if stage.effects)


def worker_stages(config: Config, names: Sequence[str], key: bytes) -> list[Stage]:
    """The stages of these names, configured, in the order of the flow. UsageError for a name that no worker runs."""
    known = [stage.name for stage in WORKER_STAGES]
    for name in names:
        if name not in known:
            raise UsageError(f"--stages: {name!r} is not a stage that workers run; there are: {', '.join(known)}")
    chosen = [stage for stage in WORKER_STAGES if stage.name in names]
    return [build_stage(stage, config, **({"key": key} if stage is Redact else {})) for stage in chosen]


def upstream(stage: type[Stage] | Stage) -> list[type[Stage]]:
    """The stages that lead to this one, with itself last: while one of them is behind, its timers have to wait."""
    found: list[type[Stage]] = []
    wanted: set[str] = set()
    for one in reversed(WHEEL):
        if one.name == stage.name or (found and wanted & {topic.name for topic in one.emits}):
            found.append(one)
            wanted |= {topic.name for topic in one.sources}
    return found[::-1]


def check_stages(config: Config) -> None:
    """UsageError when the configuration names a stage that is not there."""
    names = {stage.name for stage in WHEEL}
    for name in config.stages:
        if name not in names:
            raise UsageError(f"stages.{name}: no such stage; there are: {', '.join(sorted(names))}")
