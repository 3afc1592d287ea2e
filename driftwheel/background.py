"""Work that goes on beside a command, in a thread of its own."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager


@contextmanager
def background(work: Callable[[], None], name: str, stopping: threading.Event) -> Generator[None]:
    """``work`` runs while inside. At the end ``stopping`` is set, which has to end it, and it is waited for."""
    thread = threading.Thread(target=work, name=name, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stopping.set()
        thread.join()
