"""The product's secrets: made on first use, kept in the data folder, or given by the configuration."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path

from connectors.api_keys import ApiKey, KeyRing, as_text
from driftwheel.config import Config
from driftwheel.folder import DataFolder, write_private
from schemas.errors import Refused


def redaction_key(config: Config, folder: DataFolder) -> bytes:
    """The master key of placeholders and subject hashes."""
    given = config.redact.key.get_secret_value()
    return given.encode() if given else folder.key("redaction")


def api_keys_path(config: Config) -> Path:
    """Where API keys are kept: as the configuration says, else in the data folder."""
    given = config.gateway.keys_file
    return given.expanduser() if given is not None else DataFolder(config.data_dir).path / "api_keys.json"


def write_keys(path: Path, keys: Sequence[ApiKey]) -> None:
    """Write API keys down, for their owner's eyes alone."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    write_private(path, as_text(keys))


def key_ring(config: Config, clock: Callable[[], datetime], loopback: bool) -> KeyRing:
    """The gateway's API keys. Refused when others than this machine may send and nothing is asked of them."""
    ring = KeyRing(api_keys_path(config), clock)
    if not loopback and not config.gateway.token.get_secret_value() and not ring.asked_for:
        raise Refused(
            "the gateway's address is not a loopback one: make a key with `driftwheel keys create --tenant NAME`, or "
            "set gateway.token, before agents elsewhere may send"
        )
    return ring


def log_key(folder: DataFolder) -> bytes:
    """What raw topics are encrypted with at rest."""
    return folder.key("log")


def quarantine_key(master: bytes) -> bytes:
    """What the keys of quarantined payloads follow from: the master key of redaction, which every process has."""
    return hashlib.sha256(b"driftwheel quarantine\0" + master).digest()
