"""Rollout: a candidate that passed the gate goes shadow -> canary -> live, or back, by evidence alone.

Each step has its own module and test: `shadow` (who was right where the two differ), `canary` (who fails more often),
`watch` (is it worse than before). All may be looked at after every event without more wrong decisions than stated.
Missing data never promotes: what has not decided within ``patience`` is stopped. One release at a time per agent;
the newest candidate waits.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from copy import copy
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from deploy import canary, shadow, watch
from deploy.canary import CanarySettings
from deploy.names import mark
from deploy.shadow import ShadowSettings
from deploy.watch import WatchSettings
from processors.moments import micros, moment
from processors.stage import Event, Stage
from processors.state import KeyState
from schemas.events import Deployment, Job, Label, Outcome, Record, ReleaseState, Signal, identity
from schemas.subjects import Subject
from schemas.topics import DEPLOYMENTS, JOBS, LABELS, OUTCOMES, SIGNALS

_WEIGHTS = {"shadow": 0.0, "live": 1.0, "rolled_back": 0.0, "stopped": 0.0}


@dataclass(frozen=True, slots=True)
class RolloutSettings:
    """``patience``: seconds after which a phase that has decided nothing ends."""

    patience: float = 14 * 86_400.0
    shadow: ShadowSettings = field(default_factory=ShadowSettings)
    canary: CanarySettings = field(default_factory=CanarySettings)
    watch: WatchSettings = field(default_factory=WatchSettings)


class Rollout(Stage):
    """Passed jobs and what users make of their models to deploy events, per agent."""

    name = "rollout"
    sources = (JOBS, SIGNALS, OUTCOMES, LABELS)
    emits = (DEPLOYMENTS,)
    memo_size = 512

    def __init__(self, settings: RolloutSettings | None = None) -> None:
        self._settings = settings or RolloutSettings()
        super().__init__(self._settings)

    def step(self, event: Event, state: KeyState) -> Iterable[Record]:
        """Begin a release, or add to the evidence of the one under way and see whether that decides it."""
        data, record = _opened(state), event.record
        if isinstance(record, Job):
            if record.state == "passed" and record.incumbent:
                data["waiting"] = _waiting(record)
        elif record is not None and data["release"]:
            before = _counts(data["release"])
            self._take(data["release"], record)
            if _counts(data["release"]) != before:
                yield from self._decide(data, record.event_time, state)
        if record is not None and data["waiting"] and not data["release"]:
            yield from self._begin(data, record.event_time, state)

    def _begin(self, data: dict[str, Any], time: datetime, state: KeyState) -> Iterator[Record]:
        release = data["waiting"] | {"shadow": shadow.begin(), "watch": watch.begin(), "canary": {}}
        release["incumbent"] = data["live"] or release["incumbent"]
        data.update(release=release, waiting={})
        reason = "the candidate passed the gate; it answers copies of live traffic that no user sees"
        yield self._enter(release, "shadow", reason, {}, time, state)

    def _take(self, release: dict[str, Any], record: Record) -> None:
        if isinstance(record, Signal) and (record.source != "shadow" or record.name != "comparison"):
            return
        if isinstance(record, Signal) and record.attributes.get("release") != mark(release["release_id"]):
            return
        if release["state"] == "shadow" and isinstance(record, Signal | Label | Outcome):
            shadow.take(release["shadow"], record, release["release_id"])
        if isinstance(record, Outcome) and record.model_version in (release["candidate"], release["incumbent"]):
            if release["state"] == "canary":
                canary.take(release["canary"], record, release["candidate"])
            watch.take(release["watch"], record, release["candidate"], self._settings.watch)

    def _decide(self, data: dict[str, Any], time: datetime, state: KeyState) -> Iterator[Record]:
        release = data["release"]
        decision, found = self._decision(release)
        if decision is None:
            return
        word, reason = decision
        if word == "kept":
            _close(data, state)
            return
        yield self._enter(release, word, reason, found, time, state)
        if word == "canary":
            release["canary"], release["shadow"] = canary.begin(), {}
        elif word == "live":
            data["live"] = release["candidate"]
            watch.released(release["watch"], moment(release["time"]))
        else:
            data["live"] = release["incumbent"]
            _close(data, state)

    def _decision(self, release: dict[str, Any]) -> tuple[tuple[str, str] | None, dict[str, float]]:
        settings = self._settings
        match release["state"]:
            case "shadow":
                data = release["shadow"]
                return shadow.decide(data, settings.shadow), shadow.evidence_of(data)
            case "canary":
                data = release["canary"]
                return canary.decide(data, settings.canary), canary.evidence_of(data, settings.canary)
            case _:
                data = release["watch"]
                return watch.decide(data, settings.watch), watch.evidence_of(data, settings.watch)

    def tick(self, key: str, state: KeyState, now: datetime) -> Iterable[Record]:
        """A phase has lasted too long: end it, and let the next candidate in."""
        del key
        data, state.due = _opened(state), None
        release = data["release"]
        if release:
            if release["state"] != "live":
                _, found = self._decision(release)
                days = self._settings.patience / 86_400
                yield self._enter(release, "stopped", f"{days:g} days decided nothing", found, now, state)
            _close(data, state)
        if data["waiting"]:
            yield from self._begin(data, now, state)

    def erase(self, name: str, state: KeyState, about: Subject) -> Iterable[Record]:
        """See Stage: their shadow pairs go, and what is known of their turns; what was counted stays."""
        yield from super().erase(name, state, about)
        shadowed = _opened(state)["release"].get("shadow") or {}
        for part in ("open", "facts"):
            held = shadowed.get(part, {})
            for place in [place for place in held if about.has_turn(place)]:
                del held[place]

    def _enter(
        self,
        release: dict[str, Any],
        word: str,
        reason: str,
        found: dict[str, float],
        time: datetime,
        state: KeyState,
    ) -> Deployment:
        time = max(time, moment(release["time"]))
        release.update(state=word, time=micros(time))
        state.due = time + timedelta(seconds=self._settings.patience)
        return _deployment(release, reason, found, time, _WEIGHTS.get(word, self._settings.canary.weight))


def _opened(state: KeyState) -> dict[str, Any]:
    if not state.data:
        state.data.update(version=1, live="", release={}, waiting={})
    return state.data


def _waiting(job: Job) -> dict[str, Any]:
    return {
        "release_id": identity("release", job.job_id),
        "job_id": job.job_id,
        "tenant": job.tenant,
        "agent": job.agent,
        "candidate": job.candidate,
        "incumbent": job.incumbent,
        "state": "waiting",
        "time": 0,
    }


def _counts(release: dict[str, Any]) -> list[Any]:
    """What a decision depends on: nothing is computed while it stays the same."""
    current: dict[str, Any] = release["watch" if release["state"] == "live" else release["state"]]
    names = ("seen", "wins", "losses", "candidate", "live", "watched")
    return [copy(current[name]) for name in names if name in current]


def _close(data: dict[str, Any], state: KeyState) -> None:
    data["release"], state.due = {}, None


def _deployment(
    release: dict[str, Any], reason: str, found: dict[str, float], time: datetime, weight: float
) -> Deployment:
    word: ReleaseState = release["state"]
    return Deployment(
        event_id=identity("deployment", release["release_id"], word),
        tenant=release["tenant"],
        agent=release["agent"],
        event_time=time,
        release_id=release["release_id"],
        job_id=release["job_id"],
        candidate=release["candidate"],
        incumbent=release["incumbent"],
        state=word,
        weight=weight,
        reason=reason,
        evidence=found,
    )
