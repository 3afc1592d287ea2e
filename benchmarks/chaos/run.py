"""One run: a cluster, the product's processes, a load, faults; then rest, and the verdict."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from confluent_kafka import KafkaException

from benchmarks.chaos.faults import Injector, Stage, paths
from benchmarks.chaos.load import TOO_LONG, Load
from benchmarks.chaos.processes import DEFECT, Child, Fleet
from benchmarks.chaos.senders import Poison, Senders
from benchmarks.chaos.topics import ends_of
from connectors.kafka.admin import Admin
from connectors.kafka.backlog import Backlog
from connectors.kafka.settings import KafkaSettings
from connectors.kafka.topics import apply, plan
from driftwheel.pipeline import WHEEL
from driftwheel.topics_command import groups_of, topics_of
from processors import PIPELINE
from schemas.errors import Retry
from schemas.topics import TOPICS
from tests.cluster import Cluster

FRONT, BACK = ("redact",), (
    "assemble", "score", "attribute", "cluster", "detect_drift", "curate", "learn", "plan",
)  # fmt: skip
QUIET_SECONDS = 10.0
PATIENCE_SECONDS = 300.0
EXPECTED = ("killed", "stopped", "not live")


@dataclass(frozen=True, slots=True)
class RunSettings:
    """``gap``: seconds of silence that close a session; ``pause``: seconds between two faults; ``rate`` in events/s."""

    seed: int
    events: int
    nodes: int
    kinds: tuple[str, ...]
    outage: float = 120.0
    gap: float = 60.0
    grace: float = 10.0
    rate: float = 555.0
    pause: tuple[float, float] = (1.0, 8.0)
    partitions: int = 6
    sabotage: str = ""


Show = Callable[[str, int], None]
"""Is told the phase and how many events have been sent."""


class Run:
    """One run in ``folder``. ``result`` after ``do``."""

    def __init__(self, settings: RunSettings, folder: Path, show: Show) -> None:
        self._settings, self._folder, self._tell = settings, folder, show
        self._phases, self._since = dict[str, float](), ("", time.monotonic())
        self._load = Load(settings.seed, settings.events)
        self._undrained: list[str] = []
        self.result: dict[str, Any] = {}

    def do(self) -> dict[str, Any]:
        """Everything, from the first broker to the verdict."""
        began = time.monotonic()
        with ExitStack() as stack:
            self._phase("cluster")
            cluster = stack.enter_context(Cluster(self._folder / "kafka", self._settings.nodes))
            kafka = KafkaSettings(cluster.bootstrap, f"chaos{self._settings.seed}.", self._settings.partitions)
            _make_topics(kafka)
            fleet = Fleet(self._folder, kafka, self._config())
            stack.callback(fleet.close, politely=False)
            where = self._people(fleet, cluster, kafka)
            sent, injector = self._under_load(fleet, where)
            self._settle(kafka, sent.sent.last)
            self._phase("stopping")
            fleet.close()
            self._write_case(kafka, where)
            self._phase("verifying")
            verdict = self._verified()
            self._phase("done")
        self.result = self._report(verdict, sent, injector, fleet, time.monotonic() - began)
        return self.result

    def _phase(self, name: str) -> None:
        """A part of the run begins."""
        before, since = self._since
        if before:
            self._phases[before] = round(time.monotonic() - since, 1)
        self._since = (name, time.monotonic())
        self._note(name)
        self._tell(name, self._settings.events if self._phases else 0)

    def _config(self) -> dict[str, dict[str, object]]:
        one = self._settings
        return {
            "kafka": {"partitions": one.partitions},
            "redact": {"canaries": 0},  # what is stored is held against what was sent
            "stages.redact": {"max_text": TOO_LONG, "hold": 30.0},
            "stages.assemble": self._stages()["assemble"],
            "stages.attribute": self._stages()["attribute"],
            "stages.learn": {"settle": 20.0, "every": 20, "pause": 10.0, "forces_at": 10},
        }

    def _stages(self) -> dict[str, dict[str, object]]:
        gap, grace = self._settings.gap, self._settings.grace
        return {
            "assemble": {"gap": gap, "lateness": 7200.0, "vectors": False},
            "attribute": {"gap": gap, "grace": grace, "lateness": 7200.0},
        }

    def _refused(self) -> list[str]:
        """A few turns that the scoring stage is told to refuse."""
        chance = random.Random(f"refused/{self._settings.seed}")
        turns = self._load.turns
        return sorted(turn.turn_id for turn in chance.sample(turns, max(1, len(turns) // 3000)))

    def _people(self, fleet: Fleet, cluster: Cluster, kafka: KafkaSettings) -> Stage:
        switches = paths(self._folder)
        (self._folder / "refused.json").write_text(json.dumps(self._refused()))
        if self._settings.sabotage:
            (switches / "sabotage").write_text(self._settings.sabotage)
        workers = [fleet.add("front", "worker", ",".join(FRONT)), fleet.add("back", "worker", ",".join(BACK))]
        spares = [fleet.add("front-2", "worker", ",".join(FRONT)), fleet.add("back-2", "worker", ",".join(BACK))]
        sink, gateway = fleet.add("sink", "sink"), fleet.add("gateway", "gateway")
        poison = Poison(kafka, self._settings.seed)
        return Stage(cluster, fleet, tuple(workers), tuple(spares), sink, gateway, poison, self._settings.outage)

    def _under_load(self, fleet: Fleet, where: Stage) -> tuple[Senders, Injector]:
        self._phase("starting")
        started: list[Child] = [*where.workers, where.sink, where.gateway]
        for child in started:
            child.start()
        fleet.await_ready()
        senders = Senders(self._load, lambda: where.gateway.url, self._settings.rate)
        injector = Injector(where, self._settings.kinds, self._settings.seed, self._settings.pause, self._note)
        self._phase("load")
        senders.start()
        injector.start()
        try:
            while senders.busy:
                self._tell(injector.now or "load", senders.sent.events)
                time.sleep(0.25)
            if senders.sent.trouble:
                raise RuntimeError(f"the load could not be sent: {senders.sent.trouble}")
            self._phase("last faults")
            finishing = threading.Thread(target=injector.finish)
            finishing.start()
            while finishing.is_alive():
                self._tell(f"last faults: {injector.now}", senders.sent.events)
                finishing.join(0.25)
        finally:
            senders.stop()
        if injector.trouble is not None:
            raise RuntimeError("a fault could not be caused") from injector.trouble
        where.poison.close()
        self._phase("last faults over")
        fleet.await_ready()
        return senders, injector

    def _settle(self, kafka: KafkaSettings, last: float) -> None:
        """Until every session has closed, everything has been read, and nothing moves any more."""
        self._phase("coming to rest")
        closed = last + self._settings.gap + self._settings.grace + 3.0
        backlog = Backlog(kafka)
        until, since, before = time.time() + PATIENCE_SECONDS, time.time(), dict[tuple[str, int], int]()
        try:
            while time.time() < until:
                time.sleep(1.0)
                ends, behind = _moved(backlog, kafka)
                self._note({group: count for group, count in behind.items() if count})
                self._tell(f"coming to rest ({sum(behind.values())} to read)", self._settings.events)
                if ends != before or any(behind.values()) or time.time() < closed:
                    since, before = time.time(), ends
                elif time.time() - since > QUIET_SECONDS:
                    return
            self._undrained = [f"{group}: {count}" for group, count in behind.items() if count]
        finally:
            backlog.close()

    def _note(self, what: object) -> None:
        """For whoever has to find out why."""
        with (self._folder / "run.log").open("a") as out:
            out.write(f"{time.strftime('%H:%M:%S')} {what}\n")

    def _write_case(self, kafka: KafkaSettings, where: Stage) -> None:
        case = {
            "seed": self._settings.seed, "events": self._settings.events, "poison": self._load.poison,
            "brokers": kafka.brokers, "prefix": kafka.prefix, "partitions": kafka.partitions,
            "stages": self._stages(), "refused": self._refused(), "extra": where.poison.extra,
            "store": str(where.fleet.data_of(where.sink) / "store"),
        }  # fmt: skip
        (self._folder / "run.json").write_text(json.dumps(case))

    def _verified(self) -> dict[str, Any]:
        program = Path(__file__).parent / "verify.py"
        with (self._folder / "verify.log").open("wb") as out:
            subprocess.run([sys.executable, str(program), str(self._folder)], stdout=out, stderr=out, check=False)
        verdict = self._folder / "verdict.json"
        if not verdict.exists():
            raise RuntimeError(f"the verification failed: {self._folder / 'verify.log'}")
        return json.loads(verdict.read_text())

    def _report(
        self, verdict: dict[str, Any], senders: Senders, injector: Injector, fleet: Fleet, seconds: float
    ) -> dict[str, Any]:
        wrong = dict(verdict["wrong"])
        planted = len(list((self._folder / "switches").glob("done-crash-*")))
        exits = fleet.exits()
        defects = sum(each.get(str(DEFECT), 0) for each in exits.values()) - planted
        odd = {
            name: {c: n for c, n in each.items() if c not in (*EXPECTED, str(DEFECT))} for name, each in exits.items()
        }
        wrong |= {"unplanned defects": defects} if defects else {}
        wrong |= {f"{name} exits": sum(each.values()) for name, each in odd.items() if each}
        wrong |= {"groups behind": len(self._undrained)} if self._undrained else {}
        facts, differ = verdict["facts"], sum(count for what, count in wrong.items() if "differ" in what)
        return {
            "seed": self._settings.seed, "nodes": self._settings.nodes, "events": senders.sent.events,
            "sabotage": self._settings.sabotage, "faults": dict(injector.done), "crashes": planted,
            "lost": _sum(wrong, "lost "), "extra": _sum(wrong, "extra "), "doubled": _sum(wrong, "doubled "),
            "counters": _sum(wrong, "counter "), "differ": differ, "ledger": facts["ledger off"],
            "dead_expected": facts["dead letters expected"], "dead": facts["dead letters"],
            "sent_again": senders.sent.again, "stalled": sum(each.get("not live", 0) for each in exits.values()),
            "undrained": self._undrained,
            "wrong": wrong, "examples": verdict["examples"], "facts": facts,
            "exits": exits, "seconds": round(seconds, 1), "phases": self._phases, "settings": asdict(self._settings),
        }  # fmt: skip


def _sum(wrong: dict[str, int], kind: str) -> int:
    return sum(count for name, count in wrong.items() if name.startswith(kind))


def _make_topics(kafka: KafkaSettings) -> None:
    admin = Admin(kafka)
    apply(admin, plan(admin, topics_of(kafka, WHEEL)))


def _moved(backlog: Backlog, kafka: KafkaSettings) -> tuple[dict[tuple[str, int], int], dict[str, int]]:
    """Where every partition ends, and how much each group has not read."""
    groups = groups_of(kafka, PIPELINE)
    groups[kafka.group("clickhouse")] = [kafka.topic(topic) for topic in TOPICS if not topic.raw]
    try:
        lags = {group: sum(backlog.lag_of(group, names).values()) for group, names in groups.items()}
        return ends_of(kafka), lags
    except (Retry, KafkaException) as error:
        return {}, {str(error): 1}
