"""Detect drift: per cohort, online: did the share of failed sessions rise, or the agent's uncertainty.

Takes one value per session (the outcome with a ``session_value``), since the turns of one session are not independent
and would multiply false alarms. Every value counts in the cohort of its keys and in the roll-up ``*`` of its model
version, which lends a young cohort its failure rate. Past ``warn_at`` a cohort warns once; past ``alarm_at`` it alarms,
with the features that moved. What the roll-up finds is told of the smallest cohort that warns itself, if there is one.
After an alarm a cohort is quiet for a while, which shows whether the rise lasts; one that does alarms again.

A failure is known at once, a success only when its session closes. So a cohort starts with its first session
without failure: what came before would teach it too high a baseline. A release that goes live or is taken back makes
the cohorts of its two model versions learn anew.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal, NamedTuple, cast

from processors import adwin, mixlr, mmd, movement
from processors.adwin import Adwin
from processors.bounds import shorten
from processors.mixlr import Mix
from processors.mmd import Mmd
from processors.moments import micros, moment, seconds
from processors.stage import Event, Message, Prepared, Stage, forget, later
from processors.state import KeyState
from processors.watch import strength_of
from schemas.errors import Invalid
from schemas.events import Alarm, Deployment, Outcome, Record, identity
from schemas.topics import ALARMS, DEPLOYMENTS, OUTCOMES

ALL = "*"
"""The category of a roll-up."""
_VERSIONS = 8
_YOUNG = 200
_DETECTORS = {"session_failure": "mixlr-2", "uncertainty": "adwin-1", "query_embedding": "mmd-1"}
_CHANCE = 1.0
_QUERIES = f"{ALL}/{ALL}"


@dataclass(frozen=True, slots=True)
class DriftSettings:
    """Evidence is in natural logarithms.

    ``mix``, ``unsure``, ``queries``: the detectors of failures, of uncertainty and of what is asked. ``warn_at``,
    ``alarm_at``: evidence of failures for either; ``unsure_warn_at``, ``unsure_alarm_at``: the same of uncertainty;
    ``queries_warn_at``, ``queries_alarm_at``: by how much queries differ, where 1 is what chance makes of it;
    ``calm_at``: where a warning ends.
    ``quiet``: sessions after an alarm for which the cohort says nothing more of its failures. ``hourly``: the failure
    rate may follow the hours of the day. ``keys``: what makes a cohort besides the agent. ``cohorts``: how many an
    agent may have, roll-ups included; later ones share ``overflow``. ``idle_days``: a cohort without a session for so
    long is forgotten.
    """

    mix: Mix = field(default_factory=lambda: Mix(nref=200, margin=2.0))
    unsure: Adwin = field(default_factory=Adwin)
    queries: Mmd = field(default_factory=lambda: Mmd(reference=2_000))
    warn_at: float = 5.6
    alarm_at: float = 8.6
    unsure_warn_at: float = 4.2
    unsure_alarm_at: float = 6.4
    queries_warn_at: float = 1.8
    queries_alarm_at: float = 2.1
    calm_at: float = 2.0
    quiet: int = 200
    hourly: bool = True
    keys: tuple[Literal["model_version", "category"], ...] = ("model_version", "category")
    cohorts: int = 64
    overflow: str = "(other)"
    idle_days: int = 30


class _News(NamedTuple):
    """What one cohort has to say: ``level`` past ``threshold``."""

    signal: str
    level: Literal["warn", "alarm"]
    statistic: float
    threshold: float
    before: float
    after: float


class DetectDrift(Stage):
    """Session values to warnings and alarms, per agent and cohort."""

    name = "detect_drift"
    sources = (OUTCOMES, DEPLOYMENTS)
    emits = (ALARMS,)
    linger = 2.0

    def __init__(self, settings: DriftSettings | None = None) -> None:
        self._settings = settings or DriftSettings()
        super().__init__(self._settings)

    def prepare(self, messages: Sequence[Message]) -> list[Prepared]:
        """No event for outcomes without a session value, and for releases that change nobody's traffic."""
        return [
            one if isinstance(one, Invalid) else [event for event in one if _counts(event.record)]
            for one in super().prepare(messages)
        ]

    def step(self, event: Event, state: KeyState) -> Iterable[Record]:
        """Take one session into its cohorts, or learn anew after a release."""
        record = event.record
        if isinstance(record, Deployment):
            self._released(state, record)
        elif isinstance(record, Outcome):
            yield from self._session(event, record, state)

    def tick(self, key: str, state: KeyState, now: datetime) -> Iterable[Record]:
        """Forget cohorts that have been idle for long, the agent with its last one, and older forms of state."""
        del key
        cohorts, idle = state.data.get("cohorts", {}), seconds(86_400.0 * self._settings.idle_days)
        for name in [name for name, one in cohorts.items() if one["last"] + idle <= micros(now)]:
            del cohorts[name]
        if not cohorts:
            forget(state)
            return ()
        state.due = moment(min(one["last"] for one in cohorts.values()) + idle)
        return ()

    def _session(self, event: Event, outcome: Outcome, state: KeyState) -> Iterator[Alarm]:
        data = _opened(state)
        features = data["features"].setdefault(outcome.model_version, {})
        shorten(data["features"], _VERSIONS)
        failed = outcome.verdict == "failure"
        numbers = {"uncertainty": outcome.uncertainty, "p_failure": outcome.p_failure}
        movement.observe(features, numbers, {"cause": outcome.cause if failed else "", "category": outcome.category})
        whole, own = self._names(data["cohorts"], outcome)
        for name in (own, whole) if own != whole else (whole,):
            for news in self._cohort(data["cohorts"], name, whole, outcome):
                place, told = self._told(data["cohorts"], name, whole, news)
                if place:
                    sessions = data["cohorts"][place]["rate"]["n"]
                    yield self._alarm(event, outcome, sessions, place, told, movement.moved(features))
        yield from self._queries(event, outcome, data)
        idle = seconds(86_400.0 * self._settings.idle_days)
        state.due = later(state.due, moment(micros(outcome.event_time) + idle))

    def _queries(self, event: Event, outcome: Outcome, data: dict[str, Any]) -> Iterator[Alarm]:
        """Whether the agent is asked about something else than before; after an alarm that is the usual."""
        values, settings = mmd.sketched(outcome.sketch), self._settings
        if values is None:
            return
        held = data.setdefault("queries", {"mmd": mmd.fresh(), "warned": False})
        statistic = mmd.update(held["mmd"], values, settings.queries)
        warn, alarm = settings.queries_warn_at, settings.queries_alarm_at
        level, held["warned"] = _level(statistic, warn, alarm, _CHANCE, held["warned"])
        if level:
            news = _News("query_embedding", level, statistic, alarm if level == "alarm" else warn, _CHANCE, statistic)
            yield self._alarm(event, outcome, held["mmd"]["n"], _QUERIES, news, {})
        if level == "alarm":
            data["queries"] = {"mmd": mmd.fresh(), "warned": False}

    def _names(self, cohorts: dict[str, Any], outcome: Outcome) -> tuple[str, str]:
        """The roll-up of an outcome, and its own cohort: the same when it has no category."""
        keys = self._settings.keys
        version = outcome.model_version if "model_version" in keys else ALL
        category = outcome.category if "category" in keys else ""
        full = len(cohorts) >= self._settings.cohorts
        whole = f"{version}/{ALL}"
        if whole not in cohorts and full:
            whole = f"{self._settings.overflow}/{ALL}"
        own = f"{version}/{category or ALL}"
        if own not in cohorts and full:
            own = whole.replace(ALL, self._settings.overflow) if whole == f"{version}/{ALL}" else whole
        return whole, own

    def _cohort(self, cohorts: dict[str, Any], name: str, whole: str, outcome: Outcome) -> Iterator[_News]:
        failed = int(bool(outcome.session_value))
        if name not in cohorts:
            if failed:
                return
            cohorts[name] = self._fresh(cohorts, whole if name != whole else "")
        one = cohorts[name]
        one["last"] = max(one["last"], micros(outcome.event_time))
        yield from self._failures(one, failed, outcome.event_time.hour if self._settings.hourly else None)
        yield from self._doubts(one, outcome.uncertainty)

    def _fresh(self, cohorts: dict[str, Any], whole: str) -> dict[str, Any]:
        """A new cohort; the roll-up lends it its rate, for as much as its other cohorts resemble each other."""
        parent = cohorts.get(whole, {}).get("rate")
        if parent is not None:
            stem = whole.removesuffix(ALL)
            known = [c["rate"] for n, c in cohorts.items() if n.startswith(stem) and n != whole]
            counts = [mixlr.counts(rate, self._settings.mix) for rate in known if rate["n"] >= _YOUNG]
            parent = mixlr.weakened(parent, strength_of(counts))
        rate = mixlr.fresh(self._settings.mix, parent)
        return {"rate": rate, "e": 0.0, "warned": False, "unsure": adwin.fresh(), "doubted": 0, "last": 0}

    def _failures(self, one: dict[str, Any], failed: int, hour: int | None) -> Iterator[_News]:
        settings, rate = self._settings, one["rate"]
        statistic = one["e"] = round(mixlr.update(rate, failed, settings.mix, hour), 4)
        level, one["warned"] = _level(statistic, settings.warn_at, settings.alarm_at, settings.calm_at, one["warned"])
        if level:
            bar = settings.alarm_at if level == "alarm" else settings.warn_at
            yield _News("session_failure", level, statistic, bar, mixlr.baseline(rate), rate["now"])
        if level == "alarm":
            mixlr.hush(rate, settings.quiet)
            one["e"] = 0.0

    def _doubts(self, one: dict[str, Any], uncertainty: float) -> Iterator[_News]:
        settings, data = self._settings, one["unsure"]
        statistic = adwin.update(data, uncertainty, settings.unsure)
        warn, alarm = settings.unsure_warn_at, settings.unsure_alarm_at
        one["doubted"] = max(one["doubted"] - 1, 0)
        if statistic > alarm:
            yield _News("uncertainty", "alarm", statistic, alarm, *adwin.cut(data, settings.unsure))
        elif statistic > warn and not one["doubted"]:
            yield _News("uncertainty", "warn", statistic, warn, *adwin.parts(data, settings.unsure))
        if statistic > warn:
            one["doubted"] = settings.quiet

    def _told(self, cohorts: dict[str, Any], name: str, whole: str, news: _News) -> tuple[str, _News]:
        """Whom an alarm is told of: a roll-up's of the cohort that warns loudest; '' when one has told it already."""
        if name != whole or (news.signal, news.level) != ("session_failure", "alarm"):
            return name, news
        stem, bar = whole.removesuffix(ALL), self._settings.warn_at
        parts = {n: c for n, c in cohorts.items() if n.startswith(stem) and n != whole}
        if any(one["rate"]["q"] for one in parts.values()):
            return "", news
        moved = [(one["e"], n) for n, one in parts.items() if one["e"] > bar]
        if not moved:
            return name, news
        _, smallest = max(moved)
        rate = cohorts[smallest]["rate"]
        news = news._replace(before=mixlr.baseline(rate), after=rate["now"])
        mixlr.hush(rate, self._settings.quiet)
        cohorts[smallest].update(e=0.0, warned=True)
        return smallest, news

    def _released(self, state: KeyState, release: Deployment) -> None:
        for version in (release.candidate, release.incumbent):
            for name, one in _opened(state)["cohorts"].items():
                if name.startswith(f"{version}/") or "model_version" not in self._settings.keys:
                    mixlr.relearn(one["rate"], self._settings.mix)
                    one.update(e=0.0, warned=False, unsure=adwin.fresh(), doubted=0)

    def _alarm(
        self, event: Event, outcome: Outcome, sessions: int, place: str, news: _News, moved: dict[str, float]
    ) -> Alarm:
        cohort = f"{outcome.tenant}/{outcome.agent}/{place}"
        return Alarm.model_validate(
            {
                "event_id": identity("alarm", cohort, news.signal, news.level, event.event_id),
                "tenant": outcome.tenant,
                "agent": outcome.agent,
                "event_time": outcome.event_time,
                "cohort": cohort,
                "model_version": outcome.model_version,
                "category": place.rpartition("/")[2],
                "detector": _DETECTORS[news.signal],
                "signal": news.signal,
                "level": news.level,
                "statistic": round(news.statistic, 4),
                "threshold": news.threshold,
                "baseline": round(news.before, 6),
                "current": round(news.after, 6),
                "sessions": sessions,
                "moved": moved,
            }
        )


def _counts(record: Record | None) -> bool:
    if isinstance(record, Deployment):
        return record.state in ("live", "rolled_back")
    return cast("Outcome", record).session_value is not None


def _opened(state: KeyState) -> dict[str, Any]:
    if not state.data:
        state.data.update(cohorts={}, features={})
    return state.data


def _level(
    statistic: float, warn: float, alarm: float, calm: float, warned: bool
) -> tuple[Literal["warn", "alarm"] | None, bool]:
    """What the evidence is worth, and whether the cohort has warned since it was calm."""
    if statistic > alarm:
        return "alarm", True
    if statistic > warn and not warned:
        return "warn", True
    return None, warned and statistic >= calm
