"""Opening a store: one owner for a folder, clear words for every way in which it fails."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from connectors.clickhouse.client import StoreSettings, open_client
from connectors.clickhouse.store import Store
from schemas.errors import Refused, Retry, UsageError
from tests.store import embedded_path, settings


def embedded_only() -> None:
    if settings().url:
        pytest.skip("a server has no owner process")


def test_another_process_is_told_who_owns_the_folder(shared: Store, root: Path) -> None:
    embedded_only()
    script = f"""
        from pathlib import Path
        from connectors.clickhouse.store import Store, StoreSettings
        from schemas.errors import Refused
        try:
            Store(StoreSettings(path=Path({str(embedded_path())!r})))
        except Refused as error:
            print(error)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], cwd=root, capture_output=True, text=True, check=True
    )
    assert "another Driftwheel process owns this folder" in done.stdout
    assert shared.select("SELECT 1").rows == [[1]]


def test_a_second_folder_in_one_process_is_refused(shared: Store, tmp_path: Path) -> None:
    embedded_only()
    with pytest.raises(Refused, match="this process has another embedded store open"):
        Store(StoreSettings(path=tmp_path / "second"))


def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(Refused, match="name a data folder"):
        Store(StoreSettings(path=tmp_path / "file" / "store"))


def test_a_server_that_is_away_is_retried_and_its_password_kept() -> None:
    with pytest.raises(Retry, match=r"server http://127.0.0.1:9 does not answer") as failure:
        open_client(StoreSettings(url="http://user:sesame@127.0.0.1:9"))
    assert "sesame" not in str(failure.value)


@pytest.mark.parametrize("url", ["nonsense", "ftp://host", "127.0.0.1:8123", "http://"])
def test_a_wrong_address_is_a_usage_error(url: str) -> None:
    with pytest.raises(UsageError, match=r"store\.url"):
        open_client(StoreSettings(url=url))


def test_no_place_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="neither a path nor a url"):
        open_client(StoreSettings())


@pytest.mark.parametrize("name", ["", "a-b", "a; DROP DATABASE x", "1a", "ä"])
def test_a_wrong_database_name_is_a_usage_error(name: str) -> None:
    with pytest.raises(UsageError, match="database name"):
        Store(StoreSettings(path=embedded_path(), database=name))
