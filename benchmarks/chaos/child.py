"""One process of a run: the product's own, with switches for faults that cannot be caused from outside.

``python child.py gateway|worker|sink RUN_FOLDER [STAGES]``. In RUN_FOLDER/switches: ``crash-STAGE`` makes the next
event of that stage raise, once (whoever takes the file away); ``times`` has the sink write down in ``times.txt`` when
a span or a turn could be queried; ``store-away`` makes the store raise Retry while it is
there; ``sabotage`` names a defect that the verification has to find. RUN_FOLDER/refused.json lists the turns that
``score`` refuses.
"""

from __future__ import annotations

import json
import os
import random
import sys
import threading
import time
from collections.abc import Iterable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent.parent))

from rich.console import Console

from connectors.clickhouse.sink import ClickHouseSink
from driftwheel import services
from driftwheel.config import load
from driftwheel.ports import configured
from processors.stage import Event, Stage
from processors.state import KeyState
from schemas.errors import Invalid, Retry
from schemas.events import LedgerEntry, Record, Score, Span, Turn

LOOK_SECONDS = 0.2
"""How often a process looks at its switches, which costs a stage nothing."""
EARLY_SECONDS = 4.0
"""How long the sabotaged sink sits on what it has said to have stored."""


class Crash(RuntimeError):
    """A defect, planted."""


def plant(stage: Stage, switches: Path, refused: frozenset[str]) -> Stage:
    """Let a stage raise where the switches say so."""
    step, flag = stage.step, switches / f"crash-{stage.name}"
    planted = threading.Event()

    def look() -> None:
        while True:
            if flag.exists():
                planted.set()
            time.sleep(LOOK_SECONDS)

    threading.Thread(target=look, daemon=True).start()

    def faulty(event: Event, state: KeyState) -> Iterable[Record]:
        if planted.is_set():
            planted.clear()
            if _taken(flag):
                raise Crash(f"{stage.name}: as was asked for")
        if isinstance(event.record, Turn) and event.record.turn_id in refused:
            raise Invalid("chaos", event.record.turn_id)
        return step(event, state)

    stage.step = faulty  # type: ignore[method-assign]
    return stage


def _taken(flag: Path) -> bool:
    """Whether it was this process that took it away."""
    try:
        flag.rename(flag.with_name(f"done-{flag.name}-{time.time_ns()}"))
    except FileNotFoundError:
        return False
    return True


def plant_stages(folder: Path) -> None:
    """Have the product build faulty stages."""
    build = services.worker_stages
    refused = frozenset(json.loads((folder / "refused.json").read_text()))

    def planted(*given: Any) -> list[Stage]:
        none = frozenset[str]()
        return [plant(one, folder / "switches", refused if one.name == "score" else none) for one in build(*given)]

    services.worker_stages = planted


def plant_store(switches: Path) -> None:
    """Have the sink's store be away while a file is there, or lose what it should not."""
    write = ClickHouseSink.write
    sabotage = switches / "sabotage"
    times = (switches / "times.txt").open("a") if (switches / "times").exists() else None

    def switched(self: ClickHouseSink, records: Sequence[Record]) -> None:
        if (switches / "store-away").exists():
            raise Retry("the store is away: as was asked for")
        kind = sabotage.read_text() if sabotage.exists() else ""
        if kind == "early-commit":
            threading.Timer(EARLY_SECONDS, write, (self, list(records))).start()
        else:
            write(self, _spoiled(records, kind))
        if times is not None:
            now = time.time()
            times.writelines(f"{now:.3f} {one.event_id}\n" for one in records if isinstance(one, (Span, Turn)))
            times.flush()

    ClickHouseSink.write = switched  # type: ignore[method-assign]


def _spoiled(records: Sequence[Record], kind: str) -> list[Record]:
    chance = random.Random()
    if kind == "drop":
        return [one for one in records if not (isinstance(one, (Span, Score)) and chance.random() < 0.001)]
    if kind == "double":
        twins = [one for one in records if isinstance(one, Span) and chance.random() < 0.001]
        later = timedelta(hours=1)
        return [*records, *[one.model_copy(update={"event_time": one.event_time + later}) for one in twins]]
    if kind == "miscount":
        return [
            one.model_copy(update={"count": one.count + 1})
            if isinstance(one, LedgerEntry) and one.entry == "accepted" and chance.random() < 0.01
            else one
            for one in records
        ]
    return list(records)


def follow_parent() -> None:
    """End with the process that started this one, however it went."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1.0)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def main() -> None:
    follow_parent()
    kind, folder, config = sys.argv[1], Path(sys.argv[2]), load()
    console = Console(stderr=True)
    if kind == "gateway":
        services.run_gateway(config, configured(config), console)
    elif kind == "sink":
        plant_store(folder / "switches")
        services.run_sink(config, console)
    else:
        plant_stages(folder)
        services.run_worker(config, sys.argv[3].split(","), console)


if __name__ == "__main__":
    main()
