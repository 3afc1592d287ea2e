"""Facts about Faust on topics that transactions write, each beside a control. Prints a table.

``python benchmarks/chaos/faust_facts.py [--fact gap]``
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent.parent))

from confluent_kafka import Consumer, Producer, TopicPartition  # noqa: E402
from faust.types import TP  # noqa: E402, TID251

from benchmarks.chaos.faust_app import IN, OUT, PARTITIONS, Plan, build  # noqa: E402
from benchmarks.chaos.faust_guarantees import VARIANTS, Process, Run, event_id, key_of  # noqa: E402
from tests.brokers import Cluster  # noqa: E402

TOPIC = TP("in", 0)


class Bench:
    """One worker, topics that the script writes itself."""

    def __init__(self, cluster: Cluster, folder: Path, name: str, variant: str = "a1", **plan: object) -> None:
        self.run = Run(cluster, VARIANTS[variant], name, 0, 0, 0, folder / f"{name}-{time.time_ns()}")
        self.worker = self.run.first
        self.worker.plan = replace(self.worker.plan, **plan)
        self.cluster = cluster
        self.run.create_topics()

    def write(self, topic: str, records: Iterable[tuple[bytes, bytes]], *, transaction: int, pause: float = 0) -> None:
        """In transactions of so many records, or without any when 0."""
        options = {"bootstrap.servers": self.cluster.bootstrap, "partitioner": "murmur2_random", "log_level": 0}
        if transaction:
            options["transactional.id"] = f"writer-{time.time_ns()}"
        producer = Producer(options)
        if transaction:
            producer.init_transactions(30)
        batch = list(records)
        size = transaction or 100
        for start in range(0, len(batch), size):
            if transaction:
                producer.begin_transaction()
            for key, value in batch[start : start + size]:
                producer.produce(topic, value, key)
            producer.flush(30)
            if transaction:
                producer.commit_transaction(30)
            time.sleep(pause)

    def ready(self, process: Process | None = None) -> bool:
        """Start a worker; whether it is ready within a minute."""
        one = process or self.worker
        one.start()
        self.run.stuck = ""
        return self.run.await_ready(one)

    def seen(self) -> Counter[str]:
        """Ids in the output."""
        return Counter(json.loads(message.value())["id"] for message in self.run.read(self.run.topic(OUT)))

    def await_seen(self, count: int, seconds: float = 60) -> Counter[str]:
        """Ids in the output, once there are so many or the time is over."""
        until = time.monotonic() + seconds
        while len(found := self.seen()) < count and time.monotonic() < until:
            time.sleep(0.5)
        return found

    def behind(self) -> tuple[int, int]:
        """Messages and control records after the committed positions, and before."""
        group = Consumer({"bootstrap.servers": self.cluster.bootstrap, "group.id": self.run.group, "log_level": 0})
        parts = [TopicPartition(self.run.topic(IN), number) for number in range(PARTITIONS)]
        done = sum(max(0, part.offset) for part in group.committed(parts, timeout=10))
        end = sum(group.get_watermark_offsets(part, timeout=10)[1] for part in parts)
        group.close()
        return end - done, done

    def close(self) -> None:
        """Kill the workers."""
        self.run.first.end(signal.SIGKILL)
        self.run.second.end(signal.SIGKILL)


def events(count: int) -> list[tuple[bytes, bytes]]:
    return [(key_of(number), event_id(number)) for number in range(count)]


def gap_direct(cluster: Cluster, folder: Path) -> list[str]:
    """What Faust would commit while 12 is being worked on and 13 is done; 11 is done, or is a hole."""

    async def committed(*, hole: bool) -> list[int]:
        app = build(Plan("127.0.0.1:1", "direct", "at_least_once", 0, str(folder), str(folder), tables=False))
        consumer = app.consumer
        consumer._committed_offset[TOPIC] = 10
        done = [10, 13] if hole else [10, 11, 13]
        if hole:  # as Consumer._drain_messages does when 12 follows 10
            await consumer._add_gap(TOPIC, 11, 12)
        consumer._acked[TOPIC].extend(done)
        consumer._acked_index[TOPIC].update(done)
        return list(_commits(consumer))

    del cluster
    plain, holed = asyncio.run(committed(hole=False)), asyncio.run(committed(hole=True))
    return [
        f"offset 12 in work, 10, 11 and 13 done: the next commits are {plain} (12 is right)",
        f"offset 12 in work, 10 and 13 done, 11 is a control record: the next commits are {holed} (12 is right)",
    ]


def _commits(consumer: Any) -> Iterator[int]:
    """What one commit after the other says, until there is nothing more to commit."""
    while (offset := consumer._new_offset(TOPIC)) is not None:
        consumer._committed_offset[TOPIC] = offset
        yield offset


def steps_direct(cluster: Cluster, folder: Path) -> list[str]:
    """How many commits it takes until all is committed, of 20 transactions that were all worked on."""

    async def commits() -> list[int]:
        app = build(Plan("127.0.0.1:1", "direct", "at_least_once", 0, str(folder), str(folder), tables=False))
        consumer, read = app.consumer, 0
        consumer._committed_offset[TOPIC] = 1
        for first in range(1, 80, 4):  # three records and a control record
            if first > 1:
                await consumer._add_gap(TOPIC, read + 1, first)
            done = range(first, first + 3)
            consumer._acked[TOPIC].extend(done)
            consumer._acked_index[TOPIC].update(done)
            read = first + 2
        return list(_commits(consumer))

    del cluster
    found = asyncio.run(commits())
    return [f"20 transactions of 3 records, all done: {len(found)} commits until the last: {found[:4]} … {found[-1]}"]


def gap_lost(cluster: Cluster, folder: Path) -> list[str]:
    """An event is in work when its worker is killed; others of its partition, later ones, were done."""
    said = []
    for transaction in (0, 1):
        bench = Bench(cluster, folder, f"gap{transaction}", tables=False, concurrency=2, slow="e000030")
        try:
            bench.ready()
            bench.write(bench.run.topic(IN), events(600), transaction=transaction, pause=0.005)
            time.sleep(40)
            before = bench.seen()
            bench.worker.end(signal.SIGKILL)
            bench.worker.plan = replace(bench.worker.plan, slow="")
            bench.ready()
            found = bench.await_seen(600, 40)
        finally:
            bench.close()
        how = "transactions of 1 record" if transaction else "no transactions"
        said.append(f"{how}: {len(before)} of 600 done before the kill; lost after the restart: {600 - len(found)}")
    return said


def lag(cluster: Cluster, folder: Path) -> list[str]:
    """How far commits are behind, 15 s after the last of 4000 events was worked on; what comes again after a kill."""
    said = []
    for transaction in (0, 10):
        bench = Bench(cluster, folder, f"lag{transaction}", tables=False)
        try:
            bench.ready()
            bench.write(bench.run.topic(IN), events(4000), transaction=transaction, pause=0.02)
            bench.await_seen(4000)
            time.sleep(15)
            left, done = bench.behind()
            bench.worker.end(signal.SIGKILL)
            bench.ready()
            time.sleep(10)
            again = sum(bench.seen().values()) - 4000
        finally:
            bench.close()
        how = f"{4000 // transaction} transactions" if transaction else "no transactions"
        said.append(f"{how}: {left} of {left + done} offsets not committed; {again} events again after kill -9")
    return said


def changelog_end(cluster: Cluster, folder: Path) -> list[str]:
    """A table whose changelog holds 5 for every key; one event more per key makes 6 when it was read."""
    said = []
    old = [(key_of(number), b"[5, 5, 0]") for number in range(200)]
    for variant, transaction in (("a1", 0), ("a1", 50), ("b1", 0), ("b1", 50)):
        bench = Bench(cluster, folder, f"end{variant}{transaction}", variant)
        try:
            bench.write(bench.worker.plan.changelog, old, transaction=transaction)
            ready = bench.ready()
            bench.write(bench.run.topic(IN), events(200), transaction=0)
            bench.await_seen(200, 30)
            time.sleep(3)
            values = Counter(json.loads(message.value())["plain"] for message in bench.run.read(bench.run.topic(OUT)))
        finally:
            bench.close()
        how = f"{VARIANTS[variant].guarantee}, changelog written {'in transactions' if transaction else 'without'}"
        state = "ready" if ready else "not ready after 60 s"
        said.append(f"{how}: {state}; new values {dict(values)} (6 is right)")
    return said


def acks_off(cluster: Cluster, folder: Path) -> list[str]:
    """A topic with ``acks=False``: what is committed, and what a second worker costs."""
    bench = Bench(cluster, folder, "acks", tables=False, acks=False, noack=True)
    try:
        bench.ready()
        bench.write(bench.run.topic(IN), events(2000), transaction=0)
        found = bench.await_seen(2000)
        time.sleep(3)
        left, _ = bench.behind()
        bench.run.second.plan = replace(bench.worker.plan, datadir=bench.run.second.plan.datadir)
        ready = bench.ready(bench.run.second)
        time.sleep(15)
        again = sum(bench.seen().values()) - 2000
    finally:
        bench.close()
    return [
        f"{len(found)} of 2000 done, {2000 - left} committed",
        f"a second worker joined ({'ready' if ready else 'not ready after 60 s'}): {again} events came again",
    ]


def without_worker(cluster: Cluster, folder: Path) -> list[str]:
    """``app.start()`` of a program of one's own, instead of ``faust worker``."""
    del cluster
    app = build(Plan("127.0.0.1:1", "direct", "exactly_once", 0, str(folder), str(folder), tables=False))
    return [f"exactly_once without faust.Worker: in_transaction is {app.in_transaction} (True is right)"]


FACTS: dict[str, Callable[[Cluster, Path], list[str]]] = {
    "gap-direct": gap_direct,
    "steps-direct": steps_direct,
    "without-worker": without_worker,
    "gap": gap_lost,
    "lag": lag,
    "changelog-end": changelog_end,
    "acks": acks_off,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--fact", choices=FACTS, action="append")
    parser.add_argument("--keep", type=Path, help="an empty folder for logs, instead of a temporary one")
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # workers are ended on the way out
    with tempfile.TemporaryDirectory() as temporary, Cluster((given.keep or Path(temporary)) / "kafka") as cluster:
        print("| fact | measured |\n|---|---|")
        for name in given.fact or FACTS:
            for line in FACTS[name](cluster, given.keep or Path(temporary)):
                print(f"| {name} | {line} |", flush=True)


if __name__ == "__main__":
    main()
