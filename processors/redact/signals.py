"""Raw signals to drafts: one JSON object each, a signal about a turn or session, a label of a sample, or a score."""

from __future__ import annotations

import json
import math
import re
from datetime import UTC, datetime
from typing import Any, NamedTuple, cast, get_args

from processors.edits import Size, distance, size
from processors.redact.drafts import Draft, consent, scrubbed, settled_time
from processors.redact.feedback import Around, Target, Verdict, draft_of
from processors.stage import Message
from schemas.errors import Invalid
from schemas.events import GivenCause, Label, RawSignal, Signal, SignalName, identity

MAX_ATTRIBUTES = 64
EDIT_DISTANCE, EDIT_SIZE = "driftwheel.edit.distance", "driftwheel.edit.size"
"""Attributes of corrected and edited answers (``processors.edits``)."""

EXPLICIT = frozenset(
    {
        "rating", "comparison", "correction", "adoption", "rejection", "knowledge_relevance", "missing_knowledge",
        "evaluation",
    }
)  # fmt: skip
"""Signals by which somebody said so; by the others somebody acted so."""

VALUES = {
    "correction": -1.0, "rejection": -1.0, "missing_knowledge": -1.0, "rephrase": -1.0, "repeat": -1.0,
    "explicit_correction": -1.0, "escalation": -1.0, "abandonment": -1.0, "regenerate": -1.0, "forgetfulness": -1.0,
    "divergence": -1.0, "stopped": -1.0, "manual_takeover": -1.0, "edited": -0.5, "adoption": 1.0, "copy": 1.0,
    "accepted": 1.0, "task_complete": 1.0, "proceeded": 1.0,
}  # fmt: skip
"""What a signal says when its producer gave no value: -1 failure to 1 success; 0 for those not listed."""

EDITS: dict[str, dict[Size, float]] = {
    "correction": {"none": 1.0, "light": -0.5, "medium": -0.75, "rewrite": -1.0},
    "edited": {"none": 1.0, "light": -0.25, "medium": -0.5, "rewrite": -1.0},
}
"""The same for texts with the answer that they replace, by how far they are from it. One word is right or wrong."""

WEIGHTS = {"explicit": 1.0, "implicit": 0.6}
"""How much to believe a signal whose producer gave no weight."""

_NAMES = frozenset(get_args(SignalName))
_MUST_SAY = {"rating"}
_PEOPLE = re.compile(r"(?<![a-z])(user|human|customer|feedback|thumbs?|rating|csat)(?![a-z])")
"""Names of scores that people give; Langfuse's scores do not say who gave them."""


def signal_of(raw: RawSignal, message: Message, tenant: str, skew: float) -> Draft:
    """The draft of a raw signal. Raises Invalid that names the field that is wrong, never its value."""
    body = _object(raw.payload)
    name = _text(body, "name")
    if name == "label":
        return _label(body, raw, message, tenant, skew)
    if name == "score":
        return _score(body, raw, message, tenant, skew)
    if name not in _NAMES:
        raise Invalid("unknown_signal", "field name: neither 'label' nor a signal that is known")
    kind = "explicit" if name in EXPLICIT else "implicit"
    if name in _MUST_SAY and body.get("value") is None:
        raise Invalid("invalid_field", f"field value: missing, a {name} says nothing without it")
    session = _text(body, "session_id")
    about = {field: _text(body, field) for field in ("turn_id", "trace_id")}
    if not session and not any(about.values()):
        raise Invalid("invalid_field", "field session_id: missing, and neither turn_id nor trace_id given")
    given = _part(body, "consent")
    texts = {field: _text(body, field) for field in ("text", "text_before")}
    edit = _edit(name, **texts)
    return _filled(
        body,
        raw,
        message,
        skew,
        tenant=tenant,
        kind=Signal,
        event_id=identity("signal", tenant, _text(body, "id") or raw.event_id),
        facts={
            "name": name,
            "kind": kind,
            "value": _number(body, "value", edit.value, -1.0),
            "weight": _number(body, "weight", WEIGHTS[kind], 0.0),
        },
        ids={"session_id": session, **about},
        words={"source": _text(body, "source") or "user"},
        texts=texts,
        attributes=_attributes(body) | edit.attributes,
        store=consent(given.get("store")),
        train=consent(given.get("train")),
        evaluate=consent(given.get("evaluate")),
    )


class _Edit(NamedTuple):
    """What a signal says by itself, and how far its text is from the answer that it replaces, where it has both."""

    value: float
    attributes: dict[str, str]


def _edit(name: str, text: str, text_before: str) -> _Edit:
    value = VALUES.get(name, 0.0)
    if name not in EDITS or not (text.strip() and text_before.strip()):
        return _Edit(value, {})
    part = distance(text_before, text)
    prose = part <= 0 or all(len(one.split()) > 1 for one in (text, text_before))
    said = {EDIT_DISTANCE: f"{part:.3f}", EDIT_SIZE: size(part)}
    return _Edit(EDITS[name][size(part)] if prose else value, said)


def _score(body: dict[str, Any], raw: RawSignal, message: Message, tenant: str, skew: float) -> Draft:
    """A score in Langfuse's form (``connectors.langfuse``). Scores with the same id are revisions of one."""
    name, judge = _text(body, "score_name"), _text(body, "judge")
    given = body.get("score")
    verdict = Verdict(
        name=name,
        score=None if given is None else float(given),
        label=_text(body, "label"),
        explanation=_text(body, "correction") or _text(body, "text"),
        judge=judge or ("HUMAN" if _text(body, "correction") or _PEOPLE.search(name.lower()) else ""),
        metadata=_text(body, "metadata"),
        boolean=body.get("data_type") == "BOOLEAN",
    )
    span, trace = _text(body, "span_id"), _text(body, "trace_id")
    target = Target(
        "span" if span and trace else "trace" if trace else "session", _text(body, "session_id"), trace, span
    )
    said = {field: _text(body, field) for field in ("config_id", "environment", "score_id")}
    around = Around(
        tenant=tenant, message=message.origin, item=0, received=message.time, skew=skew, time=_time(body, raw),
        agent=_text(body, "agent"), user=_text(body, "user_id"),
        attributes={f"score.{field.removeprefix('score_')}": text for field, text in said.items()},
    )  # fmt: skip
    if _text(body, "correction"):
        around.attributes = {**around.attributes, "score.comment": _text(body, "text")}
        return draft_of(verdict, target, around, "correction", f"score/{said['score_id'] or raw.event_id}")
    return draft_of(verdict, target, around, shared=f"score/{said['score_id'] or raw.event_id}")


def _label(body: dict[str, Any], raw: RawSignal, message: Message, tenant: str, skew: float) -> Draft:
    for field in ("sample_id", "value", "rater"):
        if not _text(body, field):
            raise Invalid("invalid_field", f"field {field}: missing, a label needs it")
    cause = _text(body, "cause")
    if cause not in get_args(GivenCause):
        raise Invalid("invalid_field", f"field cause: not one of {', '.join(get_args(GivenCause)[1:])}")
    given = _part(body, "consent")
    return _filled(
        body,
        raw,
        message,
        skew,
        tenant=tenant,
        kind=Label,
        event_id=identity("label", tenant, _text(body, "id") or raw.event_id),
        facts={"cause": cause},
        ids={
            "session_id": "",
            "sample_id": _text(body, "sample_id"),
            "turn_id": _text(body, "turn_id"),
            "rater": _text(body, "rater"),
        },
        words={"rubric_version": _text(body, "rubric_version") or "1"},
        texts={"value": _text(body, "value")},
        store=consent(given.get("store")),
        train=consent(given.get("train")),
        evaluate=consent(given.get("evaluate")),
    )


def _filled(
    body: dict[str, Any], raw: RawSignal, message: Message, skew: float, *, facts: dict[str, Any], **parts: Any
) -> Draft:
    time, off = settled_time(_time(body, raw), message.time, skew)
    if off and "attributes" in parts:
        parts["attributes"]["driftwheel.clock_skew"] = off
    return Draft(
        message=message.origin,
        item=0,
        agent=_text(body, "agent") or raw.agent,
        event_time=time,
        facts=facts | {"received_time": message.time},
        user=_text(body, "user_id"),
        **parts,
    )


def _object(payload: str) -> dict[str, Any]:
    try:
        body = json.loads(payload)
    except ValueError as error:
        raise Invalid("invalid_json", "field payload: not JSON") from error
    except RecursionError as error:
        raise Invalid("invalid_json", "field payload: nested too deeply") from error
    if not isinstance(body, dict):
        raise Invalid("invalid_json", f"field payload: must be a JSON object, not {type(body).__name__}")
    return cast("dict[str, Any]", body)


def _text(body: dict[str, Any], field: str) -> str:
    value = body.get(field)
    if value is None:
        return ""
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise Invalid("invalid_field", f"field {field}: must be text, not {type(value).__name__}")
    return scrubbed(str(value))


def _number(body: dict[str, Any], field: str, default: float, low: float) -> float:
    value = body.get(field)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not -math.inf < value < math.inf:
        raise Invalid("invalid_field", f"field {field}: must be a number from {low:g} to 1")
    if not low <= value <= 1.0:
        raise Invalid("invalid_field", f"field {field}: must be from {low:g} to 1")
    return float(value)


def _part(body: dict[str, Any], field: str) -> dict[str, Any]:
    value = body.get(field)
    if value is not None and not isinstance(value, dict):
        raise Invalid("invalid_field", f"field {field}: must be a JSON object, not {type(value).__name__}")
    return cast("dict[str, Any]", value or {})


def _attributes(body: dict[str, Any]) -> dict[str, str]:
    given = _part(body, "attributes").items()
    kept = {scrubbed(key): scrubbed(str(one)) for key, one in given if isinstance(one, (str, int, float, bool))}
    return dict(sorted(kept.items())[:MAX_ATTRIBUTES])


def _time(body: dict[str, Any], raw: RawSignal) -> datetime:
    text = _text(body, "time")
    if not text:
        return raw.event_time
    try:
        time = datetime.fromisoformat(text)
        moved = time.astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise Invalid("invalid_field", "field time: must be RFC 3339, such as 2026-01-05T09:00:00Z") from error
    if time.tzinfo is None:
        raise Invalid("invalid_field", "field time: has no time zone, such as the Z in 2026-01-05T09:00:00Z")
    return moved
