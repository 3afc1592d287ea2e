"""``POST /v1/signals`` and ``/v1/labels``: feedback as JSON, one object or a batch, checked field by field.

All or nothing per request: 202 means every item is in the log, a 4xx names each wrong field and nothing was taken.
A signal may be about a turn that has not come yet, or never comes: that is for the stages to settle.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Annotated, Any, Literal

from anyio import to_thread
from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field, ValidationError, model_validator
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from connectors.http import HttpError, check_agents, json_of, media_type, read_body, retry_after, tenant_of
from connectors.log import Entry, Log, entry_of
from connectors.otlp import JSON, accepted
from schemas.errors import Invalid, Reject
from schemas.events import GivenCause, RawSignal, SignalName, identity
from schemas.tenants import plain_agent

MAX_ITEMS = 1000
MAX_ERRORS = 20
PLAIN_NAME = re.compile(r"[A-Za-z0-9_.-]{1,60}")
MUST_SAY = ("rating",)
"""Signals that say nothing without a value."""


def _utc(time: datetime) -> datetime:
    try:
        return time.astimezone(UTC)
    except OverflowError as error:
        raise ValueError("is outside the years 1 to 9999 in UTC") from error


Text = Annotated[str, Field(max_length=100_000)]
Id = Annotated[str, Field(min_length=1, max_length=200)]
Time = Annotated[AwareDatetime, AfterValidator(_utc)]


class Consent(BaseModel):
    """What the person agreed to; absent means yes."""

    store: bool = True
    train: bool = True
    evaluate: bool = True


class Item(BaseModel):
    """What every item has: whose agent it is about, and when it was said, if that is known."""

    agent: Id
    time: Time | None = None


class SignalBody(Item):
    """One piece of feedback about a turn, a trace or a whole session. Unknown fields are ignored."""

    model_config = ConfigDict(extra="ignore", allow_inf_nan=False)

    id: Id | None = None
    name: SignalName
    session_id: Id | None = None
    turn_id: Id | None = None
    trace_id: Id | None = None
    value: float | None = Field(default=None, ge=-1, le=1)
    weight: float | None = Field(default=None, ge=0, le=1)
    text: Text = ""
    text_before: Text = ""
    source: Id = "user"
    user_id: Id | None = None
    attributes: dict[Id, Text] = Field(default_factory=dict, max_length=50)
    consent: Consent = Consent()

    @model_validator(mode="after")
    def _says_something_about_something(self) -> SignalBody:
        if not (self.session_id or self.turn_id or self.trace_id):
            raise ValueError("session_id: missing, and neither turn_id nor trace_id given")
        if self.name in MUST_SAY and self.value is None:
            raise ValueError(f"value: missing, a {self.name} says nothing without it")
        return self


class LabelBody(Item):
    """A verdict on a sample: the answer that would have been right."""

    model_config = ConfigDict(extra="ignore", allow_inf_nan=False)

    name: Literal["label"] = "label"
    sample_id: Id
    turn_id: Id | None = None
    value: Annotated[str, Field(min_length=1, max_length=10_000)]
    rater: Id
    rubric_version: Id = "1"
    cause: GivenCause = ""
    user_id: Id | None = None


Body = SignalBody | LabelBody


def parse(data: bytes, model: type[SignalBody] | type[LabelBody], key: str) -> list[Body]:
    """The items of a request. Raises Invalid for the request as a whole, ItemErrors for its items."""
    document = json_of(data)
    items: Any = document.get(key, [document]) if isinstance(document, dict) else document
    if not isinstance(items, list):
        raise Invalid("not_a_list", f"{key}: must be a list, of JSON objects")
    if not 1 <= len(items) <= MAX_ITEMS:
        raise Invalid("too_many", f"{key}: must hold 1 to {MAX_ITEMS} items, not {len(items)}")
    bodies: list[Body] = []
    errors: list[dict[str, Any]] = []
    for index, item in enumerate(items):
        try:
            bodies.append(model.model_validate(item))
        except ValidationError as error:
            errors += [describe(index, found) for found in error.errors(include_url=False, include_input=False)]
    if errors:
        raise ItemErrors(errors)
    return bodies


class ItemErrors(Exception):
    """Some items are wrong; ``errors`` has index, field and message of the first ``MAX_ERRORS``."""

    def __init__(self, errors: list[dict[str, Any]]) -> None:
        super().__init__(f"{len(errors)} fields are wrong")
        self.errors = errors[:MAX_ERRORS]


def describe(index: int, found: Any) -> dict[str, Any]:
    """What is wrong where. A name that the sender made up is quoted only when it cannot be a person's text."""
    field = ".".join(p if PLAIN_NAME.fullmatch(p := str(part)) else "(name)" for part in found["loc"])
    message = found["msg"].removeprefix("Value error, ")
    if not field and found["type"] == "value_error":
        field, _, message = message.partition(": ")
    return {"index": index, "field": field or "(item)", "message": message}


def append_bodies(bodies: Sequence[Item], data: bytes, tenant: str, now: datetime, log: Log) -> None:
    """Append items and their ledger entry at once."""
    entries: list[Entry] = []
    digest = hashlib.sha256(data).hexdigest()
    for index, body in enumerate(bodies):
        payload = body.model_dump_json(exclude_none=True)
        record = RawSignal(
            event_id=identity("raw", tenant, digest, str(index), now.isoformat()),
            tenant=tenant,
            agent=plain_agent(body.agent),
            event_time=body.time or now,
            payload=payload,
        )
        entry = entry_of(record, now)
        headers = {"tenant": tenant, "agent": record.agent, "ledger": "gateway"}
        entries.append(Entry(entry.topic, entry.key, entry.value, now, headers))
    entries.append(accepted(data, "signals", len(bodies), tenant, plain_agent(bodies[0].agent), now))
    log.append(entries)


def check_kind(request: Request) -> None:
    """Raises HttpError 415 for anything but JSON."""
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
            check_kind(request)
            tenant = tenant_of(request)
            data = await read_body(request, self._max_body)
            count = await to_thread.run_sync(self._take, data, tenant, partial(check_agents, request))
        except HttpError as error:
            return JSONResponse({"errors": [{"message": error.message}], "accepted": 0}, error.status)
        except Invalid as error:
            return JSONResponse({"errors": [{"message": error.detail}], "accepted": 0}, 400)
        except ItemErrors as error:
            return JSONResponse({"errors": error.errors, "accepted": 0}, 422)
        except Reject as error:
            return JSONResponse({"errors": [{"message": str(error)}], "accepted": 0}, 503, retry_after(error))
        return JSONResponse({"accepted": count}, 202)

    def _take(self, data: bytes, tenant: str, check: Callable[[Iterable[str]], None]) -> int:
        bodies = parse(data, self._model, self._key)
        check(body.agent for body in bodies)
        append_bodies(bodies, data, tenant, self._clock(), self._log)
        return len(bodies)
