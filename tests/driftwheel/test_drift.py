"""``driftwheel drift``: CSV and JSON Lines in, alarms out, errors that name line and field."""

from __future__ import annotations

import gzip
import io
import json
import random
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from driftwheel.drift import watch_file
from processors.watch import WatchSettings
from schemas.errors import UsageError
from tests.driftwheel.cli_kit import run

FIELDS = ["time", "cohort", "signal", "level", "statistic", "threshold", "before", "after"]


def flips(seed: int = 1) -> list[int]:
    chance = random.Random(seed)
    return [int(chance.random() < (0.05 if place < 2_000 else 0.25)) for place in range(2_400)]


def watched(tmp_path: Path, text: str, **settings: Any) -> list[dict[str, Any]]:
    source, target = tmp_path / "in", tmp_path / "out.jsonl"
    source.write_text(text, encoding="utf-8")
    watch_file(str(source), str(target), WatchSettings(**settings))
    return [json.loads(line) for line in target.read_text(encoding="utf-8").splitlines()]


def test_csv_and_json_lines_say_the_same(tmp_path: Path) -> None:
    rows = [(f"2026-03-02T{place // 60 % 24:02d}:{place % 60:02d}:00Z", value) for place, value in enumerate(flips())]
    csv = watched(tmp_path, "time,value\n" + "".join(f"{time},{value}\n" for time, value in rows))
    lines = [json.dumps({"value": bool(value), "time": time, "more": [1]}) for time, value in rows]
    assert csv == watched(tmp_path, "\n".join(lines) + "\n\n")
    assert all(list(one) == FIELDS for one in csv)
    (alarm,) = [one for one in csv if one["level"] == "alarm"]
    place = next(n for n, (time, _) in enumerate(rows) if time == alarm["time"] and n >= 2_000)
    assert place < 2_120
    assert (alarm["cohort"], alarm["signal"]) == ("*", "rate")
    assert alarm["statistic"] > alarm["threshold"]


def test_times_come_back_as_they_were(tmp_path: Path) -> None:
    for first in (0, 1_700_000_000, 1_700_000_000_000, 0.5):
        text = "".join(json.dumps({"time": first + n, "value": v}) + "\n" for n, v in enumerate(flips()))
        found = [one["time"] for one in watched(tmp_path, text)]
        assert found
        assert all(2_000 <= time - first < 2_400 or time < 2_000 + first for time in found)
        assert {type(time) for time in found} == {type(first)}


def test_other_columns_and_names_of_the_benchmark_are_fine(tmp_path: Path) -> None:
    chance = random.Random(3)
    rows = [f'{n},"a, b",{chance.gauss(10, 1) + (5 if n >= 1_500 else 0)}' for n in range(1_800)]
    found = watched(tmp_path, "\ufeffTimestamp,note,Value\n" + "\n".join(rows))
    assert {one["signal"] for one in found if one["level"] == "alarm"} <= {"mean", "tail"}
    assert 1_500 <= int(next(one["time"] for one in found if one["level"] == "alarm")) < 1_530


@pytest.mark.parametrize("values", [("0.0", "1.0"), ("false", "TRUE"), (" 0", "1 ")])
def test_however_zeros_and_ones_and_the_header_are_written(tmp_path: Path, values: tuple[str, str]) -> None:
    rows = [(f"2026-03-02 {n // 3600:02d}:{n // 60 % 60:02d}:{n % 60:02d}", v) for n, v in enumerate(flips())]
    plain = watched(tmp_path, "time,value\n" + "".join(f"{time},{value}\n" for time, value in rows))
    odd = "".join(f'{values[value]};"x;y";{time}\r\n\r\n' for time, value in rows)
    lines = "".join(json.dumps({"Value": values[v], "TimeStamp": time, "id": 3}) + "\n" for time, v in rows)
    assert plain
    assert watched(tmp_path, "\ufeff VALUE ;Note; Time\r\n" + odd) == plain
    assert watched(tmp_path, "\ufeff" + lines) == plain


def test_a_compressed_file_is_read_as_it_is(tmp_path: Path) -> None:
    text = "time,value\n" + "".join(f"{n},{v}\n" for n, v in enumerate(flips()))
    (tmp_path / "in.csv.gz").write_bytes(gzip.compress(text.encode()))
    watch_file(str(tmp_path / "in.csv.gz"), str(tmp_path / "found.jsonl"), WatchSettings())
    found = (tmp_path / "found.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line) for line in found] == watched(tmp_path, text)


def test_what_is_missing_or_late_is_told_and_does_no_harm(tmp_path: Path) -> None:
    rows = [f"2026-03-02T{n // 3600:02d}:{n // 60 % 60:02d}:{n % 60:02d}Z,{v}" for n, v in enumerate(flips())]
    whole = watched(tmp_path, "time,value\n" + "\n".join(rows))
    source, said = tmp_path / "in", io.StringIO()
    source.write_text("time,value\n2026-03-02T00:00:00Z,\n2026-03-01T00:00:00Z, \n" + "\n".join(rows))
    watch_file(str(source), str(tmp_path / "out.jsonl"), WatchSettings(), Console(file=said))
    found = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text(encoding="utf-8").splitlines()]
    assert found == whole
    assert "2 of 2402 events have no value" in said.getvalue()
    assert "1 of 2402 events are older" in said.getvalue()
    nothing = '{"time": 1, "value": null, "cohort": null}\n{"time": 2, "value": 0, "cohort": 1.5}\n'
    assert watched(tmp_path, nothing) == []


@pytest.mark.parametrize("shift", [8.0, -8.0])
def test_a_level_that_rises_and_one_that_falls_are_told(tmp_path: Path, shift: float) -> None:
    chance = random.Random(8)
    rows = [f"{n},{chance.gauss(100, 2) + (shift if n >= 1_500 else 0)}\n" for n in range(1_700)]
    alarms = [one for one in watched(tmp_path, "time,value\n" + "".join(rows)) if one["level"] == "alarm"]
    assert 1_500 <= int(alarms[0]["time"]) < 1_530
    assert all((one["after"] - one["before"]) * shift > 0 for one in alarms[:2])


def test_cohorts_have_their_own_alarms(tmp_path: Path) -> None:
    bad, good = flips(), [value for seed in (5, 6) for value in flips(seed)[:1_200]]
    rows = [f"{n},{one},bad\n{n},{other},good\n" for n, (one, other) in enumerate(zip(bad, good, strict=True))]
    found = watched(tmp_path, "time,value,cohort\n" + "".join(rows))
    assert {one["cohort"] for one in found if one["level"] == "alarm"} == {"bad"}


def test_nothing_in_nothing_out(tmp_path: Path) -> None:
    assert watched(tmp_path, "") == []
    assert watched(tmp_path, "time,value\n") == []


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("a,b\n1,2\n", 'line 1: the header has no column "time"'),
        ("time,b\n1,2\n", 'line 1: the header has no column "value"'),
        ("time,value\n1,0\n2,secret\n", 'line 3: "value" has to be a finite number'),
        ("time,value\n1,nan\n", 'line 2: "value" has to be a finite number'),
        ("time,value\n1\n", "line 2: 1 fields, but the header has 2"),
        ('time,value\n"1,0\n', "line 2: no CSV"),
        ("time,value\n,0\n", 'line 2: "time" has to be a text or a number'),
        ('{"time": 1, "value": 0}\n{"time": 2}\n', 'line 2: "value" is missing'),
        ('{"value": 0}\n', 'line 1: "time" is missing'),
        ('{"time": 1e400, "value": 0}\n', 'line 1: "time" has to be a finite number'),
        ('{"time": NaN, "value": 0}\n', 'line 1: "time" has to be a finite number'),
        ('{"time": 1, "value": 0}\n[1]\n', 'line 2: expected {"time"'),
        ('{"time": 1, "value": 0}\n{secret\n', "line 2: no JSON"),
        ('{"time": 1, "value": [1]}\n', 'line 1: "value" has to be'),
        ('{"time": 1, "value": 1, "cohort": {}}\n', 'line 1: "cohort" has to be a text'),
    ],
)
def test_errors_name_line_and_field_and_quote_nothing(tmp_path: Path, text: str, wanted: str) -> None:
    with pytest.raises(UsageError) as caught:
        watched(tmp_path, text)
    assert wanted in str(caught.value)
    assert "secret" not in str(caught.value)
    assert not (tmp_path / "out.jsonl").exists()


def test_mixlr_says_what_it_cannot_take(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match='line 3: "value" has to be 0 or 1'):
        watched(tmp_path, "time,value\n1,0\n2,0.5\n", detector="mixlr")


@pytest.mark.parametrize("budget", [0.0, -1.0, float("nan"), 1e9])
def test_budgets_have_bounds(tmp_path: Path, budget: float) -> None:
    with pytest.raises(UsageError, match="--budget"):
        watched(tmp_path, "", budget=budget)


def test_the_command_reads_a_pipe_and_says_what_is_wrong() -> None:
    text = "time,value\n" + "".join(f"{n},{v}\n" for n, v in enumerate(flips()))
    done = run("drift", "--budget", "10", text=text)
    assert done.returncode == 0, done.stderr
    assert any(json.loads(line)["level"] == "alarm" for line in done.stdout.splitlines())
    wrong = run("drift", text="time,value\n1,x\n")
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert 'standard input, line 2: "value"' in wrong.stderr
    assert "Examples" in run("drift", "--help").stdout
