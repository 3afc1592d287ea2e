"""A store for tests: chDB allows one path in a process, so that all share one, each test in a database of its own.

Tests of the store run on a ClickHouse server too when there is one: the address in ``DRIFTWHEEL_TEST_CLICKHOUSE_URL``,
else Docker. :func:`why_no_server` says what is missing.
"""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from connectors.clickhouse.store import Store, StoreSettings, open_client
from schemas.errors import Retry
from tests.machine import NotHere, container, docker_answers, free_ports

ADDRESS = "DRIFTWHEEL_TEST_CLICKHOUSE_URL"
IMAGE = "clickhouse/clickhouse-server:25.8"
READY_SECONDS = 120

_servers: list[str] = []
"""The server that tests are on now is the last one; none: chDB."""


@cache
def embedded_path() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="driftwheel-store-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder / "store"


def settings(database: str = "", retention_days: int = 7300) -> StoreSettings:
    name = database or f"t_{uuid.uuid4().hex[:12]}"
    url = _servers[-1] if _servers else ""
    return StoreSettings(path=None if url else embedded_path(), url=url, database=name, retention_days=retention_days)


def why_no_server() -> str:
    """Why tests have no ClickHouse server, and how to give them one; empty when they have."""
    if os.environ.get(ADDRESS) or docker_answers():
        return ""
    return (
        f"no ClickHouse server for tests: {ADDRESS} names none and no Docker engine answers. "
        f"Set {ADDRESS}=http://user:password@host:8123, or start Docker"
    )


@contextmanager
def open_server() -> Iterator[str]:
    """The address of a ClickHouse server, found or started. Raises NotHere with :func:`why_no_server`."""
    if why := why_no_server():
        raise NotHere(why)
    if address := os.environ.get(ADDRESS):
        yield address
        return
    [port] = free_ports(1)
    with container(IMAGE, 8123, port, CLICKHOUSE_USER="driftwheel", CLICKHOUSE_PASSWORD="driftwheel"):
        address = f"http://driftwheel:driftwheel@127.0.0.1:{port}"
        _await(address)
        yield address


@contextmanager
def on_server(url: str) -> Iterator[None]:
    """Stores that are made meanwhile are on this server."""
    _servers.append(url)
    try:
        yield
    finally:
        _servers.pop()


@contextmanager
def temporary_store(retention_days: int = 7300) -> Iterator[Store]:
    made = settings(retention_days=retention_days)
    store = Store(made)
    try:
        yield store
    finally:
        store.close()
        client = open_client(made)
        client.command(f"DROP DATABASE {made.database} SYNC")
        client.close()


def _await(address: str) -> None:
    until = time.monotonic() + READY_SECONDS
    while True:
        try:
            open_client(StoreSettings(url=address)).close()
        except Retry:
            if time.monotonic() > until:
                raise
            time.sleep(0.2)
        else:
            return
