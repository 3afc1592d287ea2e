"""``driftwheel signals``: conversations in, a line for each message of a user out."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from driftwheel.config import Config
from driftwheel.signals_command import rows_of, signals_file
from processors.conversation import conversation_of
from processors.reactions import Reaction
from schemas.errors import UsageError
from tests.driftwheel.cli_kit import run

TALK = ["reset my vpn", "vpn reset please", "no, that is wrong", "perfect, thank you"]


def talk(name: str | int, texts: list[str] = TALK, **first: object) -> dict[str, Any]:
    messages = [one for text in texts for one in ({"role": "user", "content": text},
                                                  {"role": "assistant", "content": f"About {text}."})]  # fmt: skip
    return {"conversation_id": name, "messages": [messages[0] | first, *messages[1:]]}


def lines(*bodies: object) -> str:
    return "".join(json.dumps(one) + "\n" for one in bodies)


def names(signals: tuple[Reaction, ...]) -> list[str]:
    return [one.name for one in signals]


def test_from_standard_input_to_standard_output() -> None:
    done = run("signals", "--no-model", text=lines(talk("c1"), talk(2, ["hello"])))
    assert (done.returncode, done.stderr) == (0, "")
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(row["conversation_id"], row["turn"]) for row in rows] == [
        ("c1", 0),
        ("c1", 1),
        ("c1", 2),
        ("c1", 3),
        (2, 0),
    ]
    assert [[one["name"] for one in row["signals"]] for row in rows] == [
        [], ["rephrase"], ["explicit_correction"], ["task_complete"], ["abandonment"],
    ]  # fmt: skip
    assert all(0 < one["score"] <= 1 for row in rows for one in row["signals"])
    first, again, wrong, thanks, _ = (row["p_dissatisfied"] for row in rows)
    assert first < thanks < wrong
    assert again < wrong


def test_compressed_files_and_the_same_again(tmp_path: Path) -> None:
    source = tmp_path / "in.jsonl.gz"
    source.write_bytes(gzip.compress(lines(talk("c1"), talk("c2")).encode()))
    outs = [tmp_path / name for name in ("one.jsonl", "two.jsonl.gz")]
    counts = [signals_file(Config(), str(source), str(out), Console(quiet=True), model=False) for out in outs]
    assert counts == [8, 8]
    assert gzip.decompress(outs[1].read_bytes()) == outs[0].read_bytes()
    assert len(outs[0].read_text().splitlines()) == 8


def test_without_the_model_it_says_so_and_goes_by_letters(tmp_path: Path) -> None:
    source, nowhere = tmp_path / "in.jsonl", {"DRIFTWHEEL__MODELS__FOLDER": str(tmp_path / "none")}
    source.write_text(lines(talk("c1")))
    done = run("signals", "--in", str(source), **nowhere)
    assert done.returncode == 0
    assert "models fetch" in done.stderr
    assert done.stdout == run("signals", "--in", str(source), "--no-model").stdout


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 2: no JSON"),
        ("[]", "line 2: expected a JSON object"),
        ('{"conversation_id": "c"}', "line 2: messages: must be a list, not missing"),
        (lines(talk("c", role="s3cret")), "line 2: messages[0].role"),
        (lines(talk("c", timestamp="s3cret")), "line 2: messages[0].timestamp"),
        (lines(talk("c", content={"s3cret": 1})), "line 2: messages[0].content"),
    ],
)
def test_a_line_that_cannot_be_read_is_named_and_nothing_is_written(tmp_path: Path, line: str, message: str) -> None:
    source, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text(lines(talk("good")) + line)
    with pytest.raises(UsageError) as found:
        signals_file(Config(), str(source), str(out), Console(quiet=True), model=False)
    assert message in str(found.value)
    assert "s3cret" not in str(found.value)
    assert not out.exists()


def test_what_is_wrong_on_standard_input_is_one_line() -> None:
    done = run("signals", "--no-model", text=lines(talk("c1")) + '{"conversation_id": 1, "messages": "secret"}\n')
    assert (done.returncode, done.stdout.count("\n")) == (2, lines(talk("c1")).count('"user"'))
    assert done.stderr == "driftwheel: standard input, line 2: messages: must be a list, not str\n"


def test_a_damaged_archive_and_bytes_that_are_no_text(tmp_path: Path) -> None:
    whole = gzip.compress(lines(talk("c")).encode() * 50)
    bad = {"cut.jsonl.gz": whole[:-40], "no.jsonl.gz": b"{}", "latin.jsonl": b'{"conversation_id": "\xe9"}'}
    for name, body in bad.items():
        (tmp_path / name).write_bytes(body)
        with pytest.raises(UsageError, match=name):
            signals_file(Config(), str(tmp_path / name), str(tmp_path / "out"), Console(quiet=True), model=False)
    assert not (tmp_path / "out").exists()


def test_a_message_without_text_keeps_its_place() -> None:
    body = talk("c1", ["reset my vpn", "", "no, that is wrong"])
    rows = list(rows_of(conversation_of(body)))
    plain = list(rows_of(conversation_of(talk("c1", ["reset my vpn", "no, that is wrong"]))))
    assert [row.turn for row in rows] == [0, 1, 2]
    assert (names(rows[1].signals), rows[1].p_dissatisfied) == ([], rows[0].p_dissatisfied)
    assert names(rows[2].signals) == names(plain[1].signals) == ["explicit_correction", "abandonment"]


def test_times_count_where_they_are_given() -> None:
    def timed(second: str) -> list[str]:
        body = talk("c1", TALK[:2])
        body["messages"][0]["timestamp"] = "2026-01-05T09:00:00Z"
        body["messages"][2]["timestamp"] = second
        return names(next(row for row in rows_of(conversation_of(body)) if row.turn == 1).signals)

    assert timed("2026-01-05T09:01:00Z") == ["rephrase", "abandonment"]
    assert timed("2026-01-05T09:20:00Z") == ["abandonment"]


@pytest.mark.parametrize("times", [(1.7e9, 1.70000006e9), (1.7e12, 1.70000006e12), ("1700000000", "1700000060"),
                                   ("2026-01-05T09:00:00", "2026-01-05T10:01:00+01:00")])  # fmt: skip
@pytest.mark.parametrize(
    ("user", "agent"), [("human", "AI"), ("Customer", "agent"), ("USER", "SYSTEM"), ("user", "bot")]
)
def test_other_names_of_roles_and_units_of_time(times: tuple[Any, Any], user: str, agent: str) -> None:
    body, names_ = talk("c1"), {"user": user, "assistant": agent}
    plain = [names(row.signals) for row in rows_of(conversation_of(body))]
    for one in body["messages"]:
        one.update(role=names_[one["role"]], content=[{"type": "text", "text": {"value": one["content"]}}])
    body["messages"][0]["timestamp"], body["messages"][2]["timestamp"] = times
    assert [names(row.signals) for row in rows_of(conversation_of(body))] == plain
    body["messages"][2]["timestamp"] = None
    assert [names(row.signals) for row in rows_of(conversation_of(body))] == plain


def test_a_system_prompt_is_no_answer() -> None:
    prompt = [{"role": "system", "content": "Sorry, I cannot help."}]
    body = talk("c1")
    assert list(rows_of(conversation_of(body | {"messages": prompt + body["messages"]}))) == list(
        rows_of(conversation_of(body))
    )
    alone = {"conversation_id": "c2", "messages": [*prompt, {"role": "user", "content": "hello"}]}
    assert [row.signals for row in rows_of(conversation_of(alone))] == [()]


def test_a_conversation_of_a_thousand_messages_in_any_language() -> None:
    texts = [f"пароль {n} السلام 密码" for n in range(500)]
    rows = list(rows_of(conversation_of(talk("c1", texts))))
    assert [row.turn for row in rows] == list(range(500))
    assert all(0.0 < row.p_dissatisfied < 1.0 for row in rows)


def test_long_silence_ends_a_window() -> None:
    body = talk("c1", ["reset my vpn", "no, that is wrong"])
    body["messages"][0]["timestamp"], body["messages"][2]["timestamp"] = 0, 4_000
    assert [names(row.signals) for row in rows_of(conversation_of(body))] == [["abandonment"], ["abandonment"]]


def test_halves_of_characters_and_empty_conversations_are_no_failure() -> None:
    done = run("signals", "--no-model", text='{"conversation_id": "\\ud83d", "messages": []}\n\n' + lines(
        {"conversation_id": "c", "messages": [{"role": "user", "content": "a\ud83d"}]}))  # fmt: skip
    assert (done.returncode, len(done.stdout.splitlines())) == (0, 1)
