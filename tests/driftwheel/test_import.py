"""Recordings through the whole stream: an independent count agrees with the store."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.driftwheel.cli_kit import rows, run


def records(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in gzip.decompress(path.read_bytes()).splitlines()]


def expected(paths: list[Path]) -> tuple[Counter[str], int]:
    """Answered user messages by conversation and all tool calls of the agent, read off the files by this script."""
    turns: Counter[str] = Counter()
    calls = 0
    for path in paths:
        for conversation in records(path):
            waiting = False
            for message in conversation["messages"]:
                spoken = bool(message.get("content"))
                if message["role"] == "user" and spoken:
                    waiting = True
                elif message["role"] == "assistant":
                    calls += len(message.get("tool_calls") or [])
                    if waiting and spoken:
                        turns[conversation["conversation_id"]] += 1
                        waiting = False
    return turns, calls


@pytest.fixture(scope="module")
def files(shared_data: Path) -> list[Path]:
    return sorted((shared_data / "agent_trajectories").glob("tau2_[art]*.jsonl.gz"))


@pytest.fixture(scope="module")
def folder(files: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    data = tmp_path_factory.mktemp("import") / "data"
    for path in files:
        done = run("import", str(path), "--data-dir", str(data), "--json")
        assert done.returncode == 0, done.stderr
    return data


def sql(folder: Path, query: str) -> list[dict[str, Any]]:
    return rows("sql", query, "--data-dir", str(folder))


def test_all_conversations_arrive(folder: Path, files: list[Path]) -> None:
    turns, calls = expected(files)
    assert sum(len(records(path)) for path in files) == 396
    stored = sql(folder, "SELECT session_id, count() AS n FROM turns_current GROUP BY session_id")
    assert {row["session_id"]: row["n"] for row in stored} == dict(turns)
    (spans,) = sql(folder, "SELECT countIf(kind = 'tool') AS tools FROM spans_current")
    assert spans["tools"] == calls


def test_tool_calls_of_turns_are_those_of_their_spans(folder: Path) -> None:
    query = (
        "SELECT sum(tool_calls) AS n, (SELECT count() FROM spans_current WHERE kind = 'tool' AND trace_id IN "
        "(SELECT trace_id FROM turns_current)) AS spans FROM turns_current"
    )
    (row,) = sql(folder, query)
    assert row["n"] == row["spans"] > 1000


def test_nothing_is_lost_or_dead(folder: Path) -> None:
    assert sql(folder, "SELECT reason, detail FROM dead_letters_current") == []
    ledger = rows("ledger", "--data-dir", str(folder))
    assert sum(row["accepted"] for row in ledger) > 8000
    assert all(row["difference"] == 0 for row in ledger)


def test_turns_keep_their_order_and_time(folder: Path, files: list[Path]) -> None:
    late = sql(folder, "SELECT max(event_time) AS t, min(event_time) AS f FROM turns_current")
    assert late[0]["f"] < "2026"
    wrong = sql(
        folder,
        "SELECT session_id FROM (SELECT session_id, groupArray(turn_index) AS i FROM (SELECT * FROM turns_current "
        "ORDER BY session_id, event_time) GROUP BY session_id) WHERE i != arraySort(i)",
    )
    assert wrong == []


def test_known_people_are_not_in_the_store(folder: Path, shared_data: Path) -> None:
    profiles = shared_data / "agent_trajectories" / "known_user_profiles.jsonl.gz"
    mails = {record["profile"].get("email") for record in records(profiles)} - {None}
    assert len(mails) > 50
    needles = ", ".join(f"'{mail}'" for mail in mails)
    query = (
        f"SELECT count() AS n FROM spans WHERE arrayExists(m -> position(concat(input, output), m) > 0, [{needles}])"
    )
    assert sql(folder, query) == [{"n": 0}]


def test_a_second_import_changes_nothing(folder: Path, files: list[Path]) -> None:
    query = "SELECT count() AS turns, sum(tool_calls) AS calls FROM turns_current"
    before = sql(folder, query)
    assert run("import", str(files[-1]), "--data-dir", str(folder)).returncode == 0
    assert sql(folder, query) == before
    assert all(row["difference"] == 0 for row in rows("ledger", "--data-dir", str(folder)))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "line 1: not JSON"),
        ('{"conversation_id": "a"}', "line 1: no field 'messages'"),
        ('{"conversation_id": "a", "messages": [{"content": "x"}]}', "messages[0]: no role"),
        ('\n{"conversation_id": "a", "messages": [], "start_time": "noon"}', "line 2: start_time"),
    ],
)
def test_a_bad_file_is_named(tmp_path: Path, content: str, words: str) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text(content)
    done = run("import", str(path), "--data-dir", str(tmp_path / "data"))
    assert done.returncode == 2
    assert words in done.stderr
    assert "bad.jsonl" in done.stderr


@pytest.fixture(scope="module")
def traces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("traces") / "traces.jsonl"
    rows = [
        {"id": f"{n:016x}", "traceId": f"{n // 2 + 1:032x}", "type": "GENERATION", "name": "chat", "model": "m-1",
         "startTime": f"2026-01-05T09:00:{n:02d}Z", "input": [{"role": "user", "content": f"is canteen {n} open"}],
         "output": "until three", "usageDetails": {"input": 7, "output": 2}, "costDetails": {"total": 0.25},
         "parentObservationId": f"{n - 1:016x}" if n % 2 else None, "sessionId": f"s-{n // 4}"}
        for n in range(8)
    ]  # fmt: skip
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def test_a_dry_run_counts_and_stores_nothing(traces: Path, tmp_path: Path) -> None:
    done = run("import", str(traces), "--dry-run", "--json", "--data-dir", str(tmp_path / "data"))
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"format": "langfuse", "spans": 8, "traces": 4, "imported": False}
    assert "traces.jsonl: langfuse, by its first row" in done.stderr
    assert not (tmp_path / "data").exists()


def test_traces_of_another_tool_are_stored_once(traces: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    query = "SELECT count() AS turns, sum(input_tokens) AS n, sum(cost) AS cost, any(agent) AS agent FROM turns_current"
    for _ in range(2):
        done = run("import", str(traces), "--agent", "desk-bot", "--data-dir", str(data), "--json")
        assert done.returncode == 0, done.stderr
        assert sql(data, query) == [{"turns": 4, "n": 28, "cost": 1.0, "agent": "desk-bot"}]
    assert all(row["difference"] == 0 for row in rows("ledger", "--data-dir", str(data)))
