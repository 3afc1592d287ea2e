"""UTF-8 files that commands read and write, also compressed (``.gz``); ``-`` is standard input or output."""

from __future__ import annotations

import gzip
import io
import os
import sys
import zlib
from collections.abc import Generator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import BinaryIO, TextIO, cast

from schemas.errors import UsageError


@contextmanager
def reading(source: str) -> Generator[TextIO]:
    """A file to read, without a byte order mark. Raises UsageError when it cannot be, is damaged, or is not UTF-8."""
    try:
        with nullcontext(_standard_input()) if source == "-" else _opened(source) as file:
            yield file
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UsageError(f"{shown(source)} is no whole gzip file: {error}") from error
    except OSError as error:
        raise UsageError(f"{shown(source)} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{shown(source)} is not UTF-8 text: byte {error.start} is wrong") from error


def shown(source: str) -> str:
    """A source as messages name it."""
    return "standard input" if source == "-" else source


def lines_of(source: str) -> Generator[str]:
    """The lines of a file; what is wrong with it is a UsageError, wherever they are read."""
    with reading(source) as file:
        yield from file


def placed_lines(source: str) -> Generator[tuple[str, str]]:
    """The lines of a file that are not blank, each with its place for error messages; see ``lines_of``."""
    for number, line in enumerate(lines_of(source), 1):
        if line.strip():
            yield line, f"{shown(source)}, line {number}"


@contextmanager
def writing(target: str) -> Generator[TextIO]:
    """A file that is there whole or not at all; what is no file (a device, a pipe) is written to as it is.

    Raises UsageError when it cannot be written.
    """
    if target == "-":
        yield sys.stdout
        return
    path = Path(target)
    special = path.exists() and not path.is_file()
    part = path if special else path.with_name(f".{path.name}.part")
    try:
        with _compressed(part) if target.endswith(".gz") else part.open("w", encoding="utf-8") as file:
            yield file
        if not special:
            part.replace(path)
    except OSError as error:
        raise UsageError(f"{target} cannot be written: {error.strerror}") from error
    finally:
        if not special:
            part.unlink(missing_ok=True)


@contextmanager
def writing_private(target: str) -> Generator[BinaryIO]:
    """A file that its owner alone can read, whole or not at all; one that is there is replaced.

    Raises UsageError when it cannot be written, or is no file.
    """
    path = Path(target)
    if path.exists() and not path.is_file():
        raise UsageError(f"{target} is no file")
    part = path.with_name(f".{path.name}.part")
    try:
        part.unlink(missing_ok=True)
        with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            yield file
        part.replace(path)
    except OSError as error:
        raise UsageError(f"{target} cannot be written: {error.strerror}") from error
    finally:
        part.unlink(missing_ok=True)


def _standard_input() -> TextIO:
    if sys.stdin is None:
        raise UsageError("standard input is closed: name a file")
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(encoding="utf-8-sig", errors="strict")  # whatever the machine's own is
    return sys.stdin


def _opened(source: str) -> TextIO:
    path = Path(source)
    if path.suffix == ".gz":
        return cast("TextIO", gzip.open(path, "rt", encoding="utf-8-sig"))
    return path.open(encoding="utf-8-sig")


def _compressed(path: Path) -> TextIO:
    return cast("TextIO", gzip.open(path, "wt", encoding="utf-8"))
