"""The long-running processes of the Kafka engine: gateway, worker, sink and job-runner, each with its own health."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, contextmanager

from rich.console import Console
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from connectors.clickhouse.sink import ClickHouseSink
from connectors.kafka.log import KafkaLog, KafkaLogSettings
from connectors.nemo.microservices import Microservices
from driftwheel.clock import utc_now
from driftwheel.cluster import Cluster, Watch
from driftwheel.config import Config
from driftwheel.folder import DataFolder
from driftwheel.gateway import GatewaySettings, Server, create_app
from driftwheel.health import health_server
from driftwheel.instance import instance_folder
from driftwheel.kafka_engine import KafkaEngine
from driftwheel.keys import key_ring
from driftwheel.library import StoreLibrary, open_store
from driftwheel.network import is_loopback
from driftwheel.pipeline import wheel_stages, worker_stages
from driftwheel.product import wait_for_interrupt
from driftwheel.seldom import Seldom
from driftwheel.telemetry import Metrics
from driftwheel.worker import DEFECT, Worker, WorkerSettings
from processors.stage import Stage
from schemas.errors import Refused
from schemas.topics import DEAD_LETTERS, TRIGGERS

logger = logging.getLogger(__name__)


@contextmanager
def _stops(stop: Callable[[], None]) -> Generator[None]:
    """Ctrl-C and a request to terminate call ``stop``."""

    def end(number: int, frame: object) -> None:
        del number, frame
        stop()

    before = {number: signal.signal(number, end) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def run_worker(config: Config, names: Sequence[str], console: Console) -> None:
    """``driftwheel worker``. A defect or a standstill ends the process with exit code 70: nothing is lost."""
    _log_to_stderr()
    with ExitStack() as stack:
        cluster = Cluster(config, stack)
        worker = serve_worker(cluster, worker_stages(config, names, cluster.key), stack, console)
        with _stops(worker.stop):
            asyncio.run(worker.run())


def _end_at_once() -> None:
    """Nothing that is under way may be taken for done: no clean-up, no last commit."""
    logging.shutdown()
    os._exit(DEFECT)


def serve_worker(cluster: Cluster, stages: Sequence[Stage], stack: ExitStack, console: Console) -> Worker:
    """A worker over ``stages`` with its tables, clock and health, ready to ``run``."""
    cluster.check()
    config = cluster.config.worker
    folder = stack.enter_context(instance_folder(cluster.state_folder()))
    held, kafka = cluster.held_clock(stages[-1], _end_at_once), cluster.kafka
    worker = Worker(
        stages,
        cluster.lanes(folder),
        WorkerSettings(config.batch_size),
        lambda name: held.now(kafka.group(name)),
        _end_at_once,
    )
    watch = Watch(cluster, stages, worker.positions, _end_at_once)
    url = stack.enter_context(
        health_server(config.host, config.port, watch.problems, worker.problems, cluster.metrics.text, worker.due)
    )
    names = ", ".join(stage.name for stage in stages)
    console.print(f"driftwheel worker: {names}; health on {url}", highlight=False, soft_wrap=True)
    return worker


def run_gateway(config: Config, host: str | None, port: int | None, console: Console) -> None:
    """``driftwheel gateway``: agents' traces and signals into Kafka."""
    _log_to_stderr()
    with ExitStack() as stack:
        cluster = Cluster(config, stack)
        cluster.check()
        log = KafkaLog(cluster.kafka, cluster.framing)
        stack.callback(log.close)
        where = host or config.gateway.host
        token = config.gateway.token.get_secret_value()
        settings = GatewaySettings(
            token=token,
            max_body=config.gateway.max_body_bytes,
            loopback=is_loopback(where),
            hosts=config.gateway.hosts,
            keys=key_ring(config, utc_now, is_loopback(where)),
        )
        app = create_app(log, utc_now, settings, log.ready, [Route("/metrics", _exposition(cluster.metrics))])
        server = stack.enter_context(Server(app, where, config.gateway.port if port is None else port))
        console.print(f"driftwheel gateway: send traces and signals to {server.url}", highlight=False)
        wait_for_interrupt()


def _exposition(metrics: Metrics) -> Callable[[Request], Response]:
    def answer(request: Request) -> Response:
        del request
        return PlainTextResponse(metrics.text())

    return answer


def run_sink(config: Config, console: Console) -> None:
    """``driftwheel sink``: every clean topic into the store."""
    _log_to_stderr()
    with ExitStack() as stack:
        cluster = Cluster(config, stack)
        cluster.check()
        store = open_store(config, DataFolder(config.data_dir))
        stack.callback(store.close)
        log = KafkaLog(cluster.kafka, cluster.framing, KafkaLogSettings("sink", topics=(DEAD_LETTERS.name,)))
        stack.callback(log.close)
        engine = KafkaEngine(cluster, log, [], [ClickHouseSink(store)], cluster.state_folder())
        _run_engine(engine, cluster, stack, "sink", console)


def run_job_runner(config: Config, console: Console) -> None:
    """``driftwheel job-runner``: triggers to training jobs, deploy events to traffic."""
    _log_to_stderr()
    if not config.nemo.url:
        raise Refused("nemo.url is not set: name a NeMo, or start the local one with `python -m deploy.local_nemo`")
    if not config.store.url.get_secret_value():
        raise Refused(
            "store.url is not set: the job-runner reads labelled samples from a ClickHouse server. On one machine "
            "`driftwheel up` holds store, sink and job-runner in one process"
        )
    with ExitStack() as stack:
        cluster = Cluster(config, stack)
        cluster.check()
        store = open_store(config, DataFolder(config.data_dir))
        stack.callback(store.close)
        nemo = Microservices(
            config.nemo.url, namespace=config.nemo.namespace, token=config.nemo.token.get_secret_value()
        )
        stack.callback(nemo.close)
        log = KafkaLog(cluster.kafka, cluster.framing, KafkaLogSettings("job-runner", topics=(TRIGGERS.name,)))
        stack.callback(log.close)
        stages = [one for one in wheel_stages(config, cluster.key, nemo, StoreLibrary(store)) if one.effects]
        folder = stack.enter_context(instance_folder(cluster.state_folder()))
        engine = KafkaEngine(cluster, log, stages, [], folder)
        _run_engine(engine, cluster, stack, "job-runner", console)


def _run_engine(engine: KafkaEngine, cluster: Cluster, stack: ExitStack, name: str, console: Console) -> None:
    config = cluster.config.worker
    url = stack.enter_context(
        health_server(config.host, config.port, engine.stalled, engine.problems, cluster.metrics.text)
    )
    engine.start()
    stack.callback(engine.stop)
    console.print(f"driftwheel {name}: health on {url}", highlight=False)
    wait_for_interrupt(lambda: engine.failure is not None)
    if engine.failure is not None:
        raise Refused(f"the {name} stopped: {engine.failure}")


def _log_to_stderr() -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    for noisy in ("faust", "mode", "aiokafka", "httpx", "presidio-analyzer"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    for handler in logging.getLogger().handlers:
        handler.addFilter(Seldom("aiokafka", 10.0))
