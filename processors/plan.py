"""Plan: when is the evidence enough to intervene; at most one open trigger per agent and model version.

Each model version of an agent walks OK -> WARN -> CONFIRMED -> READY -> FIRED, and from there to COOLDOWN
when its job was refused or failed, or its release was taken back. CONFIRMED needs an alarm; READY needs
labels, and among them enough that disagree with the agent; FIRED needs the expected gain to exceed the cost.
Too little evidence never fires. A version that was replaced is retired: what still comes about it starts
nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any, cast

from processors.bounds import shorten
from processors.stage import Event, Stage
from processors.state import KeyState
from processors.text import normal
from schemas.events import Alarm, Deployment, Job, Label, Record, Sample, Trigger, identity
from schemas.subjects import Subject
from schemas.topics import ALARMS, DEPLOYMENTS, JOBS, LABELS, SAMPLES, TRIGGERS

_VERSIONS = 8
_ALARMS = 16


@dataclass(frozen=True, slots=True)
class PlanSettings:
    """``labels``: labelled samples since the last trigger that one needs; after a refusal ``again`` times as many.

    ``disagreeing``: how many of them must contradict the agent. ``cost``: what an intervention costs, as the
    share of turns it must mend to be worth it. ``remembered``: samples and early labels that are kept.
    """

    labels: int = 200
    again: float = 0.5
    disagreeing: int = 20
    cost: float = 0.01
    remembered: int = 2_000


class Plan(Stage):
    """Alarms, labels, jobs and deployments to triggers, per agent."""

    name = "plan"
    sources = (ALARMS, SAMPLES, LABELS, JOBS, DEPLOYMENTS)
    emits = (TRIGGERS,)
    linger = 2.0

    def __init__(self, settings: PlanSettings | None = None) -> None:
        self._settings = settings or PlanSettings()
        super().__init__(self._settings)

    def step(self, event: Event, state: KeyState) -> Iterable[Record]:
        """Take one piece of evidence; fire when it completes the case."""
        record, version = cast("Record", event.record), ""
        data = _opened(state)
        data.update(tenant=record.tenant, agent=record.agent)
        if isinstance(record, Alarm):
            version = self._alarm(data, record)
        elif isinstance(record, Sample):
            version = self._sample(data, record)
        elif isinstance(record, Label):
            version = self._label(data, record)
        elif isinstance(record, Job):
            version = self._job(data, record)
        elif isinstance(record, Deployment):
            version = self._deployment(data, record)
        if version:
            yield from self._advance(data, version, record)

    def erase(self, name: str, state: KeyState, about: Subject) -> Iterable[Record]:
        """See Stage: their samples and labels go, and count no longer."""
        yield from super().erase(name, state, about)
        data = _opened(state)
        held = [data["samples"], data["early"], data["used"], *(case["labels"] for case in data["cases"].values())]
        for by_sample in held:
            for sample_id in about.samples & set(by_sample):
                del by_sample[sample_id]

    def _alarm(self, data: dict[str, Any], alarm: Alarm) -> str:
        if alarm.model_version in data["retired"]:
            return ""
        case = self._case(data, alarm.model_version)
        if alarm.level == "warn" or alarm.signal == "query_embedding":
            case["phase"] = "warn" if case["phase"] == "ok" else case["phase"]
            return ""
        if case["phase"] in ("ok", "warn"):
            case.update(phase="confirmed", cohort=alarm.cohort)
        case["alarms"] = [*case["alarms"], alarm.event_id][-_ALARMS:]
        return alarm.model_version

    def _sample(self, data: dict[str, Any], sample: Sample) -> str:
        data["samples"][sample.event_id] = {
            "answers": sorted({normal(sample.output), normal(sample.category)} - {""}),
            "propensity": sample.propensity,
            "version": sample.model_version,
        }
        shorten(data["samples"], self._settings.remembered)
        early = data["early"].pop(sample.event_id, None)
        return "" if early is None else self._count(data, sample.event_id, early)

    def _label(self, data: dict[str, Any], label: Label) -> str:
        if label.sample_id in data["samples"]:
            return self._count(data, label.sample_id, label.value)
        data["early"][label.sample_id] = label.value
        shorten(data["early"], self._settings.remembered)
        return ""

    def _count(self, data: dict[str, Any], sample_id: str, value: str) -> str:
        """A sample counts once; its newest label says whether the agent was right."""
        sample = data["samples"][sample_id]
        if sample["version"] in data["retired"] or sample_id in data["used"]:
            return ""
        labels = self._case(data, sample["version"])["labels"]
        labels[sample_id] = [int(normal(value) not in sample["answers"]), sample["propensity"]]
        return sample["version"]

    def _job(self, data: dict[str, Any], job: Job) -> str:
        if job.state not in ("refused", "failed"):
            return ""
        return self._cool(data, job.trigger_id)

    def _deployment(self, data: dict[str, Any], release: Deployment) -> str:
        cases = data["cases"]
        if release.state == "live":
            _retire(data, release.incumbent)
            _revive(data, release.candidate)
            self._case(data, release.candidate)
        elif release.state in ("rolled_back", "stopped"):
            _retire(data, release.candidate)
            _revive(data, release.incumbent)
            return self._cool(data, cases.get(release.incumbent, {}).get("trigger", ""))
        return ""

    def _cool(self, data: dict[str, Any], trigger_id: str) -> str:
        for version, case in data["cases"].items():
            if trigger_id and case["trigger"] == trigger_id and case["phase"] == "fired":
                case.update(phase="cooldown", need=max(round(self._settings.labels * self._settings.again), 1))
                return version
        return ""

    def _case(self, data: dict[str, Any], version: str) -> dict[str, Any]:
        if version not in data["cases"]:
            data["cases"][version] = {
                "phase": "ok",
                "cohort": "",
                "alarms": [],
                "labels": {},
                "need": self._settings.labels,
                "epoch": 0,
                "trigger": "",
            }
            shorten(data["cases"], _VERSIONS)
        return data["cases"][version]

    def _advance(self, data: dict[str, Any], version: str, record: Record) -> Iterator[Record]:
        case = data["cases"].get(version)
        if case is None or case["phase"] not in ("confirmed", "ready", "cooldown"):
            return
        wrong = sum(label[0] for label in case["labels"].values())
        if len(case["labels"]) < case["need"] or wrong < self._settings.disagreeing:
            return
        case["phase"] = "ready"
        gain = _share_wrong(case["labels"].values()) - self._settings.cost
        if gain > 0.0:
            yield self._fire(data, version, gain, record.event_time)

    def _fire(self, data: dict[str, Any], version: str, gain: float, time: datetime) -> Trigger:
        case = data["cases"][version]
        trigger_id = identity("trigger", data["tenant"], data["agent"], version, case["alarms"][0], str(case["epoch"]))
        labels, wrong = len(case["labels"]), sum(label[0] for label in case["labels"].values())
        data["used"].update(dict.fromkeys(case["labels"], 1))
        shorten(data["used"], self._settings.remembered)
        case.update(phase="fired", trigger=trigger_id, labels={}, epoch=case["epoch"] + 1)
        return Trigger(
            event_id=trigger_id,
            tenant=data["tenant"],
            agent=data["agent"],
            event_time=time,
            trigger_id=trigger_id,
            model_version=version,
            cohort=case["cohort"],
            alarms=case["alarms"],
            labels=labels,
            expected_gain=round(gain, 6),
            cost=self._settings.cost,
            reason=f"{len(case['alarms'])} alarm(s) on {case['cohort']}; {wrong} of {labels} labels say otherwise"
            f" than the agent: {gain + self._settings.cost:.1%} of its turns, weighted by propensity",
        )


def _opened(state: KeyState) -> dict[str, Any]:
    if not state.data:
        state.data.update(cases={}, samples={}, early={}, used={}, retired=[])
    return state.data


def _retire(data: dict[str, Any], version: str) -> None:
    data["cases"].pop(version, None)
    data["retired"] = [*(v for v in data["retired"] if v != version), version][-_VERSIONS:]


def _revive(data: dict[str, Any], version: str) -> None:
    data["retired"] = [v for v in data["retired"] if v != version]


def _share_wrong(labels: Iterable[list[float]]) -> float:
    """The share of all turns that the agent gets wrong; a sample stands for 1 / propensity turns (Hajek)."""
    weights = [(wrong, 1.0 / max(propensity, 1e-3)) for wrong, propensity in labels]
    total = sum(weight for _, weight in weights)
    return sum(wrong * weight for wrong, weight in weights) / total if total else 0.0
