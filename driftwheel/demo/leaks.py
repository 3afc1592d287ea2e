"""Looks for planted personal data in everything that the product left behind: files and tables."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from urllib.parse import quote

from driftwheel.api import Table

PIECE = 8 * 1024 * 1024
OVERLAP = 256


def in_files(folders: Iterable[Path], planted: Sequence[str]) -> set[str]:
    """Planted values that occur in any file below the folders, as they are, percent-encoded or in base64."""
    needles = {form: value for value in planted for form in _forms(value)}
    found: set[str] = set()
    for folder in folders:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                for piece in _pieces(path):
                    found |= {value for form, value in needles.items() if form in piece}
    return found


def in_tables(query: Callable[[str], Table], planted: Sequence[str]) -> set[str]:
    """Planted values that occur in any text of any table: files of a column store are compressed."""
    found: set[str] = set()
    columns = query(
        "SELECT table, name FROM system.columns WHERE database = currentDatabase() AND type LIKE '%String%' "
        "AND table NOT LIKE '%_current' AND table NOT LIKE '.%'"
    )
    texts: dict[str, list[str]] = {}
    for table, name in columns.rows:
        texts.setdefault(table, []).append(f"toString(`{name}`)")
    for table, parts in texts.items():
        whole = f"concat({', '.join(part + ', char(10)' for part in parts)})"
        for start in range(0, len(planted), 100):
            needles = ", ".join(f"'{value}'" for value in planted[start : start + 100] if "'" not in value)
            among = f"arrayFilter(n -> position({whole}, n) > 0, [{needles}])"
            hits = query(f"SELECT DISTINCT arrayJoin({among}) FROM `{table}`")  # noqa: S608  # the store's own names
            found |= {row[0] for row in hits.rows}
    return found


def _forms(value: str) -> Iterator[bytes]:
    yield value.encode()
    yield quote(value).encode()
    yield base64.b64encode(value.encode()).rstrip(b"=")[:-1]


def _pieces(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        tail = b""
        while piece := file.read(PIECE):
            yield tail + piece
            tail = piece[-OVERLAP:]
