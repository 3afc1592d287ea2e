"""Erasures as lanes are told of them: a message in the inbox of a stage, one for each partition.

A lane that reads one takes the person out of its table, in the transaction that also says that the message was read.
So an order is carried out once, whoever dies when, by a lane that goes on working; one without a process waits for it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import fields, replace

from driftwheel.buffered import BufferedState
from processors.stage import Message, Stage
from schemas.events import Record
from schemas.subjects import Subject

_MARK = b"\x02"
"""Begins an order; events that are moved between partitions begin with another byte (``driftwheel.routing``)."""
_IDS = 5_000
_FIELDS = tuple(field.name for field in fields(Subject) if field.name not in ("tenant", "hash"))


def orders_of(about: Subject) -> Iterator[bytes]:
    """The messages that tell a lane to let go of a person: several where one would be too large."""
    ids = [(name, one) for name in _FIELDS for one in sorted(getattr(about, name))]
    for first in range(0, len(ids) or 1, _IDS):
        some: dict[str, list[str]] = {}
        for name, one in ids[first : first + _IDS]:
            some.setdefault(name, []).append(one)
        yield _MARK + json.dumps({"tenant": about.tenant, "hash": about.hash, **some}).encode()


def is_order(message: Message) -> bool:
    """Whether a message of an inbox is an order."""
    return message.value.startswith(_MARK)


def carry_out(stage: Stage, message: Message, state: BufferedState, texts: Iterator[tuple[str, str]]) -> list[Record]:
    """Take the person of an order out of a stage's ``state``; what follows. ``texts``: all keys that are stored."""
    body = json.loads(message.value[len(_MARK) :])
    ids = {name: frozenset(body.get(name, ())) for name in _FIELDS}
    about = replace(Subject(body["tenant"], body["hash"]), **ids)
    out: list[Record] = []
    for key, text in state.texts(texts):
        found = stage.erased(key, text, about)
        if found is not None:
            left, records = found
            if left.data or left.memo or left.due:
                state.put(key, left)
            else:
                state.delete(key)
            out += records
    return out
