"""The audit log: who looked at, released or destroyed sealed payloads, and when. Lines are added, never changed.

``audit.jsonl`` in the data folder, readable by the owner alone; JSON Lines of ``time``, ``who``, ``action``, ``names``.
A line is on the disk before what it tells of is done: what cannot be written down is not done.
"""

from __future__ import annotations

import json
import os
import pwd
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path

from schemas.errors import Refused

FILE = "audit.jsonl"


class Audit:
    """One audit log."""

    def __init__(self, path: Path, clock: Callable[[], datetime]) -> None:
        self._path, self._clock = path, clock

    def note(self, action: str, who: str, names: Sequence[str]) -> None:
        """Write down what is about to be done. Raises Refused when that cannot be."""
        line = {"time": self._clock().isoformat(), "who": who, "action": action, "names": list(names)}
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                file.write(json.dumps(line, ensure_ascii=False) + "\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise Refused(f"{self._path} cannot be written, so nothing was done: {error.strerror}") from error


def os_user() -> str:
    """The operating system's word for who runs this process, whatever the environment says."""
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return f"uid {os.getuid()}"
