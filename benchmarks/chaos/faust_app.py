"""A small Faust application to be killed: it counts per key in a table and forwards every event with what it counted.

``python benchmarks/chaos/faust_app.py '{"broker": "127.0.0.1:9092", ...}'`` with the fields of :class:`Plan`.

The value of a key is ``[plain, guarded, position]``: ``plain`` goes up with every delivery; ``guarded`` only when the
event's offset is not below ``position``, which is what an idempotent put comes to. What is forwarded says both, and
whether the guard let the event through.
"""

from __future__ import annotations

import asyncio
import json
import sys
import weakref
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import faust  # noqa: TID251  # the subject of the measurement
from faust.streams import _current_event  # noqa: TID251
from faust.transport.consumer import Consumer  # noqa: TID251

HOLE = "offsets taken for a hole"
IN, OUT, TABLE = "in", "out", "counts"
PARTITIONS = 3


@dataclass(frozen=True, slots=True)
class Plan:
    """One process. ``group`` prefixes all topics; events in ``raising`` raise once in a run, ``marks`` remembers.

    The last six are for ``faust_facts.py``; the event ``slow`` takes an hour.
    """

    broker: str
    group: str
    guarantee: str
    take: int
    datadir: str
    marks: str
    raising: tuple[str, ...] = ()
    acks: bool = True
    noack: bool = False
    commit_seconds: float = 1.0
    tables: bool = True
    concurrency: int = 1
    slow: str = ""

    @property
    def changelog(self) -> str:
        """The topic that Faust gives the table."""
        return f"{self.group}-{TABLE}-changelog"


class Planned(Exception):
    """A fault that was asked for."""


def make_app(plan: Plan) -> faust.App:
    """The application with its settings, without its agent."""
    return faust.App(
        plan.group,
        broker=f"kafka://{plan.broker}",
        datadir=plan.datadir,
        store="rocksdb://?driver=rocksdict" if plan.tables else "memory://",
        processing_guarantee=plan.guarantee,
        broker_session_timeout=8.0,
        broker_heartbeat_interval=2.0,
        broker_rebalance_timeout=12.0,
        broker_commit_interval=plan.commit_seconds,
        consumer_auto_offset_reset="earliest",
        key_serializer="raw",
        topic_partitions=PARTITIONS,
        topic_disable_leader=True,
        topic_allow_declare=False,
        web_enabled=False,
    )


class Counter:
    """What the agent does with an event."""

    def __init__(self, app: faust.App, plan: Plan) -> None:
        self._plan = plan
        self._out = app.topic(f"{plan.group}-{OUT}", key_serializer="raw", value_serializer="raw")
        self._table: Any = app.Table(TABLE, key_type=bytes, partitions=PARTITIONS) if plan.tables else None

    async def handle(self, event: Any) -> Any:
        """Count, forward; returns what is to be awaited until the broker has it."""
        name = event.value.decode()
        if name in self._plan.raising:
            self._raise_once(name)
        if name == self._plan.slow:
            await asyncio.sleep(3600)
        plain, guarded, fresh = self._count(event) if self._table is not None else (0, 0, True)
        said = json.dumps({"id": name, "plain": plain, "guarded": guarded, "fresh": fresh}).encode()
        return await self._out.send(key=event.key, value=said)

    def _count(self, event: Any) -> tuple[int, int, bool]:
        offset = event.message.offset
        plain, guarded, position = self._table.get(event.key) or (0, 0, 0)
        fresh = offset >= position
        self._table[event.key] = [plain + 1, guarded + fresh, max(position, offset + 1)]
        return plain + 1, guarded + fresh, fresh

    def _raise_once(self, name: str) -> None:
        try:
            (Path(self._plan.marks) / name).touch(exist_ok=False)
        except FileExistsError:
            return
        raise Planned(name)


def build(plan: Plan) -> faust.App:
    """The application."""
    app = make_app(plan)
    source = app.topic(f"{plan.group}-{IN}", key_serializer="raw", value_serializer="raw", acks=plan.acks)
    counter = Counter(app, plan)

    async def one_by_one(stream: Any) -> None:
        chosen = stream.noack() if plan.noack else stream
        async for event in chosen.events():
            await counter.handle(event)  # as its documentation does; a commit waits for what was sent

    async def in_batches(stream: Any) -> None:
        async for events in stream.take_events(plan.take, within=0.2):
            sent = []
            for event in events:
                # Without this, a write to the table raises: inside of take() there is no current event.
                _current_event.set(weakref.ref(event))
                sent.append(await counter.handle(event))
            await asyncio.gather(*sent)

    app.agent(source, name="count", concurrency=plan.concurrency)(in_batches if plan.take else one_by_one)
    return app


def _report_holes() -> None:
    """Have Faust log the offsets that it has not been given and counts as done."""
    add_gap = Consumer._add_gap

    async def reported(self: Any, tp: Any, first: int, last: int) -> None:
        self.log.warning("%s: %s %d to %d", HOLE, tp, first, last)
        await add_gap(self, tp, first, last)

    Consumer._add_gap = reported


def main() -> None:
    _report_holes()
    plan = Plan(**json.loads(sys.argv[1]))
    faust.Worker(build(plan), loglevel="info").execute_from_commandline()


if __name__ == "__main__":
    main()
