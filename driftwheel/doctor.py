"""``driftwheel doctor``: what is wrong with this machine's set-up, and how to mend it."""

from __future__ import annotations

import json
import shutil
import socket
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib import metadata

import httpx
import typer

from connectors import models
from driftwheel.config import Config
from driftwheel.folder import DataFolder
from schemas.errors import DriftwheelError

MIN_FREE = 2 * 1024**3


@dataclass(frozen=True, slots=True)
class Finding:
    """One check: what it looked at, whether all is well, what it saw and how to mend it."""

    name: str
    ok: bool
    seen: str
    mend: str = ""


def examine(config: Config) -> list[Finding]:
    """Every check, in order; none of them changes anything but the data folder's existence."""
    checks: tuple[Callable[[Config], Finding], ...] = (
        _python, _minilm, _spacy, _folder, _disk, _port, _broker, _store, _nemo,
    )  # fmt: skip
    return [check(config) for check in checks]


def show_findings(findings: list[Finding], *, as_json: bool) -> None:
    """Print the findings, one line each."""
    if as_json:
        typer.echo(json.dumps([asdict(finding) for finding in findings], indent=2))
        return
    for finding in findings:
        mend = f"\n      mend: {finding.mend}" if not finding.ok else ""
        typer.echo(f"{'ok  ' if finding.ok else 'FAIL'}  {finding.name}: {finding.seen}{mend}")


def _python(config: Config) -> Finding:
    del config
    version = ".".join(map(str, sys.version_info[:3]))
    return Finding("Python", sys.version_info >= (3, 11), version, "install Python 3.11 or newer")


def _minilm(config: Config) -> Finding:
    wrong = models.verify(models.MINILM, config.models.folder)
    seen = wrong[0] if wrong else f"{models.MINILM.name} in {config.models.folder}, hashes right"
    return Finding("embedding model", not wrong, seen, "driftwheel models fetch")


def _spacy(config: Config) -> Finding:
    del config
    found = models.spacy_model()
    return Finding("redaction model", found.state == "ready", f"{found.name} is {found.state}", found.detail)


def _folder(config: Config) -> Finding:
    try:
        owner = DataFolder(config.data_dir).owner()
    except DriftwheelError as error:
        return Finding("data folder", False, str(error), "name another folder with --data-dir")
    state = f"open in process {owner.pid} at {owner.url}" if owner else "not open now"
    return Finding("data folder", True, f"{config.data_dir}, {state}")


def _disk(config: Config) -> Finding:
    place = next(p for p in (config.data_dir, *config.data_dir.parents) if p.exists())
    free = shutil.disk_usage(place).free
    mend = f"free some space, or name a folder on another disk with --data-dir; {MIN_FREE >> 30} GB are wanted"
    return Finding("disk", free >= MIN_FREE, f"{free / 1024**3:.1f} GB free at {place}", mend)


def _port(config: Config) -> Finding:
    host, port = config.gateway.host, config.gateway.port
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            return _port_taken(config, str(error.strerror))
    return Finding("port", True, f"{host}:{port} is free")


def _port_taken(config: Config, reason: str) -> Finding:
    where = f"{config.gateway.host}:{config.gateway.port}"
    try:
        ours = httpx.get(f"http://{where}/healthz", timeout=2, trust_env=False).is_success
    except httpx.HTTPError:
        ours = False
    if ours:
        return Finding("port", True, f"{where} answers as a gateway")
    return Finding("port", False, f"{where}: {reason}", "stop what listens there, or choose one with --port")


def _broker(config: Config) -> Finding:
    del config
    return Finding("broker", True, "none needed: the embedded engine keeps its own log")


def _store(config: Config) -> Finding:
    url = config.store.url.get_secret_value()
    if not url:
        try:
            return Finding("store", True, f"embedded, chDB {metadata.version('chdb')}")
        except metadata.PackageNotFoundError:
            mend = "pip install 'driftwheel[embedded]', or set store.url to a ClickHouse server"
            return Finding("store", False, "chDB is not installed", mend)
    return _answers("store", f"{url.rstrip('/')}/ping", "start the ClickHouse server, or mend store.url")


def _nemo(config: Config) -> Finding:
    if not config.nemo.url:
        return Finding("NeMo", True, "local: started with the product")
    return _answers("NeMo", f"{config.nemo.url.rstrip('/')}/v1/models", "start NeMo, or mend nemo.url")


def _answers(name: str, url: str, mend: str) -> Finding:
    shown = httpx.URL(url).copy_with(username=None, password=None)
    try:
        response = httpx.get(url, timeout=5, trust_env=False)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        return Finding(name, False, f"{shown.host}: {type(error).__name__}", mend)
    return Finding(name, response.is_success, f"{shown.host} answers {response.status_code}", mend)
