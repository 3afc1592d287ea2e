"""A batch into a sink: what cannot be read, is not clean or is refused becomes dead letters, the rest is written."""

from __future__ import annotations

from collections.abc import Sequence

from connectors.sink import Sink, check_clean
from processors.stage import Message, dead_letter
from schemas import codec
from schemas.errors import Invalid
from schemas.events import DeadLetter, Record
from schemas.topics import BY_NAME


def deliver(sink: Sink, messages: Sequence[Message]) -> list[DeadLetter]:
    """Write the records of a batch; returns the dead letters of the others. Raises Retry: do it all again later."""
    readable: list[tuple[Message, Record]] = []
    dead: list[DeadLetter] = []
    for message in messages:
        try:
            record = codec.decode(message.value, BY_NAME[message.topic].record)
        except Invalid as error:
            dead.append(dead_letter(sink.name, message, error))
            continue
        try:
            check_clean(record)
        except Invalid as error:
            dead.append(dead_letter(sink.name, message, error, record))
        else:
            readable.append((message, record))
    return dead + _write(sink, readable)


def _write(sink: Sink, items: Sequence[tuple[Message, Record]]) -> list[DeadLetter]:
    """What the sink calls Invalid is found by halving."""
    if not items:
        return []
    try:
        sink.write([record for _, record in items])
    except Invalid as error:
        if len(items) == 1:
            return [dead_letter(sink.name, items[0][0], error, items[0][1])]
        half = len(items) // 2
        return _write(sink, items[:half]) + _write(sink, items[half:])
    return []
