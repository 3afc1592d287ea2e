"""Judges in the store: what is to be judged, what was said as signals, and what is known of every judge."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Protocol

from connectors.judge.judge import Opinion
from connectors.judge.probes import Probe
from processors.agreement import Floor, Pairs, Rate, Standing, Tally, standing
from schemas.events import Redaction, Signal, Turn, identity
from schemas.tenants import tenant_option

SOURCE = "judge"
IDENTIFIER = "driftwheel:judge:"
"""How a verdict is named outside: what comes back from there is known as ours, and is no evidence."""
_DIGITS = 6
_TALLIES = """
SELECT judge, sum(a) AS both, sum(b) AS only_judge, sum(c) AS only_person, sum(d) AS neither, sum(old) AS expired,
    sum(silent) AS abstained, sum(asked) AS asked, sum(pf) AS position_failed, sum(pr) AS position,
    sum(vf) AS verbosity_failed, sum(vr) AS verbosity
FROM (
    SELECT judge, person_time >= since AS fresh, fresh AND judge_pass AND person_pass AS a,
        fresh AND judge_pass AND NOT person_pass AS b, fresh AND NOT judge_pass AND person_pass AS c,
        fresh AND NOT judge_pass AND NOT person_pass AS d, NOT fresh AS old,
        0 AS silent, 0 AS asked, 0 AS pf, 0 AS pr, 0 AS vf, 0 AS vr
    FROM judge_pairs WHERE tenant = '{tenant}'
    UNION ALL
    SELECT judge, 1, 0, 0, 0, 0, 0, label = '', 1, 0, 0, 0, 0
    FROM judge_verdicts WHERE tenant = '{tenant}' AND event_time >= since
    UNION ALL
    SELECT judge, 1, 0, 0, 0, 0, 0, 0, 0, probe = 'position' AND failed, probe = 'position',
        probe = 'verbosity' AND failed, probe = 'verbosity'
    FROM judge_probes WHERE tenant = '{tenant}' AND event_time >= since AND result != 'abstained'
)
GROUP BY judge ORDER BY judge
"""


class Answer(Protocol):
    """What a query finds."""

    @property
    def rows(self) -> list[list[Any]]:
        """One list of values a row."""
        ...


Ask = Callable[[str], Answer]
"""A read-only query of the store: by whoever holds it, or by the running product's API."""


def standings(ask: Ask, tenant: str, now: datetime, floor: Floor) -> dict[str, Standing]:
    """Every judge of a tenant by its id, with its right to gate as of now."""
    since = int((now - timedelta(days=floor.days)).timestamp())
    query = f"WITH toDateTime({since}, 'UTC') AS since {_TALLIES.format(tenant=tenant_option(tenant))}"
    found = [_tally(row) for row in ask(query).rows]
    return {one.judge: standing(one, floor) for one in found}


def _tally(row: Sequence[Any]) -> Tally:
    counts = [int(value) for value in row[1:]]
    return Tally(
        str(row[0]), Pairs(*counts[:4]), counts[4], Rate(counts[5], counts[6]), Rate(counts[7], counts[8]),
        Rate(counts[9], counts[10]),
    )  # fmt: skip


def turn_of(row: Mapping[str, Any]) -> Turn:
    """A row of the store's turns as the record that it was."""
    envelope = Redaction(
        policy_version=row["redaction_policy"], detector=row["redaction_detector"], counts=row["redaction_counts"]
    )
    return Turn.model_validate({**row, "redaction": envelope})


@dataclass(frozen=True, slots=True)
class Told:
    """What goes into a signal beside the verdict. ``redaction``: the envelope of its text."""

    weight: float
    propensity: float
    redaction: Redaction


def verdict_signal(turn: Turn, opinion: Opinion, told: Told) -> Signal:
    """A verdict as ``gen_ai.evaluation.result`` says it. The same turn and judge is the same signal.

    An abstention has no weight; it is there so that nobody asks again, and to be counted.
    """
    said = opinion.score is not None
    attributes = {
        "gen_ai.evaluation.name": opinion.rubric,
        "gen_ai.evaluation.score.value": "" if opinion.score is None else f"{opinion.score:g}",
        "gen_ai.evaluation.score.label": opinion.label,
        "error.type": opinion.abstained,
        "driftwheel.judge.propensity": f"{told.propensity:.6g}",
        "driftwheel.judge.tokens": str(opinion.tokens),
        "driftwheel.judge.model": opinion.model,
    }
    value = round(2 * opinion.score - 1, _DIGITS) if opinion.score is not None else 0.0
    names = ("judge", turn.tenant, turn.turn_id)
    return _signal(
        turn, opinion.judge, attributes, told.redaction,
        event_id=identity(*names, opinion.judge), feedback_id=identity(*names, opinion.rubric, opinion.model),
        value=value, weight=told.weight if said and value else 0.0, text=opinion.rationale,
    )  # fmt: skip


def probe_signal(turn: Turn, found: Probe) -> Signal:
    """A probe of a judge on a turn: nothing is said about the turn."""
    attributes = {
        "gen_ai.evaluation.name": f"driftwheel.probe.{found.kind}",
        "gen_ai.evaluation.score.label": found.label,
        "driftwheel.judge.probe": found.kind,
        "driftwheel.judge.tokens": str(found.tokens),
    }
    name = identity("judge probe", turn.tenant, turn.turn_id, found.judge, found.kind)
    return _signal(
        turn, found.judge, attributes, turn.redaction, event_id=name, feedback_id=name, value=0.0, weight=0.0
    )


def _signal(turn: Turn, judge: str, attributes: dict[str, str], redaction: Redaction, **given: Any) -> Signal:
    known = {
        "annotation.annotator_kind": "LLM",
        "annotation.identifier": IDENTIFIER + judge,
        "driftwheel.judge": judge,
        "turns": turn.turn_id,
    }
    return Signal(
        tenant=turn.tenant, agent=turn.agent, subject_hash=turn.subject_hash, event_time=turn.end_time,
        redaction=redaction, consent_train=turn.consent_train, consent_evaluate=turn.consent_evaluate,
        session_id=turn.session_id, turn_id=turn.turn_id, trace_id=turn.trace_id, name="evaluation", kind="explicit",
        source=SOURCE, attributes={name: text for name, text in (attributes | known).items() if text}, **given,
    )  # fmt: skip
