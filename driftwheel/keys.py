"""The product's secrets: made on first use, kept in the data folder, or given by the configuration."""

from __future__ import annotations

from driftwheel.config import Config
from driftwheel.folder import DataFolder


def redaction_key(config: Config, folder: DataFolder) -> bytes:
    """The master key of placeholders and subject hashes."""
    given = config.redact.key.get_secret_value()
    return given.encode() if given else folder.key("redaction")


def log_key(folder: DataFolder) -> bytes:
    """What raw topics are encrypted with at rest."""
    return folder.key("log")


def quarantine_key(folder: DataFolder) -> bytes:
    """What quarantined payloads are encrypted with."""
    return folder.key("quarantine")
