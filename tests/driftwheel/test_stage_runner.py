"""One stage alone over JSON Lines."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.driftwheel.cli_kit import rows, run

SPAN = {
    "traceId": "0af7651916cd43dd8448eb211c80319c",
    "spanId": "b7ad6b7169203331",
    "name": "chat",
    "startTimeUnixNano": "1767600000000000000",
    "endTimeUnixNano": "1767600001000000000",
    "attributes": [
        {"key": "gen_ai.operation.name", "value": {"stringValue": "invoke_agent"}},
        {"key": "gen_ai.conversation.id", "value": {"stringValue": "s-1"}},
        {"key": "input.value", "value": {"stringValue": "write to jo.smith@example.com please"}},
        {"key": "output.value", "value": {"stringValue": "done"}},
    ],
}
RAW = {"topic": "otlp_spans", "record": {"resourceSpans": [{"scopeSpans": [{"spans": [SPAN]}]}]}}


def test_stages_are_listed_in_order() -> None:
    names = [row["stage"] for row in rows("stage", "list")]
    assert names[:3] == ["redact", "assemble", "score"]
    assert names[-3:] == ["run_jobs", "rollout", "apply_release"]


def test_redact_then_assemble(tmp_path: Path) -> None:
    raw, clean = tmp_path / "raw.jsonl", tmp_path / "clean.jsonl"
    raw.write_text(json.dumps(RAW) + "\n")
    assert run("stage", "run", "redact", "--in", str(raw), "--out", str(clean)).returncode == 0
    spans = [json.loads(line) for line in clean.read_text().splitlines() if '"agent.spans"' in line]
    assert spans[0]["record"]["session_id"] == "s-1"
    assert "jo.smith" not in clean.read_text()
    done = run("stage", "run", "assemble", text=json.dumps(spans[0]) + "\n")
    turns = [json.loads(line) for line in done.stdout.splitlines() if '"agent.turns"' in line]
    assert turns[0]["record"]["output"] == "done"


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("{", "line 1"),
        ('{"topic": "agent.turns", "record": {}}', "does not read 'agent.turns'"),
        ('{"topic": "agent.spans", "record": {"event_id": "x"}}', "Span.tenant"),
    ],
)
def test_a_bad_line_is_named(line: str, words: str) -> None:
    done = run("stage", "run", "assemble", text=line)
    assert done.returncode == 2
    assert words in done.stderr


def test_an_unknown_stage_gets_the_list() -> None:
    done = run("stage", "run", "guess")
    assert done.returncode == 2
    assert "redact, assemble, score" in done.stderr
