"""``POST /v1/signals`` and ``/v1/labels``: feedback as JSON, one object or a batch, checked field by field.

All or nothing per request: 202 means every item is in the log, a 4xx names each wrong field and nothing was taken.
A signal may be about a turn that has not come yet, or never comes: that is for the stages to settle.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from datetime import datetime
from typing import Annotated, Any, Literal

from anyio import to_thread
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError, model_validator
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from connectors.http import HttpError, media_type, read_body, tenant_of
from connectors.log import Entry, Log, entry_of
from connectors.otlp import JSON, accepted
from schemas.errors import Reject
from schemas.events import RawSignal, SignalName, identity

MAX_ITEMS = 1000
MAX_ERRORS = 20


def _sound(value: Any) -> Any:
    """Texts are valid UTF-8 without NUL: lone surrogates are replaced, since they cannot be stored or sent."""
    match value:
        case str():
            return value.encode("utf-8", "replace").decode().replace("\x00", "\ufffd")
        case list():
            return [_sound(item) for item in value]
        case dict():
            return {_sound(key): _sound(item) for key, item in value.items()}
        case _:
            return value


Text = Annotated[str, Field(max_length=100_000)]
Id = Annotated[str, Field(min_length=1, max_length=200)]


class Consent(BaseModel):
    """What the person agreed to; absent means yes."""

    store: bool = True
    train: bool = True


class SignalBody(BaseModel):
    """One piece of feedback about a turn, a trace or a whole session. Unknown fields are ignored."""

    model_config = ConfigDict(extra="ignore", allow_inf_nan=False)

    id: Id | None = None
    name: SignalName
    agent: Id
    session_id: Id | None = None
    turn_id: Id | None = None
    trace_id: Id | None = None
    value: float | None = Field(default=None, ge=-1, le=1)
    weight: float | None = Field(default=None, ge=0, le=1)
    text: Text = ""
    text_before: Text = ""
    source: Id = "user"
    user_id: Id | None = None
    time: AwareDatetime | None = None
    attributes: dict[Id, Text] = Field(default_factory=dict, max_length=50)
    consent: Consent = Consent()

    @model_validator(mode="after")
    def _about_something(self) -> SignalBody:
        if not (self.session_id or self.turn_id or self.trace_id):
            raise ValueError("session_id, turn_id or trace_id: one is needed")
        return self


class LabelBody(BaseModel):
    """A verdict on a sample: the answer that would have been right."""

    model_config = ConfigDict(extra="ignore", allow_inf_nan=False)

    name: Literal["label"] = "label"
    agent: Id
    sample_id: Id
    turn_id: Id | None = None
    value: Annotated[str, Field(min_length=1, max_length=10_000)]
    rater: Id
    rubric_version: Id = "1"
    user_id: Id | None = None
    time: AwareDatetime | None = None


Body = SignalBody | LabelBody


def parse(data: bytes, model: type[SignalBody] | type[LabelBody], key: str) -> list[Body]:
    """The items of a request. Raises HttpError 400 or ItemErrors."""
    try:
        document = _sound(json.loads(data))
    except (ValueError, RecursionError) as error:
        raise HttpError(400, "body: not JSON") from error
    items: Any = document.get(key, [document]) if isinstance(document, dict) else document
    if not isinstance(items, list):
        raise HttpError(400, f"{key}: must be a list")
    if not 1 <= len(items) <= MAX_ITEMS:
        raise HttpError(400, f"{key}: must hold 1 to {MAX_ITEMS} items, not {len(items)}")
    bodies: list[Body] = []
    errors: list[dict[str, Any]] = []
    for index, item in enumerate(items):
        try:
            bodies.append(model.model_validate(item))
        except ValidationError as error:
            errors += [_describe(index, found) for found in error.errors(include_url=False, include_input=False)]
    if errors:
        raise ItemErrors(errors)
    return bodies


class ItemErrors(Exception):
    """Some items are wrong; ``errors`` has index, field and message of each."""

    def __init__(self, errors: list[dict[str, Any]]) -> None:
        super().__init__(f"{len(errors)} fields are wrong")
        self.errors = errors[:MAX_ERRORS]


def _describe(index: int, found: Any) -> dict[str, Any]:
    field = ".".join(str(part) for part in found["loc"]) or "(item)"
    return {"index": index, "field": field, "message": found["msg"]}


def append_bodies(bodies: list[Body], data: bytes, tenant: str, now: datetime, log: Log) -> None:
    """Append items and their ledger entry at once."""
    entries: list[Entry] = []
    for index, body in enumerate(bodies):
        payload = body.model_dump_json(exclude_none=True)
        digest = hashlib.sha256(data).hexdigest()
        record = RawSignal(
            event_id=identity("raw", tenant, digest, str(index), now.isoformat()),
            tenant=tenant,
            agent=body.agent,
            event_time=body.time or now,
            payload=payload,
        )
        entry = entry_of(record, now)
        headers = {"tenant": tenant, "agent": body.agent, "ledger": "gateway"}
        entries.append(Entry(entry.topic, entry.key, entry.value, now, headers))
    entries.append(accepted(data, "signals", len(bodies), tenant, bodies[0].agent, now))
    log.append(entries)


def _check_kind(request: Request) -> None:
    if media_type(request) != JSON:
        raise HttpError(415, f"content-type: send {JSON}")


class FeedbackEndpoint:
    """The handler of ``/v1/signals`` (``SignalBody``) or ``/v1/labels`` (``LabelBody``)."""

    def __init__(
        self,
        log: Log,
        clock: Callable[[], datetime],
        max_body: int,
        model: type[SignalBody] | type[LabelBody],
        key: str,
    ) -> None:
        self._log, self._clock, self._max_body, self._model, self._key = log, clock, max_body, model, key

    async def __call__(self, request: Request) -> Response:
        """202 with the count, or what is wrong."""
        try:
            _check_kind(request)
            tenant = tenant_of(request)
            data = await read_body(request, self._max_body)
            bodies = parse(data, self._model, self._key)
            await to_thread.run_sync(append_bodies, bodies, data, tenant, self._clock(), self._log)
        except HttpError as error:
            return JSONResponse({"errors": [{"message": error.message}], "accepted": 0}, error.status)
        except ItemErrors as error:
            return JSONResponse({"errors": error.errors, "accepted": 0}, 422)
        except Reject as error:
            headers = {"retry-after": str(max(1, round(error.retry_after)))}
            return JSONResponse({"errors": [{"message": str(error)}], "accepted": 0}, 503, headers)
        return JSONResponse({"accepted": len(bodies)}, 202)
