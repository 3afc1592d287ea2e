"""What goes wrong during a run, when and to whom: by chance, but the same chance for the same seed."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.chaos.processes import Child, Fleet
from benchmarks.chaos.senders import Poison
from tests.cluster import Cluster

CRASHING = ("redact", "assemble", "score", "attribute", "cluster", "detect_drift", "curate", "learn")
DOWN = (0.5, 6.0)
"""Seconds for which a worker or a broker is away, from and to."""


@dataclass(frozen=True, slots=True)
class Stage:
    """Where faults happen: the cluster, the processes, the run's folder, the poison."""

    cluster: Cluster
    fleet: Fleet
    workers: tuple[Child, ...]
    spares: tuple[Child, ...]
    sink: Child
    gateway: Child
    poison: Poison
    outage: float


class Faults:
    """Each fault is a method; ``KINDS`` names them. Every one leaves things as they were, a few seconds later."""

    def __init__(self, where: Stage, seed: int, stop: threading.Event) -> None:
        self._where, self._stop = where, stop
        self._chance = random.Random(f"faults/{seed}")

    def do(self, kind: str) -> None:
        """Cause one fault and wait for its end."""
        KINDS[kind](self)

    def kill_worker(self) -> None:
        """``kill -9``, and start again at once or a little later."""
        worker = self._chance.choice(self._where.workers)
        worker.stop(politely=False)
        self._pause(*DOWN)
        worker.start()

    def lose_state(self) -> None:
        """``kill -9``, and the machine's disk is gone: a new worker has to read its state from Kafka."""
        worker = self._chance.choice(self._where.workers)
        worker.stop(politely=False)
        self._where.fleet.forget_state(worker)
        worker.start()

    def join_and_leave(self) -> None:
        """A second worker of the same stages joins, and leaves again as an operator would have it."""
        self._visit(politely=True)

    def join_and_die(self) -> None:
        """A second worker joins and is killed."""
        self._visit(politely=False)

    def _visit(self, *, politely: bool) -> None:
        spare = self._chance.choice([one for one in self._where.spares if not one.wanted])
        spare.start()
        self._pause(4.0, 20.0)
        spare.stop(politely=politely)

    def kill_sink(self) -> None:
        """``kill -9`` of whatever writes to the store."""
        self._where.sink.stop(politely=False)
        self._pause(*DOWN)
        self._where.sink.start()

    def kill_gateway(self) -> None:
        """``kill -9`` of the gateway, in the middle of requests."""
        self._where.gateway.stop(politely=False)
        self._pause(*DOWN)
        self._where.gateway.start()

    def kill_broker(self) -> None:
        """``kill -9`` of a broker. A cluster of three settles before the next may go."""
        self._broker(politely=False)

    def stop_broker(self) -> None:
        """A broker is stopped as for an upgrade."""
        self._broker(politely=True)

    def _broker(self, *, politely: bool) -> None:
        cluster = self._where.cluster
        node = self._chance.choice(list(cluster.nodes))
        cluster.stop(node) if politely else cluster.kill(node)
        self._pause(*DOWN)
        cluster.restart(node)
        if len(cluster.nodes) > 1:
            cluster.settle()

    def store_away(self) -> None:
        """The store says no for ``outage`` seconds."""
        flag = self._where.fleet.folder / "switches" / "store-away"
        flag.touch()
        self._stop.wait(self._where.outage)
        flag.unlink()

    def crash(self) -> None:
        """A stage raises what nobody expected on whatever record is next."""
        name = self._chance.choice(CRASHING)
        flag = self._where.fleet.folder / "switches" / f"crash-{name}"
        flag.touch()
        self._await(lambda: not flag.exists(), 30.0)
        flag.unlink(missing_ok=True)

    def poison(self) -> None:
        """Messages that nobody can read."""
        self._where.poison.send()

    def _pause(self, low: float, high: float) -> None:
        self._stop.wait(self._chance.uniform(low, high))

    def _await(self, done: Callable[[], bool], seconds: float) -> None:
        until = time.monotonic() + seconds
        while not done() and time.monotonic() < until and not self._stop.is_set():
            time.sleep(0.05)


KINDS: dict[str, Callable[[Faults], None]] = {
    "kill-worker": Faults.kill_worker,
    "lose-state": Faults.lose_state,
    "join-leave": Faults.join_and_leave,
    "join-die": Faults.join_and_die,
    "kill-sink": Faults.kill_sink,
    "kill-gateway": Faults.kill_gateway,
    "kill-broker": Faults.kill_broker,
    "stop-broker": Faults.stop_broker,
    "store-away": Faults.store_away,
    "crash": Faults.crash,
    "poison": Faults.poison,
}
BESIDE = ("store-away",)
"""These last, and the others happen meanwhile."""


class Injector:
    """Causes faults in a thread, every kind once in random order and then by chance, until ``finish``."""

    def __init__(
        self, where: Stage, kinds: Sequence[str], seed: int, pause: tuple[float, float], note: Callable[[str], None]
    ) -> None:
        self._note = note
        self.done = Counter[str]()
        self.now = ""
        self.trouble: BaseException | None = None
        self._enough = threading.Event()
        self._chance = random.Random(f"injector/{seed}")
        self._kinds, self._pause = list(kinds), pause
        self._faults = Faults(where, seed, threading.Event())
        self._beside = Faults(where, seed + 1, threading.Event())
        self._threads = [threading.Thread(target=self._guarded, args=(self._run,), daemon=True)]
        self._threads += [
            threading.Thread(target=self._guarded, args=(lambda kind=kind: self._aside(kind),), daemon=True)
            for kind in kinds
            if kind in BESIDE
        ]

    def start(self) -> None:
        """Begin."""
        for thread in self._threads:
            thread.start()

    def finish(self) -> None:
        """No further faults, once every kind has happened; returns when the last is over."""
        self._enough.set()
        for thread in self._threads:
            thread.join()
        if self.trouble is not None:
            raise RuntimeError("a fault could not be caused") from self.trouble

    def _guarded(self, work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:
            self.trouble = error
            raise

    def _run(self) -> None:
        first = [kind for kind in self._kinds if kind not in BESIDE]
        again = list(first)
        self._chance.shuffle(first)
        took = 0.0
        while again and (first or not self._enough.is_set()):
            self._enough.wait(self._chance.uniform(*self._pause) + took)  # as long in peace as in trouble
            began = time.monotonic()
            if self._enough.is_set() and not first:
                break
            self.now = first.pop() if first else self._chance.choice(again)
            self._note(self.now)
            self._faults.do(self.now)
            took = time.monotonic() - began
            self._note(f"{self.now} is over")
            self.done[self.now] += 1
            self.now = ""

    def _aside(self, kind: str) -> None:
        self._enough.wait(self._chance.uniform(2.0, 10.0))
        self._note(kind)
        self._beside.do(kind)
        self._note(f"{kind} is over")
        self.done[kind] += 1


def paths(folder: Path) -> Path:
    """Where a run's switches are."""
    switches = folder / "switches"
    switches.mkdir(parents=True, exist_ok=True)
    return switches
