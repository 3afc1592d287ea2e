"""A folder for one of several processes on a machine: the first that is free, so that a restart finds its own again."""

from __future__ import annotations

import fcntl
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from schemas.errors import Refused

_MOST = 256


@contextmanager
def instance_folder(parent: Path) -> Generator[Path]:
    """``parent/0``, or the next one that no other process holds; held until the end. Refused when there is none."""
    parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    for number in range(_MOST):
        folder = parent / str(number)
        folder.mkdir(exist_ok=True, mode=0o700)
        with (parent / f"{number}.lock").open("a") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            yield folder
            return
    raise Refused(f"{_MOST} processes have their state in {parent} already: name another worker.state_dir")
