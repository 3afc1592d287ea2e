"""How ``driftwheel redact --jobs`` and the embedded engine's worker processes scale from one core to two.

``python benchmarks/redact/scaling.py`` redacts the texts of ``../shared/data/pii_presidio`` and of the first
``--conversations`` of each file of ``agent_trajectories`` (a conversation is a session), with one process and with two,
in turn, ``--rounds`` times. Wall seconds are those of the whole command's work, models loaded within. Where other work
takes the machine's cores, wall time says more of that than of this: so the CPU seconds of all processes are there too.
Half of those of two processes beside those of one is what two cores of their own would give. The best round comes last.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"

import argparse
import json
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent.parent))

from benchmarks.redact.speed import lines

CHILD = """
import json, sys, time
from rich.console import Console
from driftwheel.config import Config
from driftwheel.redaction import Wanted, redact_file
began = time.perf_counter()
config = Config.model_validate({"data_dir": sys.argv[1], "redact": {"key": "k" * 32}})
redact_file(config, sys.argv[2], sys.argv[3], Wanted(jobs=int(sys.argv[4])), Console(quiet=True))
print(json.dumps({"wall": time.perf_counter() - began}))
"""


def texts(target: Path, conversations: int) -> tuple[int, int]:
    """Write the input; how many rows and characters it has."""
    taken: dict[str, int] = {}
    rows = [{"id": f"t{n}", "text": row["text"]} for n, row in enumerate(lines("pii_presidio"))]
    for number, row in enumerate(lines("agent_trajectories")):
        if not row.get("messages") or taken.get(row["file"], 0) >= conversations:
            continue
        taken[row["file"]] = taken.get(row["file"], 0) + 1
        said = [message.get("content") or "" for message in row["messages"]]
        rows += [
            {"id": f"c{number}.{n}", "session": f"c{number}", "text": text}
            for n, text in enumerate(said) if isinstance(text, str)
        ]  # fmt: skip
    target.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return len(rows), sum(len(row["text"]) for row in rows)


def run(folder: Path, source: Path, jobs: int) -> tuple[float, float]:
    """Wall seconds of the work, and CPU seconds of all its processes."""
    target = folder / f"out{jobs}.jsonl"
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(folder / "data"), str(source), str(target), str(jobs)],
        capture_output=True, text=True, check=True, env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path[:1])},
    )  # fmt: skip
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return json.loads(done.stdout)["wall"], cpu


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--conversations", type=int, default=10, help="of each file of agent_trajectories")
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source = folder / "in.jsonl"
        rows, size = texts(source, given.conversations)
        print(f"{rows:,} texts, {size / 1e6:.2f} MB, load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores\n")
        print("| round | one process: wall, CPU s | two: wall, CPU s | wall | CPU of one / half of two |")
        print("| --- | --- | --- | --- | --- |", flush=True)
        best: tuple[float, float] = (0.0, 0.0)
        for number in range(1, given.rounds + 1):
            (one, cpu1), (two, cpu2) = (run(folder, source, jobs) for jobs in (1, 2))
            same = (folder / "out1.jsonl").read_bytes() == (folder / "out2.jsonl").read_bytes()
            if not same:
                sys.exit("two processes do not say what one says")
            best = max(best, (one / two, 2 * cpu1 / cpu2))
            cells = (f"{one:.1f}, {cpu1:.1f}", f"{two:.1f}, {cpu2:.1f}", f"{one / two:.2f}", f"{2 * cpu1 / cpu2:.2f}")
            print(f"| {number} | {' | '.join(cells)} |", flush=True)
        print(f"\nbest: {best[0]:.2f} times as fast with two processes; by CPU {best[1]:.2f} times")


if __name__ == "__main__":
    main()
