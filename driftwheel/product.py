"""The embedded product on one data folder: log, engine, store, gateway and local NeMo, wired together.

``driftwheel up`` runs it with threads and the real clock; the demo and the importer run it in lock step.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from typing import Any

from rich.console import Console

from connectors.clickhouse.sink import ClickHouseSink
from connectors.log import entry_of
from connectors.nemo.microservices import Microservices
from connectors.sink import Sink
from connectors.sqlite_log import SqliteLog
from deploy.bootstrap import bootstrap
from driftwheel import api
from driftwheel.config import Config
from driftwheel.embedded import Engine, EngineSettings
from driftwheel.folder import DataFolder
from driftwheel.gateway import GatewaySettings, Server, create_app
from driftwheel.library import StoreLibrary, open_store
from driftwheel.nemo_process import NemoProcess
from driftwheel.pipeline import acting_stages, pure_stages
from driftwheel.telemetry import Metrics
from driftwheel.weights import minilm_folder
from schemas.events import Record


def utc_now() -> datetime:
    """The real clock."""
    return datetime.now(UTC)


class Product:
    """Everything on one folder. ``wheel`` False: no training and no NeMo, only the stream and the store."""

    def __init__(
        self,
        config: Config,
        *,
        clock: Callable[[], datetime] = utc_now,
        port: int | None = None,
        host: str | None = None,
        sinks: Sequence[Sink] = (),
        wheel: bool = True,
        serve_models: bool = True,
    ) -> None:
        self.config, self.clock = config, clock
        self.metrics = Metrics()
