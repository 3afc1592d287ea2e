"""What every route shares: errors as NeMo words them, bodies checked by pydantic, pages, ids and times."""

from __future__ import annotations

import re
import uuid
from datetime import UTC, datetime
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

Doc = dict[str, Any]

MAX_PAGE = 1000
NAME = r"^[A-Za-z0-9][A-Za-z0-9._@+-]{0,190}$"
FILTER = re.compile(r"filter\[(\w+)\]")


class Problem(Exception):
    """An answer that is not a success: the HTTP status and NeMo's ``detail``."""

    def __init__(self, status: int, detail: str | list[Doc]) -> None:
        super().__init__(str(detail))
        self.status = status
        self.detail = detail


class Body(BaseModel):
    """A request body; fields it does not know are kept and given back."""

    model_config = ConfigDict(extra="allow", protected_namespaces=())


B = TypeVar("B", bound=BaseModel)


def field_problem(location: tuple[str | int, ...], message: str) -> Problem:
    """A 422 that names one field of the body."""
    return Problem(422, [{"loc": ["body", *location], "msg": message, "type": "value_error"}])


async def read_body(request: Request, limit: int) -> bytes:
    """The whole body, or 413 as soon as it is longer than ``limit``."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > limit:
            raise Problem(413, f"the body is longer than {limit} bytes")
    return bytes(body)


async def parse(request: Request, model: type[B], limit: int = 8 << 20) -> B:
    """The JSON body as a record, or 422 in FastAPI's form, without echoing what was sent."""
    return check(model, await read_body(request, limit))


def check(model: type[B], body: bytes) -> B:
    """See ``parse``."""
    try:
        return model.model_validate_json(body or b"{}")
    except ValidationError as error:
        found = error.errors(include_url=False, include_input=False, include_context=False)
        raise Problem(422, [{**line, "loc": ["body", *line["loc"]]} for line in found]) from None


async def answer_problem(_: Request, problem: Exception) -> Response:
    """The exception handler for ``Problem``."""
    if not isinstance(problem, Problem):
        raise problem
    return JSONResponse({"detail": problem.detail}, problem.status)


def now() -> str:
    """The time, as NeMo writes it."""
    return datetime.now(UTC).isoformat()


def new_id(prefix: str) -> str:
    """An id that says what it names."""
    return f"{prefix}-{uuid.uuid4().hex[:22]}"


def require(doc: Doc | None, what: str) -> Doc:
    """The document, or 404."""
    if doc is None:
        raise Problem(404, f"{what} not found")
    return doc


def listing(request: Request, docs: list[Doc]) -> JSONResponse:
    """One page: ``filter[field]=value`` on top-level fields, ``sort`` by one, ``page``, ``page_size``."""
    for key, value in request.query_params.items():
        if match := FILTER.fullmatch(key):
            docs = [doc for doc in docs if str(doc.get(match[1])) == value]
    sort = request.query_params.get("sort", "created_at")
    docs = sorted(docs, key=lambda doc: str(doc.get(sort.lstrip("-"), "")), reverse=sort.startswith("-"))
    page, size = number(request, "page", 1, 1 << 31), number(request, "page_size", 100, MAX_PAGE)
    shown = docs[(page - 1) * size : page * size]
    pagination = {
        "page": page,
        "page_size": size,
        "current_page_size": len(shown),
        "total_pages": -(-len(docs) // size),
        "total_results": len(docs),
    }
    return JSONResponse({"object": "list", "data": shown, "pagination": pagination, "sort": sort})


def number(request: Request, name: str, default: int, most: int, least: int = 1) -> int:
    """A whole number of the query string, or 422."""
    text = request.query_params.get(name, str(default))
    if not text.isascii() or not text.isdigit() or not least <= int(text) <= most:
        detail = {"loc": ["query", name], "msg": f"must be a number from {least} to {most}", "type": "value_error"}
        raise Problem(422, [detail])
    return int(text)
