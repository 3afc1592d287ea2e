"""What tests of jobs and releases share: labelled rows, records, and a stage driven tick by tick."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from deploy.dataset import LabelledRow
from deploy.names import mark
from processors.agreement import Standing
from processors.stage import Event, Stage
from processors.state import KeyState
from schemas.events import Deployment, Job, Label, Outcome, Record, Redaction, Signal, Trigger, identity

NOW = datetime(2026, 1, 5, 12, tzinfo=UTC)
WHO: dict[str, Any] = {"tenant": "default", "agent": "desk", "event_time": NOW}
REDACTION = Redaction(policy_version="t", detector="t")
OLD = {
    "it": ["laptop does not start", "reset my mailbox password", "vpn drops", "printer is jammed", "install software"],
    "hr": ["holiday days left", "parental leave", "payslip for march", "salary account", "reference letter"],
    "travel": ["book a train", "cancelled flight refund", "hotel allowed", "visa for a trip", "mileage of my car"],
}  # fmt: skip
NEW = {"legal": ["supplier contract review", "licence allowed", "sign for company", "retention rules", "data incident"]}
TAILS = ["please", "today", "quickly", "for Ana", "in Oslo", "by Friday", "again", "for my team", "this week", "now"]
HEADS = ["help with", "a question about", "I need", "who knows about", "what about", "trouble:", "urgent:", "hello,"]


def texts(count: int, labels: dict[str, list[str]], seed: int) -> list[tuple[str, str]]:
    """Distinct texts with the label that is true."""
    every = [
        (f"{h} {t} {tail}", label) for label, parts in labels.items() for t in parts for h in HEADS for tail in TAILS
    ]
    return random.Random(seed).sample(every, count)


def library_rows(count: int = 200, seed: int = 2, *, shuffled: bool = False) -> list[LabelledRow]:
    """Labelled samples after the world shifted: half of them are of a label that is new."""
    rng = random.Random(seed)
    pairs = texts(count // 2, NEW, seed) + texts(count - count // 2, OLD, seed + 1)
    if shuffled:
        labels = [label for _, label in pairs]
        rng.shuffle(labels)
        pairs = [(text, label) for (text, _), label in zip(pairs, labels, strict=True)]
    return [
        LabelledRow(
            sample_id=f"s{number}",
            turn_id=f"t{number}.r",
            session_id=f"c{number}",
            subject_hash=f"u{number % 9}",
            text=text,
            label=label,
            output="it",
            model_version="m",
            reason="failed",
            propensity=0.5,
            verdict="failure",
            rater="r1",
            time=NOW + timedelta(seconds=number),
        )
        for number, (text, label) in enumerate(pairs)
    ]


class Shelf:
    """A Library in memory."""

    def __init__(self, rows: Sequence[LabelledRow] = ()) -> None:
        self.rows = list(rows)
        self.judges: dict[str, Standing] = {}
        self.asked: list[str] = []

    def labelled(self, tenant: str, agent: str) -> Sequence[LabelledRow]:
        return list(self.rows)

    def standings(self, tenant: str) -> Mapping[str, Standing]:
        self.asked.append(tenant)
        return self.judges


def trigger(incumbent: str, labels: int = 200, name: str = "trigger-1") -> Trigger:
    return Trigger(
        event_id=name, trigger_id=name, model_version=incumbent, cohort="c", labels=labels,
        expected_gain=0.4, cost=0.01, reason="drift", **WHO,
    )  # fmt: skip


def passed(candidate: str = "m2", incumbent: str = "m1", name: str = "job-1") -> Job:
    return Job(
        event_id=identity("job", name, "passed"), job_id=name, trigger_id="t", state="passed",
        candidate=candidate, incumbent=incumbent, **WHO,
    )  # fmt: skip


def deployment(state: Any, candidate: str = "m2", incumbent: str = "m1", weight: float = 0.0) -> Deployment:
    return Deployment(
        event_id=identity("d", state, candidate), release_id="r1", job_id="job-1", candidate=candidate,
        incumbent=incumbent, state=state, weight=weight, reason="test", **WHO,
    )  # fmt: skip


def comparison(number: int, live: str, shadow: str, release: str, time: datetime = NOW) -> Signal:
    return Signal(
        event_id=f"pair-{number}", tenant="default", agent="desk", event_time=time, redaction=REDACTION,
        session_id=f"s{number}", turn_id=f"t{number}.r", name="comparison", kind="explicit", source="shadow",
        text=shadow, text_before=live, attributes={"release": mark(release)},
    )  # fmt: skip


def outcome(number: int, model: str, time: datetime = NOW, **given: Any) -> Outcome:
    body: dict[str, Any] = {"verdict": "unknown", "p_failure": 0.1, "uncertainty": 0.1, "session_id": f"s{number}"}
    body |= {"turn_id": f"t{number}.r", "trace_id": f"t{number}", "model_version": model}
    key = f"outcome-{number}-{given.get('revision', 0)}"
    return Outcome(event_id=key, tenant="default", agent="desk", event_time=time, **(body | given))


def label(number: int, value: str, time: datetime = NOW) -> Label:
    return Label(
        event_id=f"label-{number}", tenant="default", agent="desk", event_time=time, redaction=REDACTION,
        sample_id=f"x{number}", turn_id=f"t{number}.r", value=value, rater="r1",
    )  # fmt: skip


class Driver:
    """A stage with one key's state, which goes through JSON after everything, as engines do."""

    def __init__(self, stage: Stage, now: datetime = NOW) -> None:
        self.stage, self.state, self.now = stage, KeyState(), now
        self.out: list[Any] = []

    def give(self, *records: Record) -> list[Any]:
        """Apply records; what they emitted."""
        made: list[Any] = []
        for record in records:
            made += self.stage.step(Event("default/desk", record.event_id, "o", record), self.state)
            self.state = KeyState.load(self.state.dump())
        self.out += made
        return made

    def tick(self) -> list[Any]:
        """One tick, when it is due."""
        if self.state.due is None or self.state.due > self.now:
            return []
        after = KeyState.load(self.state.dump())
        made = list(self.stage.tick("default/desk", after, self.now))
        self.state = KeyState.load(after.dump())
        self.out += made
        return made

    def run(self, until: Callable[[], bool] = lambda: False, most: int = 500) -> None:
        """Tick for as long as something is due."""
        for _ in range(most):
            if until() or self.state.due is None or self.state.due > self.now:
                return
            self.tick()
        raise AssertionError(f"still due after {most} ticks: {self.state.data}")

    def of(self, kind: type[Record]) -> list[Any]:
        """What was emitted of one kind."""
        return [record for record in self.out if isinstance(record, kind)]
