"""Where the embedded engine's inserts pass through a file, text and all: beside the store, not in the system's folder.

clickhouse-connect hands a batch to the engine in a temporary file, which a killed process leaves behind.
"""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from connectors.clickhouse.client import StoreSettings

_CLEARED: set[Path] = set()
_TEMPORARY = threading.Lock()


def scratch_of(settings: StoreSettings) -> Path | None:
    """The folder for the embedded engine's inserts; None for a server.

    What a killed process left there is removed, once in a process: to be called when the store is open, since it has
    one owner then.
    """
    if settings.path is None or settings.url:
        return None
    scratch = settings.path.absolute().with_name(f"{settings.path.name}-inserts")
    scratch.mkdir(exist_ok=True, mode=0o700)
    if scratch not in _CLEARED:
        _CLEARED.add(scratch)
        for left in scratch.glob("*.native"):
            left.unlink(missing_ok=True)
    return scratch


@contextmanager
def temporary_files_in(folder: Path | None) -> Generator[None]:
    """Temporary files are made in ``folder`` meanwhile; the place is the whole process's, hence the lock."""
    if folder is None:
        yield
        return
    with _TEMPORARY:
        before, tempfile.tempdir = tempfile.tempdir, str(folder)
        try:
            yield
        finally:
            tempfile.tempdir = before
