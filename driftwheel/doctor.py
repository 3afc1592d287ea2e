"""``driftwheel doctor``: what is wrong with this machine's set-up, and how to mend it."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib import metadata

import httpx
import typer

from connectors import models, static_embeddings
from driftwheel.canaries import canary_settings, look_back, total
from driftwheel.clock import utc_now
from driftwheel.config import Config
from driftwheel.desk import open_desk
from driftwheel.folder import DataFolder
from driftwheel.gateway import address, listen
from driftwheel.keys import redaction_key
from driftwheel.pipeline import stage_settings
from driftwheel.ports import exposed
from driftwheel.tls import Certificate, notice, tls_files
from processors.canaries import Look
from processors.redact import Redact
from processors.redact.neural import lacking, shown
from processors.redact.policy import policies_of
from processors.redact.settings import MODEL
from schemas.errors import DriftwheelError, Refused

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
        _python, _minilm, _static, _redaction, _folder, _disk, _port, _grpc_port, _tls, _broker, _store, _nemo,
        _canaries,
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


def _static(config: Config) -> Finding:
    wrong = static_embeddings.wrong(config.models.folder)
    seen = wrong[0] if wrong else f"{static_embeddings.NAME} in {config.models.folder}, hashes right"
    return Finding("static embedding", not wrong, seen, "driftwheel models fetch")


def _redaction(config: Config) -> Finding:
    """The models that redaction's settings and policies name. They are looked for, not loaded."""
    try:
        named = policies_of(stage_settings(Redact, config)).models
    except DriftwheelError as error:
        return Finding("redaction models", False, str(error), "mend the setting, or the policy")
    found = [_model(model) for model in named]
    mend = "; ".join(one.mend for one in found if not one.ok)
    return Finding("redaction models", not mend, "; ".join(one.seen for one in found), mend)


def _model(model: str) -> Finding:
    if model == MODEL:
        found = models.spacy_model()
        return Finding(model, found.state == "ready", f"{model} is {found.state}", found.detail)
    reason = lacking(model)
    return Finding(model, not reason, f"{shown(model)} is {'missing' if reason else 'there'}", reason)


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
    return _listening(config, "port", config.gateway.port, "--port")


def _grpc_port(config: Config) -> Finding:
    if not config.gateway.grpc:
        return Finding("gRPC port", True, "off: gateway.grpc is false")
    return _listening(config, "gRPC port", config.gateway.grpc_port, "--grpc-port")


def _listening(config: Config, name: str, port: int, option: str) -> Finding:
    host = config.gateway.host
    try:
        listen(host, port, option).close()
    except Refused as error:
        if _answers_as_ours(config):
            return Finding(name, True, f"{address(host, port)} is taken, and a gateway answers")
        return Finding(name, False, str(error), f"stop what listens there, or choose one with {option}")
    return Finding(name, True, f"{address(host, port)} is free")


def _answers_as_ours(config: Config) -> bool:
    """Whether a gateway runs here. Nothing secret is sent, so that its certificate does not matter."""
    files = tls_files(config.gateway)
    if files is not None and files.client_ca is not None:
        return DataFolder(config.data_dir).owner() is not None
    where = address(config.gateway.host, config.gateway.port)
    try:
        with httpx.Client(verify=files is None, trust_env=False, timeout=2) as client:
            return client.get(f"{'https' if files else 'http'}://{where}/healthz").is_success
    except httpx.HTTPError:
        return False


def _tls(config: Config) -> Finding:
    gateway, now = config.gateway, utc_now()
    files = tls_files(gateway)
    if files is None:
        return Finding("TLS", True, exposed(gateway.host) or f"off; {gateway.host} is this machine alone")
    try:
        certificate = Certificate(files, utc_now)
    except Refused as error:
        return Finding("TLS", False, str(error), "mend the files, or name others: gateway.tls_cert, gateway.tls_key")
    pair = certificate.pair()
    asked = "; senders need a certificate" if certificate.client_ca is not None else ""
    return Finding("TLS", True, notice(pair, now) or f"{files.cert}, good until {pair.expires:%Y-%m-%d}{asked}")


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


def _canaries(config: Config) -> Finding:
    """Only a store that is there is asked: one in the data folder, by who has it open or by this process."""
    name = "canaries"
    if not config.redact.canaries:
        return Finding(name, True, "none are planted (redact.canaries is 0)")
    if not (config.data_dir / "store").is_dir():
        return Finding(name, True, "none were planted here yet")
    try:
        with open_desk(config) as desk:
            settings = canary_settings(config, redaction_key(config, DataFolder(config.data_dir)))
            found = total(look_back(settings, desk.sql, utc_now()))
    except DriftwheelError as error:
        return Finding(name, False, str(error), "mend what it says, then look again")
    return told_of_canaries(name, found)


def told_of_canaries(name: str, found: Look) -> Finding:
    """What was found of them, in words."""
    leaked = [f"{kind} {n} of {found.checked.get(kind, 0)}" for kind, n in sorted(found.leaked.items()) if n]
    seen = f"{sum(found.checked.values())} planted values of the last day looked for, none left on the clean side"
    mend = "driftwheel policy test FILE shows what the policy does; see docs/policies.md, Canaries"
    return Finding(name, not leaked, f"left on the clean side: {', '.join(leaked)}" if leaked else seen, mend)


def _answers(name: str, url: str, mend: str) -> Finding:
    shown = httpx.URL(url).copy_with(username=None, password=None)
    try:
        response = httpx.get(url, timeout=5, trust_env=False)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        return Finding(name, False, f"{shown.host}: {type(error).__name__}", mend)
    return Finding(name, response.is_success, f"{shown.host} answers {response.status_code}", mend)
