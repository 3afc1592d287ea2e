"""``driftwheel redact`` and ``driftwheel policy test``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from driftwheel.config import load
from driftwheel.redaction import Wanted, redact_file
from schemas.errors import UsageError
from tests.driftwheel.cli_kit import run

LINES = [
    {"id": 1, "text": "\U0001f642 I am Maria Keller, write to maria.keller@example.com", "session": "s"},
    {"id": "two", "text": "nothing here"},
    {"id": 3, "text": "Maria Keller again", "session": "s"},
]


def write(path: Path, lines: list[Any]) -> str:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return str(path)


def redact(tmp_path: Path, lines: list[Any], jobs: int = 1) -> tuple[int, list[dict[str, Any]]]:
    target = tmp_path / "out.jsonl"
    config, source = load(data_dir=tmp_path / "data"), write(tmp_path / "in.jsonl", lines)
    failed = redact_file(config, source, str(target), Wanted(tenant="t", jobs=jobs), Console(stderr=True))
    return failed, [json.loads(line) for line in target.read_text(encoding="utf-8").splitlines()]


def test_findings_are_places_in_the_input(tmp_path: Path) -> None:
    failed, (first, second, third) = redact(tmp_path, LINES)
    assert failed == 0
    assert [one["id"] for one in (first, second, third)] == [1, "two", 3]
    source = LINES[0]["text"]
    assert {(one["type"], source[one["start"] : one["end"]]) for one in first["findings"]} == {
        ("PERSON", "Maria Keller"), ("EMAIL_ADDRESS", "maria.keller@example.com"),
    }  # fmt: skip
    assert (second["text"], second["findings"]) == ("nothing here", [])
    name = third["text"].split(" ")[0]
    assert name in first["text"], "one session, one placeholder"


def test_several_processes_say_the_same(tmp_path: Path) -> None:
    lines = [{"id": n, "text": f"order W47118{n:02d} of Maria Keller"} for n in range(40)]
    assert redact(tmp_path, lines, jobs=2) == redact(tmp_path, lines, jobs=1)


def test_parity_finds_what_presidio_finds(tmp_path: Path) -> None:
    source = write(tmp_path / "in.jsonl", [{"id": 1, "text": "see you on Friday, order W4711823, 212-555-0199"}])
    config, out = load(data_dir=tmp_path / "data"), tmp_path / "out"
    assert redact_file(config, source, str(out), Wanted(parity=True), Console(stderr=True)) == 0
    (line,) = [json.loads(text) for text in out.read_text().splitlines()]
    assert {one["type"] for one in line["findings"]} >= {"DATE_TIME", "PHONE_NUMBER"}
    assert "W4711823" in line["text"]


def test_what_cannot_be_proved_clean_has_no_text(tmp_path: Path) -> None:
    config = load(data_dir=tmp_path / "data", stages={"redact": {"max_text": 20}})
    source = write(tmp_path / "in.jsonl", [{"id": 1, "text": "x" * 21}, {"id": 2, "text": "fine"}])
    assert redact_file(config, source, str(tmp_path / "out"), Wanted(), Console(stderr=True)) == 1
    first, second = [json.loads(line) for line in (tmp_path / "out").read_text().splitlines()]
    assert (first["text"], first["error"]) == (None, "text_too_long")
    assert second["text"] == "fine"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "line 2: no JSON"),
        ("[]", 'line 2: expected {"id"'),
        ('{"text": "a"}', 'line 2: expected {"id"'),
        ('{"id": 1, "text": 5}', 'line 2: "text" has to be a string'),
    ],
)
def test_a_bad_line_is_named_and_nothing_is_written(tmp_path: Path, line: str, said: str) -> None:
    source = tmp_path / "in.jsonl"
    source.write_text('{"id": 1, "text": "a"}\n' + line + "\n")
    with pytest.raises(UsageError, match=said):
        redact_file(load(data_dir=tmp_path / "d"), str(source), str(tmp_path / "o"), Wanted(), Console(stderr=True))
    assert [path.name for path in tmp_path.iterdir() if path.name != "d"] == ["in.jsonl"]


def test_the_command_line(tmp_path: Path) -> None:
    policy = tmp_path / "acme.toml"
    policy.write_text('[actions]\nPERSON = "drop"\n[allow]\nvalues = ["Acme Air"]\n')
    text = json.dumps({"id": 1, "text": "Maria Keller of Acme Air"}) + "\n"
    done = run("redact", "--policy", str(policy), text=text)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["text"] == " of Acme Air"

    told = run("policy", "test", str(policy), "--text", "Maria Keller of [Acme Air]")
    assert told.returncode == 0, told.stderr
    assert "before  Maria Keller of [Acme Air]" in told.stdout
    assert "after    of [Acme Air]" in told.stdout
    assert '"PERSON": "drop"' in told.stdout

    told = run("policy", "test", str(policy), "--json")
    found = json.loads(told.stdout)
    assert found["policy"]["stays"] == ["Acme Air"]
    assert all(line["findings"] for line in found["texts"])

    policy.write_text("[actions]\nPERSON = 'shred'\n")
    wrong = run("policy", "test", str(policy))
    assert wrong.returncode == 2
    assert "acme.toml: actions.PERSON: Input should be" in wrong.stderr
