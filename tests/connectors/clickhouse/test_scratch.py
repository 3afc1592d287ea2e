"""The files that embedded inserts pass through hold people's text: where they are, and that they go."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import pytest

from connectors.clickhouse import scratch
from connectors.clickhouse.store import Store
from tests.connectors.clickhouse.records import span


def test_files_that_inserts_pass_through_stay_beside_the_store(shared: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    if shared.settings.path is None:
        pytest.skip("a server takes inserts over the wire")
    before, seen, real = tempfile.gettempdir(), list[Path](), tempfile.NamedTemporaryFile

    def spy(*args: Any, **settings: Any) -> Any:
        made = real(*args, **settings)
        seen.append(Path(made.name))
        return made

    monkeypatch.setattr(tempfile, "NamedTemporaryFile", spy)
    shared.write([span(1)])
    assert [path.parent for path in seen] == [shared.settings.path.with_name("store-inserts")]
    assert seen[0].parent.stat().st_mode & 0o077 == 0
    assert not seen[0].exists()
    assert tempfile.gettempdir() == before


def test_what_a_killed_process_left_of_an_insert_is_removed(shared: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    if shared.settings.path is None:
        pytest.skip("a server takes inserts over the wire")
    left = shared.settings.path.with_name("store-inserts") / "left.native"
    left.write_text("secret")
    Store(shared.settings).close()
    assert left.exists(), "another store of this process may be using it"
    monkeypatch.setattr(scratch, "_CLEARED", set[Path]())
    Store(shared.settings).close()
    assert not left.exists()
