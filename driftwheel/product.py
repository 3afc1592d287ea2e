"""The product on one data folder: log, engine, store, gateway and local NeMo, wired together.

``driftwheel up`` runs it with threads and the real clock; the demo and the importer run it in lock step. With
``kafka.brokers`` set the log is Kafka and the pure stages run in workers (``driftwheel worker``); the rest stays.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from datetime import datetime, timedelta
from functools import cached_property
from typing import Any, Protocol

from rich.console import Console

from connectors.clickhouse.sink import ClickHouseSink
from connectors.kafka.inboxes import Inboxes
from connectors.kafka.log import KafkaLog
from connectors.kafka.reader import Reader
from connectors.log import Log, entry_of
from connectors.nemo.microservices import Microservices
from connectors.nemo.port import NemoPort
from connectors.quarantine import Quarantine
from connectors.sink import Sink
from connectors.sqlite_log import SqliteLog, SqliteLogSettings
from deploy.bootstrap import bootstrap
from deploy.run_jobs import RunJobs
from driftwheel import api
from driftwheel.audit import FILE as AUDIT
from driftwheel.audit import Audit
from driftwheel.canaries import Canaries, canary_settings
from driftwheel.cleaning import clean_texts
from driftwheel.clock import utc_now
from driftwheel.cluster import Cluster
from driftwheel.config import Config
from driftwheel.deadletters import Behind, DeadLetters, LogMessages
from driftwheel.embedded import Engine, EngineSettings
from driftwheel.erasing import Erasing
from driftwheel.erasure import ErasureRunner, Erasures, Place
from driftwheel.erasure_kafka import KafkaLanes, KafkaTopics
from driftwheel.erasure_places import DatasetFiles, EmbeddedLog, QuarantinedPayloads
from driftwheel.folder import DataFolder
from driftwheel.judge_setup import floor_of, open_judging
from driftwheel.judging import Judging
from driftwheel.kafka_config import kafka_settings
from driftwheel.kafka_engine import KafkaEngine
from driftwheel.keys import log_key, quarantine_key, redaction_key
from driftwheel.library import StoreLibrary, open_store, table_of
from driftwheel.nemo_process import NemoProcess
from driftwheel.pipeline import WHEEL, check_stages, stage_settings, wheel_stages
from driftwheel.ports import Face, Ports, Where, configured
from driftwheel.retention import DatasetRetention, Retention, days_of, quarantine_days, topics_kept
from driftwheel.telemetry import Metrics
from driftwheel.vault import OwnVault, Vault
from driftwheel.weights import minilm_folder
from processors.stage import Stage
from schemas.errors import Refused
from schemas.events import Job

TENANT = "default"
OWN_PATHS = (
    "/v1/sql", "/v1/ledger", api.ERASURES, f"{api.ERASURES}/", "/v1/queue", *api.LETTER_PATHS, *api.VAULT_PATHS,
    "/metrics",
)  # fmt: skip
CLOSE = timedelta(hours=2)


class Running(Protocol):
    """An engine as the product sees it."""

    @property
    def failure(self) -> BaseException | None:
        """The defect that stopped it, or None."""
        ...

    def start(self) -> None:
        """Work by itself until ``stop``."""
        ...

    def stop(self) -> None:
        """Finish what is under way, then end."""
        ...

    def settle(self) -> None:
        """Work until nothing is left to do at the present clock."""
        ...

    def paused(self) -> AbstractContextManager[None]:
        """Nothing is in the middle of a batch while inside, as far as the engine reaches."""
        ...

    def lags(self) -> dict[str, int]:
        """Unread entries by consumer."""
        ...


class Product:
    """Everything on one folder. ``wheel`` False: no training and no releases; ``models`` False: no NeMo either.

    ``where`` None: it listens as configured. ``url`` is for this machine alone where TLS guards the gateway's own.
    """

    def __init__(
        self,
        config: Config,
        *,
        clock: Callable[[], datetime] = utc_now,
        where: Where | None = None,
        sinks: Sequence[Sink] = (),
        wheel: bool = True,
        models: bool = True,
    ) -> None:
        check_stages(config)
        self.config, self.clock, self.metrics = config, clock, Metrics()
        self.folder = DataFolder(config.data_dir)
        self._stack = ExitStack()
        try:
            self._open(sinks, wheel, models)
            self._erasures = self._erase()
            self._serve(where or configured(config))
        except BaseException:
            self.close()
            raise

    def _open(self, sinks: Sequence[Sink], wheel: bool, models: bool) -> None:
        config, folder = self.config, self.folder
        log = None if config.kafka.brokers else self._own_log()
        self.store = open_store(config, folder)
        self._stack.callback(self.store.close)
        self.nemo_url = self._start_nemo() if models else ""
        self.nemo = self._connect_nemo() if models else None
        library = StoreLibrary(self.store, self.clock, floor_of(config))
        stages = wheel_stages(config, redaction_key(config, folder), self.nemo if wheel else None, library)
        self._redact = stages[0]
        self.log: Log
        self.engine: Running
        self._behind: Behind
        if log is None:
            self.log, self.engine = self._on_kafka(stages, sinks)
        else:
            self.log, self.engine = log, self._embedded(log, stages, sinks)
        self._stages = stages
        self._stack.callback(self.engine.stop)

    @cached_property
    def retention(self) -> Retention:
        """What deletes rows and payloads that are past their retention."""
        datasets = DatasetRetention(
            self.store, self.log, lambda: self.nemo, days_of(self.config, "datasets"), self.clock
        )
        made = Retention(self.store, lambda: self._behind.payloads, quarantine_days(self.config), self.clock, datasets)
        self._stack.callback(made.close)
        return made

    def _erase(self) -> Erasures:
        """The erasures, and the thread that does them and goes on with those that a crash has interrupted."""
        key = redaction_key(self.config, self.folder)
        places: list[Place] = [
            DatasetFiles(self.store, self.log, lambda: self.nemo, self.clock),
            QuarantinedPayloads(self.store, lambda: self._behind.payloads, key),
        ]
        if isinstance(self.log, SqliteLog):
            places.append(EmbeddedLog(self.log, self._stages, self.clock))
        else:
            inboxes = Inboxes(kafka_settings(self.config))
            places += [KafkaTopics(self.log, self.clock), KafkaLanes(inboxes, WHEEL, self.clock)]
        made = Erasures(self.store, self.log, places, key, self.clock, self.engine.paused)
        self._stack.callback(ErasureRunner(made).close)
        return made

    def _own_log(self) -> SqliteLog:
        """First of all: it says who else has the folder open."""
        config, folder = self.config, self.folder
        settings = SqliteLogSettings(key=log_key(folder), max_lag=config.engine.max_lag, durable=config.engine.durable)
        log = SqliteLog(folder.path, settings)
        self._stack.callback(log.close)
        return log

    def _embedded(self, log: SqliteLog, stages: Sequence[Stage], sinks: Sequence[Sink]) -> Engine:
        key = quarantine_key(redaction_key(self.config, self.folder))
        quarantine = Quarantine(self.folder.part("quarantine"), key, clock=self.clock)
        self._behind = Behind(quarantine, LogMessages(log), log)
        return Engine(
            log,
            stages,
            [ClickHouseSink(self.store), *sinks],
            self.clock,
            EngineSettings(workers=self.config.engine.workers, kept=topics_kept(self.config)),
            quarantine=quarantine,
            on_batch=self.metrics.batch,
        )

    def _on_kafka(self, stages: Sequence[Stage], sinks: Sequence[Sink]) -> tuple[Log, Running]:
        cluster = Cluster(self.config, self._stack, self.clock)
        cluster.check()
        self.metrics = cluster.metrics
        log = KafkaLog(cluster.kafka, cluster.framing)
        self._stack.callback(log.close)
        reader = Reader(cluster.kafka, cluster.framing)
        self._stack.callback(reader.close)
        self._behind = Behind(cluster.quarantine, reader, log)
        acting = [stage for stage in stages if stage.effects]
        every = [ClickHouseSink(self.store), *sinks]
        return log, KafkaEngine(cluster, log, acting, every, self.folder.part("kafka-state"))

    def _start_nemo(self) -> str:
        if self.config.nemo.url:
            return self.config.nemo.url
        process = NemoProcess(self.folder.part("nemo"), minilm_folder(self.config))
        self._stack.callback(process.close)
        return process.url

    def _connect_nemo(self) -> NemoPort:
        token = self.config.nemo.token.get_secret_value()
        nemo = Microservices(self.nemo_url, namespace=self.config.nemo.namespace, token=token)
        self._stack.callback(nemo.close)
        return nemo

    def _serve(self, where: Where) -> None:
        self.owner_token = self.folder.claim("")
        self._stack.callback(self.folder.release)
        routes = api.routes(self, self.owner_token, self._metrics_text)
        face = Face(self._problems, routes, OWN_PATHS, self.owner_token)
        self.ports = Ports(self.config, where, self.log, self.clock, face)
        self._stack.callback(self.ports.close)
        self.url = self.ports.near_url
        self.folder.announce(self.url)

    def _problems(self) -> list[str]:
        problems: list[str] = []
        if self.engine.failure is not None:
            problems.append(f"the engine stopped: {type(self.engine.failure).__name__}")
        problems += [
            f"{group} is {behind} entries behind"
            for group, behind in self.engine.lags().items()
            if behind >= self.config.engine.max_lag
        ]
        return problems

    def _metrics_text(self) -> str:
        self.metrics.lag(self.engine.lags())
        return self.metrics.text()

    # What the API and the command line ask.

    def sql(self, query: str) -> api.Table:
        """An analyst's query."""
        return table_of(self.store.query(query))

    def ledger(self) -> api.Table:
        """The ledger by minute and tenant."""
        return table_of(self.store.ledger())

    def ledger_totals(self) -> dict[str, int]:
        """The ledger summed up."""
        table = self.ledger()
        names = ("accepted", "stored", "quarantined", "dropped", "difference")
        return {name: sum(int(row[table.columns.index(name)]) for row in table.rows) for name in names}

    def queue(self, limit: int) -> list[dict[str, Any]]:
        """Samples that wait for a label, oldest first."""
        return self.store.named("label_queue", limit=limit) if limit > 0 else []

    @property
    def erasing(self) -> Erasing:
        """The erasures; what is asked for is done in the background."""
        return self._erasures

    @property
    def letters(self) -> DeadLetters:
        """The dead letters, and their replay."""
        return DeadLetters(self.store, lambda: self._behind, self.clock)

    @property
    def vault(self) -> Vault:
        """The sealed payloads."""
        return OwnVault(self.letters, lambda: self._behind, Audit(self.folder.path / AUDIT, self.clock))

    def canaries(self) -> Canaries:
        """What plants values and looks for them on the clean side; ``run_forever`` runs it."""
        settings = canary_settings(self.config, redaction_key(self.config, self.folder))
        return Canaries(settings, self.metrics, self.clock, log=self.log, ask=self.store.select)

    def judging(self) -> AbstractContextManager[Judging]:
        """What judges live turns, when the configuration names a judge; ``run_forever`` runs it."""
        key, folder = redaction_key(self.config, self.folder), self.folder.path / "judge"
        return open_judging(self.config, key, folder, self.store, self.log, self.metrics.judges, self.clock)

    # What the demo and the importer do.

    def settle(self) -> None:
        """Lock step: run everything that follows from what came in, training jobs included."""
        self.engine.settle()

    def bootstrap(self, agent: str, rows: Sequence[tuple[str, str]]) -> str:
        """Train the first model from labelled texts, which are redacted first, and make it live; its name."""
        if self.nemo is None:
            raise Refused("a first model needs NeMo")
        texts = clean_texts(self._redact, [text for text, _ in rows], self.clock())
        seed = [(text, label) for text, (_, label) in zip(texts, rows, strict=True) if text]
        dataset = stage_settings(RunJobs, self.config).dataset
        records = bootstrap(self.nemo, TENANT, agent, seed, self.clock(), settings=dataset)
        self.log.append([entry_of(record, self.clock()) for record in records])
        self.settle()
        return next(record.candidate for record in records if isinstance(record, Job))

    def close(self) -> None:
        """Stop everything, in the opposite order of its start."""
        self._stack.close()


def wait_for_interrupt(failed: Callable[[], bool] = lambda: False) -> None:
    """Until Ctrl-C or a request to terminate, or until ``failed``."""
    ended = threading.Event()

    def end(number: int, frame: object) -> None:
        del number, frame
        ended.set()

    before = {number: signal.signal(number, end) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        while not ended.wait(1) and not failed():
            pass
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def run_forever(config: Config, where: Where, console: Console) -> None:
    """``driftwheel up``. Raises Refused when the engine fails."""
    product = Product(config, where=where)
    try:
        product.retention.start()
        product.engine.start()
        console.print(
            f"driftwheel is up: send traces and signals to {product.ports.told}", highlight=False, soft_wrap=True
        )
        console.print(
            f"data folder {product.folder.path}; local NeMo {product.nemo_url}; Ctrl-C stops", highlight=False
        )
        with product.canaries().running(), product.judging() as judging, judging.running():
            wait_for_interrupt(lambda: product.engine.failure is not None)
        if product.engine.failure is not None:
            raise Refused(f"the engine stopped: {product.engine.failure}")
    finally:
        product.close()
