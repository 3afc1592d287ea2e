"""A worker that a test kills: brokers, prefix, folder."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent.parent))

from connectors.kafka.settings import KafkaSettings
from driftwheel.worker import Worker, WorkerSettings
from tests.driftwheel.engine_kit import Clock, Tally
from tests.driftwheel.kafka_kit import lane_settings

if __name__ == "__main__":
    kafka = KafkaSettings(brokers=sys.argv[1], prefix=sys.argv[2], partitions=3)
    lanes = lane_settings(kafka, Path(sys.argv[3]), Clock())
    asyncio.run(Worker([Tally()], lanes, WorkerSettings(batch_size=5), lambda _: lanes.clock()).run())
