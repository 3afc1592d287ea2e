"""What should have become of a session: the same stages, one event at a time, in memory, without any fault.

Sessions do not touch each other before drift detection. Spans come by the time of their acceptance, and between two of
them every timer that ran out runs: a timer must not run before everything that was accepted earlier has come through,
however long that takes. Attribution sees scores and signals by their time. What depends on chance (which of two topics
was read first) must not change the verdicts that are compared.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any, cast

from processors.assemble import Assemble, AssembleSettings
from processors.attribute import Attribute, AttributeSettings
from processors.score import ScoreTurns
from processors.stage import Event, Stage
from processors.state import KeyState
from schemas.events import Outcome, Record, Score, Signal, Span, Turn


@dataclass
class Expected:
    """By id: what a session's spans and signals come to."""

    turns: dict[str, Turn] = field(default_factory=dict[str, Turn])
    signals: dict[str, Signal] = field(default_factory=dict[str, Signal])
    scores: dict[str, Score] = field(default_factory=dict[str, Score])
    outcomes: dict[str, Outcome] = field(default_factory=dict[str, Outcome])
    """By turn: the last revision."""


@dataclass(frozen=True, slots=True)
class Oracle:
    """The stages of a run. ``refused``: turns that the scoring stage refuses."""

    assembly: AssembleSettings
    attribution: AttributeSettings
    refused: frozenset[str]

    def judgeable(self, spans: Sequence[Span]) -> bool:
        """Whether the session was never silent for so long that it may have closed in between."""
        times = sorted(span.received_time for span in spans)
        limit = timedelta(seconds=self.assembly.gap - 5.0)
        return all(after - before < limit for before, after in pairwise(times))

    def session(
        self, spans: Sequence[Span], ratings: Sequence[Signal], learnt: Mapping[str, Mapping[str, Any]] | None = None
    ) -> Expected:
        """What comes of a session. ``learnt``: by turn, what its score has from a calibration, whichever came first."""
        expected = Expected()
        evidence: list[tuple[datetime, Record]] = [(rating.received_time, rating) for rating in ratings]
        score = ScoreTurns()
        for time, record in _assembled(Assemble(self.assembly), spans):
            if isinstance(record, Turn):
                expected.turns[record.turn_id] = record
                if record.turn_id not in self.refused:
                    for scored in score.step(_event(record), KeyState()):
                        made = scored.model_copy(update=dict((learnt or {}).get(record.turn_id, {})))
                        expected.scores[record.turn_id] = cast("Score", made)
                        evidence.append((time, made))
            else:
                expected.signals[record.event_id] = cast("Signal", record)
                evidence.append((time, record))
        for _, record in _run(Attribute(self.attribution), sorted(evidence, key=lambda pair: pair[0])):
            outcome = cast("Outcome", record)
            expected.outcomes[outcome.turn_id] = outcome
        return expected


def _assembled(stage: Assemble, spans: Sequence[Span]) -> Iterator[tuple[datetime, Record]]:
    in_order = sorted(spans, key=lambda span: span.received_time)
    yield from _run(stage, [(span.received_time, span) for span in in_order])


def _run(stage: Stage, events: Iterable[tuple[datetime, Record]]) -> Iterator[tuple[datetime, Record]]:
    """One key's events through a stage, with its timers until the session has closed."""
    state = KeyState()
    for time, record in events:
        yield from _ticks(stage, state, time)
        for made in stage.step(_event(record), state):
            yield time, made
    yield from _ticks(stage, state, None)


def _ticks(stage: Stage, state: KeyState, until: datetime | None) -> Iterator[tuple[datetime, Record]]:
    """Timers that run out before ``until``; None: until the session has closed."""
    while state.due is not None and (until is None or state.due < until):
        if until is None and state.data.get("closed"):
            return
        due = state.due
        for made in stage.tick("", state, due):
            yield due, made


def _event(record: Record) -> Event:
    return Event("", record.event_id, "", record)
