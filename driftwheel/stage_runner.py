"""One pure stage alone, over JSON Lines: ``{"topic": ..., "record": ...}`` in and out.

A record is the JSON of its pydantic model; on ``otlp_spans`` and ``otlp_logs`` it is OTLP/JSON (an export request). At
the end of the input every timer of the stage runs out, so that what waits for more is emitted too.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, TextIO

from driftwheel.api import Table
from driftwheel.config import Config
from driftwheel.files import reading, shown, writing
from driftwheel.folder import DataFolder
from driftwheel.keys import redaction_key
from driftwheel.pipeline import WHEEL, pure_stages
from processors import PIPELINE
from processors.stage import Message, Stage
from processors.state import MemoryState
from schemas import codec
from schemas.errors import Invalid, UsageError
from schemas.events import EPOCH, Record
from schemas.topics import BY_NAME, OTLP_LOGS, OTLP_SPANS, topic_of

BATCH = 500


def list_stages() -> Table:
    """Every stage with its topics."""
    rows = [
        [stage.name, ", ".join(t.name for t in stage.sources), ", ".join(t.name for t in stage.emits)]
        for stage in WHEEL
    ]
    return Table(["stage", "reads", "emits"], rows)


def run_stage(config: Config, name: str, source: str, target: str) -> None:
    """Run stage ``name`` from one file to another. UsageError names the line that cannot be read."""
    stage = _find(config, name)
    store = MemoryState()
    last = EPOCH
    with reading(source) as lines, writing(target) as out:
        for batch in _batches(_messages(stage, shown(source), lines)):
            last = max(last, *(message.time for message in batch))
            _write(out, stage.process(batch, store))
        end = last + timedelta(days=2)
        while store.due(end):
            _write(out, stage.expire(store, end))


def _find(config: Config, name: str) -> Stage:
    for stage in pure_stages(config, redaction_key(config, DataFolder(config.data_dir))):
        if stage.name == name:
            return stage
    names = ", ".join(stage.name for stage in PIPELINE)
    raise UsageError(f"no pure stage {name!r}; there are: {names}")


def _messages(stage: Stage, source: str, lines: Iterable[str]) -> Iterator[Message]:
    sources = {topic.name for topic in stage.sources}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            body = json.loads(line)
            topic, record = str(body["topic"]), body["record"]
        except (ValueError, KeyError, TypeError) as error:
            raise UsageError(f'{source}, line {number}: not {{"topic": ..., "record": ...}}: {error}') from error
        if topic not in sources:
            raise UsageError(f"{source}, line {number}: {stage.name} does not read {topic!r} but {sorted(sources)}")
        yield _message(topic, record, number, source)


def _message(topic: str, record: Any, number: int, source: str) -> Message:
    try:
        if topic in (OTLP_SPANS.name, OTLP_LOGS.name):
            from connectors.otlp import LOGS, TRACES

            export = TRACES if topic == OTLP_SPANS.name else LOGS
            value = export.from_json(json.dumps(record).encode()).SerializeToString()
            return Message(topic, number, "", value, datetime.now(UTC))
        kind = BY_NAME[topic].record
        if kind is None:
            raise UsageError(f"{source}, line {number}: topic {topic} cannot be read from JSON")
        made = codec.validate(kind, record)
    except Invalid as error:
        raise UsageError(f"{source}, line {number}: {error}") from error
    time = max(made.event_time, getattr(made, "received_time", EPOCH))
    return Message(topic, number, "", codec.encode(made), time)


def _batches(messages: Iterator[Message]) -> Iterator[list[Message]]:
    batch: list[Message] = []
    for message in messages:
        batch.append(message)
        if len(batch) == BATCH:
            yield batch
            batch = []
    if batch:
        yield batch


def _write(out: TextIO, records: Iterable[Record]) -> None:
    for record in records:
        line = {"topic": topic_of(record).name, "record": record.model_dump(mode="json")}
        out.write(json.dumps(line) + "\n")
