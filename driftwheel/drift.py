"""``driftwheel drift``: values in time order, as CSV or JSON Lines, to alarms as JSON Lines, one pass, as they come."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import chain
from typing import Any, NamedTuple, TextIO, cast

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from driftwheel.files import reading, shown, writing
from processors.budget import HIGHEST, LOWEST
from processors.watch import ALL, Finding, NotBinary, Watch, WatchSettings
from schemas.errors import UsageError

_TIMES = ("time", "timestamp")
_EPOCH_SECONDS, _EPOCH_MILLIS = 1e8, 1e11
_TRUTH = {"true": 1.0, "false": 0.0}
_COLUMNS = (*_TIMES, "value", "cohort")
_SEPARATORS = (",", ";", "\t")
_SHOWN = 10_000
"""Events between two looks at the progress."""


class Row(NamedTuple):
    """One event. ``time`` is as it was written; ``instant`` in seconds since 1970, None when ``time`` is none.

    ``value`` is None where it is missing.
    """

    time: Any
    instant: float | None
    value: float | None
    cohort: str
    place: str


@dataclass(slots=True)
class Passed:
    """What a run has seen: events, those without a value, those that were older than the one before; and alarms."""

    events: int = 0
    empty: int = 0
    late: int = 0
    alarms: int = 0
    newest: float = -math.inf

    def see(self, row: Row) -> None:
        """Count one event."""
        self.events += 1
        self.empty += row.value is None
        if row.instant is not None:
            self.late += row.instant < self.newest
            self.newest = row.instant

    def remarks(self) -> Iterator[str]:
        """What the user ought to know, in words."""
        if self.empty:
            yield f"{self.empty} of {self.events} events have no value and were passed over"
        if self.late:
            yield f"{self.late} of {self.events} events are older than the one before them; all were taken as they came"


def watch_file(source: str, target: str, settings: WatchSettings, console: Console | None = None) -> int:
    """Read events, write what they raise at once; returns the number of alarms (warnings not counted).

    Progress, and remarks on values that are missing and times that go back, are for the ``console``. Raises UsageError
    that names the line and the field; what was written before it stays on standard output, and a file is not written at
    all.
    """
    if not LOWEST <= settings.budget <= HIGHEST:
        raise UsageError(f"--budget: between {LOWEST:g} and {HIGHEST:g} false alarms per 100,000 events")
    console, passed = console or Console(quiet=True), Passed()
    with reading(source) as lines, writing(target) as out, _progress(console) as bars:
        task = bars.add_task("events", done=0)
        rows, by_cohort = _rows(lines, shown(source))
        watch = Watch(settings, by_cohort=by_cohort)
        for row in rows:
            passed.see(row)
            for found in _take(watch, row):
                passed.alarms += found.level == "alarm"
                out.write(json.dumps(_line(row, found), ensure_ascii=False) + "\n")
                out.flush()
            if passed.events % _SHOWN == 0:
                bars.update(task, done=passed.events)
    for remark in passed.remarks():
        console.print(remark, style="dim", highlight=False, soft_wrap=True)
    return passed.alarms


def _progress(console: Console) -> Progress:
    columns = (SpinnerColumn(), TextColumn("{task.fields[done]} events"), TimeElapsedColumn())
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)


def _take(watch: Watch, row: Row) -> list[Finding]:
    if row.value is None:
        return []
    try:
        return watch.take(row.value, row.cohort, None if row.instant is None else int(row.instant // 3600 % 24))
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
    if first[1].lstrip(" \t").startswith("{"):
        bodies = ((_object(line, _at(source, number)), _at(source, number)) for number, line in both)
        head = next(bodies)
        rows = (_row(body, place) for body, place in chain([head], bodies))
        return rows, "cohort" in head[0]
    separator = max(_SEPARATORS, key=first[1].count)
    names = _header(first[1], separator, _at(source, first[0]))
    cells = ((_cells(line, names, separator, _at(source, number)), _at(source, number)) for number, line in numbered)
    return (_row(body, place) for body, place in cells), "cohort" in names


def _at(source: str, number: int) -> str:
    return f"{source}, line {number}"


def _object(line: str, place: str) -> Mapping[str, Any]:
    try:
        body = json.loads(line)
    except ValueError as error:
        raise UsageError(f"{place}: no JSON: {error}") from error
    if not isinstance(body, dict):
        raise UsageError(f'{place}: expected {{"time": ..., "value": ...}}')
    found = cast("dict[str, Any]", body)
    if "value" in found and ("time" in found or "timestamp" in found):
        return found
    return {name: value for key, value in found.items() if (name := key.strip().lower()) in _COLUMNS}


def _header(line: str, separator: str, place: str) -> list[str]:
    names = [name.strip().lower() for name in _split(line, separator, place)]
    for wanted in (_TIMES, ("value",)):
        if not set(wanted) & set(names):
            raise UsageError(
                f'{place}: the header has no column "{wanted[0]}"; expected: time,value or time,value,cohort'
            )
    return names


def _split(line: str, separator: str, place: str) -> list[str]:
    if '"' not in line:
        return line.rstrip("\r\n").split(separator)
    try:
        return next(csv.reader([line], strict=True, delimiter=separator), [])
    except csv.Error as error:
        raise UsageError(f"{place}: no CSV: {error}") from error


def _cells(line: str, names: Sequence[str], separator: str, place: str) -> Mapping[str, Any]:
    cells = _split(line, separator, place)
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
    if isinstance(time, float) and not math.isfinite(time):
        raise UsageError(f'{place}: "{name}" has to be a finite number')
    if "value" not in body:
        raise UsageError(f'{place}: "value" is missing')
    cohort = body.get("cohort", ALL)
    if cohort is None:
        cohort = ""
    if not isinstance(cohort, str | int | float):
        raise UsageError(f'{place}: "cohort" has to be a text')
    return Row(time, _instant(time), _value(body["value"], place), str(cohort).strip(), place)


def _value(value: Any, place: str) -> float | None:
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    try:
        number = _TRUTH.get(value.strip().lower()) if isinstance(value, str) else None
        number = float(value) if number is None else number
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise UsageError(f'{place}: "value" has to be a finite number, or true or false')
    return number


def _instant(time: str | float) -> float | None:
    """Seconds since 1970 of an ISO 8601 text (UTC without a zone) or of seconds or milliseconds; None for others."""
    try:
        number = float(time)
    except ValueError:
        return _instant_of_text(str(time))
    if not _EPOCH_SECONDS <= number < _EPOCH_MILLIS * 100:
        return None
    return number / (1000 if number >= _EPOCH_MILLIS else 1)


def _instant_of_text(text: str) -> float | None:
    try:
        moment = datetime.fromisoformat(text.strip())
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        return None
