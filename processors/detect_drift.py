"""Detect drift: per cohort, online: did the share of failed sessions rise.

Takes one value per session (``Outcome.session_value``), since the turns of one session are not independent
and would multiply false alarms. Every value counts in the cohort of its category and in the roll-up ``*`` of
its model version. Past ``warn_at`` a cohort warns once; past ``alarm_at`` it alarms, its statistic starts anew, and it
is quiet for a while. The baseline stays, so that a rise which lasts alarms again.

A failure is known at once, a success only when its session closes. So a cohort starts with its first session
without failure: what came before would teach it too high a baseline.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, cast

from processors import mixlr
from processors.mixlr import Mix
from processors.moments import micros, moment, seconds
from processors.stage import Event, Message, Prepared, Stage, forget, later
from processors.state import KeyState
from schemas.errors import Invalid
from schemas.events import Alarm, Outcome, Record, identity
from schemas.topics import ALARMS, OUTCOMES

ALL = "*"
"""The category of a roll-up."""


@dataclass(frozen=True, slots=True)
class DriftSettings:
    """Evidence is in natural logarithms.

    ``mix``: the detector. ``warn_at``, ``alarm_at``: evidence for either; ``calm_at``: where a warning ends.
    ``quiet``: sessions after an alarm for which the cohort says nothing more.
    ``idle_days``: a cohort without a session for so long is forgotten.
    """

    mix: Mix = field(default_factory=Mix)
    warn_at: float = 5.6
    alarm_at: float = 8.6
    calm_at: float = 2.0
    quiet: int = 200
    idle_days: int = 30


class DetectDrift(Stage):
    """Session values to warnings and alarms, per cohort."""

    name = "detect_drift"
    sources = (OUTCOMES,)
    emits = (ALARMS,)
    linger = 2.0

    def __init__(self, settings: DriftSettings | None = None) -> None:
        self._settings = settings or DriftSettings()
        super().__init__(self._settings)

    def prepare(self, messages: Sequence[Message]) -> list[Prepared]:
        """One event per cohort that a session counts in; none for outcomes without a session value."""
        return [
            one if isinstance(one, Invalid) else [cohort for event in one for cohort in _by_cohort(event)]
            for one in super().prepare(messages)
        ]

    def step(self, event: Event, state: KeyState) -> Iterable[Record]:
        """Take one session into one cohort."""
        outcome, data = cast("Outcome", event.record), state.data
        mix = self._settings.mix
        if not data and outcome.session_value:
            return
        if not data:
            data.update(mixlr.fresh(mix), warned=False, quiet=0)
        statistic = mixlr.update(data, int(bool(outcome.session_value)), mix)
        idle = seconds(86_400.0 * self._settings.idle_days)
        state.due = later(state.due, moment(micros(outcome.event_time) + idle))
        level = self._level(data, statistic)
        if level:
            yield self._alarm(event, outcome, data, level, statistic)
        if level == "alarm":
            mixlr.reset(data)
            data["quiet"] = data["n"] + self._settings.quiet

    def tick(self, key: str, state: KeyState, now: datetime) -> Iterable[Record]:
        """Forget a cohort that has been idle for long."""
        del key, now
        forget(state)
        return ()

    def _level(self, data: dict[str, Any], statistic: float) -> str:
        if data["n"] <= data["quiet"]:
            return ""
        if statistic > self._settings.alarm_at:
            data["warned"] = True
            return "alarm"
        if statistic > self._settings.warn_at and not data["warned"]:
            data["warned"] = True
            return "warn"
        if statistic < self._settings.calm_at:
            data["warned"] = False
        return ""

    def _alarm(self, event: Event, outcome: Outcome, data: dict[str, Any], level: str, statistic: float) -> Alarm:
        threshold = self._settings.alarm_at if level == "alarm" else self._settings.warn_at
        return Alarm.model_validate(
            {
                "event_id": identity("alarm", event.key, level, event.event_id),
                "tenant": outcome.tenant,
                "agent": outcome.agent,
                "event_time": outcome.event_time,
                "cohort": event.key,
                "model_version": outcome.model_version,
                "category": ALL if event.key.endswith(f"/{ALL}") else outcome.category,
                "detector": "mixlr-1",
                "signal": "session_failure",
                "level": level,
                "statistic": round(statistic, 4),
                "threshold": threshold,
                "baseline": round(mixlr.baseline(data), 6),
                "current": data["now"],
                "sessions": data["n"],
            }
        )


def _by_cohort(event: Event) -> list[Event]:
    outcome = cast("Outcome", event.record)
    if outcome.session_value is None:
        return []
    stem = f"{outcome.tenant}/{outcome.agent}/{outcome.model_version}"
    names = [ALL] if outcome.category in ("", ALL) else [outcome.category, ALL]
    return [replace(event, key=f"{stem}/{name}", event_id=identity(event.event_id, name)) for name in names]
