"""Temporary: gateway, worker and sink put together until driftwheel/services.py does it."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import Callable, Sequence
from contextlib import ExitStack

from connectors.clickhouse.sink import ClickHouseSink
from connectors.kafka.log import KafkaLog, KafkaLogSettings
from driftwheel.clock import utc_now
from driftwheel.cluster import Cluster, Watch
from driftwheel.config import Config
from driftwheel.folder import DataFolder
from driftwheel.gateway import GatewaySettings, Server, create_app
from driftwheel.health import health_server
from driftwheel.instance import instance_folder
from driftwheel.kafka_sink import KafkaSink
from driftwheel.library import open_store
from driftwheel.pipeline import worker_stages
from driftwheel.product import wait_for_interrupt
from driftwheel.worker import DEFECT, Worker, WorkerSettings


def run_worker(config: Config, names: Sequence[str], plant: Callable[..., object] = lambda x: x) -> None:
    with ExitStack() as stack:
        cluster = Cluster(config, stack)
        stages = [plant(s) for s in worker_stages(config, names, cluster.key)]
        cluster.check()
        folder = stack.enter_context(instance_folder(cluster.state_folder()))
        held = cluster.held_clock(stages[-1])
        settings = WorkerSettings(config.worker.batch_size)
        worker = Worker(stages, cluster.lanes(folder), settings, lambda name: held.now(cluster.kafka.group(name)))
        watch = Watch(cluster, stages, worker.positions)
        stack.enter_context(
            health_server(config.worker.host, config.worker.port, watch.problems, worker.problems, cluster.metrics.text)
        )
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: worker.stop())
        asyncio.run(worker.run())
    if worker.failed:
        logging.shutdown()
        os._exit(DEFECT)


def run_gateway(config: Config) -> None:
    with ExitStack() as stack:
        cluster = Cluster(config, stack)
        cluster.check()
        log = KafkaLog(cluster.kafka, cluster.framing, KafkaLogSettings())
        stack.callback(log.close)
        app = create_app(log, utc_now, GatewaySettings(), log.ready)
        stack.enter_context(Server(app, "127.0.0.1", config.gateway.port))
        wait_for_interrupt()


def run_sink(config: Config) -> None:
    with ExitStack() as stack:
        cluster = Cluster(config, stack)
        cluster.check()
        store = open_store(config, DataFolder(config.data_dir))
        stack.callback(store.close)
        log = KafkaLog(cluster.kafka, cluster.framing, KafkaLogSettings(name="sink"))
        stack.callback(log.close)
        sink = KafkaSink(cluster.kafka, ClickHouseSink(store), cluster.framing, log, utc_now)
        sink.start()
        stack.enter_context(
            health_server(config.worker.host, config.worker.port, sink.problems, sink.problems, cluster.metrics.text)
        )
        wait_for_interrupt()
        sink.stop()
