"""The data folder of one embedded product: its layout, version, keys, and who owns it now.

VERSION       layout version; a newer one is refused
log.db        topics, offsets and state (raw topics encrypted)
store/        the embedded ClickHouse
nemo/         datasets, jobs and models of the local NeMo
quarantine/   encrypted payloads of dead letters
judge/        scores that judges gave, under keyed hashes
audit.jsonl   who opened, released or destroyed such payloads, and when
keys/         secrets, readable by the owner alone
owner.json    address and token of the process that has the folder open
"""

from __future__ import annotations

import json
import os
import secrets
from dataclasses import dataclass
from pathlib import Path

from schemas.errors import Refused

LAYOUT = 1


@dataclass(frozen=True, slots=True)
class Owner:
    """The process that has the folder open, and how to talk to it."""

    pid: int
    url: str
    token: str


class DataFolder:
    """One data folder, made on first use with mode 0700."""

    def __init__(self, path: Path) -> None:
        self.path = path.expanduser().absolute()
        try:
            self.path.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise Refused(f"the data folder {self.path} cannot be made: {error.strerror}") from error
        self._check_version()

    def _check_version(self) -> None:
        version = self.path / "VERSION"
        if not version.exists():
            if any(self.path.iterdir()):
                raise Refused(f"{self.path} is not empty and not a Driftwheel data folder; name another --data-dir")
            version.write_text(f"{LAYOUT}\n")
        found = version.read_text().strip()
        if not found.isdigit() or int(found) > LAYOUT:
            raise Refused(
                f"{self.path} was written by a newer Driftwheel (layout {found}; this one knows {LAYOUT}): "
                "upgrade Driftwheel, or name another --data-dir"
            )

    def part(self, name: str) -> Path:
        """A sub-folder, made when missing."""
        folder = self.path / name
        folder.mkdir(exist_ok=True, mode=0o700)
        return folder

    def key(self, name: str) -> bytes:
        """A 32-byte secret, made on first use."""
        path = self.part("keys") / f"{name}.key"
        if not path.exists():
            write_private(path, secrets.token_hex(32))
        return bytes.fromhex(path.read_text().strip())

    @property
    def _owner_path(self) -> Path:
        return self.path / "owner.json"

    def claim(self, url: str) -> str:
        """Say that this process has the folder open and will answer at ``url``; returns the owner's token."""
        token = secrets.token_urlsafe(32)
        self._write_owner(url, token)
        return token

    def announce(self, url: str) -> None:
        """The owner's address is known now."""
        owner = self.owner()
        if owner is not None:
            self._write_owner(url, owner.token)

    def _write_owner(self, url: str, token: str) -> None:
        write_private(self._owner_path, json.dumps({"pid": os.getpid(), "url": url, "token": token}))

    def release(self) -> None:
        """The process lets go of the folder."""
        self._owner_path.unlink(missing_ok=True)

    def owner(self) -> Owner | None:
        """The live process that has the folder open, or None."""
        try:
            body = json.loads(self._owner_path.read_text())
            owner = Owner(int(body["pid"]), str(body["url"]), str(body["token"]))
        except (FileNotFoundError, ValueError, KeyError):
            return None
        return owner if _alive(owner.pid) else None


def write_private(path: Path, text: str) -> None:
    """Write a file that its owner alone can read, whole or not at all."""
    temporary = path.with_suffix(".tmp")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
    temporary.replace(path)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
