"""``driftwheel keys``: make, list, rotate and revoke the API keys that agents send with."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from connectors.api_keys import ApiKey, found, new_key, read_keys, rotated
from driftwheel.api import Table
from driftwheel.clock import utc_now
from driftwheel.config import Config
from driftwheel.keys import api_keys_path, write_keys
from driftwheel.tables import show, show_mapping

COLUMNS = ["id", "tenant", "agents", "rate", "burst", "created", "expires", "state", "note"]


def create_key(config: Config, tenant: str, days: float, as_json: bool, **more: Any) -> None:
    """Make a key and show it, once."""
    path, now = api_keys_path(config), utc_now()
    text, key = new_key(now, tenant, expires=now + timedelta(days=days) if days else None, **more)
    write_keys(path, [*read_keys(path), key])
    _show_new(text, key, as_json)


def rotate_key(config: Config, name: str, hours: float, as_json: bool) -> None:
    """Make a key in place of another, which holds for ``hours`` still."""
    path = api_keys_path(config)
    text, key, every = rotated(read_keys(path), name, utc_now(), timedelta(hours=hours))
    write_keys(path, every)
    _show_new(text, key, as_json)


def revoke_key(config: Config, name: str, as_json: bool) -> None:
    """Take a key out of the file: within a second it holds no more."""
    path = api_keys_path(config)
    keys = read_keys(path)
    gone = found(keys, name)
    write_keys(path, [key for key in keys if key is not gone])
    show_mapping({"revoked": gone.id, "tenant": gone.tenant}, as_json=as_json)


def list_keys(config: Config, as_json: bool) -> None:
    """Every key, without its secret, which nobody has."""
    show(Table(COLUMNS, [_row(key, utc_now()) for key in read_keys(api_keys_path(config))]), as_json=as_json)


def _row(key: ApiKey, now: datetime) -> list[Any]:
    expires = key.expires.isoformat(timespec="seconds") if key.expires else ""
    return [
        key.id, key.tenant, ", ".join(key.agents) or "all", key.rate or "", key.burst if key.rate else "",
        key.created.isoformat(timespec="seconds"), expires, "live" if key.live(now) else "expired", key.note,
    ]  # fmt: skip


def _show_new(text: str, key: ApiKey, as_json: bool) -> None:
    told = {"key": text, "id": key.id, "tenant": key.tenant, "agents": ", ".join(key.agents) or "all"}
    told |= {"expires": key.expires.isoformat(timespec="seconds") if key.expires else "never"}
    told |= {"keep it": "it is shown this once; agents send it as `Authorization: Bearer KEY`"}
    show_mapping(told, as_json=as_json)
