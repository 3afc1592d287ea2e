"""The processes of a run, and who looks after them: one that ends without having been asked to is started again."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from connectors.kafka.settings import KafkaSettings
from tests.machine import free_ports

CHILD = Path(__file__).parent / "child.py"
ROOT = CHILD.parent.parent.parent
READY_SECONDS = 120.0
STOP_SECONDS = 60.0
AGAIN_SECONDS = 0.5
ALIVE_SECONDS = 10.0
DYING_LOOKS = 3
"""So many bad answers in a row, ``ALIVE_SECONDS`` apart, end a process: Kubernetes' defaults."""
READY = "/readyz"
DEFECT = 70


@dataclass
class Child:
    """One process of the product: how it is started, and that it is, as often as it has to be."""

    name: str
    arguments: tuple[str, ...]
    environment: dict[str, str]
    folder: Path
    port: int
    path: str = READY
    exits: Counter[str] = field(default_factory=Counter[str])
    process: subprocess.Popen[bytes] | None = None
    wanted: bool = False
    _lock: threading.RLock = field(default_factory=threading.RLock)
    _again: float = 0.0
    _dying: int = 0

    @property
    def url(self) -> str:
        """Where it answers."""
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start it; from now on it is meant to run."""
        with self._lock:
            self.wanted = True
            self._launch()

    def _launch(self) -> None:
        with (self.folder / f"{self.name}.log").open("ab") as out:
            self.process = subprocess.Popen(
                [sys.executable, str(CHILD), *self.arguments], cwd=self.folder, env=self.environment,
                stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True,
            )  # fmt: skip

    def kill(self) -> None:
        """``kill -9``; whoever looks after it starts it again."""
        self._end(signal.SIGKILL, "killed")

    def stop(self, *, politely: bool = True) -> None:
        """End it for good, by SIGTERM or SIGKILL."""
        with self._lock:
            self.wanted = False
        self._end(signal.SIGTERM if politely else signal.SIGKILL, "stopped" if politely else "killed")

    def _end(self, number: int, what: str) -> None:
        with self._lock:
            process, self.process = self.process, None
            self._again = time.monotonic() + AGAIN_SECONDS
        if process is None:
            return
        before = process.poll()
        if before is not None:
            self.exits[str(before)] += 1
            return
        process.send_signal(number)
        try:
            code = process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.exits["did not stop"] += 1
            process.kill()
            process.wait()
        else:
            self.exits[what if code in (0, -number) else str(code)] += 1

    def look(self) -> None:
        """Start it again when it is meant to run and does not."""
        with self._lock:
            if self.process is not None and (code := self.process.poll()) is not None:
                self.exits[str(code)] += 1
                self.process, self._again = None, time.monotonic() + AGAIN_SECONDS
            if self.wanted and self.process is None and time.monotonic() >= self._again:
                self._launch()

    def check_alive(self) -> None:
        """End it when it has said for a while that it should be started again, as an orchestrator does."""
        process = self.process
        if process is None or self._answers("/livez") is not False:
            self._dying = 0
            return
        self._dying += 1
        if self._dying >= DYING_LOOKS and process is self.process:
            self._dying = 0
            self._end(signal.SIGKILL, "not live")

    def _answers(self, path: str) -> bool | None:
        """Whether all is well; None: it does not say."""
        try:
            return httpx.get(self.url + path, timeout=5, trust_env=False).is_success
        except httpx.TransportError:
            return None

    @property
    def ready(self) -> bool:
        """Whether it says so."""
        if self.process is None or self.process.poll() is not None:
            return False
        return self._answers(self.path) is True


class Fleet:
    """The gateway, the workers and the sink of one run."""

    def __init__(self, folder: Path, kafka: KafkaSettings, config: dict[str, dict[str, object]]) -> None:
        self.folder, self._kafka = folder, kafka
        self._config = folder / "driftwheel.toml"
        self._config.write_text(_toml(config))
        self.children: dict[str, Child] = {}
        self._ended = threading.Event()
        self._keepers = [threading.Thread(target=work, daemon=True) for work in (self._keep, self._keep_alive)]
        for keeper in self._keepers:
            keeper.start()

    def add(self, name: str, kind: str, *more: str) -> Child:
        """A process, not yet started."""
        [port] = free_ports(1)
        data = self.folder / f"data-{name}"
        environment = {key: value for key, value in os.environ.items() if not key.startswith("DRIFTWHEEL")} | {
            "DRIFTWHEEL_CONFIG": str(self._config),
            "DRIFTWHEEL__DATA_DIR": str(data),
            "DRIFTWHEEL__KAFKA__BROKERS": self._kafka.brokers,
            "DRIFTWHEEL__KAFKA__PREFIX": self._kafka.prefix,
            "DRIFTWHEEL__WORKER__PORT": str(port),
            "DRIFTWHEEL__GATEWAY__PORT": str(port),
            "DRIFTWHEEL__GATEWAY__GRPC": "false",
            "DRIFTWHEEL__REDACT__KEY": "00112233445566778899aabbccddeeff",
            "OMP_NUM_THREADS": "1",
            "PYTHONFAULTHANDLER": "1",
        }
        child = Child(name, (kind, str(self.folder), *more), environment, self.folder, port)
        self.children[name] = child
        return child

    def data_of(self, child: Child) -> Path:
        """Its data folder."""
        return Path(child.environment["DRIFTWHEEL__DATA_DIR"])

    def forget_state(self, child: Child) -> None:
        """Delete a dead worker's folder."""
        shutil.rmtree(self.data_of(child), ignore_errors=True)

    def await_ready(self, children: list[Child] | None = None, seconds: float = READY_SECONDS) -> None:
        """Until all that are meant to run are ready. RuntimeError after so long."""
        self._await(lambda: self._unready(children), seconds)

    def _unready(self, children: list[Child] | None) -> list[str]:
        some = [child for child in children or list(self.children.values()) if child.wanted]
        return [child.name for child in some if not child.ready]

    def _await(self, missing: Callable[[], list[str]], seconds: float) -> None:
        until = time.monotonic() + seconds
        while names := missing():
            if time.monotonic() > until:
                raise RuntimeError(f"not ready after {seconds:.0f} s: {', '.join(names)} (logs in {self.folder})")
            time.sleep(0.25)

    def _keep(self) -> None:
        while not self._ended.wait(0.2):
            for child in list(self.children.values()):
                child.look()

    def _keep_alive(self) -> None:
        while not self._ended.wait(ALIVE_SECONDS):
            for child in list(self.children.values()):
                if child.arguments[0] == "worker":
                    child.check_alive()

    def close(self, *, politely: bool = True) -> None:
        """End every process."""
        self._ended.set()
        for keeper in self._keepers:
            keeper.join()
        for child in self.children.values():
            child.stop(politely=politely)

    def exits(self) -> dict[str, dict[str, int]]:
        """How each process ended, how often."""
        return {name: dict(child.exits) for name, child in self.children.items() if child.exits}


def _toml(config: dict[str, dict[str, object]]) -> str:
    """Sections of plain values; a dotted section is one inside of another."""
    lines: list[str] = []
    for section, values in config.items():
        lines += [f"[{section}]", *[f"{name} = {json.dumps(value)}" for name, value in values.items()], ""]
    return "\n".join(lines)
