"""The quarantine: encrypted payloads of what could not be read or cleaned, kept for replay and then purged.

``Payloads`` is what replays and reviewers ask of it, on any engine. In a folder: one file per payload, sealed under a
key of its tenant (``connectors.sealing``), named by the dead letter's id. Nothing here is ever logged or shown.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple, Protocol

from connectors.sealing import LONGEST, Sealer, head_of
from schemas.errors import Refused, Retry

RETENTION = timedelta(days=30)
_NEVER = datetime(1970, 1, 1, tzinfo=UTC)


class Held(NamedTuple):
    """What is known of a payload without its key: its name, whose it is, its size in bytes, when it will be purged."""

    name: str
    tenant: str
    size: int
    until: datetime


class Payloads(Protocol):
    """The payloads of dead letters, by name. What is past its time is gone, whether or not it was purged yet."""

    def read(self, name: str) -> bytes:
        """The payload. Raises Refused, with the way out, when it is gone or its key is another; Retry when away."""
        ...

    def until(self, name: str) -> datetime | None:
        """When the payload will be purged; None when it is not there."""
        ...

    def held(self) -> Iterator[Held]:
        """Every payload that is there."""
        ...

    def delete(self, name: str) -> bool:
        """Remove a payload before its time (erasure); whether it was there."""
        ...


class Quarantine:
    """Payloads below one folder, readable by the owner alone; ``key`` is secret, every tenant's own follows from it.

    ``durable`` waits for the disk with every payload. ``clock`` None: payloads are there until ``purge`` removes them.
    One process uses a folder at a time.
    """

    def __init__(
        self,
        folder: Path,
        key: bytes,
        *,
        retention: timedelta = RETENTION,
        durable: bool = False,
        clock: Callable[[], datetime] | None = None,
    ) -> None:
        self._folder, self._retention, self._durable = folder, retention, durable
        self._clock = clock or (lambda: _NEVER)
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        for left in folder.glob("*.tmp"):
            left.unlink()
        self._sealer = Sealer(key)

    def put(self, name: str, tenant: str, payload: bytes, now: datetime) -> str:
        """Keep a payload, whole or not at all; the same name again replaces it. Returns the name to find it by.

        Raises Retry when the file cannot be written: whoever lets the payload go must not go on.
        """
        path = self._folder / name
        temporary = path.with_name(f"{name}.tmp")
        sealed = self._sealer.seal(name, tenant, payload, now)
        try:
            with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
                file.write(sealed)
                if self._durable:
                    file.flush()
                    os.fsync(file.fileno())
            temporary.replace(path)
        except OSError as error:
            raise Retry(f"the quarantine {self._folder} cannot be written: {error.strerror}: mend it first") from error
        return name

    def __contains__(self, name: str) -> bool:
        return self.until(name) is not None

    def read(self, name: str) -> bytes:
        """See Payloads."""
        try:
            sealed = (self._folder / name).read_bytes()
        except FileNotFoundError:
            sealed = b""
        head = head_of(sealed)
        if not sealed or (head is not None and head.since + self._retention <= self._clock()):
            raise Refused(
                f"{name} is not in the quarantine: it was never there, or was purged after {self._retention.days} days"
            )
        return self._sealer.open(name, sealed)

    def until(self, name: str) -> datetime | None:
        """See Payloads."""
        found = self._look(self._folder / name) if name else None
        return found.until if found is not None and found.until > self._clock() else None

    def held(self) -> Iterator[Held]:
        """See Payloads."""
        for path in sorted(self._folder.iterdir()):
            found = self._look(path) if path.suffix != ".tmp" else None
            if found is not None and found.until > self._clock():
                yield found

    def _look(self, path: Path) -> Held | None:
        try:
            with path.open("rb") as file:
                head = head_of(file.read(LONGEST))
        except (FileNotFoundError, IsADirectoryError):
            return None
        if head is None:
            return None
        return Held(path.name, head.tenant, path.stat().st_size - head.size, head.since + self._retention)

    def delete(self, name: str) -> bool:
        """See Payloads."""
        there = name in self
        (self._folder / name).unlink(missing_ok=True)
        return there

    def purge(self, now: datetime) -> int:
        """Remove what is past its time, and what is no payload at all; returns how many."""
        paths = [path for path in self._folder.iterdir() if path.suffix != ".tmp"]
        old = [path for path in paths if (found := self._look(path)) is None or found.until < now]
        for path in old:
            path.unlink()
        return len(old)
