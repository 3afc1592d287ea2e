"""Verdicts of ours as other platforms read them: lines of OTLP/JSON, GenAI evaluations or OpenInference annotations.

One line is one export request. Times and ids follow from the verdict, so that the same one is the same line again. What
is sent back here is the same signal in either form; its identifier tells that it is ours, and it is no evidence then.

Sources: OpenTelemetry GenAI semantic conventions, event ``gen_ai.evaluation.result``; OpenInference specification,
"Annotations and Evaluations", post-hoc feedback.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Literal

from schemas.events import EPOCH, identity

Form = Literal["otlp-logs", "openinference"]
EVENT = "gen_ai.evaluation.result"
BATCH = 200
"""Verdicts of one line at most."""
RESOURCE = {"attributes": [{"key": "service.name", "value": {"stringValue": "driftwheel"}}]}
SCOPE = {"name": "driftwheel.feedback"}


@dataclass(frozen=True, slots=True)
class Verdict:
    """What was said about one span. ``judge``: HUMAN, LLM or CODE. ``identifier`` with ``name`` and span: which one."""

    agent: str
    trace_id: str
    span_id: str
    session_id: str
    time: datetime
    name: str
    identifier: str
    judge: Literal["HUMAN", "LLM", "CODE"]
    label: str = ""
    score: float | None = None
    explanation: str = ""
    metadata: dict[str, Any] = field(default_factory=dict[str, Any])


def lines(verdicts: Iterable[Verdict], form: Form) -> Iterator[str]:
    """The verdicts as export requests, one a line."""
    make, wrap = (_log_record, _logs) if form == "otlp-logs" else (_carrier, _spans)
    batch: list[dict[str, Any]] = []
    for verdict in verdicts:
        batch.append(make(verdict))
        if len(batch) == BATCH:
            yield _line(wrap, batch)
            batch = []
    if batch:
        yield _line(wrap, batch)


def _line(wrap: Callable[[list[dict[str, Any]]], dict[str, Any]], batch: list[dict[str, Any]]) -> str:
    return json.dumps(wrap(batch), ensure_ascii=False, separators=(",", ":"))


def _logs(records: list[dict[str, Any]]) -> dict[str, Any]:
    return {"resourceLogs": [{"resource": RESOURCE, "scopeLogs": [{"scope": SCOPE, "logRecords": records}]}]}


def _spans(spans: list[dict[str, Any]]) -> dict[str, Any]:
    return {"resourceSpans": [{"resource": RESOURCE, "scopeSpans": [{"scope": SCOPE, "spans": spans}]}]}


def _log_record(verdict: Verdict) -> dict[str, Any]:
    said: dict[str, Any] = {
        "gen_ai.evaluation.name": verdict.name,
        "gen_ai.evaluation.score.value": verdict.score,
        "gen_ai.evaluation.score.label": verdict.label,
        "gen_ai.evaluation.explanation": verdict.explanation,
        "annotation.annotator_kind": verdict.judge,
        "annotation.identifier": verdict.identifier,
        "annotation.metadata": _metadata(verdict),
    }
    return {
        "timeUnixNano": _nanos(verdict.time),
        "eventName": EVENT,
        "traceId": verdict.trace_id,
        "spanId": verdict.span_id,
        "attributes": _attributes(said | _whose(verdict)),
    }


def _carrier(verdict: Verdict) -> dict[str, Any]:
    said: dict[str, Any] = {
        "name": verdict.name,
        "score": verdict.score,
        "label": verdict.label,
        "explanation": verdict.explanation,
        "annotator_kind": verdict.judge,
        "identifier": verdict.identifier,
        "metadata": _metadata(verdict),
    }
    given = {f"annotations.0.annotation.{name}": value for name, value in said.items()}
    place = (verdict.trace_id, verdict.span_id, verdict.name, verdict.identifier, verdict.time.isoformat())
    return {
        "traceId": identity("carrier trace", *place),
        "spanId": identity("carrier span", *place)[:16],
        "name": f"{verdict.name} annotation",
        "kind": 1,
        "startTimeUnixNano": _nanos(verdict.time),
        "endTimeUnixNano": _nanos(verdict.time),
        "attributes": _attributes({"openinference.span.kind": "EVALUATOR"} | given | _whose(verdict)),
        "links": [{"traceId": verdict.trace_id, "spanId": verdict.span_id}],
    }


def _whose(verdict: Verdict) -> dict[str, Any]:
    """A session that stands for a trace alone is no session to others."""
    session = "" if verdict.session_id.startswith("trace:") else verdict.session_id
    return {"gen_ai.agent.name": verdict.agent, "session.id": session}


def _metadata(verdict: Verdict) -> str:
    return json.dumps(verdict.metadata, ensure_ascii=False, sort_keys=True) if verdict.metadata else ""


def _attributes(values: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        {"key": key, "value": {"doubleValue": value} if isinstance(value, float) else {"stringValue": value}}
        for key, value in values.items()
        if value not in (None, "")
    ]


def _nanos(time: datetime) -> str:
    return str((time - EPOCH) // timedelta(microseconds=1) * 1_000)
