"""A store for tests: chDB allows one path in a process, so that all share one, each test in a database of its own.

``DRIFTWHEEL_TEST_CLICKHOUSE_URL`` names a server to test on instead.
"""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from connectors.clickhouse.store import Store, StoreSettings, open_client


@cache
def embedded_path() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="driftwheel-store-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder / "store"


def settings(database: str = "", retention_days: int = 7300) -> StoreSettings:
    name = database or f"t_{uuid.uuid4().hex[:12]}"
    url = os.environ.get("DRIFTWHEEL_TEST_CLICKHOUSE_URL", "")
    return StoreSettings(path=None if url else embedded_path(), url=url, database=name, retention_days=retention_days)


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
