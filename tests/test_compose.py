"""The deployment on one host: what docker-compose.yml promises, checked without an engine."""

from __future__ import annotations

import copy
import os
import re
import shutil
import stat
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import typer.main
import yaml

from driftwheel import config as configuration
from driftwheel.cli import app
from driftwheel.pipeline import WORKER_STAGES

ROOT = Path(__file__).parent.parent
FILE = ROOT / "docker-compose.yml"
EXAMPLE = ROOT / ".env.example"
SCRIPT = ROOT / "deploy" / "manifests" / "secrets.sh"
RAW: dict[str, Any] = yaml.safe_load(FILE.read_text())
SERVICES: dict[str, dict[str, Any]] = RAW["services"]
OURS = sorted(name for name, it in SERVICES.items() if it["image"].startswith("driftwheel:"))
SECRET = re.compile(r"PASSWORD|TOKEN|SECRET|KEY\b|JAAS")
VARIABLE = re.compile(r"\$(?:(?P<dollar>\$)|\{(?P<name>\w+)(?:(?P<how>:[-?])(?P<rest>[^}]*))?\})")
OWN_USER = {
    "apache/kafka": "appuser",
    "ghcr.io/aiven-open/karapace": "karapace",
    "driftwheel": "10001, by our Dockerfile",
}
"""Images that name a user of their own who is not root."""
WRITES_AT_START = {"kafka": "its configuration, in /opt/kafka/config", "kafka-acls": "the same image; it lives seconds"}
"""Services whose file system is not read-only, and what they write."""
OUTWARD = {"models": "downloads the weights", "job-runner": "a NeMo that is elsewhere"}
"""Services on the network `edge` that publish no port, and why they are there."""


def variables(text: str) -> Iterator[tuple[str, str]]:
    """Names and how they are asked for: ``:?`` must be set, ``:-`` has a default."""
    for found in VARIABLE.finditer(text):
        if found["name"]:
            yield found["name"], found["how"] or ""


def filled(value: Any, given: Mapping[str, str]) -> Any:
    """The value with its variables put in, as Compose does it."""
    if isinstance(value, dict):
        return {key: filled(one, given) for key, one in value.items()}
    if isinstance(value, list):
        return [filled(one, given) for one in value]
    if not isinstance(value, str):
        return value

    def put(found: re.Match[str]) -> str:
        if found["dollar"]:
            return "$"
        default = found["rest"] if found["how"] == ":-" else ""
        return given.get(found["name"]) or default or ""

    return VARIABLE.sub(put, value)


REQUIRED = {name for name, how in variables(FILE.read_text()) if how == ":?"}
GIVEN = {name: f"value{place}of{name.replace('_', '')}" for place, name in enumerate(sorted(REQUIRED))}
FILLED: dict[str, dict[str, Any]] = filled(SERVICES, GIVEN)


def once(service: dict[str, Any]) -> bool:
    return service["restart"] == "no"


def words(value: Any) -> str:
    return value if isinstance(value, str) else " ".join(value or [])


def environment(service: dict[str, Any]) -> dict[str, str]:
    return {name: str(value) for name, value in (service.get("environment") or {}).items()}


def health(name: str, service: dict[str, Any]) -> str:
    check = service.get("healthcheck") or {}
    if once(service):
        waits = [one for one in SERVICES.values() if name in (one.get("depends_on") or {})]
        kept = [one["depends_on"][name]["condition"] == "service_completed_successfully" for one in waits]
        waited = bool(kept) and all(kept)
        return "" if check == {"disable": True} and waited else "runs once, and nobody waits for its success"
    if (check.get("test") or [""])[0] not in {"CMD", "CMD-SHELL"} or len(check["test"]) < 2:
        return "no health check"
    return "" if {"interval", "timeout", "retries", "start_period"} <= set(check) else "an incomplete health check"


def limits(name: str, service: dict[str, Any]) -> str:
    del name
    bounds = ((service.get("deploy") or {}).get("resources") or {}).get("limits") or {}
    if not {"cpus", "memory", "pids"} <= set(bounds):
        return "no limits of processor, memory and processes"
    return "" if service.get("mem_limit") == bounds["memory"] else "mem_limit is not the limit of memory"


def restarts(name: str, service: dict[str, Any]) -> str:
    del name
    return "" if service.get("restart") in {"unless-stopped", "no"} else "no restart policy"


def pinned(name: str, service: dict[str, Any]) -> str:
    del name
    image, _, tag = filled(service["image"], {}).rpartition(":")
    if not image or not re.fullmatch(r"v?\d+\.\d+\.\d+[\w.-]*", tag):
        return f"image {service['image']} is not pinned to a version"
    built = image.startswith("driftwheel")
    return "" if built == ("build" in service and service.get("pull_policy") == "never") else "built or pulled?"


def hardened(name: str, service: dict[str, Any]) -> str:
    if service.get("cap_drop") != ["ALL"] or service.get("security_opt") != ["no-new-privileges:true"]:
        return "keeps privileges"
    if service.get("privileged") or service.get("cap_add"):
        return "asks for privileges"
    if bool(service.get("read_only")) == (name in WRITES_AT_START):
        return "read_only"
    options = (service.get("logging") or {}).get("options") or {}
    if not {"max-size", "max-file"} <= set(options):
        return "its log grows for ever"
    image = filled(service["image"], {}).rpartition(":")[0]
    user = str(service.get("user", ""))
    return "" if (user and not user.startswith(("0", "root"))) or image in OWN_USER else "may run as root"


def loopback(name: str, service: dict[str, Any]) -> str:
    wrong = [port for port in filled(service.get("ports") or [], {}) if not str(port).startswith("127.0.0.1:")]
    if wrong:
        return f"publishes {wrong}"
    outward = "edge" in (service.get("networks") or [])
    return "" if outward == (bool(service.get("ports")) or name in OUTWARD) else "on the wrong network"


def open_secrets(name: str, service: dict[str, Any]) -> str:
    del name
    for variable, value in environment(service).items():
        asked = dict(variables(value))
        secret = SECRET.search(variable) or ("://" in value and "@" in value)
        if secret and (not asked or any(how != ":?" for how in asked.values())):
            return f"{variable} is written out or has a default"
        if not secret and any(SECRET.search(one) for one in asked):
            return f"{variable} carries a secret under a harmless name"
    shown = filled([service.get("command"), service.get("entrypoint"), service.get("healthcheck")], GIVEN)
    return "a secret on a command line" if any(value in repr(shown) for value in GIVEN.values()) else ""


CHECKS = (health, limits, restarts, pinned, hardened, loopback, open_secrets)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("name", SERVICES)
def test_every_service(name: str, check: Any) -> None:
    assert check(name, SERVICES[name]) == ""


FAULTS: list[tuple[Any, str, dict[str, Any]]] = [
    (health, "gateway", {"healthcheck": None}),
    (health, "gateway", {"healthcheck": {"test": ["NONE"]}}),
    (health, "prometheus", {"restart": "no"}),
    (limits, "sink", {"deploy": {}}),
    (limits, "sink", {"mem_limit": "9g"}),
    (restarts, "nemo", {"restart": "always!"}),
    (pinned, "clickhouse", {"image": "clickhouse/clickhouse-server:latest"}),
    (pinned, "clickhouse", {"image": "clickhouse/clickhouse-server"}),
    (pinned, "gateway", {"pull_policy": "missing"}),
    (hardened, "sink", {"cap_drop": []}),
    (hardened, "sink", {"read_only": False}),
    (hardened, "sink", {"logging": {"driver": "json-file"}}),
    (hardened, "clickhouse", {"user": "0:0"}),
    (hardened, "grafana", {"user": ""}),
    (loopback, "grafana", {"ports": ["3000:3000"]}),
    (loopback, "gateway", {"ports": ["${BIND_ADDRESS:-0.0.0.0}:4318:4318"]}),
    (loopback, "clickhouse", {"networks": ["data", "edge"]}),
    (open_secrets, "grafana", {"environment": {"GF_SECURITY_ADMIN_PASSWORD": "admin"}}),
    (open_secrets, "grafana", {"environment": {"GF_SECURITY_ADMIN_PASSWORD": "${GRAFANA_PASSWORD:-admin}"}}),
    (open_secrets, "sink", {"environment": {"X": "http://user:secret@clickhouse:8123"}}),
    (open_secrets, "sink", {"environment": {"HARMLESS": "${KAFKA_PASSWORD:?}"}}),
    (open_secrets, "nemo", {"command": ["--token", "${NEMO_TOKEN:?}"]}),
]


@pytest.mark.parametrize(("check", "name", "fault"), FAULTS)
def test_control_a_planted_fault_is_found(check: Any, name: str, fault: dict[str, Any]) -> None:
    assert check(name, copy.deepcopy(SERVICES[name]) | fault) != ""


def test_the_network_of_the_data_reaches_nothing_outside() -> None:
    assert RAW["networks"]["data"] == {"internal": True}


@pytest.mark.parametrize("name", SERVICES)
def test_what_is_mounted_is_there(name: str) -> None:
    for mount in SERVICES[name].get("volumes") or []:
        source, target, *mode = mount.split(":")
        if source.startswith("."):
            assert (ROOT / source).exists(), mount
            assert mode == ["ro"], mount
        else:
            assert source in RAW["volumes"], mount
        assert target.startswith("/")


def test_who_waits_for_whom_ends_somewhere() -> None:
    waits = {name: list(it.get("depends_on") or {}) for name, it in SERVICES.items()}
    waits["kafka-acls"].append(SERVICES["kafka-acls"]["network_mode"].removeprefix("service:"))
    while waits:
        free = [name for name, others in waits.items() if not set(others) & set(waits)]
        assert free, f"these wait for one another: {sorted(waits)}"
        for name in free:
            del waits[name]
    for it in SERVICES.values():
        for other, how in (it.get("depends_on") or {}).items():
            wanted = "service_completed_successfully" if once(SERVICES[other]) else "service_healthy"
            assert how["condition"] == wanted


@pytest.mark.parametrize("name", [name for name in OURS if "entrypoint" not in SERVICES[name]])
def test_commands_exist(name: str) -> None:
    command: Any = typer.main.get_command(app)
    rest = [str(word) for word in FILLED[name]["command"]]
    while hasattr(command, "commands"):
        assert rest, f"{name}: which command?"
        assert rest[0] in command.commands, f"{name}: there is no `driftwheel {' '.join(FILLED[name]['command'])}`"
        command = command.commands[rest.pop(0)]
    with command.make_context("driftwheel", rest):
        pass


def test_the_local_nemo_takes_its_options() -> None:
    from deploy.local_nemo.__main__ import parser

    _, _, line = words(FILLED["nemo"]["command"]).partition("deploy.local_nemo ")
    options = parser().parse_args(line.split())
    assert options.port == int(re.findall(r"'127.0.0.1', (\d+)", words(FILLED["nemo"]["healthcheck"]["test"]))[0])
    assert options.token_file is not None
    folder = f"{options.models.parent}:ro"
    assert any(mount.endswith(folder) for mount in FILLED["nemo"]["volumes"])


def test_every_stage_runs_once() -> None:
    lists = [it["command"] for it in FILLED.values() if words(it.get("command")).startswith("worker ")]
    named = [stage for line in lists for stage in line[line.index("--stages") + 1].split(",")]
    assert sorted(named) == sorted(stage.name for stage in WORKER_STAGES)


@pytest.mark.parametrize("name", OURS)
def test_settings_exist(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    given = environment(FILLED[name])
    for variable, value in given.items():
        monkeypatch.setenv(variable, value)
    config = configuration.load()
    if "DRIFTWHEEL__KAFKA__PASSWORD" in given:
        assert config.kafka.password.get_secret_value() == GIVEN["KAFKA_PASSWORD"]
        assert config.kafka.brokers


def test_control_a_misspelt_setting_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DRIFTWHEEL__KAFKA__BROKER", "kafka:9092")
    with pytest.raises(configuration.UsageError, match=r"kafka\.broker"):
        configuration.load()


def test_the_redaction_key_is_only_where_it_is_needed() -> None:
    holders = {name for name, it in SERVICES.items() if "REDACT_KEY" in repr(it.get("environment"))}
    assert holders == {"gateway", "worker-redact", "worker-turns", "worker-control", "sink", "job-runner"}


def test_workers_keep_their_tables_in_a_volume_of_their_kind() -> None:
    folders = [
        mount.partition(":")[0]
        for name in ("worker-redact", "worker-turns", "worker-control", "sink", "job-runner")
        for mount in SERVICES[name]["volumes"]
        if mount.endswith(":/var/lib/driftwheel/state")
    ]
    assert len(set(folders)) == 5
    image = (ROOT / "deploy" / "manifests" / "Dockerfile").read_text()
    assert "DRIFTWHEEL__WORKER__STATE_DIR=/var/lib/driftwheel/state" in image


def test_hosts_are_services_and_health_is_asked_where_it_is() -> None:
    for it in FILLED.values():
        for variable, value in environment(it).items():
            if variable.startswith(("DRIFTWHEEL__", "KARAPACE_BOOTSTRAP")):
                for host in re.findall(r"(?:^|//|@)([a-z][a-z-]*):\d+", value):
                    assert host in SERVICES, f"{variable}: {host}"
    for name in OURS:
        it = FILLED[name]
        if not once(it):
            (port,) = re.findall(r"'127.0.0.1', (\d+)", words(it["healthcheck"]["test"]))
            wanted = {"gateway": environment(it).get("DRIFTWHEEL__GATEWAY__PORT"), "nemo": "8085"}.get(name, "8080")
            assert port == wanted


def test_the_example_names_every_variable() -> None:
    lines = EXAMPLE.read_text().splitlines()
    named = {line.partition("=")[0]: line.partition("=")[2] for line in lines if re.match(r"[A-Z_]+=", line)}
    optional = {line[1:].partition("=")[0] for line in lines if re.match(r"#[A-Z_]+=", line)}
    assert set(named) == REQUIRED
    assert not any(named.values()), "an example of a secret is a default password"
    assert optional == {name for name, how in variables(FILE.read_text()) if how == ":-"}


def run(*command: str | Path, **given: str) -> subprocess.CompletedProcess[str]:
    path = {"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/")}
    return subprocess.run([*map(str, command)], env=path | given, capture_output=True, text=True, check=False)


def test_secrets_are_made_once(tmp_path: Path) -> None:
    target = tmp_path / "env"
    made = run("sh", SCRIPT, target)
    assert made.returncode == 0, made.stderr
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    before = target.read_text()
    values = dict(re.findall(r"^([A-Z_]+)=(\w+)$", before, re.MULTILINE))
    assert set(values) == REQUIRED
    assert len(set(values.values())) == len(values)
    assert all(re.fullmatch("[0-9a-f]{64}", value) for value in values.values())
    assert not any(value in made.stdout + made.stderr for value in values.values())

    again = run("sh", SCRIPT, target)
    assert again.returncode == 1
    assert "move it away" in again.stderr
    assert target.read_text() == before


@pytest.fixture(scope="module")
def compose() -> list[str]:
    """Docker Compose itself, which needs no engine to read a file."""
    named = os.environ.get("DRIFTWHEEL_TEST_COMPOSE")
    if named:
        return [named]
    if shutil.which("docker") and run("docker", "compose", "version").returncode == 0:
        return ["docker", "compose"]
    pytest.skip("no Docker Compose 2 here: install its plugin, or name the program in DRIFTWHEEL_TEST_COMPOSE")


def test_compose_itself_takes_the_file(compose: list[str], tmp_path: Path) -> None:
    target = tmp_path / "env"
    run("sh", SCRIPT, target)
    read = run(*compose, "--env-file", target, "--file", FILE, "config")
    assert read.returncode == 0, read.stderr
    project = yaml.safe_load(read.stdout)
    assert set(project["services"]) == set(SERVICES)
    for it in project["services"].values():
        for port in it.get("ports", []):
            assert port["host_ip"] == "127.0.0.1"


@pytest.mark.parametrize("name", sorted(REQUIRED))
def test_compose_itself_refuses_without_a_secret(name: str, compose: list[str], tmp_path: Path) -> None:
    target = tmp_path / "env"
    target.write_text("".join(f"{one}={value}\n" for one, value in GIVEN.items() if one != name))
    read = run(*compose, "--env-file", target, "--file", FILE, "config", "--quiet")
    assert read.returncode != 0
    assert name in read.stderr
