"""The long-running processes of the Kafka engine: gateway, worker, sink and job-runner, each with its own health."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import NamedTuple

from rich.console import Console
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from connectors.clickhouse.sink import ClickHouseSink
from connectors.clickhouse.store import Store
from connectors.kafka.log import KafkaLog, KafkaLogSettings
from connectors.nemo.microservices import Microservices
from driftwheel.canaries import Canaries, canary_settings
from driftwheel.clock import utc_now
from driftwheel.cluster import Cluster, Watch
from driftwheel.config import Config
from driftwheel.folder import DataFolder
from driftwheel.health import health_server
from driftwheel.instance import instance_folder
from driftwheel.judge_setup import floor_of, open_judging
from driftwheel.kafka_engine import KafkaEngine
from driftwheel.library import StoreLibrary, open_store
from driftwheel.memory import rare_collections, tidy_memory
from driftwheel.pipeline import wheel_stages, worker_stages
from driftwheel.ports import Face, Ports, Where
from driftwheel.product import wait_for_interrupt
from driftwheel.retention import DatasetRetention, Retention, days_of, quarantine_days
from driftwheel.seldom import Seldom
from driftwheel.telemetry import Metrics
from driftwheel.worker import DEFECT, Worker, WorkerSettings
from processors.stage import Stage
from schemas.errors import Refused
from schemas.topics import DEAD_LETTERS, SIGNALS, TRIGGERS, Topic

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
    stack.enter_context(tidy_memory())
    stack.enter_context(rare_collections())
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


def run_gateway(config: Config, where: Where, console: Console) -> None:
    """``driftwheel gateway``: agents' traces and signals into Kafka."""
    _log_to_stderr()
    with ExitStack() as stack:
        cluster = Cluster(config, stack)
        cluster.check()
        log = KafkaLog(cluster.kafka, cluster.framing)
        stack.callback(log.close)
        face = Face(log.ready, [Route("/metrics", _exposition(cluster.metrics))])
        ports = Ports(config, where, log, utc_now, face)
        stack.callback(ports.close)
        console.print(f"driftwheel gateway: send traces and signals to {ports.told}", highlight=False, soft_wrap=True)
        planted = canary_settings(config, cluster.key)
        stack.enter_context(Canaries(planted, cluster.metrics, cluster.clock, log=log).running())
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
        cluster, store, log = _opened(config, stack, "sink", DEAD_LETTERS)
        retention = Retention(store, lambda: cluster.quarantine, quarantine_days(config), utc_now)
        stack.callback(retention.close)
        retention.start()
        engine = KafkaEngine(cluster, log, [], [ClickHouseSink(store)], cluster.state_folder())
        planted = canary_settings(config, cluster.key)
        stack.enter_context(Canaries(planted, cluster.metrics, cluster.clock, ask=store.select).running())
        _run_engine(engine, cluster, stack, "sink", console)


def run_job_runner(config: Config, console: Console) -> None:
    """``driftwheel job-runner``: triggers to training jobs, deploy events to traffic."""
    _log_to_stderr()
    if not config.nemo.url:
        raise Refused("nemo.url is not set: name a NeMo, or start the local one with `python -m deploy.local_nemo`")
    _check_store(
        config,
        "the job-runner reads labelled samples from a ClickHouse server. On one machine `driftwheel up` holds store, "
        "sink and job-runner in one process",
    )
    with ExitStack() as stack:
        cluster, store, log = _opened(config, stack, "job-runner", TRIGGERS)
        nemo = Microservices(
            config.nemo.url, namespace=config.nemo.namespace, token=config.nemo.token.get_secret_value()
        )
        stack.callback(nemo.close)
        library = StoreLibrary(store, cluster.clock, floor_of(config))
        stages = [one for one in wheel_stages(config, cluster.key, nemo, library) if one.effects]
        retention = DatasetRetention(store, log, lambda: nemo, days_of(config, "datasets"), utc_now)
        stack.callback(retention.close)
        retention.start()
        folder = stack.enter_context(instance_folder(cluster.state_folder()))
        engine = KafkaEngine(cluster, log, stages, [], folder)
        _run_engine(engine, cluster, stack, "job-runner", console)


def run_judge(config: Config, console: Console) -> None:
    """``driftwheel judge run``: live turns of the store judged, verdicts into Kafka."""
    _log_to_stderr()
    if not config.judge.url:
        raise Refused("judge.url is not set: name an OpenAI-compatible endpoint, and its model as judge.model")
    _check_store(
        config,
        "the judge reads turns from a ClickHouse server. On one machine `driftwheel up` judges by itself when "
        "judge.url is set",
    )
    with ExitStack() as stack:
        cluster, store, log = _opened(config, stack, "judge", SIGNALS)
        folder = stack.enter_context(instance_folder(cluster.state_folder() / "judge"))
        opening = open_judging(config, cluster.key, folder, store, log, cluster.metrics.judges, cluster.clock)
        judging = stack.enter_context(opening)
        running = _Running(judging.defects, judging.problems, judging.running(), lambda: judging.failure)
        _serve(running, cluster, stack, "judge", console)


def _check_store(config: Config, why: str) -> None:
    if not config.store.url.get_secret_value():
        raise Refused(f"store.url is not set: {why}")


def _opened(config: Config, stack: ExitStack, name: str, topic: Topic) -> tuple[Cluster, Store, KafkaLog]:
    """The cluster, the store and the topics of a process that reads ``topic``; ``stack`` closes them."""
    cluster = Cluster(config, stack)
    cluster.check()
    store = open_store(config, DataFolder(config.data_dir))
    stack.callback(store.close)
    log = KafkaLog(cluster.kafka, cluster.framing, KafkaLogSettings(name, topics=(topic.name,)))
    stack.callback(log.close)
    return cluster, store, log


class _Running(NamedTuple):
    """What a process does: what health asks of it, what it does while it serves, and the defect that ended it."""

    stalled: Callable[[], list[str]]
    problems: Callable[[], list[str]]
    work: AbstractContextManager[None]
    failure: Callable[[], BaseException | None]


@contextmanager
def _working(engine: KafkaEngine) -> Generator[None]:
    engine.start()
    try:
        yield
    finally:
        engine.stop()


def _run_engine(engine: KafkaEngine, cluster: Cluster, stack: ExitStack, name: str, console: Console) -> None:
    running = _Running(engine.stalled, engine.problems, _working(engine), lambda: engine.failure)
    _serve(running, cluster, stack, name, console)


def _serve(running: _Running, cluster: Cluster, stack: ExitStack, name: str, console: Console) -> None:
    """Work, with health beside it, until it is told to stop or has failed."""
    worker = cluster.config.worker
    health = health_server(worker.host, worker.port, running.stalled, running.problems, cluster.metrics.text)
    url = stack.enter_context(health)
    stack.enter_context(running.work)
    console.print(f"driftwheel {name}: health on {url}", highlight=False)
    wait_for_interrupt(lambda: running.failure() is not None)
    failure = running.failure()
    if failure is not None:
        raise Refused(f"the {name} stopped: {failure}")


def _log_to_stderr() -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    for noisy in ("faust", "mode", "aiokafka", "httpx", "presidio-analyzer"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    for handler in logging.getLogger().handlers:
        handler.addFilter(Seldom("aiokafka", 10.0))
