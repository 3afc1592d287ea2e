"""Chaos: real load on real Kafka, processes and brokers killed at random, and not one event lost or doubled.

``python benchmarks/chaos/chaos.py --runs 20 --events 100000 --nodes 1 --out results.jsonl``; what a run does and what
it has to come to is in docs/chaos.md. Exit code 1 when any run was wrong. ``--summary results.jsonl`` prints a table.
"""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent.parent))

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks.chaos.faults import KINDS
from benchmarks.chaos.report import line, table
from benchmarks.chaos.run import Run, RunSettings

SABOTAGES = ("drop", "double", "early-commit", "miscount")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=1, help="how many, with seeds that count up")
    parser.add_argument("--events", type=int, default=100_000, help="spans and signals of a run")
    parser.add_argument("--seed", type=int, default=1, help="of the first run")
    parser.add_argument("--nodes", type=int, choices=(1, 3), default=1, help="brokers")
    parser.add_argument("--faults", default="all", help=f"all, none, or some of {','.join(KINDS)}")
    parser.add_argument("--outage", type=float, default=120.0, help="seconds without the store")
    parser.add_argument("--gap", type=float, default=60.0, help="seconds of silence that close a session")
    parser.add_argument("--partitions", type=int, default=6, help="of every topic")
    parser.add_argument("--seconds", type=float, default=180.0, help="how long the load is spread over, at least")
    parser.add_argument("--sabotage", choices=SABOTAGES, default="", help="a defect that has to be found")
    parser.add_argument("--out", type=Path, help="a JSON line for every run is appended")
    parser.add_argument("--folder", type=Path, help="where runs keep their files (default: the temporary folder)")
    parser.add_argument("--keep", action="store_true", help="keep the files of good runs, too")
    parser.add_argument("--summary", type=Path, metavar="RESULTS", help="print the table of such a file and end")
    return parser.parse_args()


def kinds_of(text: str) -> tuple[str, ...]:
    if text == "none":
        return ()
    kinds = tuple(KINDS) if text == "all" else tuple(text.split(","))
    unknown = [kind for kind in kinds if kind not in KINDS]
    if unknown:
        sys.exit(f"--faults: {unknown[0]!r} is not a fault; there are: {', '.join(KINDS)}")
    return kinds


def one_run(settings: RunSettings, parent: Path | None, console: Console, *, keep: bool) -> dict[str, Any]:
    if parent is not None:
        parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f"chaos-{settings.seed}-", dir=parent))
    columns = (TextColumn("seed {task.fields[seed]}"), BarColumn(20), TextColumn("{task.completed}/{task.total}"),
               TimeElapsedColumn(), TextColumn("{task.description}"))  # fmt: skip
    began = time.monotonic()
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("", total=settings.events, seed=settings.seed)

        def show(phase: str, events: int) -> None:
            progress.update(task, description=phase, completed=min(events, settings.events))

        try:
            result = Run(settings, folder, show).do()
        except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001  # the next run goes on, this one is wrong
            traceback.print_exc()
            result = {"seed": settings.seed, "nodes": settings.nodes, "wrong": {"run": 1}, "error": repr(error),
                      "seconds": round(time.monotonic() - began, 1), "sabotage": settings.sabotage}  # fmt: skip
            result["stop"] = isinstance(error, KeyboardInterrupt)
    if result["wrong"] or result.get("stalled") or keep:  # why a worker stood still is in its log
        result["kept"] = str(folder)
    else:
        shutil.rmtree(folder, ignore_errors=True)
    return result


def main() -> int:
    given = arguments()
    console = Console(stderr=True)
    if given.summary:
        print(table([json.loads(text) for text in given.summary.read_text().splitlines()]))
        return 0
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    kinds, bad = kinds_of(given.faults), 0
    for seed in range(given.seed, given.seed + given.runs):
        settings = RunSettings(
            seed, given.events, given.nodes, kinds, outage=given.outage, gap=given.gap,
            rate=given.events / given.seconds, partitions=given.partitions, sabotage=given.sabotage,
        )  # fmt: skip
        result = one_run(settings, given.folder, console, keep=given.keep)
        print(line(result), flush=True)
        if given.out:
            with given.out.open("a") as out:
                out.write(json.dumps(result) + "\n")
        bad += bool(result["wrong"])
        if result.get("stop"):
            break
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
