"""Labelled rows from a CSV or JSON Lines file (also .gz): the raw material of a world."""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from schemas.errors import UsageError

MIN_LABELS = 3
MIN_ROWS_PER_LABEL = 12
PROVABLE = ("email", "phone", "card")


@dataclass(frozen=True, slots=True)
class Row:
    """One labelled utterance. ``personal`` lists the e-mail addresses, phone and card numbers planted in ``text``."""

    text: str
    label: str
    personal: tuple[str, ...] = ()


def read_rows(path: Path, text_column: str = "text", label_column: str = "label") -> list[Row]:
    """Every distinct row that has both a text and a label, in file order.

    Raises UsageError naming file, line and column, with the columns that exist.
    """
    rows: dict[str, Row] = {}
    for line, record in _records(path):
        missing = [column for column in (text_column, label_column) if column not in record]
        if missing:
            raise UsageError(
                f"{path}, line {line}: no column {missing[0]!r}. It has: {', '.join(record)}. "
                "Name the right ones with --text-column and --label-column."
            )
        text, label = str(record[text_column] or "").strip(), str(record[label_column] or "").strip()
        if text and label:
            rows.setdefault(text, Row(text, label, _personal(record.get("personal"))))
    found = list(rows.values())
    _check(path, found)
    return found


def _personal(cell: Any) -> tuple[str, ...]:
    """Values of ``type:value;type:value`` that a rule can prove to be gone; names are a matter of recall."""
    parts = (part.partition(":") for part in str(cell or "").split(";"))
    return tuple(value.strip() for kind, _, value in parts if kind.strip() in PROVABLE and value.strip())


def _check(path: Path, rows: list[Row]) -> None:
    counts: dict[str, int] = {}
    for row in rows:
        counts[row.label] = counts.get(row.label, 0) + 1
    if len(counts) < MIN_LABELS:
        raise UsageError(f"{path}: {len(counts)} labels; a world that shifts needs at least {MIN_LABELS}")
    few = sorted(label for label, n in counts.items() if n < MIN_ROWS_PER_LABEL)
    if few:
        raise UsageError(
            f"{path}: label {few[0]!r} has {counts[few[0]]} distinct texts; "
            f"every label needs at least {MIN_ROWS_PER_LABEL}"
        )


def _records(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    try:
        data = path.read_bytes()
        text = (gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data).decode("utf-8-sig")
    except (OSError, EOFError) as error:
        raise UsageError(f"{path} cannot be read: {error}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not UTF-8 text: byte {error.start} is wrong") from error
    name = path.name.removesuffix(".gz")
    yield from _json_lines(path, text) if name.endswith((".jsonl", ".ndjson", ".json")) else _csv(path, text)


def _csv(path: Path, text: str) -> Iterator[tuple[int, dict[str, Any]]]:
    reader = csv.DictReader(io.StringIO(text))
    try:
        for record in reader:
            yield reader.line_num, {str(key): value for key, value in record.items()}
    except csv.Error as error:
        raise UsageError(f"{path}, line {reader.line_num}: not CSV: {error}") from error


def _json_lines(path: Path, text: str) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            raise UsageError(f"{path}, line {number}: not JSON: {error.msg} at column {error.colno}") from error
        if not isinstance(record, dict):
            raise UsageError(f"{path}, line {number}: a JSON object was expected")
        yield number, record
