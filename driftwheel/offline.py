"""A data folder that nobody has open: this process opens store and log for the length of one question."""

from __future__ import annotations

from typing import Any

from connectors.quarantine import Quarantine
from connectors.sqlite_log import SqliteLog, SqliteLogSettings
from driftwheel.api import Table
from driftwheel.config import Config
from driftwheel.deadletters import Behind, DeadLetters, LogMessages
from driftwheel.erasure import erase
from driftwheel.folder import DataFolder
from driftwheel.keys import log_key, quarantine_key, redaction_key
from driftwheel.letters import Letters
from driftwheel.library import open_store, table_of
from driftwheel.product import utc_now


class OfflineDesk:
    """See ``driftwheel.desk.Questions``."""

    def __init__(self, config: Config, folder: DataFolder) -> None:
        self._config, self._folder = config, folder
        self._log = SqliteLog(folder.path, SqliteLogSettings(key=log_key(folder)))
        self._store = open_store(config, folder)

    def sql(self, query: str) -> Table:
        """See Questions."""
        return table_of(self._store.query(query))

    def ledger(self) -> Table:
        """See Questions."""
        return table_of(self._store.ledger())

    def erase(self, tenant: str, user_id: str) -> dict[str, Any]:
        """See Questions."""
        key = redaction_key(self._config, self._folder)
        return erase(self._store, self._log, key, tenant, user_id, utc_now())

    @property
    def letters(self) -> Letters:
        """See Questions. What is replayed waits in the log until the product runs."""
        quarantine = Quarantine(self._folder.part("quarantine"), quarantine_key(self._folder))
        return DeadLetters(self._store, lambda: Behind(quarantine, LogMessages(self._log), self._log), utc_now)

    def close(self) -> None:
        """Let go of the folder."""
        self._store.close()
        self._log.close()
