"""``driftwheel drift``: values in time order, as CSV or JSON Lines, to alarms as JSON Lines, one pass, as they come."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from itertools import chain
from typing import Any, NamedTuple, TextIO, cast

from driftwheel.files import reading, writing
from processors.budget import HIGHEST, LOWEST
from processors.watch import ALL, Finding, NotBinary, Watch, WatchSettings
from schemas.errors import UsageError

_TIMES = ("time", "timestamp")
_EPOCH_SECONDS, _EPOCH_MILLIS = 1e8, 1e11
_TRUTH = {"true": 1.0, "false": 0.0}


class Row(NamedTuple):
    """One event. ``time`` is as it was written; ``hour`` of the day in UTC, None when ``time`` is no instant."""

    time: Any
    hour: int | None
    value: float
    cohort: str
    place: str


def watch_file(source: str, target: str, settings: WatchSettings) -> int:
    """Read events, write what they raise at once; returns the number of alarms (warnings not counted).

    Raises UsageError that names the line and the field; what was written before it stays on standard output, and a file
    is not written at all.
    """
    if not LOWEST <= settings.budget <= HIGHEST:
        raise UsageError(f"--budget: between {LOWEST:g} and {HIGHEST:g} false alarms per 100,000 events")
    alarms = 0
    with reading(source) as lines, writing(target) as out:
        rows, by_cohort = _rows(lines, "standard input" if source == "-" else source)
        watch = Watch(settings, by_cohort=by_cohort)
        for row in rows:
            for found in _take(watch, row):
                alarms += found.level == "alarm"
                out.write(json.dumps(_line(row, found), ensure_ascii=False) + "\n")
                out.flush()
    return alarms


def _take(watch: Watch, row: Row) -> list[Finding]:
    try:
        return watch.take(row.value, row.cohort, row.hour)
    except NotBinary as error:
        raise UsageError(f'{row.place}: "value" has to be 0 or 1 for --detector mixlr') from error


def _line(row: Row, found: Finding) -> dict[str, Any]:
    return {
        "time": row.time,
        "cohort": found.cohort,
        "signal": found.signal,
        "level": found.level,
        "statistic": round(found.statistic, 4),
        "threshold": round(found.threshold, 4),
        "before": _short(found.before),
        "after": _short(found.after),
    }


def _short(value: float) -> float:
    return float(f"{value:.6g}")


def _rows(lines: TextIO, source: str) -> tuple[Iterator[Row], bool]:
    """The events, and whether they name cohorts."""
    numbered = ((number, line) for number, line in enumerate(lines, 1) if line.strip())
    first = next(numbered, None)
    if first is None:
        return iter(()), False
    both = chain([first], numbered)
    if first[1].lstrip("\ufeff \t").startswith("{"):
        bodies = ((_object(line, _at(source, number)), _at(source, number)) for number, line in both)
        head = next(bodies)
        rows = (_row(body, place) for body, place in chain([head], bodies))
        return rows, "cohort" in head[0]
    names = _header(first[1], _at(source, first[0]))
    cells = ((_cells(line, names, _at(source, number)), _at(source, number)) for number, line in numbered)
    return (_row(body, place) for body, place in cells), "cohort" in names


def _at(source: str, number: int) -> str:
    return f"{source}, line {number}"


def _object(line: str, place: str) -> Mapping[str, Any]:
    try:
        body = json.loads(line.lstrip("\ufeff"))
    except ValueError as error:
        raise UsageError(f"{place}: no JSON: {error}") from error
    if not isinstance(body, dict):
        raise UsageError(f'{place}: expected {{"time": ..., "value": ...}}')
    return cast("Mapping[str, Any]", body)


def _header(line: str, place: str) -> list[str]:
    names = [name.strip().lower() for name in _split(line.lstrip("\ufeff"), place)]
    for wanted in (_TIMES, ("value",)):
        if not set(wanted) & set(names):
            raise UsageError(
                f'{place}: the header has no column "{wanted[0]}"; expected: time,value or time,value,cohort'
            )
    return names


def _split(line: str, place: str) -> list[str]:
    try:
        return next(csv.reader([line], strict=True), [])
    except csv.Error as error:
        raise UsageError(f"{place}: no CSV: {error}") from error


def _cells(line: str, names: Iterable[str], place: str) -> Mapping[str, Any]:
    cells, names = _split(line, place), list(names)
    if len(cells) != len(names):
        raise UsageError(f"{place}: {len(cells)} fields, but the header has {len(names)}")
    return dict(zip(names, cells, strict=True))


def _row(body: Mapping[str, Any], place: str) -> Row:
    name = next((name for name in _TIMES if name in body), None)
    if name is None:
        raise UsageError(f'{place}: "time" is missing')
    time = body[name]
    if isinstance(time, bool) or not isinstance(time, str | int | float) or time == "":
        raise UsageError(f'{place}: "{name}" has to be a text or a number')
    if "value" not in body:
        raise UsageError(f'{place}: "value" is missing')
    cohort = body.get("cohort", ALL)
    if not isinstance(cohort, str | int):
        raise UsageError(f'{place}: "cohort" has to be a text')
    return Row(time, _hour(time), _value(body["value"], place), str(cohort), place)


def _value(value: Any, place: str) -> float:
    try:
        number = _TRUTH.get(value.strip().lower()) if isinstance(value, str) else None
        number = float(value) if number is None else number
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise UsageError(f'{place}: "value" has to be a finite number, or true or false')
    return number


def _hour(time: str | float) -> int | None:
    """The hour of an ISO 8601 text or of seconds or milliseconds since 1970; None for anything else."""
    try:
        number = float(time)
    except ValueError:
        return _hour_of_text(str(time))
    if not _EPOCH_SECONDS <= number < _EPOCH_MILLIS * 100:
        return None
    return int(number / (1000 if number >= _EPOCH_MILLIS else 1)) // 3600 % 24


def _hour_of_text(text: str) -> int | None:
    try:
        moment = datetime.fromisoformat(text.strip())
    except ValueError:
        return None
    return (moment.astimezone(UTC) if moment.tzinfo else moment).hour
