"""API keys of agents: one tenant each, some agents perhaps, a rate, an end. Stored as hashes, compared in fixed time.

A key reads ``dw_<id>_<secret>``. Its secret has 256 bits of chance, so that one round of SHA-256 is enough (nothing to
guess, unlike a password). The file is looked at again when it changes: keys come and go without a restart.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
import re
import secrets
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from schemas.errors import Refused, UsageError
from schemas.tenants import tenant_option

logger = logging.getLogger(__name__)

LOOK_SECONDS = 1.0
"""How long a change of the file may stay unseen."""
_SHAPE = re.compile(r"dw_([0-9a-f]{12})_([A-Za-z0-9_\-]{43})")


@dataclass(frozen=True, slots=True)
class ApiKey:
    """What is kept of a key. ``agents`` empty: all of the tenant's. ``rate``: requests a second, 0 for no limit.

    ``burst``: requests that may come at once. ``expires`` None: it holds until it is revoked.
    """

    id: str
    sha256: str
    tenant: str
    created: datetime
    agents: tuple[str, ...] = ()
    rate: float = 0.0
    burst: int = 100
    expires: datetime | None = None
    note: str = ""

    def live(self, now: datetime) -> bool:
        """Whether it still holds."""
        return self.expires is None or now < self.expires


_KEYS = TypeAdapter(list[ApiKey])


def new_key(now: datetime, tenant: str, **more: Any) -> tuple[str, ApiKey]:
    """A key, to be shown once, and what is kept of it. Raises UsageError for a tenant that cannot be."""
    tenant_option(tenant)
    name, secret = secrets.token_hex(6), secrets.token_urlsafe(32)
    return f"dw_{name}_{secret}", ApiKey(name, _hash(secret), tenant, now, **more)


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


def read_keys(path: Path) -> list[ApiKey]:
    """The keys of a file; none when it is not there. Raises Refused when it cannot be understood."""
    try:
        return _KEYS.validate_json(path.read_bytes())
    except FileNotFoundError:
        return []
    except (OSError, ValidationError, ValueError) as error:
        raise Refused(f"the API keys in {path} cannot be read: {_told(error)}") from error


def _told(error: Exception) -> str:
    if isinstance(error, ValidationError):
        first = error.errors(include_url=False, include_input=False)[0]
        return f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']}"
    return error.strerror or "" if isinstance(error, OSError) else "no JSON"


def as_text(keys: Sequence[ApiKey]) -> str:
    """What ``read_keys`` reads."""
    return json.dumps([asdict(key) for key in keys], default=datetime.isoformat, indent=1)


def found(keys: Sequence[ApiKey], name: str) -> ApiKey:
    """The key whose id begins with ``name``. Raises UsageError when there is none, or more than one."""
    fits = [key for key in keys if name and key.id.startswith(name)]
    if len(fits) != 1:
        raise UsageError(f"{name!r} is the beginning of {len(fits)} keys: see `driftwheel keys list`")
    return fits[0]


def rotated(keys: Sequence[ApiKey], name: str, now: datetime, overlap: timedelta) -> tuple[str, ApiKey, list[ApiKey]]:
    """A key in place of another, which holds for ``overlap`` still: its text, what is kept of it, and all keys then."""
    old = found(keys, name)
    text, new = new_key(
        now, old.tenant, agents=old.agents, rate=old.rate, burst=old.burst, expires=old.expires, note=old.note
    )
    until = now + overlap if old.expires is None else min(old.expires, now + overlap)
    return text, new, [replace(key, expires=until) if key is old else key for key in keys] + [new]


class KeyRing:
    """The keys of a file, as they are now. Thread-safe.

    Raises Refused when the file cannot be understood, at first; later such a file has no keys, and the log says why.
    """

    def __init__(self, path: Path, clock: Callable[[], datetime], ticks: Callable[[], float] = time.monotonic) -> None:
        self._path, self._clock, self._ticks = path, clock, ticks
        self._lock = threading.Lock()
        self._stamp: tuple[int, int] = (-1, -1)
        self._looked = -LOOK_SECONDS
        self._keys: dict[str, ApiKey] = {}
        self._buckets: dict[str, Bucket] = {}
        self._there = False
        self._read()

    @property
    def asked_for(self) -> bool:
        """Whether a key is needed: once there was one, also when all have ended or been revoked."""
        with self._lock:
            self._look()
            return self._there

    def key(self, text: str) -> ApiKey | None:
        """The key that a text is; None when it is none that holds."""
        shape = _SHAPE.fullmatch(text)
        name, secret = shape.groups() if shape else ("", text)
        with self._lock:
            self._look()
            key = self._keys.get(name)
        fits = hmac.compare_digest(_hash(secret), key.sha256 if key else _NOTHING)
        return key if key is not None and fits and key.live(self._clock()) else None

    def wait(self, key: ApiKey) -> float:
        """Seconds until the key may ask again; 0 when it may now, which counts."""
        if key.rate <= 0:
            return 0.0
        with self._lock:
            bucket = self._buckets.setdefault(key.id, Bucket(float(key.burst), self._ticks()))
            return bucket.take(key.rate, key.burst, self._ticks())

    def _look(self) -> None:
        try:
            self._read()
        except Refused as error:
            logger.warning("%s; no key holds until that is mended", error)

    def _read(self) -> None:
        if self._ticks() - self._looked < LOOK_SECONDS:
            return
        self._looked = self._ticks()
        try:
            status = self._path.stat()
            stamp = (status.st_mtime_ns, status.st_size)
        except FileNotFoundError:
            stamp = (0, 0)
        if stamp == self._stamp:
            return
        self._there = self._there or stamp != (0, 0)
        self._stamp, self._keys = stamp, {}
        self._keys = {key.id: key for key in read_keys(self._path)}


_NOTHING = _hash("")
"""What an unknown key is compared with, so that it takes as long."""


@dataclass(slots=True)
class Bucket:
    """A token bucket: ``left`` requests may come at once at ``time``."""

    left: float
    time: float

    def take(self, rate: float, burst: int, now: float) -> float:
        """Take one; seconds until there is one when there is none.

        >>> bucket = Bucket(1.0, 0.0)
        >>> bucket.take(2.0, 5, 0.0), bucket.take(2.0, 5, 0.0), bucket.take(2.0, 5, 0.5)
        (0.0, 0.5, 0.0)
        """
        self.left = min(float(burst), self.left + (now - self.time) * rate)
        self.time = now
        if self.left < 1.0:
            return (1.0 - self.left) / rate
        self.left -= 1.0
        return 0.0
