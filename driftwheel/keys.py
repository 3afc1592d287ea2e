"""The product's secrets: made on first use, kept in the data folder, or given by the configuration."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from connectors.api_keys import KeyRing
from driftwheel.config import Config
from driftwheel.folder import DataFolder
from schemas.errors import Refused


def redaction_key(config: Config, folder: DataFolder) -> bytes:
    """The master key of placeholders and subject hashes."""
    given = config.redact.key.get_secret_value()
    return given.encode() if given else folder.key("redaction")


def api_keys_path(config: Config) -> Path:
    """Where API keys are kept: as the configuration says, else in the data folder."""
    given = config.gateway.keys_file
    return given.expanduser() if given is not None else DataFolder(config.data_dir).path / "api_keys.json"


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


def quarantine_key(folder: DataFolder) -> bytes:
    """What quarantined payloads are encrypted with."""
    return folder.key("quarantine")
