"""``driftwheel quarantine``: reviewers see what lies sealed, and nobody opens, releases or destroys it unseen."""

from __future__ import annotations

import io
import json
import stat
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from connectors.otlp import PROTOBUF, accept_traces
from connectors.quarantine import Quarantine
from driftwheel.audit import FILE, Audit, os_user
from driftwheel.cli import app
from driftwheel.client import Client
from driftwheel.config import load
from driftwheel.deadletters import Behind, LogMessages
from driftwheel.deadletters_command import How
from driftwheel.letters import MAX_LETTERS, LetterFilter
from driftwheel.ports import PRIVATE
from driftwheel.product import Product
from driftwheel.quarantine_command import list_payloads, purge_payloads, release_payloads, show_payload
from driftwheel.vault import VERBS, OwnVault, RemoteVault, answer
from schemas.errors import Refused, UsageError
from schemas.topics import OTLP_SPANS
from tests.driftwheel.test_deadletters import (
    KEY,
    LONG,
    LOOSE,
    SHORT,
    STRICT,
    T0,
    Bench,
    KafkaBench,
    asked,
)
from tests.processors.redacting import otlp
from tests.store import temporary_store

WORDS = b"please reset my vpn"


def audited(folder: Path) -> list[dict[str, Any]]:
    path = folder / FILE
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    with temporary_store() as store:
        made = Bench(tmp_path, store)
        yield made
        made.log.close()


@pytest.fixture
def vault(bench: Bench) -> OwnVault:
    return OwnVault(bench.letters, lambda: bench.behind, Audit(bench.folder / FILE, bench.clock))


def test_what_lies_sealed_and_why(bench: Bench, vault: OwnVault) -> None:
    bench.traces(SHORT, LONG)
    bench.traces(LONG + "b")
    bench.run()
    bench.quarantine.put("orphan", "other", b"x", T0 - timedelta(days=1))
    found = vault.find(LetterFilter())
    assert found[0]["name"] == "orphan", "the one that is purged soonest comes first"
    assert {(row["tenant"], row["reason"], row["topic"], row["state"]) for row in found[1:]} == {
        ("acme", "text_too_long", OTLP_SPANS.name, "open")
    }
    assert vault.show("orphan")["reason"] == ""
    shown = vault.show(found[1]["name"][:12])
    assert shown["size"] == len(bench.quarantine.read(shown["name"]))
    assert shown["until"] == T0 + timedelta(days=30)
    assert WORDS.decode() not in json.dumps([found, shown], default=str)
    for chosen, count in (
        (LetterFilter(tenant="acme"), 2), (LetterFilter(tenant="other"), 1), (LetterFilter(limit=1), 1),
        (LetterFilter(reason="text_too_long"), 2), (LetterFilter(reason="other"), 0), (LetterFilter(state="sent"), 0),
    ):  # fmt: skip
        assert len(vault.find(chosen)) == count, chosen
    for name, problem in (("", "no sealed payload"), ("nothing", "no sealed payload"), ("../log", "no sealed payload")):
        with pytest.raises(UsageError, match=problem):
            vault.show(name)
    assert audited(bench.folder) == []


def test_who_opens_a_payload_is_written_down_first(bench: Bench, vault: OwnVault) -> None:
    bench.traces(LONG)
    bench.run()
    (row,) = vault.find(LetterFilter())
    assert WORDS in vault.reveal(row["name"][:9], "mary")
    path = bench.folder / FILE
    assert audited(bench.folder) == [
        {"time": T0.isoformat(), "who": "mary", "action": "reveal", "names": [row["name"]]}
    ]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    path.unlink()
    path.mkdir()
    with pytest.raises(Refused, match="cannot be written, so nothing was done"):
        vault.reveal(row["name"], "mary")
    with pytest.raises(Refused, match="nothing was done"):
        vault.purge([row["name"]], "mary")
    assert row["name"] in bench.quarantine


def test_a_purge_destroys_and_the_letter_stays(bench: Bench, vault: OwnVault) -> None:
    bench.traces(LONG, LONG + "b")
    bench.run()
    first, second = (row["name"] for row in vault.find(LetterFilter()))
    outside = bench.folder / "keep"
    outside.write_text("x")
    assert vault.purge([first, "nothing", "../keep"], "mary") == [first]
    assert outside.exists()
    assert [row["name"] for row in vault.find(LetterFilter())] == [second]
    assert [row["names"] for row in audited(bench.folder)] == [[first]]
    assert len(bench.open()) == 2
    (left,) = bench.replay(first)["left_out"]
    assert "is not in the quarantine" in left["why"]


def test_a_release_goes_through_redaction(bench: Bench, vault: OwnVault) -> None:
    bench.traces(SHORT, LONG + " mary@example.org")
    bench.run()
    (row,) = vault.find(LetterFilter(state="open"))
    vault.note_release([row["name"]], "mary")
    assert vault.letters.replay([row["name"]], again=False)["replayed"] == [row["name"]]
    bench.run(LOOSE)
    assert bench.sums() == (3, 2, 1, 0)
    texts = bench.store.select("SELECT input FROM spans FINAL").rows
    assert not any("mary@" in text for (text,) in texts)
    assert vault.find(LetterFilter(state="settled"))[0]["name"] == row["name"], "its payload stays until its time"


def test_the_api_gives_what_the_vault_gives(bench: Bench, vault: OwnVault) -> None:
    bench.traces(LONG, LONG + "b")
    bench.run()
    asked_for: list[str] = []

    def ask(path: str, body: dict[str, Any]) -> dict[str, Any]:
        asked_for.append(path.removeprefix("/v1/quarantine/"))
        return answer(vault, asked_for[-1], json.loads(json.dumps(body)))

    remote = RemoteVault(ask, bench.letters)
    assert remote.find(LetterFilter()) == vault.find(LetterFilter())
    name = remote.find(LetterFilter())[0]["name"]
    assert remote.show(name) == vault.show(name)
    assert remote.reveal(name, "mary") == bench.quarantine.read(name)
    remote.note_release([name], "mary")
    assert remote.purge([name], "mary") == [name]
    assert set(asked_for) == set(VERBS)
    assert [line["action"] for line in audited(bench.folder)] == ["reveal", "release", "purge"]


def test_payloads_past_their_time_are_gone(tmp_path: Path) -> None:
    with temporary_store() as store:
        bench = Bench(tmp_path, store)
        bench.traces(LONG)
        bench.run()
        late = Quarantine(tmp_path / "quarantine", KEY, clock=lambda: T0 + timedelta(days=31))
        behind = Behind(late, LogMessages(bench.log), bench.log)
        assert OwnVault(bench.letters, lambda: behind, Audit(tmp_path / FILE, bench.clock)).find(LetterFilter()) == []
        bench.behind = behind
        (left,) = bench.replay()["left_out"]
        assert "purged after 30 days" in left["why"]
        bench.log.close()


def test_the_command_running_and_not(
    tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, out = tmp_path / "data", tmp_path / "payload"
    engine = {"workers": 0}
    strict = load(data_dir=folder, engine=engine, stages={"redact": {"max_text": STRICT}})

    def told(call: Callable[..., Any], *words: Any, **more: Any) -> Any:
        capfdbinary.readouterr()
        call(strict, *words, **more, as_json=True)
        return json.loads(capfdbinary.readouterr().out)

    def sealed() -> list[dict[str, Any]]:
        return told(list_payloads, LetterFilter())

    def release(how: How) -> tuple[int, bytes]:
        capfdbinary.readouterr()
        return release_payloads(strict, [], LetterFilter(), how), capfdbinary.readouterr().out

    with closing(Product(strict, where=PRIVATE, wheel=False, models=False)) as product:
        with Client(product.url) as client:
            for session in ("s1", "s2", "s3"):
                client.signal("rating", agent="desk", session_id=session, value=-1, text=LONG + "mary@example.org")
        product.settle()
        first, second, third = (row["name"] for row in sealed())
        show_payload(strict, first, reveal=True, target=str(out), as_json=False)
        assert WORDS in out.read_bytes()
        assert stat.S_IMODE(out.stat().st_mode) == 0o600
        assert told(purge_payloads, [third[:14]], LetterFilter(), yes=True) == {"purged": [third]}
        capfdbinary.readouterr()
        show_payload(strict, second, reveal=False, target="-", as_json=False)
        shown = capfdbinary.readouterr().out
        assert (b"reason: text_too_long" in shown, b"please" in shown) == (True, False)

    show_payload(strict, second, reveal=True, target="-", as_json=False)
    assert WORDS in capfdbinary.readouterr().out
    monkeypatch.setattr("sys.stdin", io.StringIO("n\n"))
    with pytest.raises(UsageError, match="nothing was replayed; --yes replays without asking"):
        release(How())
    code, text = release(How(yes=True, as_json=True))
    assert (code, sorted(json.loads(text)["replayed"])) == (0, sorted([first, second]))
    lines = audited(folder)
    assert {line["who"] for line in lines} == {os_user()}
    assert [(line["action"], len(line["names"])) for line in lines] == [
        ("reveal", 1), ("purge", 1), ("reveal", 1), ("release", 2),
    ]  # fmt: skip

    with closing(Product(load(data_dir=folder, engine=engine), where=PRIVATE, wheel=False, models=False)) as product:
        product.settle()
        assert sorted(row["state"] for row in sealed()) == ["settled", "settled"]
        assert product.ledger_totals()["difference"] == 0
        assert b"no sealed payload is open" in release(How(yes=True))[1]
    everything = [path for path in folder.rglob("*") if path.is_file()]
    assert not [path for path in everything if b"mary@example" in path.read_bytes()]


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["release"], "name payloads, or give --all"),
        (["purge", "abc", "--all"], "name payloads, or give --all"),
        (["show", "abc", "--out", "x"], "--out is for --reveal"),
    ],
)
def test_wrong_usage(words: list[str], problem: str) -> None:
    done = CliRunner().invoke(app, ["quarantine", *words])
    assert isinstance(done.exception, UsageError)
    assert problem in str(done.exception)


# On Kafka.


@pytest.fixture
def kafka_bench(kafka_settings: Any, tmp_path: Path) -> Iterator[KafkaBench]:
    with temporary_store() as store:
        made = KafkaBench(kafka_settings, tmp_path, store)
        yield made
        made.stack.close()


def test_on_kafka(kafka_bench: KafkaBench, tmp_path: Path) -> None:
    bench = kafka_bench
    body = otlp(asked(SHORT), asked(LONG), asked(LONG + "b")).SerializeToString()
    accept_traces(body, PROTOBUF, "acme", T0, bench.log)
    bench.run(STRICT, lambda: bench.sums() == (3, 1, 2, 0, 0))
    vault = OwnVault(bench.letters, lambda: bench.behind, Audit(tmp_path / FILE, lambda: T0))
    first, second = (row["name"] for row in vault.find(LetterFilter(reason="text_too_long", limit=MAX_LETTERS)))
    assert vault.show(first)["tenant"] == "acme"
    assert WORDS in vault.reveal(first, "mary")
    assert vault.purge([first], "mary") == [first]
    assert [row["name"] for row in vault.find(LetterFilter())] == [second]
    assert vault.letters.replay([second], again=False)["replayed"] == [second]
    bench.run(LOOSE, lambda: "settled" in bench.states())
    assert bench.sums()[-1] == 0
