"""``driftwheel import``: recorded conversations through the gateway's own path."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from connectors.conversations import import_file as read_and_send
from connectors.conversations import iter_conversations
from driftwheel.client import Client, DeliveryError
from driftwheel.config import Config
from driftwheel.folder import DataFolder
from driftwheel.tables import show_mapping
from schemas.errors import Refused, UsageError

SESSIONS_CLOSE = timedelta(hours=3)


def import_file(config: Config, file: Path, endpoint: str | None, token: str, as_json: bool) -> None:
    """Send every conversation: to ``endpoint``, else to the product that has the folder open, else to our own."""
    if not file.is_file():
        raise UsageError(f"{file} is not a file")
    total = sum(1 for _ in iter_conversations(file))  # the whole file is read first: a bad line imports nothing
    with _target(config, endpoint, token) as send, Progress(console=Console(stderr=True), transient=True) as bars:
        task = bars.add_task("conversations", total=total)

        def progress(done: int) -> None:
            bars.update(task, completed=done)

        try:
            sent = read_and_send(file, send, progress)
        except DeliveryError as error:
            raise Refused(str(error)) from error
    show_mapping(sent, as_json=as_json)


@contextmanager
def _target(config: Config, endpoint: str | None, token: str) -> Generator[Callable[[bytes], None]]:
    owner = None if endpoint else DataFolder(config.data_dir).owner()
    url = endpoint or (owner.url if owner else None)
    token = token or config.gateway.token.get_secret_value()
    if url is not None:
        with Client(url, token=token or None) as client:
            yield client.traces
        return
    from driftwheel.product import Product

    clock = _Clock()
    product = Product(config, clock=clock, port=0, wheel=False, models=False)
    try:
        with Client(product.url, token=token or None) as client:
            yield client.traces
        product.settle()
        clock.ahead = SESSIONS_CLOSE
        product.settle()
    finally:
        product.close()


class _Clock:
    """The real clock, until it is set ahead so that sessions close."""

    def __init__(self) -> None:
        self.ahead = timedelta()

    def __call__(self) -> datetime:
        """Now."""
        return datetime.now(UTC) + self.ahead
