"""One client for both engines: ``open_client`` is the only place that knows which one it is.

The embedded engine (chDB) has one owner process for a folder and one folder in a process; a client belongs to one
thread at a time. Times come back aware, in UTC.
"""

from __future__ import annotations

import fcntl
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import clickhouse_connect
from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import ClickHouseError

from schemas.errors import Refused, Retry, UsageError

ACCESS_DENIED = frozenset({192, 193, 194, 497, 516})
"""ClickHouse's codes for an unknown user, a wrong or missing password, and rights that are missing."""


def nobody(tenant: str) -> Mapping[str, int]:
    """No tenant has a retention of its own."""
    del tenant
    return {}


@dataclass(frozen=True, slots=True)
class StoreSettings:
    """Either ``path`` (embedded) or ``url`` (``http(s)://user:password@host:port``).

    Retention in days, fixed in a row when it is stored: ``retention_days`` for what came from people and what was
    said about it, with its ledger; ``control_days`` for what the flywheel decided, from alarms to erasures. ``tenants``
    gives a tenant's own days by table, which hold for rows from before, too.
    """

    path: Path | None = None
    url: str = ""
    database: str = "driftwheel"
    retention_days: int = 365
    control_days: int = 3_650
    tenants: Callable[[str], Mapping[str, int]] = nobody

    @property
    def place(self) -> str:
        """Where it is, without the password."""
        if not self.url:
            return f"the embedded store in {self.path}"
        parts = urlsplit(self.url)
        return f"the ClickHouse server {parts.scheme}://{parts.netloc.rpartition('@')[2]}"


def open_client(settings: StoreSettings, database: str = "", options: Mapping[str, Any] | None = None) -> Client:
    """A client with ClickHouse settings ``options``, set in their order.

    Raises UsageError when the settings name no place, Refused when the place says no (another owner, wrong
    credentials), Retry when it is away.
    """
    chosen: dict[str, Any] = {
        "database": database or None,
        "settings": dict(options or {}),
        "tz_mode": "aware",
    }
    try:
        if settings.url:
            _check_url(settings.url)
            return clickhouse_connect.get_client(dsn=settings.url, autogenerate_session_id=False, **chosen)
        if settings.path is None:
            raise UsageError("store: neither a path nor a url: name a folder, or http(s)://user:password@host:port")
        return clickhouse_connect.get_client(interface="chdb", path=str(settings.path.absolute()), **chosen)
    except (ClickHouseError, OSError) as error:
        raise meaning(error, settings) from error


def _check_url(url: str) -> None:
    if urlsplit(url).scheme not in {"http", "https"} or not urlsplit(url).hostname:
        raise UsageError("store.url: not of the form http(s)://user:password@host:port")


def meaning(error: Exception, settings: StoreSettings) -> Exception:
    """What a failure to open the store stands for: Refused or Retry, with the way out."""
    if not settings.url and settings.path is not None:
        return _embedded(error, settings.path)
    if getattr(error, "code", None) in ACCESS_DENIED:
        return Refused(f"{settings.place} refuses the user or the password: see store.url ({first_line(error)})")
    return Retry(f"{settings.place} does not answer: {first_line(error)}")


def _embedded(error: Exception, path: Path) -> Refused:
    """The engine says little about why it does not start: its lock on the folder tells."""
    if "already initialized" in str(error):
        return Refused(
            f"this process has another embedded store open, {path} cannot be the second: "
            "close the first, or use a process of its own"
        )
    if _locked(path / "status"):
        return Refused(
            f"another Driftwheel process owns this folder, {path}: "
            "ask that process, stop it, or name another data folder"
        )
    return Refused(f"the embedded store in {path} cannot be opened: {first_line(error)}")


def _locked(path: Path) -> bool:
    try:
        with path.open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def first_line(error: Exception) -> str:
    """What an error says, on one line."""
    text = str(error).strip()
    return text.splitlines()[0][:400] if text else type(error).__name__
