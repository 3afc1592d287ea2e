"""The ``models`` commands: fetch with a progress bar, list, verify."""

from __future__ import annotations

from pathlib import Path

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)

from connectors import models, static_embeddings
from driftwheel.api import Table
from driftwheel.config import Config
from driftwheel.tables import show
from schemas.errors import Refused

READY = "ready"


def minilm_folder(config: Config) -> Path:
    """Where MiniLM's weights lie; Refused, with the way out, when they are not there."""
    found = models.look(models.MINILM, config.models.folder)
    if found.state != READY:
        raise Refused(f"the embedding model is {found.state} in {config.models.folder}: {found.detail}")
    return config.models.folder / models.MINILM.name


def static_folder(config: Config) -> Path:
    """Where the static embedding lies; Refused, with the way out, when it is not there."""
    found = static_embeddings.look(config.models.folder)
    if found.state != READY:
        raise Refused(f"the static embedding is {found.state} in {config.models.folder}: {found.detail}")
    return config.models.folder / static_embeddings.NAME


def fetch_all(config: Config, as_json: bool) -> None:
    """Fetch what is missing, and distil the static embedding; what is there already is verified and left alone."""
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        tasks: dict[str, TaskID] = {}

        def report(name: str, done: int, total: int) -> None:
            if name not in tasks:
                tasks[name] = bars.add_task(name)
            bars.update(tasks[name], completed=done, total=total or None)

        for asset in models.ASSETS.values():
            models.fetch(asset, config.models.folder, config.models.source, config.models.location, report)
    distil(config)
    list_all(config, as_json)


def distil(config: Config) -> None:
    """Make the static embedding where it is not there, with a progress bar: about a minute of one core."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        task = bars.add_task(f"distilling {static_embeddings.NAME}", total=None)
        static_embeddings.distil(
            minilm_folder(config),
            config.models.folder,
            lambda done, total: bars.update(task, completed=done, total=total),
        )


def list_all(config: Config, as_json: bool) -> None:
    """Print what is there; exit code 1 when something is missing."""
    found = [*models.list_models(config.models.folder), static_embeddings.look(config.models.folder)]
    show(Table(["model", "state", "detail"], [[i.name, i.state, i.detail] for i in found]), as_json=as_json)
    if any(item.state != READY for item in found):
        raise typer.Exit(1)


def verify_all(config: Config, as_json: bool) -> None:
    """Hash every file again and print what differs; exit code 1 when something does."""
    wrong = [
        [asset.name, problem]
        for asset in models.ASSETS.values()
        for problem in models.verify(asset, config.models.folder)
    ]
    wrong += [[static_embeddings.NAME, problem] for problem in static_embeddings.wrong(config.models.folder)]
    show(Table(["model", "problem"], wrong), as_json=as_json)
    if wrong:
        raise typer.Exit(1)
