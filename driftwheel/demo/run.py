"""Runs the world against the product, in lock step: some asks, then everything that follows from them.

The product's clock is the world's, so that session gaps and timers take no real time, and a training job stops the
world's clock; hence the same seed gives the same run.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from pydantic import SecretStr
from rich.console import Console

from driftwheel.client import Client
from driftwheel.clock import utc_now
from driftwheel.config import Config, RedactConfig
from driftwheel.demo import leaks
from driftwheel.demo.agent import AGENT, READING, Agent, Exchange, traces, turn_id_of
from driftwheel.demo.on_kafka import Workers, make_topics, on_kafka
from driftwheel.demo.people import Reviewer, react
from driftwheel.demo.progress import Progress
from driftwheel.demo.report import Mark, Picture, write_report
from driftwheel.demo.rows import read_rows
from driftwheel.demo.witness import Witness
from driftwheel.demo.world import START, Ask, World, WorldSettings
from driftwheel.kafka_engine import KafkaEngine
from driftwheel.ports import PRIVATE, configured
from driftwheel.product import Product, wait_for_interrupt
from schemas.errors import Refused, UsageError
from schemas.events import Alarm, Deployment, Evaluation, Job, Trigger

CHUNK = 40
WINDOW = 200
STEP = 20
LABEL_BUDGET = 600
PACE: dict[str, dict[str, Any]] = {
    "assemble": {"vectors": False},
    "curate": {
        "budget": LABEL_BUDGET,
        "focus": 0.8,
        "random_share": 0.7,
        "focus_turns": 250,
        "alike_at": 0.6,
        "copies": 1,
    },
    "plan": {"labels": 545, "again": 0.05},
    "run_jobs": {"dataset": {"validation": 0.08, "test": 0.1}},
}
"""A world of a few thousand asks has to spend its labels sooner than a year of traffic would, and its people rephrase
in the same words: nothing there needs a model of meaning."""
EXAMPLES = Path(__file__).parent.parent.parent / "examples"


@dataclass(frozen=True, slots=True)
class DemoOptions:
    """What the command line asks for."""

    world: WorldSettings
    data: Path | None = None
    text_column: str = "text"
    label_column: str = "label"
    speed: float = 0.0
    report: Path = Path("driftwheel-report")
    wheel: bool = True
    shuffle_labels: bool = False
    keep: bool = False
    data_dir: Path | None = None
    kafka: str = ""


@dataclass(frozen=True, slots=True)
class DemoOutcome:
    """``closed``: a candidate went live by itself and stayed."""

    closed: bool
    summary: str
    report_html: Path
    report_json: Path


class Clock:
    """The world's clock, which the product reads; the real one once the world has ended."""

    def __init__(self) -> None:
        self._now = START
        self.real = False

    def __call__(self) -> datetime:
        """The present, in the world."""
        return utc_now() if self.real else self._now

    def advance(self, to: datetime) -> None:
        """Move forward; never back."""
        self._now = max(self._now, to)


@dataclass(slots=True)
class Score:
    """Right or wrong by the hidden truth: with the wheel, and of the first model on the same asks."""

    right: list[bool] = field(default_factory=list[bool])
    plain: list[bool] = field(default_factory=list[bool])
    models: list[str] = field(default_factory=list[str])

    @staticmethod
    def share(values: Sequence[bool], first: int = 0, last: int | None = None) -> float | None:
        """Accuracy over a range of asks; None when it is empty."""
        part = values[first:last]
        return round(sum(part) / len(part), 4) if part else None

    def rolling(self, values: Sequence[bool]) -> list[tuple[int, float]]:
        """(ask, accuracy over the last WINDOW asks), every STEP asks."""
        places = range(STEP, len(values) + 1, STEP)
        return [(n, round(sum(values[max(0, n - WINDOW) : n]) / min(n, WINDOW), 4)) for n in places]


def run_demo(config: Config, options: DemoOptions, console: Console) -> DemoOutcome:
    """Run the demo to its report. Refused or UsageError when it cannot start."""
    started = time.monotonic()
    path = options.data or EXAMPLES / "support_desk.csv"
    rows = read_rows(path, options.text_column, options.label_column)
    world = World(rows, options.world)
    with _folder(options, config) as folder:
        stages = {name: PACE.get(name, {}) | config.stages.get(name, {}) for name in {*PACE, *config.stages}}
        redact = RedactConfig(key=SecretStr(f"demo/{options.world.seed}"))  # placeholders are the same in every run
        settings = config.model_copy(update={"data_dir": folder, "stages": stages, "redact": redact})
        if options.kafka:
            settings = on_kafka(settings, options.kafka, f"demo-{utc_now():%Y%m%d-%H%M%S}")
        run = _Run(settings, options, world, console)
        try:
            run.play()
            outcome = run.report(path, time.monotonic() - started)
            if options.keep:
                run.hold()
        finally:
            run.close()
    return outcome


@contextmanager
def _folder(options: DemoOptions, config: Config) -> Generator[Path]:
    """The data folder: the one that is named or kept, else a temporary one."""
    kept = options.data_dir or (config.data_dir if options.keep else None)
    if kept is not None:
        if kept.exists() and any(kept.iterdir()):
            raise UsageError(f"{kept} is not empty and the demo starts from nothing: name a new folder with --data-dir")
        yield kept
        return
    folder = Path(tempfile.mkdtemp(prefix="driftwheel-demo-"))
    try:
        yield folder / "data"
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class _Run:
    """One run: the product, the world's people around it, and the score."""

    def __init__(self, config: Config, options: DemoOptions, world: World, console: Console) -> None:
        self.options, self.world, self.console = options, world, console
        self.seed = world.settings.seed
        self.clock, self.score = Clock(), Score()
        self.witness = Witness(lambda: len(self.score.right))
        self.progress = Progress(console, world.settings.events, world.shift, self.witness)
        labels = sorted(world.old_labels + world.new_labels)
        self.reviewer = Reviewer(self.seed, labels, options.shuffle_labels)
        self.truths: dict[str, str] = {}
        self.planted: set[str] = {value for row in world.seed_rows for value in row.personal}
        self.labels_used = 0
        self.workers = self._start_workers(config) if options.kafka else None
        where = configured(config) if options.keep else PRIVATE
        try:
            self.product = Product(config, clock=self.clock, where=where, sinks=[self.witness], wheel=options.wheel)
        except BaseException:
            self._end_workers()
            raise
        if self.workers is not None and isinstance(self.product.engine, KafkaEngine):
            self.product.engine.due = self.workers.due
        self.agent = Agent(self.product.nemo_url)
        self.client = Client(self.product.url, token=self.product.owner_token)
        self.first_model = ""

    def _start_workers(self, config: Config) -> Workers:
        self.console.print(f"on Kafka at {config.kafka.brokers}, topics {config.kafka.prefix}*", highlight=False)
        make_topics(config)
        return Workers(config, config.data_dir.parent / "workers")

    def play(self) -> None:
        """From the first model to the last ask."""
        with self.progress:
            self.progress.say("training the first model")
            self.first_model = self.product.bootstrap(AGENT, [(row.text, row.label) for row in self.world.seed_rows])
            for first in range(0, self.world.settings.events, CHUNK):
                began = time.monotonic()
                self._chunk(range(first, min(first + CHUNK, self.world.settings.events)))
                if self.options.speed:
                    time.sleep(max(0.0, CHUNK / self.options.speed - (time.monotonic() - began)))
            self.clock.advance(self.clock() + timedelta(hours=2))
            self.product.settle()

    def _chunk(self, places: range) -> None:
        asks = [self.world.ask(place) for place in places]
        self.clock.advance(asks[-1].time + READING + timedelta(seconds=5))
        firsts = self._exchange([(ask, 0, ask.time, ask.text) for ask in asks])
        reactions = [react(e.ask, self.seed, e.answer.text) for e in firsts]
        follow_ups = [
            (e.ask, 1, e.time + READING, r.follow_up) for e, r in zip(firsts, reactions, strict=True) if r.follow_up
        ]
        seconds = self._exchange(follow_ups)
        self.client.traces(traces(firsts + seconds))
        signals = [_signal(e, r.signal) for e, r in zip(firsts, reactions, strict=True) if r.signal]
        if signals:
            self.client.signals(signals)
        self._count(firsts)
        self.product.settle()
        if self.options.wheel:
            self._review()
        self.progress.update(self.score, self.labels_used)

    def _exchange(self, messages: list[tuple[Ask, int, datetime, str]]) -> list[Exchange]:
        asked = [(a.session_id, turn_id_of(a.session_id, number), text) for a, number, _, text in messages]
        answers = self.agent.answers(AGENT, asked)
        for (ask, *_), (_, turn_id, _) in zip(messages, asked, strict=True):
            self.planted.update(ask.personal)
            self.truths[turn_id] = ask.truth
        return [Exchange(*message, answer) for message, answer in zip(messages, answers, strict=True)]

    def _count(self, exchanges: list[Exchange]) -> None:
        self.score.right += [e.answer.text == e.ask.truth for e in exchanges]
        self.score.models += [e.answer.model for e in exchanges]
        changed = [e for e in exchanges if e.answer.model != self.first_model]
        asked = [(e.ask.session_id, turn_id_of(e.ask.session_id, 0), e.message) for e in changed]
        plain = dict(zip((e.ask.index for e in changed), self.agent.answers(self.first_model, asked), strict=True))
        self.score.plain += [plain.get(e.ask.index, e.answer).text == e.ask.truth for e in exchanges]

    def _review(self) -> None:
        waiting = self.product.queue(LABEL_BUDGET - self.labels_used)
        labels = [
            {
                "agent": AGENT,
                "sample_id": sample["sample_id"],
                "turn_id": sample["turn_id"],
                "value": self.reviewer.label(sample["sample_id"], self.truths[sample["turn_id"]]),
                "rater": "reviewer-1",
                "time": self.clock().isoformat(),
            }
            for sample in waiting
        ]
        if labels:
            self.client.labels(labels)
            self.labels_used += len(labels)
            self.product.settle()

    def report(self, path: Path, seconds: float) -> DemoOutcome:
        """Write the report and say in one line how it went."""
        live, shift, score = self.witness.live_at(), self.world.shift, self.score
        closed = self.witness.stayed_live()
        accuracy = {
            "before_shift": score.share(score.right, 0, shift),
            "after_shift": score.share(score.right, shift, live),
            "after_release": score.share(score.right, live) if live is not None else None,
            "no_wheel_after_shift": score.share(score.plain, shift),
        }
        ledger = self.product.ledger_totals()
        body: dict[str, Any] = {
            "seed": self.seed,
            "data": path.name,
            "events": len(score.right),
            "labels_used": self.labels_used,
            "accuracy": accuracy,
            "timeline": [
                {"event": event, "model_version": score.models[event - 1], "rolling_accuracy": value}
                for event, value in score.rolling(score.right)
            ],
            "alarms": self.witness.rows(Alarm),
            "triggers": self.witness.rows(Trigger),
            "jobs": self.witness.rows(Job),
            "gates": self.witness.rows(Evaluation),
            "releases": self.witness.rows(Deployment),
            "ledger": ledger,
            "pii": {"planted": len(self.planted), "leaked": 0},
            "seconds": round(seconds, 1),
            "closed": closed,
            "window": WINDOW,
            "shift_at": shift,
            "story": self._story(),
        }
        body["summary"] = _summary(accuracy, closed, self.options.wheel, self.labels_used)
        picture = Picture(len(score.right), score.rolling(score.right), score.rolling(score.plain), self._marks(shift))
        human, machine = self._write(body, picture)
        if ledger["difference"]:
            raise Refused(f"the ledger does not add up: {ledger}; see {machine}")
        if body["pii"]["leaked"]:
            raise Refused(f"{body['pii']['leaked']} planted personal values were found after redaction; see {machine}")
        return DemoOutcome(closed, body["summary"], human, machine)

    def _write(self, body: dict[str, Any], picture: Picture) -> tuple[Path, Path]:
        planted = sorted(self.planted)
        write_report(self.options.report, body, picture)
        found = leaks.in_tables(self.product.sql, planted)
        found |= leaks.in_files([self.product.folder.path, self.options.report], planted)
        body["pii"]["leaked"] = len(found)
        machine, human = write_report(self.options.report, body, picture)
        return human, machine

    def _story(self) -> list[dict[str, Any]]:
        shift = {
            "event": self.world.shift,
            "what": "the world shifts",
            "why": ", ".join(self.world.new_labels),
        }
        return sorted([shift, *self.witness.story()], key=lambda line: line["event"])

    def _marks(self, shift: int) -> list[Mark]:
        marks = [Mark(shift, "shift", "bad")]
        alarms = [place for place, alarm in self.witness.of(Alarm) if alarm.level == "alarm" and place >= shift]
        marks += [Mark(place, "alarm", "bad") for place in alarms[:1]]
        marks += [Mark(place, "trigger", "") for place, _ in self.witness.of(Trigger)]
        marks += [
            Mark(place, release.state.replace("_", " "), "good" if release.state == "live" else "")
            for place, release in self.witness.of(Deployment)
            if release.incumbent
        ]
        return sorted(marks, key=lambda mark: mark.event)

    def hold(self) -> None:
        """Keep everything up and running, on the real clock, until Ctrl-C."""
        self.clock.real = True
        self.product.engine.start()
        self.console.print(f"gateway and API: {self.product.ports.told}  local NeMo: {self.product.nemo_url}")
        self.console.print(f"data folder: {self.product.folder.path}  (Ctrl-C ends)")
        wait_for_interrupt()

    def close(self) -> None:
        """Let go of everything."""
        self.client.close()
        self.agent.close()
        self.product.close()
        self._end_workers()

    def _end_workers(self) -> None:
        if self.workers is not None:
            self.workers.close()


def _signal(exchange: Exchange, body: dict[str, Any]) -> dict[str, Any]:
    return body | {
        "id": f"{exchange.ask.session_id}/{body['name']}",
        "agent": AGENT,
        "session_id": exchange.ask.session_id,
        "trace_id": exchange.trace_id.hex(),
        "user_id": exchange.ask.user_id,
        "time": (exchange.time + READING / 2).isoformat(),
    }


def _summary(accuracy: dict[str, float | None], closed: bool, wheel: bool, labels: int) -> str:
    def shown(name: str) -> str:
        value = accuracy[name]
        return "none" if value is None else f"{value:.1%}"

    if not wheel:
        return f"without the wheel: {shown('before_shift')} right before the shift, {shown('after_shift')} after it"
    if not closed:
        return (
            f"the loop did not close: no candidate stayed live; {shown('before_shift')} right before the shift, "
            f"{shown('after_shift')} after it, {labels} labels"
        )
    return (
        f"{shown('before_shift')} right before the shift, {shown('no_wheel_after_shift')} after it without the wheel, "
        f"{shown('after_release')} once the wheel had turned, with {labels} labels"
    )
