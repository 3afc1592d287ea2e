"""Files of JSON: one value a line, or documents that are or hold lists of values; also packed with gzip.

Documents may follow one another, as exporters print them. A row that only names a ``file`` and has its ``content``
stands for what is in it.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, cast

from schemas.errors import UsageError

LISTS = ("data", "spans", "traces", "items", "results")
"""Names of the list in a document that holds one."""

_FILED = {"file", "content"}


class Row(NamedTuple):
    """One value of a file, and where it stands: ``line 3``, or ``line 1, item 2`` within a list."""

    where: str
    value: Any


def lines_of(path: Path) -> Iterator[tuple[int, str]]:
    """The lines of a text file that are not empty, with their numbers. Raises UsageError naming the file."""
    opener = gzip.open if path.suffix == ".gz" else open
    try:
        with opener(path, "rt", encoding="utf-8-sig") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield number, line
    except (OSError, EOFError, zlib.error) as error:
        raise UsageError(f"{path} cannot be read: {error}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not UTF-8 text: byte {error.start} is wrong") from error


def rows_of(path: Path) -> Iterator[Row]:
    """The values of a file in order, those of lists one by one. Raises UsageError naming file and line."""
    lines = lines_of(path)
    first = next(lines, None)
    if first is None:
        raise UsageError(f"{path} is empty")
    if _goes_on(first[1]):
        text = "".join([first[1], *(line for _, line in lines_of(path) if _ != first[0])])
        for number, value in _documents(text, path, first[0]):
            yield from _spread(Row(f"line {number}", value))
        return
    for number, line in (first, *lines):
        yield from _spread(Row(f"line {number}", decoded(line, path, number)))


def _goes_on(line: str) -> bool:
    """Whether the first line is only the beginning of a document."""
    try:
        json.loads(line)
    except json.JSONDecodeError as error:
        return not line[error.pos :].strip()
    except (ValueError, RecursionError):
        return False
    return False


def _documents(text: str, path: Path, first: int) -> Iterator[tuple[int, Any]]:
    """The documents of a text that begins in line ``first``, one after the other, with the lines they begin in."""
    place, end, number, decoder = 0, len(text.rstrip()), first, json.JSONDecoder()
    while place < end:
        start = next(n for n in range(place, end) if not text[n].isspace())
        number += text.count("\n", place, start)
        with _named(path, first):
            value, place = decoder.raw_decode(text, start)
        yield number, value
        number += text.count("\n", start, place)


def decoded(text: str, path: Path, number: int) -> Any:
    """What the JSON that begins in line ``number`` says. Raises UsageError naming file, line and column."""
    with _named(path, number):
        return json.loads(text)


@contextmanager
def _named(path: Path, number: int) -> Generator[None]:
    """An error of the decoder, whose text begins in line ``number``, is one of the file."""
    try:
        yield
    except json.JSONDecodeError as error:
        line = number + error.lineno - 1
        raise UsageError(f"{path}, line {line}: not JSON: {error.msg} at column {error.colno}") from error
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path}, line {number}: JSON with too many digits or levels to be read") from error


def _spread(row: Row) -> Iterator[Row]:
    listed = _listed(row.value)
    if listed is None:
        yield row
        return
    for place, one in enumerate(listed, 1):
        yield Row(f"{row.where}, item {place}", one)


def _listed(value: Any) -> list[Any] | None:
    """The list that a value is or holds; None when it is a row itself."""
    if not isinstance(value, dict):
        return cast("list[Any]", value) if isinstance(value, list) else None
    held = cast("dict[str, Any]", value)
    if held.keys() == _FILED and isinstance(held["content"], (list, dict)):
        inner = _listed(held["content"])
        return [held["content"]] if inner is None else inner
    inner = next((held[name] for name in LISTS if isinstance(held.get(name), list)), None)
    return inner if inner is not None and not held.keys() & {"id", "trace", "resourceSpans"} else None
