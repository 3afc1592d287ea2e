"""The demo on a Kafka cluster: topics of its own, two workers as processes, and their timers on the log's clock.

What the demo wrote stays on the cluster, under a prefix that is printed.
"""

from __future__ import annotations

import subprocess
import sys
import time
from contextlib import ExitStack
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import httpx
from pydantic import SecretStr

from connectors.kafka.admin import Admin
from connectors.kafka.topics import apply, plan
from driftwheel.config import Config, KafkaConfig, WorkerConfig, environment_of
from driftwheel.kafka_config import kafka_settings
from driftwheel.pipeline import WHEEL, WORKER_STAGES
from driftwheel.topics_command import topics_of
from schemas.errors import Refused

GROUPS = (("redact",), tuple(stage.name for stage in WORKER_STAGES if stage.name != "redact"))
"""The stages of each worker."""
START_SECONDS = 120
STOP_SECONDS = 30
_MARK = "health on "


def on_kafka(config: Config, brokers: str, name: str) -> Config:
    """The configuration for a run on a cluster, under a prefix of its own. Given settings of ``kafka`` stay."""
    kafka = config.kafka.model_copy(update={"brokers": brokers, "prefix": f"{config.kafka.prefix}{name}."})
    worker = WorkerConfig(time="log")
    key = SecretStr(config.redact.key.get_secret_value() or name)
    few = KafkaConfig.model_validate(kafka.model_dump() | {"partitions": min(kafka.partitions, 3)})
    redact = config.redact.model_copy(update={"key": key})
    return config.model_copy(update={"kafka": few, "worker": worker, "redact": redact})


def make_topics(config: Config) -> None:
    """Create the run's topics. They keep everything: the demo's world has a past of its own."""
    settings = kafka_settings(config)
    wanted = [replace(topic, config={**topic.config, "retention.ms": "-1"}) for topic in topics_of(settings, WHEEL)]
    admin = Admin(settings)
    apply(admin, plan(admin, wanted))


class Workers:
    """The worker processes of a run, ready. Raises Refused when one does not start; see ``close``."""

    def __init__(self, config: Config, folder: Path) -> None:
        self._stack = ExitStack()
        self._client = httpx.Client(timeout=10, trust_env=False)
        self._stack.callback(self._client.close)
        self._urls: list[str] = []
        folder.mkdir(parents=True, exist_ok=True)
        try:
            self._processes = [self._start(config, folder, stages) for stages in GROUPS]
            self._await_ready()
        except BaseException:
            self.close()
            raise

    def _start(self, config: Config, folder: Path, stages: tuple[str, ...]) -> subprocess.Popen[bytes]:
        log = folder / f"worker-{stages[0]}.log"
        own = config.model_copy(update={"data_dir": folder / f"worker-{stages[0]}"})
        command = [sys.executable, "-m", "driftwheel.cli", "worker", "--stages", ",".join(stages)]
        with log.open("wb") as out:
            process = subprocess.Popen(command, env=environment_of(own), stderr=out, stdout=out)  # noqa: S603  # ours
        self._stack.callback(_end, process)
        self._urls.append(self._url(process, log))
        return process

    @staticmethod
    def _url(process: subprocess.Popen[bytes], log: Path) -> str:
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline and process.poll() is None:
            for line in log.read_text(errors="replace").splitlines():
                if _MARK in line:
                    return line.split(_MARK, 1)[1].strip()
            time.sleep(0.1)
        raise Refused(f"a worker did not start:\n{log.read_text(errors='replace')[-2000:]}")

    def _await_ready(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            if all(self._client.get(f"{url}/readyz").is_success for url in self._urls):
                return
            time.sleep(0.2)
        raise Refused(f"the workers did not become ready within {START_SECONDS} s")

    def due(self, at: datetime) -> int:
        """How many timers have run out, in all workers. Refused when one has ended."""
        total = 0
        for url, process, stages in zip(self._urls, self._processes, GROUPS, strict=True):
            if process.poll() is not None:
                raise Refused(f"the worker of {', '.join(stages)} ended with exit code {process.returncode}")
            total += int(self._client.get(f"{url}/due", params={"at": at.isoformat()}).json()["due"])
        return total

    def close(self) -> None:
        """End the processes, gently first."""
        self._stack.close()


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
