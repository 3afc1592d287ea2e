"""Learn: from verdicts that somebody gave, what an agent's features and its users' reactions say about failure.

Two kinds of verdict teach: what users said of turns (outcomes whose basis is ``said``), and what people said of samples
(labels; a judge's do not count). A turn's rating waits until its session is over, so that what the user did besides is
known; a sample waits for its label, which may come days later, with the features that it had when it was scored. One
that gets no label until it expires teaches nothing: silence is no success. Each turn teaches once for each kind.

A label that is ``pass`` or ``fail`` says it outright. Any other is a success when it is the answer or the category, as
``normal`` has them, and a failure otherwise: only marks are compared, since a sketch from which likeness could be told
would give pieces of texts away.

Labels may name the cause of a failure, which moves the agent's model of causes.

What is learnt goes out as a calibration: the model that ``score`` uses from then on, the forces of implicit signals and
the model of causes for ``attribute``, and how well failures were foretold (each verdict before it was learnt from).
There is no model before the random audit has told whose verdicts are missing (see ``processors.auditing``).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, NamedTuple, cast

import orjson

from processors import cause_model
from processors.agreement import RATER
from processors.auditing import Audit, AuditRules
from processors.bounds import shorten
from processors.calibrating import CATEGORY, p_failure, with_category
from processors.causes import SAID, Case
from processors.evidence import signals_of
from processors.fusion import Fusion, FusionRules
from processors.moments import micros, moment, seconds
from processors.prequential import Foretold, metrics, pack, unpack
from processors.stage import Event, Message, Prepared, Stage
from processors.state import KeyState
from processors.text import normal
from processors.weighing import WeighingRules, Weights
from schemas.errors import Invalid
from schemas.events import Calibration, GivenCause, Label, Outcome, Record, Sample, identity
from schemas.subjects import Subject
from schemas.topics import CALIBRATIONS, LABELS, OUTCOMES, SAMPLES

_DAY = seconds(86_400.0)
_PASS, _FAIL = "pass", "fail"
_MARK = 12


@dataclass(frozen=True, slots=True)
class LearnSettings:
    """Durations in seconds.

    ``settle``: how long a rating waits for the rest of its session. ``expire``: how long a sample waits for its label.
    ``every``, ``pause``: a calibration follows after so many verdicts, or after so long with at least one.
    ``model_at``, ``forces_at``: verdicts from which a model and forces are given. ``waiting``, ``samples``: ratings and
    samples that are kept. ``taught``: turns that are remembered as learnt from. ``window``, ``cohort_window``,
    ``cohorts``: verdicts behind the metrics of all turns, of one cohort, and how many cohorts have them. ``fusion``,
    ``weighing``, ``audit``: rates and thresholds of learning.
    """

    settle: float = 7_200.0
    expire: float = 604_800.0
    every: int = 50
    pause: float = 900.0
    model_at: int = 100
    forces_at: int = 100
    waiting: int = 500
    samples: int = 500
    taught: int = 2_000
    window: int = 1_000
    cohort_window: int = 150
    cohorts: int = 16
    fusion: FusionRules = field(default_factory=FusionRules)
    weighing: WeighingRules = field(default_factory=WeighingRules)
    audit: AuditRules = field(default_factory=AuditRules)


class _Lesson(NamedTuple):
    """A turn that waits for its lesson: what it showed. ``failed`` None: nobody has said it yet."""

    turn_id: str
    subject: str
    time: int
    due: int
    version: str
    category: str
    features: dict[str, float]
    signals: list[str]
    failed: bool | None = None
    revision: int = 0
    answers: tuple[str, ...] = ()
    propensity: float = 1.0
    by_lot: bool = False


class Learn(Stage):
    """Verdicts to calibrations, per agent."""

    name = "learn"
    sources = (OUTCOMES, SAMPLES, LABELS)
    emits = (CALIBRATIONS,)
    linger = 10.0

    def __init__(self, settings: LearnSettings | None = None) -> None:
        self._settings = settings or LearnSettings()
        super().__init__(self._settings)

    def prepare(self, messages: Sequence[Message]) -> list[Prepared]:
        """No event for what teaches nothing: most outcomes, and judges' labels. Texts go no further than here."""
        return [
            one
            if isinstance(one, Invalid)
            else [replace(event, record=bare) for event in one if (bare := _bare(event.record)) is not None]
            for one in super().prepare(messages)
        ]

    def step(self, event: Event, state: KeyState) -> Iterable[Record]:
        """Keep a turn until somebody has said how it went and its session is over; learn."""
        data, record = _opened(state), cast("Record", event.record)
        data.update(tenant=record.tenant, agent=record.agent, now=max(data["now"], micros(record.event_time)))
        if isinstance(record, Outcome):
            self._rated(data, record)
        elif isinstance(record, Sample):
            self._sampled(data, record)
        elif isinstance(record, Label):
            self._labelled(data, record)
        if data["since"] >= self._settings.every:
            yield from self._calibration(data, data["now"])
        state.due = self._next_due(data)

    def tick(self, key: str, state: KeyState, now: datetime) -> Iterable[Record]:
        """Learn from ratings that have waited long enough; let go of samples that nobody labelled; tell."""
        del key
        data, instant = _opened(state), micros(now)
        ripe = [lesson for one in data["rated"].values() if (lesson := _Lesson(*one)).due <= instant]
        for lesson in sorted(ripe, key=lambda one: (one.time, one.turn_id)):
            self._learn_rating(data, lesson)
        for name in [name for name, one in data["samples"].items() if _Lesson(*one).due <= instant]:
            del data["samples"][name]
        if data["since"] and (self._paused(data) <= instant or data["since"] >= self._settings.every):
            yield from self._calibration(data, instant)
        state.due = self._next_due(data)

    def erase(self, name: str, state: KeyState, about: Subject) -> Iterable[Record]:
        """See Stage: their turns teach nothing any more. What was learnt stays: nobody can be read from it."""
        yield from super().erase(name, state, about)
        data = _opened(state)
        for kept in (data["rated"], data["samples"]):
            for key in [key for key, one in kept.items() if _Lesson(*one).subject == about.hash]:
                del kept[key]
        data["taught"] = {turn: 1 for turn in data["taught"] if not about.has_turn(turn)}
        for kind in ("early", "judged"):
            data[kind] = {sample: one for sample, one in data[kind].items() if sample not in about.samples}
        state.due = self._next_due(data)

    # What comes in.

    def _rated(self, data: dict[str, Any], outcome: Outcome) -> None:
        held = data["rated"].get(outcome.turn_id)
        if outcome.turn_id in data["taught"] or (held and _Lesson(*held).revision > outcome.revision):
            return
        time = micros(outcome.event_time)
        lesson = _Lesson(
            outcome.turn_id, outcome.subject_hash, time, time + seconds(self._settings.settle), outcome.model_version,
            outcome.category, outcome.features, outcome.evidence, outcome.verdict == "failure", outcome.revision,
        )  # fmt: skip
        data["rated"][outcome.turn_id] = list(lesson)
        while len(data["rated"]) > self._settings.waiting:
            self._learn_rating(data, _Lesson(*next(iter(data["rated"].values()))))

    def _sampled(self, data: dict[str, Any], sample: Sample) -> None:
        time = micros(sample.event_time)
        lesson = _Lesson(
            sample.turn_id, sample.subject_hash, time, time + seconds(self._settings.expire), sample.model_version,
            sample.category, sample.features, sample.signals, answers=(sample.output, mark(sample.category)),
            propensity=sample.propensity, by_lot=sample.reason == "random",
        )  # fmt: skip
        early = data["early"].pop(sample.event_id, None)
        if early is not None:
            data["judged"][sample.event_id] = 1
            self._learn_label(data, lesson, *early)
            return
        data["samples"][sample.event_id] = list(lesson)
        shorten(data["samples"], self._settings.samples)

    def _labelled(self, data: dict[str, Any], label: Label) -> None:
        held = data["samples"].pop(label.sample_id, None)
        if held is not None:
            self._learn_label(data, _Lesson(*held), label.value, label.cause)
            data["judged"][label.sample_id] = 1
            shorten(data["judged"], self._settings.samples)
        elif label.sample_id not in data["judged"]:
            data["early"][label.sample_id] = [label.value, label.cause]
            shorten(data["early"], self._settings.samples)

    # What is learnt.

    def _learn_rating(self, data: dict[str, Any], lesson: _Lesson) -> None:
        del data["rated"][lesson.turn_id]
        data["taught"][lesson.turn_id] = 1
        shorten(data["taught"], self._settings.taught)
        audit = Audit.load(data["audit"])
        failed = bool(lesson.failed)
        weight = audit.rated(lesson.time // _DAY, failed, self._settings.audit)
        self._learn(data, lesson, failed, weight, audit)

    def _learn_label(self, data: dict[str, Any], lesson: _Lesson, value: str, cause: GivenCause) -> None:
        failed = value == _FAIL or (value != _PASS and value not in lesson.answers)
        audit = Audit.load(data["audit"])
        weight = audit.judged(
            lesson.time // _DAY, failed, lesson.propensity, self._settings.audit, by_lot=lesson.by_lot
        )
        data["audited"] += lesson.by_lot
        self._learn(data, lesson, failed, weight, audit, cause)

    def _learn(
        self, data: dict[str, Any], lesson: _Lesson, failed: bool, weight: float, audit: Audit, cause: GivenCause = ""
    ) -> None:
        data["audit"] = audit.dump()
        fusion, weights = Fusion(data["fusion"], self._settings.fusion), Weights.load(data["weights"])
        model = fusion.model()
        features = lesson.features
        if CATEGORY not in features:
            features = with_category(features, lesson.category, model)
        self._note(data, lesson, Foretold(p_failure(features, model), failed, weight))
        fusion.learn(features, lesson.category, failed, weight)
        _learn_cause(data, lesson, failed, cause)
        weights.learn(lesson.signals, failed, weight, self._settings.weighing)
        data.update(fusion=fusion.body, weights=weights.dump(), since=data["since"] + 1)

    def _note(self, data: dict[str, Any], lesson: _Lesson, one: Foretold) -> None:
        cohort = f"{data['tenant']}/{data['agent']}/{lesson.version}/{lesson.category}"
        for name, limit in (("", self._settings.window), (cohort, self._settings.cohort_window)):
            data["windows"][name] = [*data["windows"].pop(name, []), pack(one)][-limit:]
        data["windows"] = {"": data["windows"].pop(""), **data["windows"]}
        while len(data["windows"]) > self._settings.cohorts + 1:
            del data["windows"][list(data["windows"])[1]]

    # What is told.

    def _calibration(self, data: dict[str, Any], instant: int) -> Iterator[Record]:
        settings, weights = self._settings, Weights.load(data["weights"])
        fusion = Fusion(data["fusion"], settings.fusion)
        sure = fusion.lessons >= settings.model_at and Audit.load(data["audit"]).believed(settings.audit)
        forces = weights.forces() if weights.verdicts >= settings.forces_at else {}
        data.update(since=0, told=instant)
        causes = data["causes"] if cause_model.knows(cause_model.load(data["causes"])) else ""
        if not (sure or forces or causes):
            return
        data["number"] += 1
        yield Calibration(
            event_id=identity("calibration", data["tenant"], data["agent"], str(data["number"])),
            tenant=data["tenant"],
            agent=data["agent"],
            event_time=moment(data["now"]),
            number=data["number"],
            lessons=fusion.lessons,
            audited=data["audited"],
            model=orjson.dumps(fusion.model()).decode() if sure else "",
            forces=forces,
            metrics=_metrics(data["windows"]),
            causes=causes,
        )

    def _paused(self, data: dict[str, Any]) -> int:
        return data["told"] + seconds(self._settings.pause)

    def _next_due(self, data: dict[str, Any]) -> datetime | None:
        waits = [_Lesson(*one).due for kept in (data["rated"], data["samples"]) for one in kept.values()]
        waits += [self._paused(data)] if data["since"] else []
        return moment(min(waits)) if waits else None


def mark(text: str) -> str:
    """What is kept of a text, to know it again: no text, and the same for what a reader calls the same."""
    return identity("answer", normal(text))[:_MARK]


def _bare(record: Record | None) -> Record | None:
    """What is learnt from of a record: no texts; None when it teaches nothing."""
    if isinstance(record, Outcome):
        said = record.basis == "said" and record.verdict != "unknown"
        return record.model_copy(update={"evidence": signals_of(record), "expected": ""}) if said else None
    if isinstance(record, Sample):
        return record.model_copy(update={"input": "", "output": mark(record.output)})
    label = cast("Label", record)
    if label.rater.startswith(RATER):
        return None
    plain = normal(label.value)
    return label.model_copy(update={"value": plain if plain in (_PASS, _FAIL) else mark(label.value), "rater": ""})


def _opened(state: KeyState) -> dict[str, Any]:
    if not state.data:
        state.data.update(
            tenant="", agent="", now=0, number=0, since=0, told=0, audited=0, rated={}, samples={}, early={}, judged={},
            taught={}, windows={}, fusion=None, causes="", weights=Weights().dump(), audit=Audit().dump(),
        )  # fmt: skip
    return state.data


def _learn_cause(data: dict[str, Any], lesson: _Lesson, failed: bool, cause: GivenCause) -> None:
    """A failure teaches the cause that was named, a success which retrieval scores are usual."""
    causes = cause_model.load(data["causes"])
    if failed and cause:
        cause_model.learn(causes, _case(lesson), cause)
    elif not failed and "retrieval" in lesson.features:
        cause_model.see(causes, lesson.features["retrieval"])
    else:
        return
    data["causes"] = cause_model.dump(causes)


def _case(lesson: _Lesson) -> Case:
    """A sample as the rules of causes see it: what its score showed, and what signals hinted at."""
    facts = frozenset(SAID[name] for name in lesson.signals if name in SAID)
    searches = int(lesson.features.get("searches", 0.0))
    return Case(lesson.features, searches, lesson.features.get("retrieval"), facts=facts)


def _metrics(windows: dict[str, list[int]]) -> dict[str, float]:
    return {
        f"{name}:{cohort}" if cohort else name: value
        for cohort, packed in windows.items()
        for name, value in metrics([unpack(one) for one in packed]).items()
    }
