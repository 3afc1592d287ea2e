"""What Faust promises on Apache Kafka, measured by killing things. Prints a table.

``python benchmarks/chaos/faust_guarantees.py --runs 3 --variant b1 [--fault kill] [--seed 7]``

A run sends ``--events`` events over 200 keys at a steady rate to ``faust_app.py``, meanwhile does one kind of fault at
seeded moments, waits until everything is committed or nothing moves for a minute, and counts. Correctness only: what a
run takes says nothing of speed.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent.parent))

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition  # noqa: E402
from confluent_kafka.admin import NewTopic  # noqa: E402

from benchmarks.chaos.faust_app import HOLE, IN, OUT, PARTITIONS, Plan  # noqa: E402
from tests.brokers import Cluster, quiet_admin  # noqa: E402

KEYS = 200
STUCK_SECONDS = 60.0
DRAIN_SECONDS = 300.0
READY = b"Worker ready"


@dataclass(frozen=True, slots=True)
class Variant:
    """How the application is set; ``take`` 0 is one event at a time."""

    guarantee: str
    take: int

    @property
    def isolation(self) -> str:
        """As a consumer of its topics has to read."""
        return "read_committed" if self.guarantee == "exactly_once" else "read_uncommitted"


VARIANTS = {
    "a1": Variant("at_least_once", 0),
    "a2": Variant("at_least_once", 100),
    "b1": Variant("exactly_once", 0),
    "b2": Variant("exactly_once", 100),
}


@dataclass
class Process:
    """A worker: started again when it ends without having been told to, as a supervisor would."""

    plan: Plan
    log: Path
    exits: int = 0
    wanted: bool = False
    process: subprocess.Popen[bytes] | None = None
    _seen: int = 0
    _again: float = 0.0

    def start(self) -> None:
        """Start it; from now on it is meant to run."""
        self._again = 0.0
        self.wanted = True
        self._seen = self.log.stat().st_size if self.log.exists() else 0
        arguments = [sys.executable, str(HERE / "faust_app.py"), json.dumps(asdict(self.plan))]
        with self.log.open("ab") as out:
            self.process = subprocess.Popen(arguments, stdin=subprocess.DEVNULL, stdout=out, stderr=out)

    def tend(self) -> None:
        """Start it again two seconds after it ended by itself."""
        if not self.wanted or self.process is None or self.process.poll() is None:
            return
        if self._again == 0.0:
            self.exits += 1
            self._again = time.monotonic() + 2.0
        elif time.monotonic() > self._again:
            self._again = 0.0
            self.start()

    def ready(self) -> bool:
        """Whether it has said so since it was last started."""
        with self.log.open("rb") as log:
            log.seek(self._seen)
            return READY in log.read()

    def holes(self) -> int:
        """How often Faust has taken offsets for a hole. There are none in an input without transactions."""
        return self.log.read_bytes().count(HOLE.encode()) if self.log.exists() else 0

    def end(self, how: signal.Signals) -> bool:
        """Signal it and wait until it is gone; False when it had to be killed after 40 s."""
        self.wanted = False
        process, self.process = self.process, None
        if process is None:
            return True
        process.send_signal(how)
        try:
            process.wait(40)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            return False
        return True


class Load(threading.Thread):
    """Sends the events, acknowledged by the broker however long it is away."""

    def __init__(self, broker: str, topic: str, events: int, rate: int) -> None:
        super().__init__(daemon=True)
        self._topic, self._events, self._rate = topic, events, rate
        self.failed = 0
        self._producer = Producer({
            "bootstrap.servers": broker, "enable.idempotence": True, "acks": "all", "linger.ms": 5,
            "partitioner": "murmur2_random", "delivery.timeout.ms": 300_000, "log_level": 0,
        })  # fmt: skip

    def run(self) -> None:
        """Send everything; returns when it is acknowledged."""
        began = time.monotonic()
        for number in range(self._events):
            self._producer.produce(self._topic, event_id(number), key_of(number), on_delivery=self._done)
            self._producer.poll(0)
            time.sleep(max(0.0, began + number / self._rate - time.monotonic()))
        self._producer.flush(300)

    def _done(self, error: KafkaError | None, _: object) -> None:
        self.failed += error is not None


def event_id(number: int) -> bytes:
    return b"e%06d" % number


def key_of(number: int) -> bytes:
    return b"k%03d" % (number * 7919 % KEYS)


@dataclass
class Run:
    """One run: its broker, its workers, its load."""

    cluster: Cluster
    variant: Variant
    fault: str
    seed: int
    events: int
    rate: int
    folder: Path
    stuck: str = ""
    notes: list[str] = field(default_factory=list[str])

    def __post_init__(self) -> None:
        self.group = f"{self.fault}{self.seed}-{time.time_ns() // 1_000_000 % 10_000_000}"
        self.random = random.Random(self.seed)
        (self.folder / "marks").mkdir(parents=True)
        self.first, self.second = self._process("first"), self._process("second")

    def _process(self, name: str) -> Process:
        raising = self.random_ids() if self.fault == "raise" else ()
        plan = Plan(
            self.cluster.bootstrap, self.group, self.variant.guarantee, self.variant.take,
            str(self.folder / name), str(self.folder / "marks"), raising,
        )  # fmt: skip
        return Process(plan, self.folder / f"{name}.log")

    def random_ids(self) -> tuple[str, ...]:
        """The same for every process of the run."""
        chosen = random.Random(self.seed).sample(range(self.events // 10, self.events * 9 // 10), 3)
        return tuple(event_id(number).decode() for number in chosen)

    def topic(self, name: str) -> str:
        """The name on the broker."""
        return f"{self.group}-{name}"

    def create_topics(self) -> None:
        """Input, output and the changelog: the application may not make any."""
        names = [self.topic(IN), self.topic(OUT)]
        made = [NewTopic(name, PARTITIONS, 1) for name in names]
        made.append(NewTopic(self.first.plan.changelog, PARTITIONS, 1, config={"cleanup.policy": "compact"}))
        admin = quiet_admin(self.cluster.bootstrap)
        for done in admin.create_topics(made).values():
            done.result()

    # Waiting.

    def pause(self, least: float, most: float) -> None:
        """Between two seconds, seeded; workers are looked after meanwhile."""
        until = time.monotonic() + self.random.uniform(least, most)
        while time.monotonic() < until:
            self.tend()
            time.sleep(0.2)

    def tend(self) -> None:
        """Start workers again that ended by themselves."""
        self.first.tend()
        self.second.tend()

    def await_ready(self, process: Process) -> bool:
        """Whether a worker that was started says that it is ready, within a minute."""
        until = time.monotonic() + STUCK_SECONDS
        while time.monotonic() < until and not process.ready():
            self.tend()
            time.sleep(0.2)
        if not process.ready():
            self.stuck = self.stuck or "not ready 60 s after a start"
        return process.ready()

    def drain(self, load: Load) -> None:
        """After the load: until all is committed, or nothing was committed or forwarded for a minute."""
        group = self._group()
        last, moved, left = (-1, -1), time.monotonic(), -1
        until = moved + DRAIN_SECONDS
        while load.is_alive() or time.monotonic() < min(until, moved + STUCK_SECONDS):
            self.tend()
            time.sleep(0.5)
            try:
                committed, end = sum(self.positions(group)), self._end(group, IN)
                now = (committed, self._end(group, OUT))
            except KafkaException:
                continue
            if now != last or load.is_alive():
                last, moved = now, time.monotonic()
            if load.is_alive():
                until = moved + DRAIN_SECONDS
            left = end - committed
            if not load.is_alive() and left == 0:
                break
        group.close()
        if left:
            what = "nothing moved for 60 s" if time.monotonic() < until else f"not done {DRAIN_SECONDS:.0f} s later"
            self.notes.append(f"{what}, {left} not committed")

    def _group(self) -> Consumer:
        return Consumer({"bootstrap.servers": self.cluster.bootstrap, "group.id": self.group, "log_level": 0})

    def positions(self, group: Consumer) -> list[int]:
        """What the group has committed, by partition."""
        parts = [TopicPartition(self.topic(IN), number) for number in range(PARTITIONS)]
        return [max(0, part.offset) for part in group.committed(parts, timeout=10)]

    def _end(self, group: Consumer, name: str) -> int:
        parts = [TopicPartition(self.topic(name), number) for number in range(PARTITIONS)]
        return sum(group.get_watermark_offsets(part, timeout=10)[1] for part in parts)

    # The run.

    def go(self) -> dict[str, object]:
        """The row of the run."""
        self.create_topics()
        self.first.start()
        load = Load(self.cluster.bootstrap, self.topic(IN), self.events, self.rate)
        try:
            self.await_ready(self.first)
            load.start()
            FAULTS[self.fault](self)
            self.first.wanted = True
            self.drain(load)
            time.sleep(2.5)  # two commit intervals
            for process in (self.first, self.second):
                if not process.end(signal.SIGTERM):
                    self.notes.append("did not end in 40 s after SIGTERM")
        finally:
            self.first.end(signal.SIGKILL)
            self.second.end(signal.SIGKILL)
        if load.failed:
            raise RuntimeError(f"{load.failed} events were not sent: the run says nothing")
        return self.count()

    def read(self, topic: str) -> Iterator[Message]:
        """Everything in a topic up to its end, or its last stable offset."""
        consumer = Consumer({
            "bootstrap.servers": self.cluster.bootstrap, "group.id": f"read-{time.time_ns()}", "log_level": 0,
            "isolation.level": self.variant.isolation, "enable.partition.eof": True, "enable.auto.commit": False,
        })  # fmt: skip
        consumer.assign([TopicPartition(topic, number, 0) for number in range(PARTITIONS)])
        ends = 0
        while ends < PARTITIONS:
            message = consumer.poll(30)
            if message is None:
                raise RuntimeError(f"{topic} cannot be read to its end")
            error = message.error()
            if error is None:
                yield message
            elif error.code() == KafkaError._PARTITION_EOF:
                ends += 1
        consumer.close()

    def count(self) -> dict[str, object]:
        """Against the truth, which is the number of every event within its key.

        ``lost`` was committed and never forwarded; ``left`` was neither committed nor forwarded when the run ended.
        """
        truth, per_key = {}, Counter[bytes]()
        for number in range(self.events):
            per_key[key_of(number)] += 1
            truth[event_id(number).decode()] = per_key[key_of(number)]
        seen, fresh, wrong = Counter[str](), Counter[str](), set[str]()
        for message in self.read(self.topic(OUT)):
            said = json.loads(message.value())
            seen[said["id"]] += 1
            fresh[said["id"]] += said["fresh"]
            if said["guarded"] != truth[said["id"]]:
                wrong.add(said["id"])
        positions = self.positions(self._group())
        lost = sum(
            message.offset() < positions[message.partition()]
            for message in self.read(self.topic(IN))
            if message.value().decode() not in seen
        )
        table = {
            (message.partition(), message.key()): json.loads(message.value())
            for message in self.read(self.first.plan.changelog)
        }
        places = defaultdict[bytes, set[int]](set)
        for partition, key in table:
            places[key].add(partition)
        return {
            "lost": lost,
            "left": len(truth) - len(seen) - lost,
            "doubled": sum(seen.values()) - len(seen),
            "lost behind guard": sum(not fresh[name] for name in truth),
            "wrong number": len(wrong),
            "counter off by": sum(value[0] for value in table.values()) - self.events,
            "guarded off by": sum(value[1] for value in table.values()) - self.events,
            "keys in 2 partitions": sum(len(found) > 1 for found in places.values()),
            "holes": self.first.holes() + self.second.holes(),
            "died by itself": self.first.exits + self.second.exits,
            "end": "; ".join(filter(None, [self.stuck, *self.notes])) or "ok",
        }


def _nothing(run: Run) -> None:
    run.pause(5, 6)


def _kill(run: Run, *, wipe: bool = False) -> None:
    for _ in range(3 - wipe):
        run.pause(2, 6)
        run.first.end(signal.SIGKILL)
        if wipe:
            shutil.rmtree(run.first.plan.datadir, ignore_errors=True)
        run.first.start()
        if not run.await_ready(run.first):
            return


def _wipe(run: Run) -> None:
    _kill(run, wipe=True)


def _join(run: Run) -> None:
    """A second worker joins and leaves, joins again and is killed."""
    for how in (signal.SIGTERM, signal.SIGKILL):
        run.pause(2, 5)
        run.second.start()
        if not run.await_ready(run.second):
            return
        run.pause(3, 6)
        run.second.end(how)


def _broker(run: Run) -> None:
    for _ in range(2):
        run.pause(3, 7)
        run.cluster.kill(1)
        run.pause(1, 4)
        run.cluster.restart(1)


FAULTS: dict[str, Callable[[Run], None]] = {
    "none": _nothing,
    "kill": _kill,
    "wipe": _wipe,
    "join": _join,
    "broker": _broker,
    "raise": _nothing,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--variant", choices=VARIANTS, action="append")
    parser.add_argument("--fault", choices=FAULTS, action="append")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--events", type=int, default=20_000)
    parser.add_argument("--rate", type=int, default=500)
    parser.add_argument("--keep", type=Path, help="an empty folder for logs, instead of a temporary one")
    parser.add_argument("--json", type=Path, help="append every row to this file")
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # workers are ended on the way out
    with tempfile.TemporaryDirectory() as temporary:
        root = given.keep or Path(temporary)
        header = True
        with Cluster(root / "kafka") as cluster:
            for variant in given.variant or VARIANTS:
                for fault in given.fault or FAULTS:
                    for seed in range(given.seed, given.seed + given.runs):
                        folder = root / f"{variant}-{fault}-{seed}"
                        run = Run(cluster, VARIANTS[variant], fault, seed, given.events, given.rate, folder)
                        row = {"variant": variant, "fault": fault, "seed": seed, **run.go()}
                        report(row, header=header)
                        header = False
                        if given.json:
                            with given.json.open("a") as out:
                                out.write(json.dumps(row) + "\n")


def report(row: dict[str, object], *, header: bool) -> None:
    if header:
        print("| " + " | ".join(row) + " |")
        print("|" + "---|" * len(row))
    print("| " + " | ".join(str(value) for value in row.values()) + " |", flush=True)


if __name__ == "__main__":
    main()
