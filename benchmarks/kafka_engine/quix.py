"""The same trivial work on quixstreams 3, exactly once: ``quix.py STAGE BROKERS PREFIX FOLDER COUNT BATCH``.

Runs in an environment of its own; this project's codec is found at the end of its path (``BENCH_PATH``). It decodes and
encodes what the stage does, without a memo of events that came before, timers or dead letters.
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any

sys.path += os.environ["BENCH_PATH"].split(os.pathsep)

from quixstreams import Application  # pyright: ignore

from schemas import codec
from schemas.events import Erasure
from tests.driftwheel.engine_kit import T0, tally


def main() -> None:
    """Work on COUNT records, then end."""
    stage, brokers, prefix, folder, count, batch = sys.argv[1:7]
    app = Application(
        broker_address=brokers, consumer_group=f"{prefix}quix", auto_offset_reset="earliest", state_dir=folder,
        processing_guarantee="exactly-once", commit_every=int(batch), auto_create_topics=True, loglevel="ERROR",
        consumer_extra_config={"isolation.level": "read_committed"},
    )  # fmt: skip
    seen = 0

    def note() -> None:
        nonlocal seen
        seen += 1
        if seen % 500 == 0 or seen == int(count):
            line = {"messages": 500, "records": 500, "t": time.time(), "cpu": time.process_time(), "seen": seen}
            sys.stdout.write(json.dumps(line) + "\n")
            sys.stdout.flush()

    def echo(value: bytes) -> bytes:
        one: Any = codec.decode(value)
        note()
        return codec.encode(
            Erasure(event_id=one.event_id, tenant="t", agent=one.agent, event_time=T0, deleted={"n": one.count})
        )

    def counter(value: bytes, state: Any) -> bytes:
        one: Any = codec.decode(value)
        total = state.get("count", 0) + 1
        state.set("count", total)
        note()
        return codec.encode(tally(one.event_id, one.agent, total))

    there = f"{prefix}flywheel.ledger" if stage == "echo" else f"{prefix}agent.signals.raw"
    source = app.topic(there, value_deserializer="bytes", key_deserializer="bytes")
    frame = app.dataframe(source)
    frame = frame.apply(counter, stateful=True) if stage == "tally" else frame.apply(echo)
    frame.to_topic(app.topic(f"{prefix}flywheel.erasures", value_serializer="bytes", key_serializer="bytes"))
    app.run(count=int(count), timeout=60)


if __name__ == "__main__":
    main()
