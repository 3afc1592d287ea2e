"""The quarantine: encrypted payloads of what could not be read or cleaned, kept for replay and then purged.

``Payloads`` is what replays ask of it, on any engine. In a folder: one file per payload, Fernet (AES-128-CBC with
HMAC-SHA256), named by the dead letter's id. Nothing here is ever logged or shown.
"""

from __future__ import annotations

import base64
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Protocol

from cryptography.fernet import Fernet, InvalidToken

from schemas.errors import Refused, Retry

RETENTION = timedelta(days=30)
STAMP = 12
"""A token's first characters: base64 of its version (1 byte) and its time (8 bytes, seconds since 1970)."""


class Payloads(Protocol):
    """The payloads of dead letters, by name."""

    def read(self, name: str) -> bytes:
        """The payload. Raises Refused, with the way out, when it is gone or its key is another; Retry when away."""
        ...

    def until(self, name: str) -> datetime | None:
        """When the payload will be purged; None when it is not there."""
        ...

    def delete(self, name: str) -> bool:
        """Remove a payload before its time (erasure); whether it was there."""
        ...


class Quarantine:
    """Payloads below one folder, readable by the owner alone; ``key`` is 32 secret bytes.

    ``durable`` waits for the disk with every payload. One process uses a folder at a time.
    """

    def __init__(self, folder: Path, key: bytes, *, retention: timedelta = RETENTION, durable: bool = False) -> None:
        self._folder, self._retention, self._durable = folder, retention, durable
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        for left in folder.glob("*.tmp"):
            left.unlink()
        self._fernet = Fernet(base64.urlsafe_b64encode(key))

    def put(self, name: str, payload: bytes, now: datetime) -> str:
        """Keep a payload, whole or not at all; the same name again replaces it. Returns the name to find it by.

        Raises Retry when the file cannot be written: whoever lets the payload go must not go on.
        """
        path = self._folder / name
        temporary = path.with_name(f"{name}.tmp")
        token = self._fernet.encrypt_at_time(payload, int(now.timestamp()))
        try:
            with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
                file.write(token)
                if self._durable:
                    file.flush()
                    os.fsync(file.fileno())
            temporary.replace(path)
        except OSError as error:
            raise Retry(f"the quarantine {self._folder} cannot be written: {error.strerror}: mend it first") from error
        return name

    def __contains__(self, name: str) -> bool:
        return (self._folder / name).is_file()

    def read(self, name: str) -> bytes:
        """See Payloads."""
        try:
            return self._fernet.decrypt((self._folder / name).read_bytes())
        except FileNotFoundError as error:
            raise Refused(
                f"{name} is not in the quarantine: it was never there, or was purged after {self._retention.days} days"
            ) from error
        except InvalidToken as error:
            raise Refused(f"{name} in the quarantine was written with another key, or is damaged") from error

    def until(self, name: str) -> datetime | None:
        """See Payloads."""
        if not name or name not in self:
            return None
        return datetime.fromtimestamp(_written(self._folder / name), UTC) + self._retention

    def delete(self, name: str) -> bool:
        """See Payloads."""
        there = name in self
        (self._folder / name).unlink(missing_ok=True)
        return there

    def purge(self, now: datetime) -> int:
        """Remove what is older than the retention, and what is no payload at all; returns how many."""
        before = (now - self._retention).timestamp()
        old = [path for path in self._folder.iterdir() if path.suffix != ".tmp" and _written(path) < before]
        for path in old:
            path.unlink()
        return len(old)


def _written(path: Path) -> float:
    """When a payload was put, seconds since 1970, from its token; 0 when the file holds none."""
    with path.open("rb") as file:
        stamp = file.read(STAMP)
    try:
        return float(int.from_bytes(base64.urlsafe_b64decode(stamp)[1:], "big"))
    except ValueError:
        return 0.0
