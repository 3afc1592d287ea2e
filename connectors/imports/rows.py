"""Files of JSON: one value a line, or one document that is or holds a list of values; also packed with gzip."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, cast

from schemas.errors import UsageError

LISTS = ("data", "spans", "traces", "items", "results")
"""Names of the list in a document that holds one."""


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
        yield from _spread(Row(f"line {first[0]}", decoded(text, path, first[0])))
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


def decoded(text: str, path: Path, number: int) -> Any:
    """What the JSON that begins in line ``number`` says. Raises UsageError naming file, line and column."""
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        line = number + error.lineno - 1
        raise UsageError(f"{path}, line {line}: not JSON: {error.msg} at column {error.colno}") from error
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path}, line {number}: JSON with too many digits or levels to be read") from error


def _spread(row: Row) -> Iterator[Row]:
    value = row.value
    if isinstance(value, dict):
        held = cast("dict[str, Any]", value)
        inner = next((held[name] for name in LISTS if isinstance(held.get(name), list)), None)
        listed = inner if inner is not None and not held.keys() & {"id", "trace", "resourceSpans"} else None
    else:
        listed = value if isinstance(value, list) else None
    if listed is None:
        yield row
        return
    for place, one in enumerate(cast("list[Any]", listed), 1):
        yield Row(f"{row.where}, item {place}", one)
