"""A candidate beside the live model, under one name: the model group.

Split: a session is given to the candidate when sha256(salt + session), as a fraction, is below the weight. So a
session stays where it is, and a growing weight only ever adds sessions. Shadow: the candidate also answers a
copy of what the live model answered, in the background from a bounded queue. A full queue drops the copy and
counts it; the live answer neither waits nor fails. A pair holds ids, labels and log-probabilities, no text.
"""

from __future__ import annotations

import hashlib
import queue
import re
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from pydantic import Field
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from connectors.embeddings import Array
from deploy.local_nemo.entities import deleted
from deploy.local_nemo.storage import Store
from deploy.local_nemo.wire import Body, Doc, Problem, field_problem, now, number, parse, require

GROUPS = "/v1/rollout/groups"
GROUP_NAME = r"^[A-Za-z0-9][A-Za-z0-9._@+-]{0,120}(/[A-Za-z0-9][A-Za-z0-9._@+-]{0,120})?$"

Said = tuple[str, float]
"""A label and its log-probability."""


class GroupBody(Body):
    """``PUT /v1/rollout/groups/{name}``."""

    live: str
    candidate: str | None = None
    weight: float = Field(default=0, ge=0, le=1)
    shadow: bool = False
    salt: str = ""


@dataclass(frozen=True)
class Turn:
    """Which request this is: its id, and if they are known its session and turn."""

    request_id: str
    session_id: str | None
    turn_id: str | None


@dataclass(frozen=True)
class Copy:
    """What the candidate is asked in the shadow, and what the live model said to it."""

    group: str
    turn: Turn
    live: str
    said: Said
    candidate: str
    row: Array


def fraction(salt: str, session: str) -> float:
    """Where a session lies between 0 and 1, the same for ever.

    >>> round(fraction("salt", "session-1"), 4)
    0.2625
    """
    return int.from_bytes(hashlib.sha256((salt + session).encode("utf-8", "replace")).digest()[:8], "big") / 2**64


class Shadow:
    """The background thread that asks the candidate. ``ask`` may be as slow as it likes."""

    def __init__(self, ask: Callable[[str, Array], Said], write: Callable[[Copy, Said], None], size: int) -> None:
        self._ask = ask
        self._write = write
        self._queue: queue.Queue[Copy | None] = queue.Queue(size)
        self._thread = threading.Thread(target=self._work, name="shadow", daemon=True)
        self.counts: dict[str, Counter[str]] = {}

    def start(self) -> None:
        """Begin to work."""
        self._thread.start()

    def stop(self, seconds: float = 5) -> None:
        """Answer what is queued, for so many seconds at most."""
        try:
            self._queue.put(None, timeout=seconds)
        except queue.Full:
            return
        self._thread.join(seconds)

    def offer(self, copy: Copy) -> bool:
        """Queue a copy; False, at once, when there is no room."""
        try:
            self._queue.put_nowait(copy)
        except queue.Full:
            self._count(copy.group, "dropped")
            return False
        self._count(copy.group, "queued")
        return True

    def _work(self) -> None:
        while (copy := self._queue.get()) is not None:
            try:
                self._write(copy, self._ask(copy.candidate, copy.row))
            except Problem:
                self._count(copy.group, "failed")
            else:
                self._count(copy.group, "answered")

    def _count(self, group: str, word: str) -> None:
        self.counts.setdefault(group, Counter())[word] += 1


class Rollout:
    """The routes of groups, and what serving asks: ``resolve`` before an answer, ``served`` after it."""

    def __init__(self, store: Store, ask: Callable[[str, Array], Said], exists: Callable[[str], bool],
                 shadow_queue: int, pairs_kept: int) -> None:  # fmt: skip
        self._store = store
        self._exists = exists
        self._kept = pairs_kept
        self._served: dict[str, Counter[str]] = {}
        self._since = now()
        self.shadow = Shadow(ask, self._write, shadow_queue)

    def routes(self) -> list[Route]:
        """All routes of groups."""
        one = f"{GROUPS}/{{name:path}}"
        return [
            Route(GROUPS, self.list),
            Route(f"{one}/pairs", self.pairs),
            Route(one, self.get, methods=["GET"]),
            Route(one, self.put, methods=["PUT"]),
            Route(one, self.delete, methods=["DELETE"]),
        ]

    def resolve(self, name: str, turn: Turn) -> str:
        """The model that answers this request: the name itself unless it is a group's."""
        group = self._store.get("group", name)
        if group is None:
            return name
        chosen = group["candidate"] and fraction(group["salt"], turn.session_id or turn.request_id) < group["weight"]
        return group["candidate"] if chosen else group["live"]

    def served(self, name: str, model: str, turn: Turn, said: Said, row: Array) -> None:
        """Count an answer of a group, and copy it to the shadow when it is the live model's."""
        group = self._store.get("group", name)
        if group is None:
            return
        self._served.setdefault(name, Counter())[model] += 1
        if group["shadow"] and group["candidate"] and model == group["live"]:
            self.shadow.offer(Copy(name, turn, model, said, group["candidate"], row))

    def _write(self, copy: Copy, said: Said) -> None:
        turn = copy.turn
        ids = {"request_id": turn.request_id, "session_id": turn.session_id, "turn_id": turn.turn_id}
        live = {"model": copy.live, "answer": copy.said[0], "logprob": copy.said[1]}
        shadow = {"model": copy.candidate, "answer": said[0], "logprob": said[1]}
        self._store.add_pair(copy.group, {**ids, "live": live, "shadow": shadow, "at": now()}, self._kept)

    async def put(self, request: Request) -> Response:
        """Create or replace a group; its counts go on."""
        name = request.path_params["name"]
        body = await parse(request, GroupBody)
        self._check(name, body)
        fields = body.model_dump(include=set(GroupBody.model_fields))
        self._store.put("group", name, {"name": name, **fields, "updated_at": now()})
        return JSONResponse(self._show(name))

    def _check(self, name: str, body: GroupBody) -> None:
        if not re.fullmatch(GROUP_NAME, name) or name.endswith("/pairs"):
            raise Problem(422, "a group's name is 'name' or 'namespace/name' of letters, digits and . _ @ + -")
        if self._exists(name):
            raise Problem(409, f"{name} is the name of a model: choose another for the group")
        for model in filter(None, [body.live, body.candidate]):
            if not self._exists(model):
                raise Problem(404, f"Model {model} not found")
        if body.candidate is None and (body.weight or body.shadow):
            raise field_problem(("candidate",), "a weight or a shadow needs a candidate")

    async def list(self, _: Request) -> Response:
        """All groups."""
        return JSONResponse({"object": "list", "data": [self._show(name) for name in self._store.all("group")]})

    async def get(self, request: Request) -> Response:
        """One group with its counts since this server started."""
        return JSONResponse(self._show(request.path_params["name"]))

    async def delete(self, request: Request) -> Response:
        """The group and its pairs; its models stay."""
        name = request.path_params["name"]
        self._show(name)
        self._store.delete("group", name)
        self._store.forget_pairs(name)
        self._served.pop(name, None)
        self.shadow.counts.pop(name, None)
        return deleted(name, f"Group {name} deleted")

    async def pairs(self, request: Request) -> Response:
        """Shadow pairs with an id above ``after``, oldest first; ``next_after`` is where to go on."""
        name = request.path_params["name"]
        self._show(name)
        after = number(request, "after", 0, 1 << 62, least=0)
        data = self._store.pairs(name, after, number(request, "limit", 100, 1000))
        next_after = data[-1]["id"] if data else after
        return JSONResponse({"object": "list", "data": data, "next_after": next_after, "kept": self._kept})

    def _show(self, name: str) -> Doc:
        group = require(self._store.get("group", name), f"Group {name}")
        shadow = self.shadow.counts.get(name, Counter())
        counts = {word: shadow[word] for word in ("queued", "answered", "dropped", "failed")}
        return {**group, "counts": dict(self._served.get(name, {})), "shadow_counts": counts, "since": self._since}
