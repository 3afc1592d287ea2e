"""The quarantine: encrypted payloads of what could not be read or cleaned, kept for replay and then purged.

One file per payload, Fernet (AES-128-CBC with HMAC-SHA256), named by the dead letter's id. Nothing here is ever
logged or shown.
"""

from __future__ import annotations

import base64
import os
from datetime import datetime, timedelta
from pathlib import Path

from cryptography.fernet import Fernet, InvalidToken

from schemas.errors import Refused

RETENTION = timedelta(days=30)


class Quarantine:
    """Payloads below one folder; ``key`` is 32 secret bytes."""

    def __init__(self, folder: Path, key: bytes) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._fernet = Fernet(base64.urlsafe_b64encode(key))

    def put(self, name: str, payload: bytes, now: datetime) -> str:
        """Keep a payload, whole or not at all; the same name again replaces it. Returns the name to find it by."""
        path = self._folder / name
        temporary = path.with_suffix(".tmp")
        with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            file.write(self._fernet.encrypt_at_time(payload, int(now.timestamp())))
        temporary.replace(path)
        return name

    def read(self, name: str) -> bytes:
        """The payload. Refused when it is gone or the key is another."""
        try:
            return self._fernet.decrypt((self._folder / name).read_bytes())
        except FileNotFoundError as error:
            raise Refused(f"{name} is not in the quarantine: it was purged after {RETENTION.days} days") from error
        except InvalidToken as error:
            raise Refused(f"{name} in the quarantine was written with another key, or is damaged") from error

    def purge(self, now: datetime) -> int:
        """Remove what is older than the retention; returns how many."""
        old = [
            path
            for path in self._folder.iterdir()
            if now.timestamp() - self._fernet.extract_timestamp(path.read_bytes()) > RETENTION.total_seconds()
        ]
        for path in old:
            path.unlink()
        return len(old)
