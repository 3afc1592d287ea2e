"""Steady load on real Kafka, no faults: how long from the gateway to the store, and does memory grow.

``python benchmarks/chaos/steady.py --turns 200 --seconds 120`` prints the time from a turn's last accepted span to its
row in the store; ``--seconds 1800`` shows the memory of every process. Times end with the second in which the store had
the row, so they are upper bounds. The memory of a process is its resident set, averaged over tenths of the run.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from contextlib import ExitStack
from pathlib import Path

from benchmarks.chaos.load import Load
from benchmarks.chaos.processes import Child, Fleet
from benchmarks.chaos.run import BACK, FRONT
from benchmarks.chaos.senders import Senders
from connectors.clickhouse.store import Store, StoreSettings
from connectors.kafka.admin import Admin
from connectors.kafka.settings import KafkaSettings
from connectors.kafka.topics import apply, plan
from driftwheel.pipeline import WHEEL
from driftwheel.topics_command import topics_of
from tests.brokers import Cluster

EVENTS_A_TURN = 3.2
LOOK_SECONDS = 5.0
LATENCY = """
SELECT
    count() AS turns, round(quantile(0.5)(s), 2) AS p50, round(quantile(0.95)(s), 2) AS p95, round(max(s), 2) AS worst
FROM (
    SELECT dateDiff('millisecond', max(spans.received_time), toDateTime64(min(turns.stored_time), 3) + 1) / 1000 AS s
    FROM turns JOIN spans ON spans.trace_id = turns.trace_id
    GROUP BY turns.turn_id
)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=float, default=200, help="turns a second")
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--workers", type=int, default=1, help="processes for redact")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="driftwheel-steady-"))
    try:
        run(options.turns, options.seconds, options.workers, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def run(turns: float, seconds: float, workers: int, folder: Path) -> None:
    rate = turns * EVENTS_A_TURN
    load = Load(1, int(rate * seconds), poison=0, width=max(24, int(turns / 2)))
    (folder / "switches").mkdir(exist_ok=True)
    with ExitStack() as stack:
        cluster = stack.enter_context(Cluster(folder / "kafka", 1))
        kafka = KafkaSettings(cluster.bootstrap, "steady.", 6)
        admin = Admin(kafka)
        apply(admin, plan(admin, topics_of(kafka, WHEEL)))
        fleet, children = started(folder, kafka, workers)
        stack.callback(fleet.close, politely=False)
        senders = Senders(load, lambda: fleet.children["gateway"].url, rate)
        pids = {child.name: child.process.pid for child in children if child.process is not None}
        pids["broker"] = next(iter(cluster.pids.values()))
        before = {name: cpu(pid) for name, pid in pids.items()}
        began = time.monotonic()
        senders.start()
        memory = watch(senders, pids, seconds)
        took = time.monotonic() - began
        spent = {name: cpu(pid) - before[name] for name, pid in pids.items()}
        time.sleep(15)
        fleet.close()
        senders.stop()
    sent = senders.sent.events
    print(f"\n{sent} events in {took:.0f} s: {sent / took:.0f} a second ({sent / took / EVENTS_A_TURN:.0f} turns)")
    show_memory(memory, spent, took)
    show_latency(folder)


def started(folder: Path, kafka: KafkaSettings, workers: int) -> tuple[Fleet, list[Child]]:
    """Every process, ready."""
    fleet = Fleet(folder, kafka, {"kafka": {"partitions": 6}})
    (folder / "refused.json").write_text("[]")
    children = [fleet.add(f"redact-{n}", "worker", ",".join(FRONT)) for n in range(workers)]
    children += [fleet.add("others", "worker", ",".join(BACK)), fleet.add("sink", "sink")]
    children.append(fleet.add("gateway", "gateway"))
    for child in children:
        child.start()
    fleet.await_ready()
    return fleet, children


def show_latency(folder: Path) -> None:
    store = Store(StoreSettings(path=folder / "data-sink" / "store"))
    try:
        found = store.select(LATENCY)
        print("\nfrom the last accepted span of a turn to its row in the store, seconds, upper bounds:")
        print(json.dumps(dict(zip(found.columns, found.rows[0], strict=True))))
        counted = store.select("SELECT sum(difference) FROM ledger_current").rows[0][0]
        print(f"ledger difference: {counted}")
    finally:
        store.close()


def watch(senders: Senders, pids: dict[str, int], seconds: float) -> dict[str, list[float]]:
    """Resident megabytes of every process, every few seconds while the load lasts."""
    found: dict[str, list[float]] = defaultdict(list)
    until = time.monotonic() + seconds * 1.5
    while senders.busy and time.monotonic() < until:
        time.sleep(LOOK_SECONDS)
        for name, pid in pids.items():
            found[name].append(resident(pid))
        print(f"\r{senders.sent.events} events", end="", file=sys.stderr, flush=True)
    return found


def resident(pid: int) -> float:
    """The resident set in megabytes."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * 4096 / 1e6


def cpu(pid: int) -> float:
    """Seconds of CPU so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100


def show_memory(memory: dict[str, list[float]], spent: dict[str, float], took: float) -> None:
    print("\n| process | CPU, cores | MB by tenths of the run | last against the third tenth |")
    print("| --- | --- | --- | --- |")
    for name, values in memory.items():
        size = max(1, len(values) // 10)
        tenths = [statistics.mean(values[n : n + size]) for n in range(0, size * 10, size) if values[n : n + size]]
        growth = tenths[-1] / tenths[min(2, len(tenths) - 1)] - 1
        row = " ".join(f"{value:.0f}" for value in tenths)
        print(f"| {name} | {spent[name] / took:.2f} | {row} | {growth:+.1%} |")


if __name__ == "__main__":
    main()
