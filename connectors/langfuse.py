"""Langfuse's public API, as far as its SDKs need it to send feedback: scores, alone or as events of a batch.

``POST /api/public/scores`` takes one score and answers with its id, or a list (SDKs since 2026) and answers 202, or 207
with how many were refused. ``POST /api/public/ingestion`` (SDKs before) takes a batch of events and answers 207 with
each one's fate: scores are taken, everything else is for OpenTelemetry. ``/v1/traces`` is
``/api/public/otel/v1/traces`` too. The password of Basic authentication, Langfuse's secret key, is a token or an API
key of ours (``connectors.http.Guard``).

Source: Langfuse's API definition, ``fern/apis/server/definition`` (``score.yml``, ``ingestion.yml``).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Annotated, Any, Literal

from anyio import to_thread
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from connectors.http import HttpError, check_agents, json_of, key_of, read_body, retry_after, tenant_of
from connectors.log import Log
from connectors.signals_api import MAX_ITEMS, Id, Item, Text, Time, append_bodies, check_kind, describe
from schemas.errors import Invalid, Reject
from schemas.events import identity

UNNAMED = "unknown"
"""The agent of a score that nobody names one for: it is its trace's."""
_TEXTS = ("CATEGORICAL", "TEXT", "CORRECTION")


class ScoreBody(BaseModel):
    """A score as Langfuse's SDKs send it. Unknown fields are ignored."""

    model_config = ConfigDict(extra="ignore", allow_inf_nan=False)

    id: Id | None = None
    name: Id
    value: bool | float | Text
    trace_id: Annotated[Id | None, Field(alias="traceId")] = None
    observation_id: Annotated[Id | None, Field(alias="observationId")] = None
    session_id: Annotated[Id | None, Field(alias="sessionId")] = None
    data_type: Annotated[
        Literal["NUMERIC", "BOOLEAN", "CATEGORICAL", "TEXT", "CORRECTION"] | None, Field(alias="dataType")
    ] = None
    comment: Text | None = None
    metadata: Any = None
    environment: Id | None = None
    config_id: Annotated[Id | None, Field(alias="configId")] = None
    source: Literal["API", "ANNOTATION"] | None = None
    timestamp: Time | None = None

    @model_validator(mode="after")
    def _fits_its_type(self) -> ScoreBody:
        if not (self.trace_id or self.session_id):
            raise ValueError("traceId: missing, and no sessionId given; scores of dataset runs are not taken")
        if self.data_type is not None and isinstance(self.value, str) != (self.data_type in _TEXTS):
            raise ValueError("value: must be text for CATEGORICAL, TEXT and CORRECTION, and a number for others")
        if self.data_type == "BOOLEAN" and self.value not in (0, 1):
            raise ValueError("value: must be 0 or 1 for BOOLEAN")
        return self


class Score(Item):
    """A score as ``redact`` reads it: one kind of value each in a field of its own."""

    name: Literal["score"] = "score"
    score_name: str
    score_id: str
    data_type: str
    session_id: str | None = None
    trace_id: str | None = None
    span_id: str | None = None
    score: float | None = None
    label: str | None = None
    correction: str | None = None
    text: str | None = None
    judge: str | None = None
    metadata: Text | None = None
    environment: str | None = None
    config_id: str | None = None


class Event(BaseModel):
    """One event of a batch. ``id`` is the event's, by which its fate is told."""

    model_config = ConfigDict(extra="ignore")

    id: Id
    type: Id
    timestamp: Time | None = None
    body: Any = None


def score_of(body: ScoreBody, agent: str, name: str, time: datetime | None) -> Score:
    """The score as ours. ``name``: its id when it has none. Raises ValidationError for metadata that is too long."""
    kind = body.data_type or _kind(body.value)
    metadata: dict[str, Any] = body.metadata if isinstance(body.metadata, dict) else {}
    judge = metadata.get("annotator_kind") or ("HUMAN" if body.source == "ANNOTATION" else None)
    text = body.value if isinstance(body.value, str) else None
    remarks = [part for part in (text if kind == "TEXT" else None, body.comment) if part]
    return Score(
        agent=str(metadata.get("agent") or agent)[:200],
        time=body.timestamp or time,
        score_name=body.name,
        score_id=body.id or name,
        data_type=kind,
        session_id=body.session_id,
        trace_id=body.trace_id,
        span_id=body.observation_id,
        score=None if isinstance(body.value, str) else float(body.value),
        label=text if kind == "CATEGORICAL" else None,
        correction=text if kind == "CORRECTION" else None,
        text="\n".join(remarks) or None,
        judge=str(judge)[:40] if judge else None,
        metadata=None if body.metadata is None else json.dumps(body.metadata, ensure_ascii=False),
        environment=body.environment,
        config_id=body.config_id,
    )


def _kind(value: bool | float | str) -> str:
    return "CATEGORICAL" if isinstance(value, str) else "BOOLEAN" if isinstance(value, bool) else "NUMERIC"


def _agent(request: Request) -> str:
    """The agent of the request's key, when it is for one alone."""
    key = key_of(request)
    return key.agents[0] if key is not None and len(key.agents) == 1 else UNNAMED


def _told(error: ValidationError) -> str:
    """What is wrong, without a word of what was sent."""
    first = describe(0, error.errors(include_url=False, include_input=False)[0])
    return f"{first['field']}: {first['message']}"


class _Endpoint:
    """What both endpoints share."""

    def __init__(self, log: Log, clock: Callable[[], datetime], max_body: int) -> None:
        self._log, self._clock, self._max_body = log, clock, max_body

    async def __call__(self, request: Request) -> Response:
        """Answer, or say what is wrong as Langfuse does."""
        try:
            check_kind(request)
            tenant = tenant_of(request)
            data = await read_body(request, self._max_body)
            return await to_thread.run_sync(self._answer, request, tenant, data)
        except HttpError as error:
            return _refused(error.status, error.message)
        except Invalid as error:
            return _refused(400, error.detail)
        except ValidationError as error:
            return _refused(400, _told(error))
        except Reject as error:
            return _refused(503, str(error), retry_after(error))

    def _answer(self, request: Request, tenant: str, data: bytes) -> Response:
        raise NotImplementedError

    def _append(self, request: Request, scores: Sequence[Score], data: bytes, tenant: str, now: datetime) -> None:
        check_agents(request, [score.agent for score in scores])
        append_bodies(scores, data, tenant, now, self._log)


def _refused(status: int, message: str, headers: dict[str, str] | None = None) -> Response:
    return JSONResponse({"message": message, "error": "InvalidRequestError"}, status, headers)


class ScoresEndpoint(_Endpoint):
    """The handler of ``POST /api/public/scores``."""

    def _answer(self, request: Request, tenant: str, data: bytes) -> Response:
        document, now = json_of(data), self._clock()
        name = identity("score", hashlib.sha256(data).hexdigest(), now.isoformat())
        if isinstance(document, list):
            return self._batch(request, tenant, data, document, name)
        score = score_of(ScoreBody.model_validate(document), _agent(request), name, None)
        self._append(request, [score], data, tenant, now)
        return JSONResponse({"id": score.score_id})

    def _batch(self, request: Request, tenant: str, data: bytes, items: list[Any], name: str) -> Response:
        if len(items) > MAX_ITEMS:
            raise Invalid("too_many", f"must hold at most {MAX_ITEMS} scores, not {len(items)}")
        scores, errors = list[Score](), list[dict[str, str]]()
        for place, item in enumerate(items):
            try:
                scores.append(score_of(ScoreBody.model_validate(item), _agent(request), f"{name}-{place}", None))
            except ValidationError as error:
                errors.append({"message": f"score {place}: {_told(error)}"})
        if scores:
            self._append(request, scores, data, tenant, self._clock())
        if not errors:
            return JSONResponse({"message": "Accepted"}, 202)
        return JSONResponse({"accepted": len(scores), "rejected": len(errors), "errors": errors}, 207)


class IngestionEndpoint(_Endpoint):
    """The handler of ``POST /api/public/ingestion``: what cannot be taken is told and the rest is taken."""

    def _answer(self, request: Request, tenant: str, data: bytes) -> Response:
        document = json_of(data)
        batch: Any = document.get("batch") if isinstance(document, dict) else None
        if not isinstance(batch, list) or len(batch) > MAX_ITEMS:
            raise Invalid("not_a_batch", f"batch: must be a list of at most {MAX_ITEMS} events")
        scores, successes, errors = list[Score](), list[dict[str, Any]](), list[dict[str, Any]]()
        for place, item in enumerate(batch):
            name = item.get("id") if isinstance(item, dict) else None
            known = name if isinstance(name, str) and name else str(place)
            try:
                score = self._read(Event.model_validate(item), _agent(request))
            except ValidationError as error:
                errors.append({"id": known, "status": 400, "message": _told(error), "error": "InvalidRequestError"})
            except Invalid as error:
                errors.append({"id": known, "status": 400, "message": error.detail, "error": error.reason})
            else:
                scores += [score] if score else []
                successes.append({"id": known, "status": 201})
        if scores:
            self._append(request, scores, data, tenant, self._clock())
        return JSONResponse({"successes": successes, "errors": errors}, 207)

    def _read(self, event: Event, agent: str) -> Score | None:
        if event.type == "sdk-log":
            return None
        if event.type != "score-create":
            raise Invalid("not_taken", "type: only score-create is taken here; send traces by OpenTelemetry")
        return score_of(ScoreBody.model_validate(event.body), agent, event.id, event.timestamp)
