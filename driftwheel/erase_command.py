"""``driftwheel erase``: ask for erasures, and see how they stand, on either engine."""

from __future__ import annotations

import time
from typing import Any

from driftwheel.api import Table, plain
from driftwheel.config import Config
from driftwheel.desk import open_erasing
from driftwheel.erasing import Erasing
from driftwheel.tables import show, show_mapping

PATIENCE = 600.0
"""Seconds that ``--wait`` waits."""
_PAUSE = 0.5
_COLUMNS = ("erasure_id", "requested_time", "tenant", "subject_hash", "state", "models")


def erase_subject(
    config: Config, tenant: str, user_id: str, *, dry_run: bool, wait: bool, as_json: bool, patience: float = PATIENCE
) -> int:
    """Ask for an erasure, or only look; the exit code."""
    with open_erasing(config) as erasing:
        if dry_run:
            show_mapping(plain(erasing.plan(tenant, user_id)), as_json=as_json)
            return 0
        found = erasing.request(tenant, user_id, "command line")
        found = _waited(erasing, found, patience) if wait else found
    show_mapping(plain(found), as_json=as_json)
    return int(wait and found["state"] != "done")


def _waited(erasing: Erasing, found: dict[str, Any], patience: float) -> dict[str, Any]:
    until = time.monotonic() + (patience if erasing.goes_on else 0)
    while found["state"] != "done" and time.monotonic() < until:
        time.sleep(_PAUSE)
        found = erasing.show(found["erasure_id"])
    return found


def list_erasures(config: Config, tenant: str, state: str, *, as_json: bool) -> None:
    """Print erasures."""
    with open_erasing(config) as erasing:
        found = erasing.find(tenant, state)
    show(Table(list(_COLUMNS), [[row[name] for name in _COLUMNS] for row in found]), as_json=as_json)


def show_erasure(config: Config, name: str, *, as_json: bool) -> None:
    """Print all that is known of one erasure."""
    with open_erasing(config) as erasing:
        found = erasing.show(name)
    show_mapping(plain(found), as_json=as_json)
