"""``driftwheel export feedback``: outcomes, labels and judges' verdicts, in the forms that other platforms read."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol

from connectors.otlp_feedback import Form, Verdict, lines
from driftwheel.api import Table, plain
from driftwheel.files import writing
from driftwheel.judge_rows import IDENTIFIER
from schemas.tenants import tenant_option

PAGE = 5_000
"""Rows that are asked for at once."""
_TURN = re.compile(r"([0-9a-f]{32})\.([0-9a-f]{16})")
_OUTCOMES = """
SELECT event_id, event_time, toUnixTimestamp(stored_time) AS stored, agent, session_id, turn_id, revision, verdict,
    p_failure, cause, cause_confidence, evidence, expected, model_version, category
FROM outcomes_current
WHERE tenant = '{tenant}' AND stored_time >= toDateTime({since}, 'UTC') AND (stored, event_id) > ({stored}, '{last}')
ORDER BY stored, event_id LIMIT {page}
"""
_LABELS = """
SELECT l.event_id AS event_id, l.event_time AS event_time, toUnixTimestamp(l.stored_time) AS stored, l.agent AS agent,
    s.session_id AS session_id, s.turn_id AS turn_id, l.value AS value, l.rater AS rater,
    l.rubric_version AS rubric_version
FROM labels_current AS l INNER JOIN samples_current AS s ON s.tenant = l.tenant AND s.event_id = l.sample_id
WHERE l.tenant = '{tenant}' AND l.stored_time >= toDateTime({since}, 'UTC')
    AND (stored, event_id) > ({stored}, '{last}')
ORDER BY stored, event_id LIMIT {page}
"""
_VERDICTS = """
SELECT event_id, event_time, toUnixTimestamp(stored_time) AS stored, agent, session_id, turn_id, judge, rubric, model,
    score, label, rationale
FROM judge_verdicts
WHERE tenant = '{tenant}' AND stored_time >= toDateTime({since}, 'UTC') AND (stored, event_id) > ({stored}, '{last}')
    AND isNotNull(score)
ORDER BY stored, event_id LIMIT {page}
"""


class Asked(Protocol):
    """Whoever answers read-only queries."""

    def sql(self, query: str) -> Table:
        """See ``driftwheel.desk.Questions``."""
        ...


@dataclass(slots=True)
class Exported:
    """How many verdicts were written, and how many are about turns that no span of OpenTelemetry stands for."""

    outcomes: int = 0
    labels: int = 0
    left_out: int = 0
    verdicts: int = 0


def export_feedback(desk: Asked, tenant: str, since: datetime, form: Form, target: str) -> Exported:
    """Write what was stored since then, oldest first, outcomes first. Raises UsageError, also for the file."""
    tenant_option(tenant)
    told = Exported()
    with writing(target) as out:
        for line in lines(_verdicts(desk, tenant, since, told), form):
            out.write(line + "\n")
    return told


def _verdicts(desk: Asked, tenant: str, since: datetime, told: Exported) -> Iterator[Verdict]:
    for query, make in ((_OUTCOMES, _outcome), (_LABELS, _label), (_VERDICTS, _verdict)):
        for row in _rows(desk, query, tenant, since):
            place = _TURN.fullmatch(row["turn_id"])
            if place is None:
                told.left_out += 1
                continue
            told.outcomes += make is _outcome
            told.labels += make is _label
            told.verdicts += make is _verdict
            yield make(row, *place.groups())


def _rows(desk: Asked, query: str, tenant: str, since: datetime) -> Iterator[dict[str, Any]]:
    """All rows of a query, page by page."""
    stored, last = 0, ""
    while True:
        asked = query.format(tenant=tenant, since=int(since.timestamp()), stored=stored, last=last, page=PAGE)
        table = desk.sql(asked)
        for row in plain(table.rows):
            yield dict(zip(table.columns, row, strict=True))
        if len(table.rows) < PAGE:
            return
        stored, last = (table.rows[-1][table.columns.index(name)] for name in ("stored", "event_id"))


def _outcome(row: dict[str, Any], trace: str, span: str) -> Verdict:
    """A verdict's later revision is later, by a microsecond: the turn's own time stays."""
    cause, names = row["cause"], ("cause", "cause_confidence", "evidence", "expected", "model_version", "category")
    return Verdict(
        row["agent"], trace, span, row["session_id"], _time(row) + timedelta(microseconds=int(row["revision"])),
        name="driftwheel.outcome", identifier="driftwheel:outcome", judge="CODE", label=row["verdict"],
        score=round(1.0 - float(row["p_failure"]), 6),
        explanation="" if cause == "unknown" else f"first fault: {cause}",
        metadata={name: row[name] for name in names if row[name]},
    )  # fmt: skip


def _label(row: dict[str, Any], trace: str, span: str) -> Verdict:
    return Verdict(
        row["agent"], trace, span, row["session_id"], _time(row), name="driftwheel.label",
        identifier=f"driftwheel:label:{row['rater']}", judge="HUMAN", label=row["value"],
        metadata={"rubric_version": row["rubric_version"]},
    )  # fmt: skip


def _verdict(row: dict[str, Any], trace: str, span: str) -> Verdict:
    return Verdict(
        row["agent"], trace, span, row["session_id"], _time(row), name=row["rubric"],
        identifier=f"{IDENTIFIER}{row['judge']}", judge="LLM", label=row["label"], score=float(row["score"]),
        explanation=row["rationale"], metadata={"judge": row["judge"], "model": row["model"]},
    )  # fmt: skip


def _time(row: dict[str, Any]) -> datetime:
    return datetime.fromisoformat(row["event_time"]).astimezone(UTC)
