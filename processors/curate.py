"""Curate: which turns are worth a label: one pass, bounded memory, a budget, a known chance for each.

Every turn has one number in [0, 1) for ever, a hash of its id. A turn is chosen when that number lies under
its chance: a small one for any turn (the random audit that keeps estimates honest), a larger one for turns
that failed or that the agent was unsure of, and a much larger one once an alarm stands against their model
version. The greater of the two is recorded as the sample's ``propensity``. Before an alarm only a share of
the budget may be spent. Near-duplicates of recent samples are passed over, and no class takes more than its
share of the focus. Turns whose consent does not cover training, and mere thanks, are never chosen, nor kept.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from processors.bounds import shorten
from processors.evidence import signals_of
from processors.features import features_of
from processors.moments import micros, seconds
from processors.reactions import is_closing
from processors.stage import Event, Stage
from processors.state import KeyState
from processors.text import chance, normal, resemblance, sketch
from schemas.events import Alarm, Outcome, Record, Sample, Turn, identity
from schemas.subjects import Subject
from schemas.topics import ALARMS, OUTCOMES, SAMPLES, TURNS

_VERSIONS = 8
_CLASS_WARMUP = 10


@dataclass(frozen=True, slots=True)
class CurateSettings:
    """``budget``: samples per ``period_days``, of which ``calm_share`` may be spent without an alarm.

    ``watch``, ``focus``: the chance of a failed or unsure turn before and after an alarm, which holds for the next
    ``focus_turns`` settled turns of its model version (a drift that is real alarms again and again). ``random_share``:
    the chance of any turn, as a share of that. ``unsure_share``: the most uncertain share of recent turns that counts
    as unsure; ``spread_at``: the disagreement of judges (0 to 1) that does. ``alike_at``: resemblance (0 to 1) from
    which a text is a near-duplicate of a recent sample; ``copies``: how many of a kind are taken all the same.
    ``class_share``: the most of the focus that one predicted class may take. ``recent``, ``chosen_recent``: turns that
    wait for their outcome, and samples that new ones are compared with.
    """

    budget: int = 600
    period_days: float = 30.0
    calm_share: float = 0.15
    watch: float = 0.1
    focus: float = 0.5
    focus_turns: int = 1_000
    random_share: float = 0.1
    unsure_share: float = 0.2
    spread_at: float = 0.5
    alike_at: float = 0.8
    copies: int = 2
    class_share: float = 0.5
    recent: int = 500
    chosen_recent: int = 200


class Curate(Stage):
    """Turns and their outcomes to samples, per agent."""

    name = "curate"
    sources = (TURNS, OUTCOMES, ALARMS)
    emits = (SAMPLES,)
    linger = 5.0

    def __init__(self, settings: CurateSettings | None = None) -> None:
        self._settings = settings or CurateSettings()
        super().__init__(self._settings)

    def step(self, event: Event, state: KeyState) -> Iterable[Record]:
        """Keep a turn until its outcome comes; then choose it or not. A revision asks again."""
        data, record = _opened(state), event.record
        if isinstance(record, Turn):
            self._keep(data, record)
            early = data["early"].pop(record.turn_id, None)
            if early is not None:
                yield from self._consider(data, Outcome.model_validate_json(early))
        elif isinstance(record, Outcome):
            yield from self._consider(data, record)
        elif isinstance(record, Alarm) and record.level == "alarm":
            data["focus"][record.model_version] = self._settings.focus_turns
            shorten(data["focus"], _VERSIONS)

    def erase(self, name: str, state: KeyState, about: Subject) -> Iterable[Record]:
        """See Stage: their turns and outcomes go. Sketches of chosen texts stay: nobody can be read from them."""
        yield from super().erase(name, state, about)
        data = _opened(state)
        data["turns"] = {i: turn for i, turn in data["turns"].items() if turn.get("subject_hash") != about.hash}
        data["early"] = {
            turn_id: text for turn_id, text in data["early"].items()
            if about.hash not in text and not about.has_turn(turn_id)
        }  # fmt: skip

    def _keep(self, data: dict[str, Any], turn: Turn) -> None:
        if turn.consent_train and normal(turn.input) and not is_closing(turn.input):
            data["turns"][turn.turn_id] = turn.model_dump(mode="json", exclude_defaults=True)
            shorten(data["turns"], self._settings.recent)

    def _consider(self, data: dict[str, Any], outcome: Outcome) -> Iterator[Record]:
        kept = data["turns"].get(outcome.turn_id)
        if kept is None:
            data["early"][outcome.turn_id] = outcome.model_dump_json()
            shorten(data["early"], self._settings.recent)
            return
        unsure = self._unsure(data, outcome)
        self._renew(data, outcome)
        reason, propensity = self._choice(data, outcome, unsure)
        affordable = self._affordable(data, outcome)
        _tire(data, outcome)
        if not reason or not affordable:
            return
        turn = Turn.model_validate(kept)
        print_ = sketch(turn.input)
        alike = sum(resemblance(print_, other) >= self._settings.alike_at for other in data["prints"])
        if alike >= self._settings.copies:
            return
        data["prints"] = [*data["prints"], print_][-self._settings.chosen_recent :]
        data["spent"] += 1
        if reason != "random":
            data["classes"][outcome.category] = data["classes"].get(outcome.category, 0) + 1
        del data["turns"][turn.turn_id]
        yield _sample(turn, outcome, reason, propensity)

    def _unsure(self, data: dict[str, Any], outcome: Outcome) -> bool:
        """Whether a turn is among the most uncertain of the recent ones; ties are not."""
        recent = sorted(data["doubts"])
        if outcome.revision == 0:
            data["doubts"] = [*data["doubts"], round(outcome.uncertainty, 4)][-self._settings.recent :]
        if outcome.features.get("judge_spread", 0.0) >= self._settings.spread_at:
            return True
        below = bisect.bisect_left(recent, round(outcome.uncertainty, 4))
        return bool(recent) and below >= len(recent) * (1.0 - self._settings.unsure_share)

    def _renew(self, data: dict[str, Any], outcome: Outcome) -> None:
        """A new budget when the period, which begins with the first outcome, is over (or began in a wrong future)."""
        time = micros(outcome.event_time)
        if data["period"] is None:
            data["period"] = time
        elif abs(time - data["period"]) >= seconds(86_400.0 * self._settings.period_days):
            data.update(period=time, spent=0, classes={})

    def _affordable(self, data: dict[str, Any], outcome: Outcome) -> bool:
        alarmed = outcome.model_version in data["focus"]
        share = 1.0 if alarmed else self._settings.calm_share
        return data["spent"] < self._settings.budget * share

    def _choice(self, data: dict[str, Any], outcome: Outcome, unsure: bool) -> tuple[str, float]:
        """Why a turn is chosen ('' when it is not), and the chance that it had."""
        rate = self._settings.focus if outcome.model_version in data["focus"] else self._settings.watch
        audit = rate * self._settings.random_share
        reason = _reason(outcome, unsure)
        wanted = rate if reason and self._fair(data, outcome.category) else 0.0
        number = chance("sample", outcome.tenant, outcome.turn_id)
        if number < audit:
            return "random", max(audit, wanted)
        return (reason, wanted) if number < wanted else ("", 0.0)

    def _fair(self, data: dict[str, Any], category: str) -> bool:
        """Whether a class still has a share of the focus; with few classes the shares are larger."""
        counts = data["classes"]
        total = sum(counts.values())
        others = len(set(counts) - {category})
        share = max(self._settings.class_share, 1.5 / (others + 1))
        return total < _CLASS_WARMUP or counts.get(category, 0) < share * total


def _opened(state: KeyState) -> dict[str, Any]:
    if not state.data:
        state.data.update(turns={}, early={}, doubts=[], prints=[], classes={}, focus={}, spent=0, period=None)
    return state.data


def _tire(data: dict[str, Any], outcome: Outcome) -> None:
    """An alarm holds for so many settled turns of its model version, then it is forgotten."""
    left = data["focus"].get(outcome.model_version, 0) - (outcome.revision == 0)
    if left > 0:
        data["focus"][outcome.model_version] = left
    else:
        data["focus"].pop(outcome.model_version, None)


def _reason(outcome: Outcome, unsure: bool) -> str:
    if outcome.expected:
        return "correction"
    if outcome.verdict == "failure":
        return "failed"
    return "uncertain" if unsure else ""


def _sample(turn: Turn, outcome: Outcome, reason: str, propensity: float) -> Sample:
    return Sample.model_validate(
        {
            "event_id": identity("sample", turn.tenant, turn.turn_id),
            "tenant": turn.tenant,
            "agent": turn.agent,
            "subject_hash": turn.subject_hash,
            "event_time": turn.event_time,
            "redaction": turn.redaction,
            "consent_train": turn.consent_train,
            "consent_evaluate": turn.consent_evaluate,
            "session_id": turn.session_id,
            "turn_id": turn.turn_id,
            "model_version": outcome.model_version,
            "category": outcome.category,
            "reason": reason,
            "propensity": propensity,
            "input": turn.input,
            "output": turn.output,
            "uncertainty": outcome.uncertainty,
            "verdict": outcome.verdict,
            "cause": outcome.cause,
            "features": features_of(turn),
            "signals": signals_of(outcome),
        }
    )
