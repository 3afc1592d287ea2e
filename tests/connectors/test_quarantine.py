from __future__ import annotations

import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from connectors.quarantine import RETENTION, Held, Quarantine
from schemas.errors import Refused, Retry

T0 = datetime(2026, 1, 1, tzinfo=UTC)
KEY = bytes(range(32))


def test_a_payload_comes_back_and_its_file_shows_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "quarantine"
    name = Quarantine(folder, KEY).put("abc", "acme", b"mary@example.org", T0)
    again = Quarantine(folder, KEY)
    assert (again.read(name), name in again, "other" in again) == (b"mary@example.org", True, False)
    assert b"mary" not in (folder / name).read_bytes()
    assert stat.S_IMODE((folder / name).stat().st_mode) == 0o600
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_the_same_name_again_replaces(tmp_path: Path) -> None:
    quarantine = Quarantine(tmp_path, KEY, durable=True)
    quarantine.put("abc", "acme", b"one", T0)
    quarantine.put("abc", "acme", b"two", T0)
    assert quarantine.read("abc") == b"two"
    assert [path.name for path in tmp_path.iterdir()] == ["abc"]


def test_purge_removes_the_old_and_keeps_the_rest(tmp_path: Path) -> None:
    quarantine = Quarantine(tmp_path, KEY)
    quarantine.put("old", "acme", b"1", T0)
    quarantine.put("new", "acme", b"2", T0 + timedelta(days=1))
    (tmp_path / "stray").write_bytes(b"not a token")
    assert quarantine.purge(T0 + RETENTION + timedelta(seconds=1)) == 2
    assert quarantine.read("new") == b"2"
    with pytest.raises(Refused, match=r"old is not in the quarantine: .* purged after 30 days"):
        quarantine.read("old")


def test_until_when_a_payload_is_there(tmp_path: Path) -> None:
    quarantine = Quarantine(tmp_path, KEY)
    quarantine.put("abc", "acme", b"1", T0)
    assert [quarantine.until(name) for name in ("abc", "other", "")] == [T0 + RETENTION, None, None]


def test_delete(tmp_path: Path) -> None:
    quarantine = Quarantine(tmp_path, KEY)
    quarantine.put("abc", "acme", b"1", T0)
    assert [quarantine.delete("abc"), quarantine.delete("abc")] == [True, False]


def test_what_cannot_be_read_is_refused(tmp_path: Path) -> None:
    quarantine = Quarantine(tmp_path, KEY)
    quarantine.put("abc", "acme", b"1", T0)
    with pytest.raises(Refused, match="abc in the quarantine was sealed under another key"):
        Quarantine(tmp_path, bytes(32)).read("abc")


def test_what_cannot_be_written_is_a_retry(tmp_path: Path) -> None:
    quarantine = Quarantine(tmp_path / "q", KEY)
    (tmp_path / "q").rmdir()
    with pytest.raises(Retry, match="cannot be written: No such file or directory"):
        quarantine.put("abc", "acme", b"1", T0)


def test_what_is_past_its_time_is_gone_before_it_is_purged(tmp_path: Path) -> None:
    now = [T0]
    quarantine = Quarantine(tmp_path, KEY, clock=lambda: now[0])
    quarantine.put("abc", "acme", b"1", T0)
    now[0] = T0 + RETENTION - timedelta(seconds=1)
    assert (quarantine.read("abc"), [one.name for one in quarantine.held()]) == (b"1", ["abc"])
    now[0] = T0 + RETENTION
    with pytest.raises(Refused, match="purged after 30 days"):
        quarantine.read("abc")
    assert ("abc" in quarantine, quarantine.until("abc"), list(quarantine.held())) == (False, None, [])


def test_what_is_known_without_the_key(tmp_path: Path) -> None:
    for n, tenant in enumerate(("acme", "Größe & Co")):
        Quarantine(tmp_path, KEY).put(f"n{n}", tenant, b"x" * (10 + n), T0)
    (tmp_path / "stray").write_bytes(b"no payload")
    found = list(Quarantine(tmp_path, bytes(32)).held())
    assert found == [Held("n0", "acme", 10, T0 + RETENTION), Held("n1", "Größe & Co", 11, T0 + RETENTION)]


def test_a_file_half_written_by_a_crash_is_gone_at_the_next_start(tmp_path: Path) -> None:
    (tmp_path / "abc.tmp").write_bytes(b"half")
    Quarantine(tmp_path, KEY)
    assert list(tmp_path.iterdir()) == []
