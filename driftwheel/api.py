"""The owner's API beside the gateway: queries, ledger, label queue, dead letters, quarantine, erasures, metrics.

All but ``/metrics`` take the folder owner's token (``Authorization: Bearer ...``), which the command line reads from
the data folder.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from typing import Any, Protocol

from anyio import to_thread
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import BaseRoute, Route

from driftwheel import vault as vaults
from driftwheel.erasing import Erasing
from driftwheel.letters import Letters, filter_of
from schemas.errors import DriftwheelError, UsageError

QUEUE_LIMIT = 200
ERASURES = "/v1/erasures"
LETTER_PATHS = tuple(f"/v1/deadletters/{verb}" for verb in ("find", "counts", "show", "plan", "replay"))
VAULT_PATHS = tuple(f"/v1/quarantine/{verb}" for verb in vaults.VERBS)


@dataclass(frozen=True, slots=True)
class Table:
    """Columns and rows of plain JSON values."""

    columns: list[str]
    rows: list[list[Any]]


class Desk(Protocol):
    """What the API asks of the product."""

    def sql(self, query: str) -> Table:
        """A read-only query."""
        ...

    def ledger(self) -> Table:
        """The ledger by minute and tenant."""
        ...

    def queue(self, limit: int) -> list[dict[str, Any]]:
        """Samples that wait for a label."""
        ...

    @property
    def erasing(self) -> Erasing:
        """The erasures."""
        ...

    @property
    def letters(self) -> Letters:
        """The dead letters."""
        ...

    @property
    def vault(self) -> vaults.Vault:
        """The sealed payloads."""
        ...


def plain(value: Any) -> Any:
    """A database value as JSON can carry it."""
    if isinstance(value, datetime | date):
        return value.isoformat()
    if isinstance(value, Decimal):
        return str(value)
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value


class _Api:
    """The handlers, bound to a product."""

    def __init__(self, desk: Desk, token: str, metrics: Callable[[], str]) -> None:
        self._desk, self._token, self._metrics = desk, token.encode(), metrics

    async def _answer(self, request: Request, call: Callable[[], Any], status: int = 200) -> Response:
        given = request.headers.get("authorization", "").removeprefix("Bearer ")
        if not hmac.compare_digest(given.encode(), self._token):
            return JSONResponse({"detail": "the folder owner's token is needed"}, 401)
        try:
            return JSONResponse(await to_thread.run_sync(call), status)
        except UsageError as error:
            return JSONResponse({"detail": str(error)}, 422)
        except DriftwheelError as error:
            return JSONResponse({"detail": str(error)}, 500)

    async def _fields(self, request: Request, *names: str) -> dict[str, str] | None:
        try:
            body = await request.json()
            return {name: str(body[name]) for name in names}
        except (ValueError, KeyError, TypeError):
            return None

    async def sql(self, request: Request) -> Response:
        fields = await self._fields(request, "query")
        if fields is None:
            return JSONResponse({"detail": 'body: expected {"query": ...}'}, 400)
        return await self._answer(request, lambda: _json(self._desk.sql(fields["query"])))

    async def ledger(self, request: Request) -> Response:
        return await self._answer(request, lambda: _json(self._desk.ledger()))

    async def request_erasure(self, request: Request) -> Response:
        fields = await self._fields(request, "tenant", "user_id")
        if fields is None:
            return JSONResponse({"detail": 'body: expected {"tenant": ..., "user_id": ...}'}, 400)
        who, erasing = (fields["tenant"], fields["user_id"]), self._desk.erasing
        if request.query_params.get("dry_run") in ("1", "true"):
            return await self._answer(request, lambda: plain(erasing.plan(*who)))
        return await self._answer(request, lambda: plain(erasing.request(*who, "API")), 202)

    async def erasures(self, request: Request) -> Response:
        asked = request.query_params
        wanted = (asked.get("tenant", ""), asked.get("state", ""))
        return await self._answer(request, lambda: {"erasures": plain(self._desk.erasing.find(*wanted))})

    async def erasure(self, request: Request) -> Response:
        name = request.path_params["name"]
        return await self._answer(request, lambda: plain(self._desk.erasing.show(name)))

    async def queue(self, request: Request) -> Response:
        limit = request.query_params.get("limit", "50")
        if not limit.isdigit() or not 1 <= int(limit) <= QUEUE_LIMIT:
            return JSONResponse({"detail": f"limit: must be 1 to {QUEUE_LIMIT}"}, 400)
        return await self._answer(request, lambda: {"samples": plain(self._desk.queue(int(limit)))})

    async def deadletters(self, request: Request) -> Response:
        verb = request.url.path.rpartition("/")[2]
        try:
            body = await request.json()
            ids, again = [str(one) for one in body.get("ids", [])], body.get("again") is True
            texts = {str(name): str(value) for name, value in body.get("filter", {}).items()}
        except (ValueError, AttributeError, TypeError):
            return JSONResponse({"detail": 'body: expected {"ids": [...], "again": ..., "filter": {...}}'}, 400)
        return await self._answer(request, lambda: plain(self._letters(verb, ids, again, texts)))

    def _letters(self, verb: str, ids: list[str], again: bool, texts: dict[str, str]) -> Any:
        letters, chosen = self._desk.letters, filter_of(texts)
        if verb == "find":
            return {"letters": letters.find(chosen)}
        if verb == "counts":
            return {"counts": letters.counts(chosen)}
        if verb == "show":
            return letters.show(ids[0] if ids else "")
        return letters.plan(ids, chosen, again) if verb == "plan" else letters.replay(ids, again)

    async def quarantine(self, request: Request) -> Response:
        verb = request.url.path.rpartition("/")[2]
        try:
            body = dict(await request.json())
        except (ValueError, TypeError):
            return JSONResponse({"detail": 'body: expected {"names": [...], "filter": {...}, "who": ...}'}, 400)
        return await self._answer(request, lambda: plain(vaults.answer(self._desk.vault, verb, body)))

    async def metrics(self, request: Request) -> Response:
        del request
        return PlainTextResponse(await to_thread.run_sync(self._metrics))


def routes(desk: Desk, token: str, metrics: Callable[[], str]) -> list[BaseRoute]:
    """The routes, bound to a product."""
    api = _Api(desk, token, metrics)
    return [
        Route("/v1/sql", api.sql, methods=["POST"]),
        Route("/v1/ledger", api.ledger),
        Route(ERASURES, api.request_erasure, methods=["POST"]),
        Route(ERASURES, api.erasures),
        Route(f"{ERASURES}/{{name}}", api.erasure),
        Route("/v1/queue", api.queue),
        *(Route(path, api.deadletters, methods=["POST"]) for path in LETTER_PATHS),
        *(Route(path, api.quarantine, methods=["POST"]) for path in VAULT_PATHS),
        Route("/metrics", api.metrics),
    ]


def _json(table: Table) -> dict[str, Any]:
    return {"columns": table.columns, "rows": plain(table.rows)}
