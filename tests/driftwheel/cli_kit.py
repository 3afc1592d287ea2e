"""The command line as scripts use it: a process, its two outputs and its exit code."""

from __future__ import annotations

import atexit
import json
import os
import shutil
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent.parent


@cache
def _nowhere() -> dict[str, str]:
    """The user's own data folder and ports are out of bounds: commands without ``--data-dir`` use one of the tests'."""
    folder = Path(tempfile.mkdtemp(prefix="driftwheel-cli-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return {"DRIFTWHEEL__DATA_DIR": str(folder / "data"), "DRIFTWHEEL__GATEWAY__GRPC_PORT": "0"}


def run(*words: str, text: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    """``driftwheel WORDS``, run to its end."""
    return subprocess.run(
        [sys.executable, "-m", "driftwheel.cli", *words],
        input=text,
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=os.environ | _nowhere() | environment,
        timeout=540,
        check=False,
    )


def start(*words: str, **environment: str) -> subprocess.Popen[str]:
    """``driftwheel WORDS`` in the background."""
    command = [sys.executable, "-m", "driftwheel.cli", *words]
    env = os.environ | _nowhere() | environment
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=ROOT, env=env)


def rows(*words: str) -> list[dict[str, Any]]:
    """What a command prints with ``--json``."""
    done = run(*words, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)
