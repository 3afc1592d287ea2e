"""What deploy/manifests holds: image, Collector, Kafka, ClickHouse, Prometheus and Grafana."""

from __future__ import annotations

import fnmatch
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any, get_args
from xml.etree import ElementTree as ET

import pytest
import yaml

from connectors.clickhouse.store import Store
from driftwheel.config import GatewayConfig, KafkaConfig
from driftwheel.pipeline import WHEEL
from schemas.errors import UsageError
from schemas.events import Outcome
from schemas.metrics import MetricName
from schemas.topics import OTLP_LOGS, OTLP_SPANS
from tests.store import temporary_store

ROOT = Path(__file__).parent.parent
HERE = ROOT / "deploy" / "manifests"
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
COLLECTOR: dict[str, Any] = yaml.safe_load((HERE / "collector.yaml").read_text())
PROMETHEUS: dict[str, Any] = yaml.safe_load((HERE / "prometheus" / "prometheus.yml").read_text())
RULES: list[dict[str, Any]] = yaml.safe_load((HERE / "prometheus" / "alerts.yml").read_text())["groups"][0]["rules"]
BOARDS = {path.name: json.loads(path.read_text()) for path in sorted((HERE / "grafana" / "dashboards").glob("*.json"))}
PANELS = [(f"{name}: {panel['title']}", panel) for name, board in BOARDS.items() for panel in board["panels"]]
OTHERS = frozenset({
    "up",  # Prometheus
    # The Collector 0.144 about itself, and its kafkametrics receiver without suffixes.
    "otelcol_receiver_accepted_spans_total", "otelcol_receiver_refused_spans_total",
    "otelcol_exporter_send_failed_spans_total",
    "kafka_brokers", "kafka_partition_current_offset", "kafka_consumer_group_members",
    "kafka_consumer_group_lag",
    # ClickHouse: system.metrics and system.events
    "ClickHouseMetrics_Query", "ClickHouseMetrics_Merge", "ClickHouseMetrics_MemoryTracking",
    "ClickHouseProfileEvents_FailedQuery",
})  # fmt: skip
"""Metrics of other programs that dashboards and alerts may use."""


def tool(name: str, variable: str) -> str:
    """A program to check with: from the environment, beside this Python, or on the path; skips when it is not here."""
    beside = shutil.which(name, path=str(Path(sys.executable).parent))
    found = os.environ.get(variable) or beside or shutil.which(name)
    if not found:
        pytest.skip(f"no {name} here: install it, or name it in {variable}")
    return found


def run(*command: str | Path, **given: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*map(str, command)], env={"PATH": os.environ["PATH"]} | given, capture_output=True, text=True, check=False
    )


# The image.


def instructions(name: str) -> list[tuple[str, str]]:
    text = re.sub(r"\\\n\s*", " ", re.sub(r"^#.*\n", "", (HERE / name).read_text(), flags=re.MULTILINE))
    return [(line.split(None, 1)[0], line.split(None, 1)[1]) for line in text.splitlines() if line.strip()]


@pytest.mark.parametrize("name", ["Dockerfile", "Dockerfile.collector"])
def test_images_are_pinned_checked_and_not_root(name: str) -> None:
    steps = instructions(name)
    bases = [rest.split()[0] for word, rest in steps if word == "FROM"]
    assert all(re.search(r":\d+\.\d+\.\d+", base) for base in bases), bases
    last = steps[max(place for place, (word, _) in enumerate(steps) if word == "FROM") :]
    assert [rest for word, rest in last if word == "USER"] == ["10001:10001"]
    assert any(word == "HEALTHCHECK" and " CMD [" in rest for word, rest in last)
    text = (HERE / name).read_text()
    assert not re.search(r"index-url|https?://(?!127\.0\.0\.1)|ADD |curl |PIP_(?:EXTRA_)?INDEX", text)


def test_the_image_holds_the_packages_and_keeps_to_the_constraints() -> None:
    steps = instructions("Dockerfile")
    copied = {rest.split()[0].rstrip("/") for word, rest in steps if word == "COPY" and not rest.startswith("-")}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert set(project["tool"]["uv"]["build-backend"]["module-name"]) <= copied
    environment = " ".join(rest for word, rest in steps if word == "ENV")
    assert "PIP_CONSTRAINT=/src/constraints.txt" in environment
    files = {one for word, rest in steps if word == "COPY" and not rest.startswith("-") for one in rest.split()[:-1]}
    for one in files:
        assert (ROOT / one).exists(), one
        assert sent(one.rstrip("/")), f".dockerignore keeps {one} out"


def sent(path: str) -> bool:
    """Whether .dockerignore lets a path of the top folder through; the last rule that fits decides."""
    out = True
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        rule = line.strip().rstrip("/")
        if rule and not rule.startswith("#") and fnmatch.fnmatch(path, rule.removeprefix("!")):
            out = rule.startswith("!")
    return out


def test_nothing_else_is_sent_to_the_builder() -> None:
    assert not sent(".env")
    assert not sent(".git")
    assert not sent("tests")
    assert not sent("deploy/manifests")


def test_hadolint_has_nothing_to_say() -> None:
    checked = run(tool("hadolint", "DRIFTWHEEL_TEST_HADOLINT"), HERE / "Dockerfile", HERE / "Dockerfile.collector")
    assert checked.returncode == 0, checked.stdout


@pytest.mark.parametrize("path", ["secrets.sh", "kafka/acls.sh"])
def test_shellcheck_has_nothing_to_say(path: str) -> None:
    checked = run(tool("shellcheck", "DRIFTWHEEL_TEST_SHELLCHECK"), HERE / path)
    assert checked.returncode == 0, checked.stdout


# The Collector.


def test_the_collector_hands_spans_over_at_once_and_unchanged() -> None:
    kafka = COLLECTOR["exporters"]["kafka"]
    assert kafka["traces"] == {"topic": OTLP_SPANS.name, "encoding": "otlp_proto"}
    assert kafka["logs"] == {"topic": OTLP_LOGS.name, "encoding": "otlp_proto"}
    assert kafka["partition_traces_by_id"] is True
    assert kafka["producer"]["required_acks"] == -1
    assert kafka["producer"]["allow_auto_topic_creation"] is False
    assert kafka["sending_queue"] == {"enabled": False}
    for pipeline in ("traces", "logs"):
        assert COLLECTOR["service"]["pipelines"][pipeline]["processors"] == ["memory_limiter"]
    assert kafka["include_metadata_keys"] == ["x-driftwheel-tenant"]


def test_the_collector_asks_for_the_token() -> None:
    for face in COLLECTOR["receivers"]["otlp"]["protocols"].values():
        assert face["auth"] == {"authenticator": "bearertokenauth"}
        assert face["include_metadata"] is True
    assert "bearertokenauth" in COLLECTOR["service"]["extensions"]


def test_the_collector_uses_what_it_defines_and_is_given_its_variables() -> None:
    service = COLLECTOR["service"]
    assert set(service["extensions"]) == set(COLLECTOR["extensions"])
    for part in ("receivers", "processors", "exporters"):
        used = {name for pipeline in service["pipelines"].values() for name in pipeline[part]}
        assert used == set(COLLECTOR[part])
    asked = set(re.findall(r"\$\{env:(\w+)\}", (HERE / "collector.yaml").read_text()))
    assert asked <= set(COMPOSE["otel-collector"]["environment"])


def test_the_collector_itself_takes_the_file() -> None:
    program = tool("otelcol-contrib", "DRIFTWHEEL_TEST_OTELCOL")
    given = {"GATEWAY_TOKEN": "a", "KAFKA_COLLECTOR_PASSWORD": "b"}
    checked = run(program, "validate", "--config", HERE / "collector.yaml", **given)
    assert checked.returncode == 0, checked.stderr


# Kafka.


@cache
def broker() -> dict[str, str]:
    lines = (HERE / "kafka" / "server.properties").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


def test_only_the_listener_with_passwords_can_be_reached() -> None:
    protocols = dict(pair.split(":") for pair in broker()["listener.security.protocol.map"].split(","))
    for listener in broker()["listeners"].split(","):
        name, _, address = listener.partition("://")
        assert address.startswith("127.0.0.1:") or protocols[name] == "SASL_PLAINTEXT", listener
    assert broker()["authorizer.class.name"].endswith("StandardAuthorizer")
    assert broker()["allow.everyone.if.no.acl.found"] == "false"
    assert broker()["auto.create.topics.enable"] == "false"


def test_the_brokers_users_are_those_who_come() -> None:
    (jaas,) = (value for name, value in COMPOSE["kafka"]["environment"].items() if "JAAS" in name)
    users = set(re.findall(r"user_(\w+)=", jaas))
    acls = set(re.findall(r"User:(\w+)", (HERE / "kafka" / "acls.sh").read_text()))
    supers = set(re.findall(r"User:(\w+)", broker()["super.users"]))
    assert users == acls | supers - {"ANONYMOUS"}
    assert COMPOSE["sink"]["environment"]["DRIFTWHEEL__KAFKA__USERNAME"] in supers
    assert COMPOSE["schema-registry"]["environment"]["KARAPACE_SASL_PLAIN_USERNAME"] in acls
    assert COLLECTOR["exporters"]["kafka"]["auth"]["sasl"]["username"] in acls
    for topic in (OTLP_SPANS, OTLP_LOGS):
        assert f"--topic {topic.name}\n" in (HERE / "kafka" / "acls.sh").read_text()


def test_the_broker_takes_what_the_gateway_takes() -> None:
    assert int(broker()["message.max.bytes"]) > GatewayConfig().max_body_bytes
    assert int(broker()["message.max.bytes"]) > COLLECTOR["exporters"]["kafka"]["producer"]["max_message_bytes"]
    assert int(broker()["num.partitions"]) == KafkaConfig().partitions


# ClickHouse.


def xml(name: str) -> ET.Element:
    return ET.fromstring((HERE / "clickhouse" / name).read_text())


def test_clickhouse_has_two_users_and_no_password_of_its_own() -> None:
    users = {user.tag: user for user in xml("users.xml").find("users") or []}
    assert users.pop("default").get("remove") == "remove"
    assert set(users) == {"driftwheel", "reader"}
    given = COMPOSE["clickhouse"]["environment"]
    for user in users.values():
        password = user.find("password")
        assert password is not None
        assert not (password.text or "").strip()
        assert password.get("from_env") in given
    assert users["reader"].findtext("grants/query") == "GRANT SELECT ON driftwheel.*"
    assert xml("users.xml").findtext("profiles/reader/readonly") == "1"


def test_system_tables_do_not_grow_for_ever() -> None:
    logs = [one for one in xml("config.xml") if one.tag.endswith("_log")]
    assert len(logs) > 8
    for log in logs:
        assert log.get("remove") or (log.get("replace") and "DELETE" in (log.findtext("ttl") or "")), log.tag


# Metrics, alerts, dashboards.


def metrics_of(expression: str) -> set[str]:
    """The names of the metrics in a PromQL expression."""
    bare = re.sub(r'"[^"]*"|\{[^}]*\}|\[[^\]]*\]|\b(?:by|without|on|ignoring)\s*\([^)]*\)', " ", expression)
    names = re.findall(r"(?<![\w:])[a-zA-Z_:][\w:]*(?![\w:]|\s*\()", bare)
    return set(names) - {"and", "or", "unless", "bool", "offset"}


def known(expression: str) -> bool:
    return metrics_of(expression) <= set(get_args(MetricName)) | OTHERS


def test_metrics_are_read_out_of_expressions() -> None:
    assert metrics_of('sum by (stage) (rate(a_total{x="c_total"}[5m])) > 0 or absent(up{job="b"}) and d:e == 1e9') == {
        "a_total", "up", "d:e",
    }  # fmt: skip
    assert not known("rate(driftwheel_nothing_total[5m])")


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_alerts_say_what_is_wrong_and_what_to_do(rule: dict[str, Any]) -> None:
    assert known(rule["expr"])
    assert rule["labels"]["severity"] in {"warning", "critical"}
    assert set(rule["annotations"]) == {"summary", "what_to_do"}
    stages = set(re.findall(r'stage="([^"]+)"', rule["expr"]))
    assert stages <= {stage.name for stage in WHEEL}
    topics = {name for names in re.findall(r'topic=~?"([^"]+)"', rule["expr"]) for name in names.split("|")}
    assert topics <= {OTLP_SPANS.name, OTLP_LOGS.name}


def test_prometheus_asks_services_where_they_answer() -> None:
    jobs = {job["job_name"]: job for job in PROMETHEUS["scrape_configs"]}
    workers = jobs["driftwheel"]["dns_sd_configs"][0]
    health = [name for name, it in COMPOSE.items() if "8080" in repr((it.get("healthcheck") or {}).get("test"))]
    assert sorted(workers["names"]) == sorted(health)
    assert workers["port"] == 8080
    for job in jobs.values():
        for target in (one for config in job.get("static_configs", []) for one in config["targets"]):
            host, _, port = target.partition(":")
            assert host in COMPOSE or host == "127.0.0.1", target
            assert int(port)
    token = jobs["gateway"]["authorization"]["credentials_file"]
    assert token in repr(COMPOSE["prometheus"]["command"])


def test_promtool_takes_the_files(tmp_path: Path) -> None:
    program = tool("promtool", "DRIFTWHEEL_TEST_PROMTOOL")
    (tmp_path / "token").write_text("token")
    text = (HERE / "prometheus" / "prometheus.yml").read_text()
    text = text.replace("/tmp/gateway-token", str(tmp_path / "token"))
    (tmp_path / "prometheus.yml").write_text(
        text.replace("/etc/prometheus/alerts.yml", str(HERE / "prometheus/alerts.yml"))
    )
    checked = run(program, "check", "config", tmp_path / "prometheus.yml")
    assert checked.returncode == 0, checked.stdout + checked.stderr


UNREDACTED = """
rule_files: [{rules}]
tests:
  - interval: 1m
    input_series:
      - series: kafka_partition_current_offset{{topic="otlp_spans", partition="0"}}
        values: 0+10x60
      - series: driftwheel_stage_messages_total{{stage="redact", instance="a"}}
        values: {redacted}
    alert_rule_test:
      - eval_time: 45m
        alertname: SpansWaitUnredacted
        exp_alerts: {alerts}
"""


@pytest.mark.parametrize(
    ("redacted", "fires"), [("0+10x60", False), ("5x60", True), ("_x60", True)], ids=["works", "stands", "is not there"]
)
def test_an_idle_redactor_is_called_out(redacted: str, fires: bool, tmp_path: Path) -> None:
    program = tool("promtool", "DRIFTWHEEL_TEST_PROMTOOL")
    (rule,) = (rule for rule in RULES if rule["alert"] == "SpansWaitUnredacted")
    alerts = [{"exp_labels": rule["labels"], "exp_annotations": rule["annotations"]}] if fires else []
    rules = HERE / "prometheus" / "alerts.yml"
    (tmp_path / "test.yml").write_text(UNREDACTED.format(rules=rules, redacted=redacted, alerts=json.dumps(alerts)))
    checked = run(program, "test", "rules", tmp_path / "test.yml")
    assert checked.returncode == 0, checked.stdout + checked.stderr


def provisioned() -> set[str]:
    text = (HERE / "grafana" / "provisioning" / "datasources" / "datasources.yml").read_text()
    return {source["uid"] for source in yaml.safe_load(text)["datasources"]}


@pytest.mark.parametrize("name", BOARDS)
def test_dashboards_are_whole(name: str) -> None:
    panels = BOARDS[name]["panels"]
    assert len({board["uid"] for board in BOARDS.values()}) == len(BOARDS)
    assert [panel["id"] for panel in panels] == list(range(1, len(panels) + 1))
    cells: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        mine = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not mine & cells, panel["title"]
        cells |= mine
        assert panel["datasource"]["uid"] in provisioned()
        assert panel["targets"]


def test_the_home_dashboard_and_the_folders_are_where_grafana_looks() -> None:
    environment = COMPOSE["grafana"]["environment"]
    assert Path(environment["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]).name in BOARDS
    provider = yaml.safe_load((HERE / "grafana/provisioning/dashboards/dashboards.yml").read_text())["providers"][0]
    targets = [mount.split(":")[1] for mount in COMPOSE["grafana"]["volumes"]]
    assert provider["options"]["path"] in targets


@pytest.mark.parametrize(("title", "panel"), PANELS, ids=[title for title, _ in PANELS])
def test_panels_ask_for_metrics_that_exist(title: str, panel: dict[str, Any]) -> None:
    for target in panel["targets"]:
        assert known(target.get("expr", "")), target["expr"]


FROM, TO = 1_760_000_000, 1_790_000_000


def expanded(sql: str) -> str:
    """Grafana's macros, as its ClickHouse plugin writes them out."""
    sql = re.sub(r"\$__timeFilter\((\w+)\)", rf"(\1 >= toDateTime({FROM}) AND \1 <= toDateTime({TO}))", sql)
    sql = re.sub(r"\$__timeInterval\((\w+)\)", r"toStartOfInterval(toDateTime(\1), INTERVAL 60 second)", sql)
    assert "$" not in sql, f"a macro that this test does not know: {sql}"
    return sql


@pytest.fixture(scope="module")
def store() -> Iterator[Store]:
    with temporary_store() as made:
        yield made


QUERIES = [(title, target["rawSql"]) for title, panel in PANELS for target in panel["targets"] if "rawSql" in target]


@pytest.mark.parametrize(("title", "sql"), QUERIES, ids=[title for title, _ in QUERIES])
def test_queries_run_as_a_reader(title: str, sql: str, store: Store) -> None:
    store.query(expanded(sql))
    if "AS time" in sql:
        name, kind, *_ = store.query(f"DESCRIBE ({expanded(sql)})").rows[0]
        assert name == "time"
        assert str(kind).startswith("DateTime")


def test_control_a_column_that_is_not_there_is_noticed(store: Store) -> None:
    with pytest.raises(UsageError, match="verdikt"):
        store.query(expanded("SELECT verdikt FROM outcomes_current WHERE $__timeFilter(event_time)"))


def test_failures_are_counted_among_settled_turns(store: Store) -> None:
    time = datetime.fromtimestamp(FROM + 60, UTC)
    store.write([
        Outcome(
            event_id=f"o{place}", tenant="acme", agent="router", event_time=time, session_id="s", turn_id=f"t{place}",
            trace_id="", model_version="m1", category="c", revision=1, verdict=verdict, p_failure=0.5, uncertainty=0.5,
            cause="unknown", cause_confidence=0.0, evidence=[],
        )
        for place, verdict in enumerate(["failure", "success", "success", "success", "unknown"])
    ])  # fmt: skip
    (sql,) = (sql for title, sql in QUERIES if title.endswith("Failures by model version"))
    assert [row[1:] for row in store.query(expanded(sql)).rows] == [["m1", 0.25]]
    (sql,) = (sql for title, sql in QUERIES if title.endswith("Outcomes by cohort"))
    found = store.query(expanded(sql))
    row = dict(zip(found.columns, found.rows[0], strict=True))
    assert (row["turns"], row["failures"], row["unknown"]) == (5, 0.25, 1)
