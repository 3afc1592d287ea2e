"""The local NeMo as a child process of the product."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import httpx

from schemas.errors import Refused

START_SECONDS = 60
STOP_SECONDS = 10
PREFIX = "local NeMo on "


class NemoProcess:
    """Starts ``python -m deploy.local_nemo`` on a free loopback port and ends it again."""

    def __init__(self, data_dir: Path, models: Path) -> None:
        command = [sys.executable, "-m", "deploy.local_nemo", "--data-dir", str(data_dir), "--port", "0"]
        self._log = data_dir / "nemo.log"
        with self._log.open("ab") as errors:
            self._process = subprocess.Popen(  # noqa: S603  # our own module, no shell
                [*command, "--models", str(models)], stdout=subprocess.PIPE, stderr=errors, text=True
            )
        self.url = self._await()

    def _await(self) -> str:
        line = self._process.stdout.readline() if self._process.stdout else ""
        if PREFIX not in line:
            self.close()
            raise Refused(f"the local NeMo did not start (exit code {self._process.returncode}); see {self._log}")
        url = line.split(PREFIX, 1)[1].strip()
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            try:
                if httpx.get(f"{url}/health", timeout=2, trust_env=False).is_success:
                    return url
            except httpx.HTTPError:
                time.sleep(0.05)
        self.close()
        raise Refused(f"the local NeMo did not become ready within {START_SECONDS} s; see {self._log}")

    def alive(self) -> bool:
        """Whether the process still runs."""
        return self._process.poll() is None

    def close(self) -> None:
        """End it, gently first."""
        self._process.terminate()
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()
