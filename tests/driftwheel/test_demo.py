"""The demo: its world, its report, and the whole loop with the control that must fail."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from driftwheel.demo.leaks import in_files
from driftwheel.demo.people import REVIEWER_ERROR, Reviewer, react
from driftwheel.demo.report import Mark, Picture, write_report
from driftwheel.demo.rows import Row, read_rows
from driftwheel.demo.world import World, WorldSettings
from schemas.errors import UsageError
from tests.driftwheel.cli_kit import run
from tests.models import minilm_folder

ROWS = [Row(f"text {label} {n}", label) for label in ("a", "b", "c", "d", "e") for n in range(40)]


def test_a_world_is_a_function_of_its_seed() -> None:
    asks = [[World(ROWS, WorldSettings(seed=seed, events=400)) for seed in (1, 1, 2)][n] for n in range(3)]
    first, again, other = ([world.ask(n) for n in range(200)] for world in asks)
    assert first == again
    assert first != other


def test_new_labels_come_at_the_shift_and_train_nothing() -> None:
    world = World(ROWS, WorldSettings(events=2000, seed_rows=60))
    asks = [world.ask(n) for n in range(2000)]
    assert {ask.truth for ask in asks[: world.shift]} == set(world.old_labels)
    after = asks[world.shift :]
    assert sum(ask.truth in world.new_labels for ask in after) / len(after) == pytest.approx(0.4, abs=0.05)
    assert not {row.label for row in world.seed_rows} & set(world.new_labels)
    assert not {row.text for row in world.seed_rows} & {ask.text for ask in asks}


def test_planted_values_are_in_their_asks() -> None:
    world = World(ROWS, WorldSettings(events=2000, plant=0.5))
    asks = [world.ask(n) for n in range(500)]
    assert sum(bool(ask.personal) for ask in asks) > 150
    assert all(value in ask.text for ask in asks for value in ask.personal)


def test_people_react_to_what_is_right_and_the_reviewer_errs_as_stated() -> None:
    world = World(ROWS, WorldSettings(events=4000))
    asks = [world.ask(n) for n in range(2000)]
    bad = [react(ask, 1, "nonsense") for ask in asks]
    good = [react(ask, 1, ask.truth) for ask in asks]
    complaints = [
        sum((r.signal or {}).get("name") in ("correction", "escalation") for r in side) for side in (bad, good)
    ]
    assert complaints[0] > 20 * complaints[1]
    reviewer, shuffler = Reviewer(1, list("abcde")), Reviewer(1, list("abcde"), shuffle=True)
    wrong = sum(reviewer.label(str(n), "a") != "a" for n in range(4000)) / 4000
    assert wrong == pytest.approx(REVIEWER_ERROR, abs=0.007)
    assert sum(shuffler.label(str(n), "a") == "a" for n in range(4000)) / 4000 == pytest.approx(0.2, abs=0.03)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("x.csv", "text,intent\na,b\n", "no column 'label'. It has: text, intent"),
        ("x.csv", "text,label\na,b\n", "1 labels"),
        ("x.jsonl", '{"text": "a", "label": "b"}\n{', "line 2: not JSON"),
        ("x.jsonl", "[1]", "line 1: a JSON object"),
        ("x.csv", b"text,label\n\xff\xfe,b\n", "not UTF-8"),
        ("x.csv.gz", b"\x1f\x8b\x08broken", "cannot be read"),
    ],
)
def test_bad_data_files_are_named(tmp_path: Path, name: str, content: str | bytes, words: str) -> None:
    path = tmp_path / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(UsageError, match=name) as caught:
        read_rows(path)
    assert words in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"nowhere\.csv"):
        read_rows(tmp_path / "nowhere.csv")


def test_leaks_are_found_in_every_disguise(tmp_path: Path) -> None:
    (tmp_path / "a.bin").write_bytes(b"\x00jo@example.com\x00")
    (tmp_path / "b.log").write_text("to=ann%40example.com")
    (tmp_path / "c.txt").write_text("bWF4QGV4YW1wbGUuY29t")  # max@example.com
    planted = ["jo@example.com", "ann@example.com", "max@example.com", "eve@example.com"]
    assert in_files([tmp_path], planted) == set(planted[:3])


def test_the_report_escapes_and_works_offline(tmp_path: Path) -> None:
    report: dict[str, Any] = {
        "closed": True, "summary": "<b>&", "accuracy": dict.fromkeys(
            ("before_shift", "after_shift", "after_release", "no_wheel_after_shift"), 0.5),
        "labels_used": 1, "window": 200, "story": [], "gates": [], "pii": {"planted": 0, "leaked": 0},
        "ledger": {"accepted": 1, "stored": 1, "quarantined": 0, "dropped": 0, "difference": 0},
        "data": "x", "seed": 1, "events": 10, "seconds": 1.0,
    }  # fmt: skip
    picture = Picture(10, [(1, 0.5), (10, 1.0)], [(1, 0.5)], [Mark(3, "shift", "bad")])
    machine, human = write_report(tmp_path, report, picture)
    page = human.read_text()
    assert json.loads(machine.read_text()) == report
    assert "&lt;b&gt;&amp;" in page
    assert "http" not in page.replace("http://www.w3.org", "")


def test_the_wheel_turns(tmp_path: Path) -> None:
    minilm_folder()
    done = run("demo", "--report", str(tmp_path), "--json")
    assert done.returncode == 0, done.stderr[-2000:]
    report = json.loads(done.stdout)
    accuracy = report["accuracy"]
    assert accuracy["after_release"] >= accuracy["no_wheel_after_shift"] + 0.15
    assert accuracy["after_release"] >= accuracy["before_shift"] - 0.03
    assert report["labels_used"] <= 600
    assert report["ledger"]["difference"] == 0
    assert report["ledger"]["accepted"] > 10_000
    assert report["pii"]["planted"] > 100
    assert report["pii"]["leaked"] == 0
    assert [release["state"] for release in report["releases"]][:4] == ["live", "shadow", "canary", "live"]
    assert report["alarms"][0]["event"] > 0
    assert (tmp_path / "report.html").exists()


def test_shuffled_labels_release_nothing(tmp_path: Path) -> None:
    minilm_folder()
    done = run("demo", "--shuffle-labels", "--events", "2800", "--report", str(tmp_path), "--json")
    assert done.returncode == 1, done.stderr[-2000:]
    report = json.loads(done.stdout)
    assert report["gates"], "no candidate was trained: the control controlled nothing"
    assert not any(gate["passed"] for gate in report["gates"])
    assert [release["state"] for release in report["releases"]] == ["live"]
