"""A data folder that nobody has open: this process opens store and log for the length of one question."""

from __future__ import annotations

from contextlib import ExitStack

from connectors.nemo.microservices import Microservices
from connectors.nemo.port import NemoPort
from connectors.quarantine import Quarantine
from connectors.sqlite_log import SqliteLog, SqliteLogSettings
from deploy.rollout import Rollout
from driftwheel.api import Table
from driftwheel.audit import FILE as AUDIT
from driftwheel.audit import Audit
from driftwheel.config import Config
from driftwheel.deadletters import Behind, DeadLetters, LogMessages
from driftwheel.erasing import Erasing
from driftwheel.erasure import AtOnce, Erasures
from driftwheel.erasure_places import DatasetFiles, EmbeddedLog, QuarantinedPayloads
from driftwheel.folder import DataFolder
from driftwheel.keys import log_key, quarantine_key, redaction_key
from driftwheel.library import open_store, table_of
from driftwheel.nemo_process import NemoProcess
from driftwheel.pipeline import build_stage, pure_stages
from driftwheel.product import utc_now
from driftwheel.vault import OwnVault, Vault
from driftwheel.weights import minilm_folder


class OfflineDesk:
    """See ``driftwheel.desk.Questions``."""

    def __init__(self, config: Config, folder: DataFolder) -> None:
        self._config, self._folder = config, folder
        self._log = SqliteLog(folder.path, SqliteLogSettings(key=log_key(folder)))
        self._store = open_store(config, folder)
        self._stack = ExitStack()

    def sql(self, query: str) -> Table:
        """See Questions."""
        return table_of(self._store.query(query))

    def ledger(self) -> Table:
        """See Questions."""
        return table_of(self._store.ledger())

    @property
    def erasing(self) -> Erasing:
        """See Questions. What is asked for is done at once, but for what needs the product to run."""
        key = redaction_key(self._config, self._folder)
        stages = [*pure_stages(self._config, key), build_stage(Rollout, self._config)]
        places = [
            DatasetFiles(self._store, self._log, self._nemo, utc_now),
            QuarantinedPayloads(self._store, lambda: self._behind().payloads, key),
            EmbeddedLog(self._log, stages, utc_now),
        ]
        return AtOnce(Erasures(self._store, self._log, places, key, utc_now))

    def _nemo(self) -> NemoPort:
        """The configuration's NeMo, or the folder's own, which is started for the occasion."""
        config, url = self._config.nemo, self._config.nemo.url
        if not url:
            process = NemoProcess(self._folder.part("nemo"), minilm_folder(self._config))
            self._stack.callback(process.close)
            url = process.url
        nemo = Microservices(url, namespace=config.namespace, token=config.token.get_secret_value())
        self._stack.callback(nemo.close)
        return nemo

    @property
    def letters(self) -> DeadLetters:
        """See Questions. What is replayed waits in the log until the product runs."""
        return DeadLetters(self._store, self._behind, utc_now)

    @property
    def vault(self) -> Vault:
        """See Questions."""
        return OwnVault(self.letters, self._behind, Audit(self._folder.path / AUDIT, utc_now))

    def _behind(self) -> Behind:
        key = quarantine_key(redaction_key(self._config, self._folder))
        quarantine = Quarantine(self._folder.part("quarantine"), key, clock=utc_now)
        return Behind(quarantine, LogMessages(self._log), self._log)

    def close(self) -> None:
        """Let go of the folder."""
        self._stack.close()
        self._store.close()
        self._log.close()
