"""``driftwheel import``: recordings of other tools through the gateway's own path."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from connectors.imports.formats import Format, Request, format_of, requests_in
from driftwheel.client import Client, DeliveryError
from driftwheel.config import Config
from driftwheel.folder import DataFolder
from driftwheel.tables import show_mapping
from schemas.errors import Refused, UsageError

SESSIONS_CLOSE = timedelta(hours=3)


@dataclass(frozen=True, slots=True)
class Wanted:
    """What to import: ``format`` None when it is to be guessed, ``agent`` '' when the file names it."""

    file: Path
    format: Format | None = None
    agent: str = ""
    dry_run: bool = False


def import_file(config: Config, wanted: Wanted, endpoint: str | None, token: str, as_json: bool) -> None:
    """Send every span: to ``endpoint``, else to the product that has the folder open, else to our own.

    The whole file is read first, so that a bad line imports nothing; ``dry_run`` stops there.
    """
    if not wanted.file.is_file():
        raise UsageError(f"{wanted.file} is not a file")
    console = Console(stderr=True)
    kind = wanted.format or format_of(wanted.file)
    if wanted.format is None:
        console.print(f"{wanted.file.name}: {kind}, by its first row", highlight=False, markup=False)
    with Progress(console=console, transient=True) as bars:
        reading = bars.add_task("reading", total=None)
        counts = _read(wanted, kind, lambda _: bars.advance(reading))
        if not wanted.dry_run:
            sending = bars.add_task("sending", total=counts["spans"])
            with _target(config, endpoint, token) as send:
                _read(wanted, kind, lambda request: _send(send, request, partial(bars.advance, sending)))
    show_mapping({"format": kind, **counts, "imported": not wanted.dry_run}, as_json=as_json)


def _read(wanted: Wanted, kind: Format, use: Callable[[Request], None]) -> dict[str, int]:
    """Reads the file to its end and returns what it holds."""
    counts: Counter[str] = Counter(spans=0)
    traces: set[bytes] = set()

    def count(name: str, number: int) -> None:
        counts[name] += number

    for request in requests_in(wanted.file, kind, wanted.agent, count):
        use(request)
        spans = [span for resource in request.resource_spans for scope in resource.scope_spans for span in scope.spans]
        counts["spans"] += len(spans)
        traces.update(span.trace_id for span in spans)
    return {**dict(sorted(counts.items())), "traces": len(traces)}


def _send(send: Callable[[bytes], None], request: Request, advance: Callable[[float], None]) -> None:
    try:
        send(request.SerializeToString())
    except DeliveryError as error:
        raise Refused(str(error)) from error
    advance(sum(len(scope.spans) for resource in request.resource_spans for scope in resource.scope_spans))


@contextmanager
def _target(config: Config, endpoint: str | None, token: str) -> Generator[Callable[[bytes], None]]:
    owner = None if endpoint else DataFolder(config.data_dir).owner()
    url = endpoint or (owner.url if owner else None)
    token = token or config.gateway.token.get_secret_value() or (owner.token if owner else "")
    if url is not None:
        with Client(url, token=token or None) as client:
            yield client.traces
        return
    from driftwheel.ports import PRIVATE
    from driftwheel.product import Product

    clock = _Clock()
    product = Product(config, clock=clock, where=PRIVATE, wheel=False, models=False)
    try:
        with Client(product.url, token=product.owner_token) as client:
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
