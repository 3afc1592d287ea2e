"""Steady load on real Kafka, no faults: how long from the gateway to the store, and does memory grow.

``python benchmarks/chaos/steady.py --turns 200 --seconds 120`` prints the time from a turn's last accepted span to its
row in the store, after a warm-up; ``--seconds 1800`` shows the memory of every process: its resident set, averaged over
tenths of the run.
"""

from __future__ import annotations

import argparse
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
WHOLE_HEAP = ("-Xms512m", "-XX:+AlwaysPreTouch")
"""A broker has its heap from the start, as Kafka's own start script gives it: what grows is then something else."""
ACCEPTED = """
SELECT 'turn', turns.event_id, toUnixTimestamp64Milli(max(spans.received_time)) / 1000
FROM turns JOIN spans ON spans.trace_id = turns.trace_id GROUP BY turns.event_id
UNION ALL SELECT 'span', event_id, toUnixTimestamp64Milli(received_time) / 1000 FROM spans
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=float, default=200, help="turns a second")
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--partitions", type=int, default=6, help="of every topic")
    parser.add_argument("--warm", type=float, default=30, help="first seconds, which the times leave out")
    parser.add_argument("--gap", type=float, default=1800, help="seconds of silence that close a session")
    parser.add_argument("--workers", type=int, default=1, help="processes for redact")
    parser.add_argument("--keep", action="store_true", help="keep the folder with the logs, and say where it is")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="driftwheel-steady-"))
    try:
        run(options, folder)
    except BaseException:
        print(f"logs are in {folder}", file=sys.stderr)
        raise
    if options.keep:
        print(f"logs are in {folder}")
        return
    shutil.rmtree(folder, ignore_errors=True)


def run(options: argparse.Namespace, folder: Path) -> None:
    turns, seconds = options.turns, options.seconds
    rate = turns * EVENTS_A_TURN
    load = Load(1, int(rate * seconds), poison=0, width=max(24, int(turns / 2)))
    (folder / "switches").mkdir(exist_ok=True)
    (folder / "switches" / "times").touch()
    with ExitStack() as stack:
        cluster = stack.enter_context(Cluster(folder / "kafka", 1, java_options=WHOLE_HEAP))
        kafka = KafkaSettings(cluster.bootstrap, "steady.", options.partitions)
        admin = Admin(kafka)
        apply(admin, plan(admin, topics_of(kafka, WHEEL)))
        fleet, children = started(folder, kafka, options)
        stack.callback(fleet.close, politely=False)
        senders = Senders(load, lambda: fleet.children["gateway"].url, rate)
        pids = {child.name: child.process.pid for child in children if child.process is not None}
        pids["broker"] = next(iter(cluster.pids.values()))
        before = {name: cpu(pid) for name, pid in pids.items()}
        began, since = time.monotonic(), time.time() + options.warm
        senders.start()
        memory = watch(senders, pids, seconds)
        took = time.monotonic() - began
        spent = {name: cpu(pid) - before[name] for name, pid in pids.items()}
        time.sleep(15)
        fleet.close()
        senders.stop()
    sent = senders.sent.events
    print(f"\n{sent} events in {took:.0f} s: {sent / took:.0f} a second ({sent / took / EVENTS_A_TURN:.0f} turns)")
    show_memory(memory, spent, took, sent / EVENTS_A_TURN)
    show_latency(folder, since)


def started(folder: Path, kafka: KafkaSettings, options: argparse.Namespace) -> tuple[Fleet, list[Child]]:
    """Every process, ready."""
    config: dict[str, dict[str, object]] = {"kafka": {"partitions": options.partitions}, "redact": {"canaries": 0}}
    config |= {f"stages.{name}": {"gap": options.gap} for name in ("assemble", "attribute")}
    fleet = Fleet(folder, kafka, config)
    (folder / "refused.json").write_text("[]")
    children = [fleet.add(f"redact-{n}", "worker", ",".join(FRONT)) for n in range(options.workers)]
    children += [fleet.add("others", "worker", ",".join(BACK)), fleet.add("sink", "sink")]
    children.append(fleet.add("gateway", "gateway"))
    for child in children:
        child.start()
    fleet.await_ready()
    return fleet, children


def show_latency(folder: Path, since: float) -> None:
    """Of spans and turns that were accepted from ``since`` on."""
    stored: dict[str, float] = {}
    for line in (folder / "switches" / "times.txt").read_text().splitlines():
        at, name = line.split()
        stored.setdefault(name, float(at))
    store = Store(StoreSettings(path=folder / "data-sink" / "store"))
    try:
        waits: dict[str, list[float]] = {"turn": [], "span": []}
        for what, name, accepted in store.select(ACCEPTED).rows:
            if accepted >= since:
                waits[what].append(stored[name] - accepted)
        (counted,) = store.select("SELECT sum(difference) FROM ledger_current").rows[0]
    finally:
        store.close()
    print(
        "\n| from acceptance to the store, s | count | p50 | p95 | p99 | worst |\n| --- | --- | --- | --- | --- | --- |"
    )
    for what, found in waits.items():
        cuts = statistics.quantiles(found, n=100)
        print(f"| {what} | {len(found)} | {cuts[49]:.2f} | {cuts[94]:.2f} | {cuts[98]:.2f} | {max(found):.2f} |")
    print(f"\nledger difference: {counted}")


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


def show_memory(memory: dict[str, list[float]], spent: dict[str, float], took: float, turns: float) -> None:
    print("\n| process | CPU, cores | CPU, ms a turn | MB by tenths of the run | last against the third tenth |")
    print("| --- | --- | --- | --- | --- |")
    for name, values in memory.items():
        size = max(1, len(values) // 10)
        tenths = [statistics.mean(values[n : n + size]) for n in range(0, size * 10, size) if values[n : n + size]]
        growth = tenths[-1] / tenths[min(2, len(tenths) - 1)] - 1
        row = " ".join(f"{value:.0f}" for value in tenths)
        print(f"| {name} | {spent[name] / took:.2f} | {spent[name] / turns * 1000:.2f} | {row} | {growth:+.1%} |")
    print(f"| all | {sum(spent.values()) / took:.2f} | {sum(spent.values()) / turns * 1000:.2f} | | |")


if __name__ == "__main__":
    main()
