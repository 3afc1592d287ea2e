"""The command line as scripts use it: a process, its two outputs and its exit code."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent.parent


def run(*words: str, text: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    """``driftwheel WORDS``, run to its end."""
    return subprocess.run(
        [sys.executable, "-m", "driftwheel.cli", *words],
        input=text, capture_output=True, text=True, cwd=ROOT, env=os.environ | environment, timeout=540, check=False,
    )  # fmt: skip


def start(*words: str) -> subprocess.Popen[str]:
    """``driftwheel WORDS`` in the background."""
    command = [sys.executable, "-m", "driftwheel.cli", *words]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=ROOT)


def rows(*words: str) -> list[dict[str, Any]]:
    """What a command prints with ``--json``."""
    done = run(*words, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)
