"""Dead letters on Kafka, for a command: the store that the sink writes to, and the cluster when it is needed."""

from __future__ import annotations

import time
from collections.abc import Generator, Sequence
from contextlib import ExitStack, contextmanager

from connectors.clickhouse.store import Store, StoreSettings
from connectors.kafka.log import KafkaLog, KafkaLogSettings
from connectors.kafka.reader import Reader
from connectors.log import Entry, Log
from driftwheel.audit import FILE as AUDIT
from driftwheel.audit import Audit
from driftwheel.clock import utc_now
from driftwheel.cluster import Cluster
from driftwheel.config import Config
from driftwheel.deadletters import Behind, DeadLetters
from driftwheel.letters import Letters
from driftwheel.retention import retention_of
from driftwheel.vault import OwnVault, Vault
from schemas.errors import Refused, Reject

PATIENCE = 30.0
"""Seconds for which a replay is tried while the brokers take nothing."""


@contextmanager
def kafka_letters(config: Config) -> Generator[Letters]:
    """The cluster's dead letters. Lists need the store alone; payloads and replays the brokers and ``redact.key``."""
    with ExitStack() as stack:
        yield DeadLetters(open_sink_store(config, stack), _OnCluster(config, stack), utc_now)


@contextmanager
def kafka_vault(config: Config) -> Generator[Vault]:
    """The cluster's sealed payloads. The audit log is this machine's, in the data folder."""
    with ExitStack() as stack:
        behind = _OnCluster(config, stack)
        letters = DeadLetters(open_sink_store(config, stack), behind, utc_now)
        yield OwnVault(letters, behind, Audit(config.data_dir.expanduser() / AUDIT, utc_now))


def open_sink_store(config: Config, stack: ExitStack) -> Store:
    """The store that the sink writes to. A question makes no folder: Refused when there is no store yet."""
    url, path = config.store.url.get_secret_value(), config.data_dir / "store"
    if not url and not path.is_dir():
        raise Refused(
            f"there is no store in {config.data_dir}, and store.url is not set: name the ClickHouse server that the "
            "sink writes to, e.g. DRIFTWHEEL__STORE__URL=http://user:password@host:8123"
        )
    store = Store(
        StoreSettings(
            path=None if url else path,
            url=url,
            database=config.store.database,
            retention_days=config.store.retention_days,
            tenants=retention_of(config),
        )
    )
    stack.callback(store.close)
    return store


class _OnCluster:
    """The brokers, asked for the first time when a letter's message is."""

    def __init__(self, config: Config, stack: ExitStack) -> None:
        self._config, self._stack = config, stack
        self._made: Behind | None = None

    def __call__(self) -> Behind:
        if self._made is None:
            cluster = Cluster(self._config, self._stack, utc_now)
            reader = Reader(cluster.kafka, cluster.framing)
            self._stack.callback(reader.close)
            log = KafkaLog(cluster.kafka, cluster.framing, KafkaLogSettings(name="deadletters"))
            self._stack.callback(log.close)
            self._made = Behind(cluster.quarantine, reader, Patient(log))
        return self._made


class Patient:
    """A Log that tries again for ``patience`` seconds before it lets Reject through: a replay may come twice."""

    def __init__(self, log: Log, patience: float = PATIENCE) -> None:
        self._log, self._patience = log, patience

    def append(self, entries: Sequence[Entry]) -> None:
        """See Log."""
        deadline = time.monotonic() + self._patience
        while True:
            try:
                self._log.append(entries)
            except Reject as error:
                if time.monotonic() + min(error.retry_after, 1.0) > deadline:
                    raise
                time.sleep(min(error.retry_after, 1.0))
            else:
                return
