"""``driftwheel drift`` as it is used: files through the command's own function, at its default settings.

``python benchmarks/drift/command.py [--streams 20] [--runs 50]`` writes CSV files of failures (5%, and 5 to 15% after
2,000 events) and prints false alarms per 100,000 events, delays by the time that the alarm names, and what an event
costs of CPU. Then the same for numbers: stable normal ones, and a mean that moves by one deviation, up or down.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent.parent))

import numpy as np

from benchmarks.drift.streams import Floats, constant, delay, step, told
from driftwheel.drift import watch_file
from processors.watch import WatchSettings

LENGTH, CHANGE, HORIZON = 100_000, 2_000, 5_000
SEED = 905_000


def alarms(values: Sequence[Any], folder: Path) -> list[int]:
    """The places that the alarms name as their times."""
    source, target = folder / "in.csv", folder / "out.jsonl"
    source.write_text("time,value\n" + "".join(f"{place},{value}\n" for place, value in enumerate(values)))
    watch_file(str(source), str(target), WatchSettings())
    found = map(json.loads, target.read_text(encoding="utf-8").splitlines())
    return [int(one["time"]) for one in found if one["level"] == "alarm"]


def failures(rates: Floats, seed: int) -> list[int]:
    return [int(one) for one in np.random.default_rng(seed).random(len(rates)) < rates]


def numbers(means: Floats, seed: int) -> list[float]:
    return np.random.default_rng(seed).normal(means).round(4).tolist()


def show(**facts: Any) -> None:
    print(json.dumps(facts), flush=True)


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--streams", type=int, default=20)
    parser.add_argument("--runs", type=int, default=50)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for what, made, before, afters in (("failures", failures, 0.05, (0.15,)), ("numbers", numbers, 0.0, (1, -1))):
            for after in afters:
                rates = step(before, after, CHANGE, CHANGE + HORIZON)
                found = [alarms(made(rates, SEED + run), folder) for run in range(args.runs)]
                show(what=what, to=after, delays=told([delay(one, CHANGE) for one in found], HORIZON))
            begun, false = time.process_time(), 0
            for stream in range(args.streams):
                false += len(alarms(made(constant(before, LENGTH), SEED + 1_000 + stream), folder))
            spent = (time.process_time() - begun) / max(args.streams, 1) / LENGTH * 1e6
            show(what=what, streams=args.streams, false_per_100k=false / args.streams, micros_an_event=round(spent, 1))


if __name__ == "__main__":
    main()
