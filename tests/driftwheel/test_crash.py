"""Kill -9 at random points under load: nothing lost, nothing doubled, state exact."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

from connectors.sqlite_log import SqliteLog, SqliteLogSettings
from processors.state import KeyState
from schemas import codec
from schemas.events import LedgerEntry, Trigger
from schemas.topics import ALARMS, LEDGER, TRIGGERS
from tests.driftwheel.crash_child import KEYS

KILLS = 50


def run(folder: Path, *options: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.driftwheel.crash_child", str(folder), *options]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def kill_many(folder: Path, kills: int, *options: str) -> None:
    folder.mkdir()
    (folder / "acknowledged").touch()
    rng = random.Random(7)
    for _ in range(kills):
        child = run(folder, *options)
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        time.sleep(rng.uniform(0.005, 0.15))
        child.kill()
        child.wait()
        child.stdout.close()
    child = run(folder, *options, "--drain")
    assert child.wait(60) == 0
    assert child.stdout is not None
    child.stdout.close()


def ids(log: SqliteLog, topic: object) -> Counter[str]:
    return Counter(codec.decode(entry.value).event_id for entry in log.scan(topic))  # type: ignore[arg-type]


def test_fifty_kills(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    kill_many(folder, KILLS)
    log = SqliteLog(folder, SqliteLogSettings(key=b"k" * 32))
    acknowledged = {f"e{line}" for line in (folder / "acknowledged").read_text().split()}
    appended = ids(log, ALARMS)
    assert len(acknowledged) > 10 * KILLS, "the load was too light to mean anything"
    assert acknowledged <= set(appended), "an acknowledged event was lost"
    assert max(appended.values()) == 1
    assert ids(log, LEDGER) == Counter(f"{event}/counted" for event in appended)
    assert ids(log, TRIGGERS) == Counter(f"{event}/counted/summed" for event in appended)
    check_state(log, appended)
    log.close()


def check_state(log: SqliteLog, appended: Counter[str]) -> None:
    expected = Counter(int(event[1:]) % KEYS for event in appended)
    for key in range(KEYS):
        text = log.state("count", f"t/a{key}")
        assert text is not None
        assert KeyState.load(text).data["n"] == expected[key]
        counts = sorted(
            record.count
            for entry in log.scan(LEDGER)
            if isinstance(record := codec.decode(entry.value), LedgerEntry) and record.agent == f"a{key}"
        )
        assert counts == list(range(1, expected[key] + 1))
    last = codec.decode(log.scan(TRIGGERS)[-1].value)
    assert isinstance(last, Trigger)


def test_the_broken_engine_is_found_out(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    kill_many(folder, 12, "--broken")
    log = SqliteLog(folder, SqliteLogSettings(key=b"k" * 32))
    appended, counted = ids(log, ALARMS), ids(log, LEDGER)
    log.close()
    assert counted != Counter(f"{event}/counted" for event in appended)
