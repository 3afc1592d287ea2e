"""Files that commands write: whole or not at all, and never in place of what is no file."""

from __future__ import annotations

import gzip
import io
import os
import threading
from pathlib import Path

import pytest

from driftwheel.files import placed_lines, reading, writing
from schemas.errors import UsageError


def test_a_file_is_there_whole_or_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "out"
    with writing(str(path)) as out:
        out.write("one")
        assert not path.exists()
    assert path.read_text() == "one"

    def half() -> None:
        with writing(str(path)) as out:
            out.write("two")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        half()
    assert [one.name for one in tmp_path.iterdir()] == ["out"]
    assert path.read_text() == "one"


def test_a_pipe_stays_a_pipe(tmp_path: Path) -> None:
    path, heard = tmp_path / "pipe", list[str]()
    os.mkfifo(path)
    reader = threading.Thread(target=lambda: heard.append(path.read_text()))
    reader.start()
    with writing(str(path)) as out:
        out.write("said")
    reader.join(30)
    assert (heard, path.is_fifo()) == (["said"], True)


def test_what_cannot_be_read_or_written_is_named(tmp_path: Path) -> None:
    with (
        pytest.raises(UsageError, match="absent/out cannot be written: No such file"),
        writing(str(tmp_path / "absent" / "out")),
    ):
        pass
    with pytest.raises(UsageError, match="absent cannot be read: No such file"), reading(str(tmp_path / "absent")):
        pass
    (tmp_path / "bad").write_bytes(b"\xff")
    with pytest.raises(UsageError, match="bad is not UTF-8 text: byte 0"), reading(str(tmp_path / "bad")) as lines:
        lines.read()


MARKED = "\ufeffone\n\ntwo\n".encode()


def standard_input(monkeypatch: pytest.MonkeyPatch, content: bytes) -> io.TextIOWrapper:
    """As where the machine's own encoding is another one."""
    stdin = io.TextIOWrapper(io.BytesIO(content), encoding="ascii")
    monkeypatch.setattr("sys.stdin", stdin)
    return stdin


def test_a_byte_order_mark_is_no_part_of_the_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "plain").write_bytes(MARKED)
    (tmp_path / "small.gz").write_bytes(gzip.compress(MARKED))
    stdin = standard_input(monkeypatch, MARKED)
    for source in (str(tmp_path / "plain"), str(tmp_path / "small.gz"), "-"):
        found = list(placed_lines(source))
        assert [line for line, _ in found] == ["one\n", "two\n"]
        assert found[1][1].endswith("standard input, line 3" if source == "-" else f"{source}, line 3")
    assert not stdin.closed


def test_standard_input_is_named_where_it_is_not_utf_8(monkeypatch: pytest.MonkeyPatch) -> None:
    standard_input(monkeypatch, b"ok\n\xff")
    with pytest.raises(UsageError, match="standard input is not UTF-8 text"):
        list(placed_lines("-"))


def test_standard_input_that_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", None)
    with pytest.raises(UsageError, match="standard input is closed"):
        list(placed_lines("-"))
