"""One process of the benchmark: a stage on one engine. Prints a line of JSON whenever something was committed.

``child.py own STAGE INPUTS``; ``child.py worker|loop STAGE BROKERS PREFIX FOLDER BATCH``.
"""

from __future__ import annotations

import asyncio
import json
import os
import pickle
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent.parent))

from benchmarks.kafka_engine.work import NOW, PARTITIONS, Texts, batches, make_stage, messages
from connectors.kafka.settings import KafkaSettings
from connectors.kafka.wire import Headers, stored_of
from driftwheel.job_runner import StageLoop
from driftwheel.routing import INBOX
from driftwheel.worker import Worker, WorkerSettings
from processors.stage import Message, is_routed
from schemas.events import Record
from tests.driftwheel.kafka_kit import lane_settings


def say(**values: Any) -> None:
    """One line to the parent, in one write, with the time and the CPU seconds so far."""
    sys.stdout.write(json.dumps(values | {"t": time.time(), "cpu": time.process_time()}) + "\n")
    sys.stdout.flush()


def own(name: str, file: str) -> None:
    """The stage's own work, without Kafka: ``process`` on batches in memory."""
    given = pickle.loads(Path(file).read_bytes())[name]
    stage, texts, out = make_stage(name), Texts(), 0
    work = list(batches(messages(given)))
    say(ready=1)
    for batch in work:
        state = texts.begin()
        out += len(stage.process(batch, state))
        texts.end(state)
    say(messages=len(given), records=out)


class RoutedLoop(StageLoop):
    """The plain loop, which reads the stage's inbox as well."""

    def __init__(self, *given: Any, **more: Any) -> None:
        super().__init__(*given, **more)
        if is_routed(self.stage):
            self._names[self._settings.kafka.inbox(self.stage.name)] = INBOX

    def _message(self, record: Any) -> Message:
        if self._names[record.topic()] != INBOX:
            return super()._message(record)
        headers: Headers = record.headers() or []
        place = (INBOX, record.partition(), record.offset())
        one = stored_of(*place, record.key(), record.value(), record.timestamp()[1], headers)
        return Message(INBOX, one.offset, one.key, one.value, one.time, one.headers, one.partition)


def committed(stage: str, count: int, records: Sequence[Record], seconds: float) -> None:
    """See ``OnBatch``."""
    del stage
    say(messages=count, records=len(records), seconds=seconds)


def main() -> None:
    """Run what the arguments say; on Kafka until killed."""
    kind, name = sys.argv[1:3]
    if kind == "own":
        own(name, sys.argv[3])
        return
    brokers, prefix, folder, batch = sys.argv[3:7]
    kafka = KafkaSettings(brokers=brokers, prefix=prefix, partitions=PARTITIONS)
    lanes = lane_settings(kafka, Path(folder), lambda: NOW, on_batch=committed)
    if kind == "loop":
        loop = RoutedLoop(make_stage(name), lanes, lambda: NOW, batch=int(batch))
        loop.start()
        _report(lambda: len(loop.lanes))
        loop.join()
        return
    worker = Worker([make_stage(name)], lanes, WorkerSettings(batch_size=int(batch)), lambda _: NOW)
    _report(lambda: sum(runner.open for one in worker.workers for runner in list(one.runners.values())))
    asyncio.run(worker.run())


def _report(lanes: Any) -> None:
    def watch() -> None:
        last, parent = -1, os.getppid()
        while os.getppid() == parent:
            if (now := lanes()) != last:
                last = now
                say(lanes=now)
            time.sleep(0.2)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


if __name__ == "__main__":
    main()
