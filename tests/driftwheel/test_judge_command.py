"""``driftwheel judge``: files, probes, agreement; what is sent, what is not, and what it says when it cannot."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from rich.console import Console
from typer.testing import CliRunner

from connectors.judge.rubrics import rubric
from driftwheel import config as configuration
from driftwheel.cli import app
from driftwheel.config import Config, JudgeConfig
from driftwheel.judge_command import Wanted, judge_file, probe_judges, show_file_agreement, with_rubrics
from schemas.errors import Refused, Retry, UsageError
from tests.driftwheel.cli_kit import run
from tests.judging import KEY, Server, chat, honest, longer_wins, serving, verdict

PLANTED = "maria.keller@example.com"
QUIET = Console(quiet=True)


@pytest.fixture
def server() -> Iterator[Server]:
    with serving(honest(lambda question, answer: "portal" in answer)) as found:
        yield found


def config(server: Server, folder: Path, **given: Any) -> Config:
    values = {"url": server.url, "model": "m-1", "key": KEY, "rubrics": ("tone", "factuality")} | given
    return Config(data_dir=folder / "data", judge=JudgeConfig.model_validate(values))


def answers(folder: Path, rows: Sequence[dict[str, Any]]) -> str:
    path = folder / "answers.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


ROWS = [
    {"id": 1, "input": f"I am {PLANTED}, reset my vpn", "output": "in the portal", "reference": "the portal"},
    {"id": "b", "input": "when is lunch?", "output": "at noon", "documents": []},
]


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_file_of_answers(server: Server, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    found = judge_file(config(server, tmp_path), answers(tmp_path, ROWS), str(out), Wanted(), QUIET)
    one, two = lines(out)
    assert (one["id"], two["id"]) == (1, "b")
    assert [(v["rubric"], v["label"], v["score"]) for v in one["verdicts"]] == [
        ("tone", "pass", 0.9),
        ("factuality", "pass", 0.9),
    ]
    assert [(v["rubric"], v["label"]) for v in two["verdicts"]] == [("tone", "fail")], "nothing to judge facts against"
    assert one["verdicts"][0]["version"] == rubric("tone").version
    assert one["verdicts"][0]["rationale"] == "it follows from the material"
    assert (found["cases"], found["prompts"], found["pass"], found["fail"], found["tokens"]) == (2, 3, 2, 1, 360)
    sent = json.dumps(server.requests)
    assert PLANTED not in sent, "texts are redacted before they are sent"
    assert "reset my vpn" in sent


def test_a_dry_run_sends_nothing_and_needs_no_endpoint(tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    bare = Config(data_dir=tmp_path / "data")
    found = judge_file(bare, answers(tmp_path, ROWS), str(out), Wanted(dry_run=True), QUIET)
    told = lines(out)
    assert {one["rubric"] for one in told} == {"tone", "factuality", "instruction_following", "safety_refusal"}
    assert found["estimated_tokens"] == sum(one["tokens"] for one in told) > 1000
    assert all(one["messages"][0]["role"] == "system" for one in told)
    assert PLANTED not in out.read_text()
    with pytest.raises(UsageError, match=r"judge\.url is not set"):
        judge_file(bare, answers(tmp_path, ROWS), str(out), Wanted(redacted=True), QUIET)


def test_an_abstention_is_written_and_counted(server: Server, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    server.answers = [(200, {}, chat("nine of ten"))]
    found = judge_file(config(server, tmp_path), answers(tmp_path, ROWS[:1]), str(out), Wanted(redacted=True), QUIET)
    (one,) = lines(out)
    assert one["verdicts"][0]["abstained"] == "unparsable"
    assert (found["abstained"], found["pass"]) == (1, 1)


def test_a_cache_saves_what_was_paid_for(server: Server, tmp_path: Path) -> None:
    wanted = Wanted(redacted=True, cache=tmp_path / "scores.db")
    server.answers = [(200, {}, None), *[(503, {"retry-after": "0"}, "")] * 3]
    with pytest.raises(Retry):
        judge_file(config(server, tmp_path), answers(tmp_path, ROWS), str(tmp_path / "o"), wanted, QUIET)
    assert not (tmp_path / "o").exists(), "an output is there whole or not at all"
    found = judge_file(config(server, tmp_path), answers(tmp_path, ROWS), str(tmp_path / "o"), wanted, QUIET)
    assert (found["cached"], found["tokens"]) == (1, 240)
    assert PLANTED.encode() not in (tmp_path / "scores.db").read_bytes()


def test_what_would_cost_too_much_is_refused_before(server: Server, tmp_path: Path) -> None:
    poor = config(server, tmp_path, tokens_per_day=500)
    with pytest.raises(Refused, match=r"3 prompts may cost \d+ tokens, judge\.tokens_per_day is 500"):
        judge_file(poor, answers(tmp_path, ROWS), str(tmp_path / "o"), Wanted(redacted=True), QUIET)
    assert server.requests == []


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ("{", "line 1: no JSON"),
        ("[]", "line 1: expected a JSON object"),
        ('{"id": 1, "input": "a"}', 'line 1: "output" is missing'),
        ('{"id": 1, "input": 7, "output": "b"}', 'line 1: "input" has to be text'),
        ('{"id": 1, "input": "a", "output": "b", "documents": "c"}', 'line 1: "documents" has to be a list'),
        ('{"id": 1, "input": "a", "output": "b", "documents": [1]}', 'line 1: "documents" has to be text'),
    ],
)
def test_lines_that_cannot_be_read_are_named(row: str, problem: str, tmp_path: Path) -> None:
    (tmp_path / "bad.jsonl").write_text(row)
    with pytest.raises(UsageError, match=problem):
        judge_file(Config(data_dir=tmp_path / "d"), str(tmp_path / "bad.jsonl"), "-", Wanted(dry_run=True), QUIET)


def test_probes_tell_an_honest_judge_from_a_biased_one(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wanted, chosen = Wanted(as_json=True), config(server, tmp_path, rubrics=("tone",))
    assert probe_judges(chosen, "", wanted, QUIET)
    server.mind = longer_wins
    assert not probe_judges(chosen, "", wanted, QUIET)
    text = capsys.readouterr().out
    honest_rows, biased_rows = (json.loads(part) for part in text.replace("]\n[", "]\x00[").split("\x00"))
    assert {(row["probe"], row["share"], row["ok"]) for row in honest_rows} == {
        ("position", 0.0, True),
        ("verbosity", 0.0, True),
    }
    assert {(row["probe"], row["share"], row["ok"]) for row in biased_rows} == {
        ("position", 0.0, True),
        ("verbosity", 1.0, False),
    }
    assert {row["run"] for row in honest_rows} == {24}
    own = answers(tmp_path, [{"id": n, "input": "q", "output": f"one two three {n}"} for n in range(3)])
    assert not probe_judges(chosen, own, Wanted(redacted=True, as_json=True), QUIET)


def test_agreement_of_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = [("pass", "pass")] * 20 + [("pass", "fail")] * 5 + [("fail", "pass")] * 10 + [("fail", "fail")] * 15
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps({"judge": one, "person": two}) + "\n" for one, two in table))
    show_file_agreement(str(path), as_json=True)
    (row,) = json.loads(capsys.readouterr().out)
    assert (row["turns"], row["kappa"], row["both_pass"], row["only_judge_passes"]) == (50, 0.4, 20, 5)
    path.write_text('{"judge": "maybe", "person": "pass"}')
    with pytest.raises(UsageError, match='line 1: "judge" has to be pass or fail'):
        show_file_agreement(str(path), as_json=True)


def test_rubrics_by_option(tmp_path: Path) -> None:
    assert with_rubrics(Config(), "").judge.rubrics == JudgeConfig().rubrics
    assert with_rubrics(Config(), " tone, factuality ").judge.rubrics == ("tone", "factuality")


@pytest.mark.parametrize(
    "given",
    [
        {"url": "http://x/v1"},
        {"url": "ftp://x/v1", "model": "m"},
        {"url": "http://user:secret@x/v1", "model": "m"},
        {"url": "http://x/v1?key=secret", "model": "m"},
        {"share": 1.5},
        {"floor": {"kappa": 2}},
    ],
)
def test_settings_that_cannot_be(given: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        JudgeConfig.model_validate(given)


def test_the_key_is_in_no_error_and_no_repr(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert KEY not in repr(config(server, tmp_path))
    monkeypatch.setenv("DRIFTWHEEL__JUDGE__KEY", KEY)
    monkeypatch.setenv("DRIFTWHEEL__JUDGE__URL", "nowhere")
    with pytest.raises(UsageError) as error:
        configuration.load()
    assert KEY not in str(error.value)


def test_the_command_line(server: Server, tmp_path: Path) -> None:
    settings = {"DRIFTWHEEL__JUDGE__URL": server.url, "DRIFTWHEEL__JUDGE__MODEL": "m-1", "DRIFTWHEEL__JUDGE__KEY": KEY}
    server.mind = lambda name, material: verdict(0.75, f"as {PLANTED} says")
    source, out = answers(tmp_path, ROWS), tmp_path / "out.jsonl"
    done = run("judge", "--in", source, "--out", str(out), "--rubrics", "tone", "--json", **settings)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["pass"] == 2
    assert server.keys == [f"Bearer {KEY}"] * 2
    everything = out.read_text() + done.stdout + done.stderr
    assert KEY not in everything
    assert PLANTED not in everything, "nor does a model bring back what was taken away"
    nobody = run("judge", "run", **settings)
    assert (nobody.returncode, "store.url is not set" in nobody.stderr) == (1, True)


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["judge"], "--in: name a file"),
        (["judge", "--in", "x", "--json"], "--json: name a file"),
        (["judge", "--in", "x", "--rubrics", "kindness", "--redacted", "--dry-run"], "x cannot be read"),
        (["judge", "run"], r"judge\.url is not set"),
        (["judge", "probes"], r"judge\.url is not set"),
        (["judge", "agreement"], "driftwheel up"),
    ],
)
def test_what_is_asked_wrongly(words: list[str], problem: str, tmp_path: Path) -> None:
    where = [] if len(words) > 2 else ["--data-dir", str(tmp_path / "none")]
    done = CliRunner().invoke(app, [*words, *where])
    assert isinstance(done.exception, UsageError | Refused)
    assert re.search(problem, str(done.exception))
