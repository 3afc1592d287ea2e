"""Erasure: everything about one person leaves every place, and the models that learnt from it are named.

A request is durable before it is answered. Whoever runs it writes down what there is, and to whom it belongs, before
anything is deleted; every step may be repeated. So it may be interrupted anywhere and is simply run again, until
nothing is left and nothing is under way any more.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Protocol

from connectors.clickhouse.erasure import Found, StoreErasure
from connectors.clickhouse.store import Store
from connectors.log import Log, entry_of
from driftwheel.erasing import STATES
from processors.redact.settings import subject_hash, tenant_key
from processors.text import normal
from schemas.errors import DriftwheelError, UsageError
from schemas.events import Erasure, identity
from schemas.subjects import Subject

PAUSE_LIMIT = 300.0
logger = logging.getLogger(__name__)

LIMIT = 10_000
PATIENCE = timedelta(minutes=10)
"""For how long rows that come in are taken for what was under way; later ones are new data, for a new request."""


@dataclass(frozen=True, slots=True)
class Order:
    """What a place is told to erase. ``since``: when it was asked for; what came later may be new data."""

    subject: Subject
    since: datetime
    datasets: Sequence[str]
    texts: frozenset[str]
    """What the person said, normalised."""
    labels: Sequence[tuple[str, str]] = ()
    """Agents and ids of the labels about them."""


class Place(Protocol):
    """Somewhere outside of the store's tables where a person may be. Steps are idempotent; any may raise Retry."""

    @property
    def quiet(self) -> bool:
        """Whether nothing may be under way meanwhile."""
        ...

    def find(self, order: Order) -> dict[str, int]:
        """How much there is, by place; nothing is changed."""
        ...

    def erase(self, order: Order) -> dict[str, str]:
        """Delete it; what has to wait, by place: for what, or until when."""
        ...


class Erasures:
    """See ``driftwheel.erasing.Erasing``, and ``run``, which does what was asked for. Thread-safe.

    ``key``: the master key of redaction. ``paused``: nothing is in the middle of a batch while inside.
    """

    def __init__(
        self,
        store: Store,
        log: Log,
        places: Sequence[Place],
        key: bytes,
        clock: Callable[[], datetime],
        paused: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        self._store, self._log, self._places = store, log, places
        self._key, self._clock, self._paused = key, clock, paused
        self._asking, self._turn = threading.Lock(), threading.Lock()
        self.on_request: Callable[[], None] = lambda: None
        """Called when there is something to run."""

    # What can be asked.

    @property
    def goes_on(self) -> bool:
        """See Erasing."""
        return True

    def plan(self, tenant: str, user_id: str) -> dict[str, Any]:
        """See Erasing."""
        subject = self._hash(tenant, user_id)
        found = self._look(tenant, subject, self._clock())
        return {"tenant": tenant, "subject_hash": subject, "found": found.rows, "dataset_versions": found.datasets,
                "models": found.models}  # fmt: skip

    def request(self, tenant: str, user_id: str, by: str) -> dict[str, Any]:
        """See Erasing."""
        subject = self._hash(tenant, user_id)
        with self._asking:
            last = next(iter(self._rows(tenant, subject)), None)
            if last is None or (last["state"] == "done" and self._look(tenant, subject, self._clock()).rows):
                name = identity("erasure", tenant, subject, str(last["erasure_id"]) if last else "")
                self._note(Erasure(
                    event_id=identity(name, "requested"), tenant=tenant, agent="*", subject_hash=subject,
                    event_time=self._clock(), requested_by=by, erasure_id=name, state="requested",
                ))  # fmt: skip
            else:
                name = str(last["erasure_id"])
        self.on_request()
        return self.show(name)

    def show(self, name: str) -> dict[str, Any]:
        """See Erasing."""
        row = self._one(name)
        return {**row, "obligations": self._store.named("erasure_obligations", erasure=row["erasure_id"])}

    def find(self, tenant: str, state: str) -> list[dict[str, Any]]:
        """See Erasing."""
        if state and state not in STATES:
            raise UsageError(f"state: {state!r} is none; there are: {', '.join(STATES)}")
        return self._rows(tenant, state=state)

    def open(self) -> list[str]:
        """The ids of the erasures that are not done, the oldest first."""
        return [str(row["erasure_id"]) for row in reversed(self._rows(state="open"))]

    # The run.

    def run(self, name: str) -> dict[str, Any]:
        """Do what is to be done, as far as it can be done now; the erasure as it stands then.

        Raises Retry when a place is away: nothing is lost, and it is run again.
        """
        with self._turn:
            row = self._one(name)
            if row["state"] != "done":
                self._run(row)
        return self.show(name)

    def _run(self, row: Mapping[str, Any]) -> None:
        store = self._store.erasure(row["tenant"], row["subject_hash"], row["erasure_id"])
        store.note_keys()
        order, found = self._order(store, row)
        self._note(self._stands(row, "running", found, row["waiting"]))
        waiting = self._erase([place for place in self._places if not place.quiet], order)
        with self._paused():
            store.note_keys()
            before = order.datasets
            order, late = self._order(store, row)
            found = _most(found, late)
            if not set(order.datasets) <= set(before):
                waiting["dataset files"] = "a dataset came meanwhile"
            waiting |= self._erase([place for place in self._places if place.quiet], order)
            store.erase()
            left = store.found().rows
        if self._clock() - row["requested_time"] < PATIENCE:
            waiting |= dict.fromkeys(left, "rows came meanwhile")
        done = not any(_open(text) for text in waiting.values())
        if done:
            store.forget_keys()
        self._note(self._stands(row, "done" if done else "running", found, waiting))

    def _order(self, store: StoreErasure, row: Mapping[str, Any]) -> tuple[Order, Found]:
        held, subject = store.found(), store.subject()
        datasets = sorted({*row["dataset_versions"], *held.datasets})
        texts = frozenset(normal(text) for text in store.texts()) - {""}
        order = Order(subject, row["requested_time"], datasets, texts, store.labels())
        before = Found(dict(row["deleted"]), list(row["dataset_versions"]), list(row["models"]))
        return order, _most(before, Found(held.rows | self._beside(order), datasets, held.models))

    def _beside(self, order: Order) -> dict[str, int]:
        return {name: count for place in self._places for name, count in place.find(order).items() if count}

    @staticmethod
    def _erase(places: Iterable[Place], order: Order) -> dict[str, str]:
        return {name: text for place in places for name, text in place.erase(order).items()}

    def _look(self, tenant: str, subject: str, now: datetime) -> Found:
        store = self._store.erasure(tenant, subject)
        found = store.found(noted=False)
        order = Order(store.subject(noted=False), now, found.datasets, frozenset())
        return Found(found.rows | self._beside(order), found.datasets, found.models)

    # What is written down.

    def _stands(self, row: Mapping[str, Any], state: str, found: Found, waiting: Mapping[str, str]) -> Erasure:
        return Erasure.model_validate({
            "event_id": identity(row["erasure_id"], state), "tenant": row["tenant"], "agent": "*",
            "subject_hash": row["subject_hash"], "event_time": self._clock(), "requested_by": row["requested_by"],
            "deleted": found.rows, "dataset_versions": found.datasets, "models": found.models,
            "erasure_id": row["erasure_id"], "state": state, "waiting": dict(waiting),
        })  # fmt: skip

    def _note(self, record: Erasure) -> None:
        """In the log for everybody, and in the store at once: whoever goes on after a crash asks the store."""
        self._log.append([entry_of(record, self._clock())])
        self._store.write([record])

    def _rows(self, tenant: str = "", subject: str = "", state: str = "", start: str = "") -> list[dict[str, Any]]:
        values = {"tenant": tenant, "subject": subject, "state": state, "start": start, "limit": LIMIT}
        return self._store.named("erasures", **values)

    def _one(self, name: str) -> dict[str, Any]:
        rows = self._rows(start=name) if name else []
        found = [row for row in rows if row["erasure_id"] == name] or rows
        if len(found) != 1:
            problem = "more than one erasure has an id that begins" if found else "no erasure has the id"
            raise UsageError(f"{problem} {name!r}; see: driftwheel erase list")
        return found[0]

    def _hash(self, tenant: str, user_id: str) -> str:
        if not user_id:
            raise UsageError("user_id: an erasure needs the person it is about, as the agents send it")
        return subject_hash(tenant_key(self._key, tenant), user_id)


BY_ITSELF = "by itself until "
"""How a place says that something goes without anybody's doing: it holds up nothing."""


def _open(waiting: str) -> bool:
    return not waiting.startswith(BY_ITSELF)


def _most(first: Found, second: Found) -> Found:
    """What two looks at one erasure found: the larger counts, since the second one sees what the first one left."""
    names = sorted({*first.rows, *second.rows})
    rows = {name: max(first.rows.get(name, 0), second.rows.get(name, 0)) for name in names}
    return Found(rows, sorted({*first.datasets, *second.datasets}), sorted({*first.models, *second.models}))


class AtOnce:
    """See ``Erasing``: what is asked for is done before the answer."""

    def __init__(self, erasures: Erasures) -> None:
        self._erasures = erasures
        self.plan, self.show, self.find = erasures.plan, erasures.show, erasures.find

    @property
    def goes_on(self) -> bool:
        """See Erasing."""
        return False

    def request(self, tenant: str, user_id: str, by: str) -> dict[str, Any]:
        """See Erasing."""
        return self._erasures.run(self._erasures.request(tenant, user_id, by)["erasure_id"])


class ErasureRunner:
    """Runs what was asked for, in a thread of its own, until ``close``; what is open at its start is gone on with.

    What cannot be finished yet, or whose place is away, is run again after a pause, doubled up to five minutes.
    """

    def __init__(self, erasures: Erasures, pause: float = 1.0) -> None:
        self._erasures, self._pause = erasures, pause
        self._news, self._stopping = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._loop, name="driftwheel-erasures", daemon=True)
        erasures.on_request = self._news.set
        self._thread.start()

    def _loop(self) -> None:
        pause = self._pause
        while not self._stopping.is_set():
            self._news.clear()
            left = self._round()
            pause = min(PAUSE_LIMIT, 2 * pause) if left else self._pause
            self._news.wait(pause if left else None)

    def _round(self) -> bool:
        """Whether something is still to be done."""
        left = False
        try:
            for name in self._erasures.open():
                if self._stopping.is_set():
                    return True
                left |= self._erasures.run(name)["state"] != "done"
        except DriftwheelError as error:
            logger.warning("an erasure waits: %s; it is tried again", error)
            return True
        return left

    def close(self) -> None:
        """Finish the step under way; the rest is gone on with at the next start."""
        self._stopping.set()
        self._news.set()
        self._thread.join()
