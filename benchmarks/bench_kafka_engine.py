"""The Kafka engine's cost: a Faust worker, the plain loop and the stage alone, and two workers beside one.

``python benchmarks/bench_kafka_engine.py [--events 60000] [--stages redact,...] [--pairs 2] [--quix PYTHON]`` starts a
broker of its own. Every process joins its group on empty topics; then the inputs become visible at once, since they are
one transaction. Time and CPU seconds run from there to the last commit.
"""

from __future__ import annotations

import argparse
import json
import os
import pickle
import queue
import resource
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

from confluent_kafka import Producer

from benchmarks.kafka_engine.work import BATCH, NAMES, NOW, PARTITIONS, Input, inputs, make_stage
from connectors.kafka.settings import KafkaSettings, client_options
from connectors.kafka.wire import millis
from tests.brokers import Cluster
from tests.driftwheel.kafka_kit import make_topics

ROOT = Path(__file__).parent.parent
CHILD = ROOT / "benchmarks" / "kafka_engine" / "child.py"
QUIX = ROOT / "benchmarks" / "kafka_engine" / "quix.py"
LIMIT = 240.0
QUIET = 8.0
_TICKS = os.sysconf("SC_CLK_TCK")


def cpu_of(pid: int) -> float:
    """CPU seconds of a process so far, from /proc."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


class Child:
    """One process of the benchmark and what it says."""

    def __init__(self, *arguments: str, python: str = sys.executable, script: Path = CHILD, **environment: str) -> None:
        self.process = subprocess.Popen(
            [python, str(script), *arguments], stdout=subprocess.PIPE, text=True, cwd=tempfile.gettempdir(),
            env=os.environ | environment,
        )  # fmt: skip
        self.lines: queue.Queue[dict[str, Any]] = queue.Queue()
        self.lanes, self.began = 0, 0.0
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith("{"):
                self.lines.put(json.loads(line))

    def has_lanes(self, count: int) -> bool:
        """Whether it has so many lanes open now."""
        while not self.lines.empty():
            self.lanes = self.lines.get().get("lanes", self.lanes)
        return self.lanes == count

    def end(self) -> None:
        """Kill it."""
        self.process.kill()
        self.process.wait()


@dataclass(slots=True)
class Run:
    """What one run took."""

    messages: int
    seconds: float
    cpu: float
    records: int = 0
    broker: float = 0.0
    batches: int = 0
    each: list[float] = field(default_factory=list[float])

    @property
    def per_message(self) -> float:
        """CPU microseconds of a message of the source topics."""
        return self.cpu / self.messages * 1e6

    def __str__(self) -> str:
        return (
            f"{self.messages} in, {self.records} out, {self.seconds:.1f} s wall, {self.cpu:.2f} CPU s "
            f"({', '.join(f'{one:.2f}' for one in self.each)}), broker {self.broker:.2f}, {self.batches} commits, "
            f"load {os.getloadavg()[0]:.0f}"
        )


def own(name: str, file: Path) -> Run:
    """The stage alone."""
    child = Child("own", name, str(file))
    before, after = (child.lines.get(timeout=LIMIT) for _ in range(2))
    child.process.wait()
    return Run(after["messages"], after["t"] - before["t"], after["cpu"] - before["cpu"], after["records"])


class Bench:
    """Runs on one broker."""

    def __init__(self, cluster: Cluster, folder: Path, work: dict[str, list[Input]], events: int) -> None:
        self.cluster, self.folder, self.work, self.events = cluster, folder, work, events
        self._count = 0

    def settings(self, name: str) -> KafkaSettings:
        """A fresh prefix with topics for this stage."""
        self._count += 1
        kafka = KafkaSettings(self.cluster.bootstrap, prefix=f"b{self._count}.", partitions=PARTITIONS)
        make_topics(kafka, [make_stage(name)])
        return kafka

    def run(self, kind: str, name: str, expected: int, *, processes: int = 1, batch: int = BATCH) -> Run:
        """The stage on an engine, in so many processes."""
        kafka = self.settings(name)
        children: list[Child] = []
        try:
            for number in range(processes):
                folder = self.folder / f"{kafka.prefix}{number}"
                children.append(Child(kind, name, kafka.brokers, kafka.prefix, str(folder), str(batch)))
            share, until = PARTITIONS // processes, time.monotonic() + LIMIT
            while not all(child.has_lanes(share) for child in children):
                if time.monotonic() > until:
                    raise TimeoutError(f"{kind} {name}: no lanes: {[child.lanes for child in children]}")
                time.sleep(0.1)
            return self._measured(children, kafka, self.work[name], expected)
        finally:
            for child in children:
                child.end()

    def _measured(self, children: Sequence[Child], kafka: KafkaSettings, given: list[Input], expected: int) -> Run:
        producer = self.loaded(kafka, given)
        [broker] = self.cluster.pids.values()
        before = [cpu_of(child.process.pid) for child in children]
        broker_before, began = cpu_of(broker), time.time()
        producer.commit_transaction(60)
        after, last = list(before), began
        messages = records = batches = 0
        limit = time.monotonic() + LIMIT
        quiet_since = time.monotonic()
        while time.monotonic() < limit:
            for place, child in enumerate(children):
                while not child.lines.empty():
                    line = child.lines.get()
                    if "messages" in line:
                        messages, records = messages + line["messages"], records + line["records"]
                        batches += 1
                        after[place], last = line["cpu"], max(last, line["t"])
                        quiet_since = time.monotonic()
            broker_after = cpu_of(broker)
            if messages >= len(given) and (records >= expected or time.monotonic() - quiet_since > QUIET):
                break
            if any(child.process.poll() is not None for child in children):
                raise RuntimeError("a child ended")
            time.sleep(0.02)
        else:
            raise TimeoutError(f"{messages} of {len(given)} messages, {records} of {expected} records")
        each = [end - start for start, end in zip(before, after, strict=True)]
        return Run(len(given), last - began, sum(each), records, broker_after - broker_before, batches, each)

    def loaded(self, kafka: KafkaSettings, given: list[Input]) -> Producer:
        """A producer with the inputs in a transaction that is still open."""
        options = {"transactional.id": f"{kafka.prefix}load", "queue.buffering.max.messages": 1_000_000}
        producer = Producer(client_options(kafka) | options | {"compression.type": "lz4", "linger.ms": 20})
        producer.init_transactions(60)
        producer.begin_transaction()
        for one in given:
            headers: Any = [(name, value.encode()) for name, value in one.headers.items()]
            producer.produce(
                kafka.topic(one.topic), one.value, one.key.encode(), one.partition, timestamp=millis(NOW),
                headers=headers,
            )  # fmt: skip
        producer.flush(60)
        return producer

    def quix(self, name: str, python: str) -> Run:
        """The same records on quixstreams."""
        kafka, given = self.settings(name), self.work[name]
        self.loaded(kafka, given).commit_transaction(60)
        path = os.pathsep.join([str(ROOT), *(p for p in sys.path if p.endswith("site-packages"))])
        arguments = [name, kafka.brokers, kafka.prefix, str(self.folder / "quix"), str(len(given)), str(BATCH)]
        child = Child(*arguments, python=python, script=QUIX, BENCH_PATH=path)
        try:
            first = line = child.lines.get(timeout=60)
            while line["seen"] < len(given):
                line = child.lines.get(timeout=60)
            return Run(line["seen"] - first["seen"], line["t"] - first["t"], line["cpu"] - first["cpu"], line["seen"])
        finally:
            child.end()


def stage_row(bench: Bench, name: str, file: Path) -> None:
    """One stage on everything."""
    alone = own(name, file)
    note(f"{name} alone: {alone}")
    loop = bench.run("loop", name, alone.records)
    note(f"{name} loop: {loop}")
    worker = bench.run("worker", name, alone.records)
    note(f"{name} worker: {worker}")
    cells = [f"{run.messages / run.seconds:,.0f} | {run.messages / run.cpu:,.0f}" for run in (worker, loop, alone)]
    mine, plain, base = worker.per_message, loop.per_message, alone.per_message
    print(
        f"| {name} | {' | '.join(cells)} | {mine / base - 1:+.0%} | {plain / base - 1:+.0%} | "
        f"{(mine - plain) / base:+.0%} | {1 - plain / mine:.0%} |",
        flush=True,
    )


def note(text: str) -> None:
    """Progress, to standard error."""
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--events", type=int, default=60_000)
    parser.add_argument("--stages", default=",".join(NAMES))
    parser.add_argument("--pairs", type=int, default=2)
    parser.add_argument("--batch", type=int, default=BATCH)
    parser.add_argument("--quix", default="", help="a Python with quixstreams 3")
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    with tempfile.TemporaryDirectory() as there:
        folder = Path(there)
        work = inputs(given.events)
        file = folder / "inputs"
        file.write_bytes(pickle.dumps(work))
        note(f"inputs: { {name: len(one) for name, one in work.items()} }, {resource.getrusage(0).ru_utime:.0f} CPU s")
        with Cluster(folder / "kafka") as cluster:
            bench = Bench(cluster, folder, work, given.events)
            if given.pairs:
                pairs(bench, own("redact", file), given.pairs, given.batch)
            print(
                "| stage | worker/s | worker per CPU s | loop/s | loop per CPU s | alone/s | alone per CPU s "
                "| worker adds | loop adds | Faust over loop | loop would win |\n|---|" + "---|" * 10
            )
            for name in filter(None, given.stages.split(",")):
                stage_row(bench, name, file)
            for name in ("echo", "tally") if given.quix else ():
                peer = bench.quix(name, given.quix)
                note(f"{name} quixstreams: {peer}")
                print(f"quixstreams {name}: {peer.messages / peer.seconds:,.0f}/s, "
                      f"{peer.messages / peer.cpu:,.0f} per CPU s", flush=True)  # fmt: skip


def pairs(bench: Bench, alone: Run, count: int, batch: int) -> None:
    """One worker and two, in turn."""
    spans = alone.records
    for _ in range(count):
        one = bench.run("worker", "redact", spans, batch=batch)
        note(f"1 worker: {one}")
        two = bench.run("worker", "redact", spans, processes=2, batch=batch)
        note(f"2 workers: {two}")
        print(f"redact: 1 worker {one.seconds:.1f} s, 2 workers {two.seconds:.1f} s, "
              f"ratio {one.seconds / two.seconds:.2f}", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
