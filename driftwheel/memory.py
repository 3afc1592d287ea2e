"""Memory that a process has freed goes back to the system, and little CPU goes into looking for what to free.

A worker has a hundred threads (clients of Kafka, lanes), and glibc's allocator gives threads arenas of their own: what
one arena has freed is of no use to the others, and stays in the resident set. So there is one arena; large blocks are
mapped by themselves, so that they do not break it up (by default the allocator stops doing so once it has freed some);
and once in a while all that is free is given back (``mallopt`` and ``malloc_trim``, malloc(3)). Elsewhere nothing is
done.

Records and states are freed by their reference counts; only cycles need Python's collector, which by default looks at
every 700 new objects, and that takes an eighth of the CPU of stages.
"""

from __future__ import annotations

import ctypes
import gc
import logging
import threading
from collections.abc import Generator
from contextlib import contextmanager

from driftwheel.background import background

logger = logging.getLogger(__name__)

TRIM_SECONDS = 10.0
_ARENAS = 1
_MAPPED = 64 << 10
"""Bytes from which on a block is mapped by itself."""
_COLLECT = (50_000, 20, 10)
"""New objects until the youngest are looked at, and how often that until the next generation is."""
_M_MMAP_THRESHOLD, _M_ARENA_MAX = -3, -8


@contextmanager
def tidy_memory(seconds: float = TRIM_SECONDS) -> Generator[bool]:
    """Keep the allocator tidy meanwhile, every ``seconds``; gives whether there is anything to be done here."""
    libc = _glibc()
    if libc is None:
        yield False
        return
    libc.mallopt(_M_ARENA_MAX, _ARENAS)
    libc.mallopt(_M_MMAP_THRESHOLD, _MAPPED)
    ended = threading.Event()

    def trim() -> None:
        while not ended.wait(seconds):
            libc.malloc_trim(0)

    with background(trim, "memory", ended):
        yield True


@contextmanager
def rare_collections() -> Generator[None]:
    """Look for cycles seldom meanwhile, and not at all among what is there already: modules, patterns, models."""
    before = gc.get_threshold()
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_COLLECT)
    try:
        yield
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()


def _glibc() -> ctypes.CDLL | None:
    """The process's own C library, when it is glibc."""
    try:
        libc = ctypes.CDLL(None)
        return libc if hasattr(libc, "malloc_trim") and hasattr(libc, "mallopt") else None
    except (OSError, TypeError):
        logger.debug("no C library to ask")
        return None
