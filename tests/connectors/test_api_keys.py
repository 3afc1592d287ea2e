"""API keys: what they open, for whom, how often, until when, and what of them is kept."""

from __future__ import annotations

import json
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from connectors.api_keys import ApiKey, KeyRing, found, new_key, read_keys, rotated
from connectors.log import MemoryLog
from driftwheel.gateway import GatewaySettings, create_app
from driftwheel.keys import write_keys
from schemas.errors import Refused, UsageError
from tests.processors.redacting import otlp

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
JSON = {"content-type": "application/json"}


class Time:
    """A clock for dates and one for seconds."""

    def __init__(self) -> None:
        self.now, self.seconds = NOW, 0.0

    def __call__(self) -> datetime:
        return self.now

    def ticks(self) -> float:
        return self.seconds


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "keys.json"


def made(path: Path, tenant: str = "acme", **more: Any) -> tuple[str, ApiKey]:
    text, key = new_key(NOW, tenant, **more)
    write_keys(path, [*read_keys(path), key])
    return text, key


def client(path: Path, time: Time, log: MemoryLog, token: str = "") -> TestClient:
    settings = GatewaySettings(token=token, loopback=False, keys=KeyRing(path, time, time.ticks))
    return TestClient(create_app(log, time, settings, list))


def signal(agent: str = "bot") -> bytes:
    return json.dumps({"agent": agent, "session_id": "s", "name": "rating", "value": 1}).encode()


def send(to: TestClient, key: str, agent: str = "bot", **headers: str) -> Any:
    given = JSON | headers | ({"authorization": f"Bearer {key}"} if key else {})
    return to.post("/v1/signals", content=signal(agent), headers=given)


def test_a_key_opens_its_tenant_and_no_other(path: Path, time: Time) -> None:
    log = MemoryLog()
    text, _ = made(path)
    to = client(path, time, log)
    assert send(to, text).status_code == 202
    assert {entry.headers["tenant"] for entry in log.entries if entry.headers} >= {"acme"}
    assert send(to, text, **{"x-driftwheel-tenant": "acme"}).status_code == 202
    assert send(to, text, **{"x-driftwheel-tenant": "globex"}).status_code == 403
    for wrong in ("", "nonsense", text[:-1] + ("A" if text[-1] != "A" else "B"), text.replace(text[3:15], "0" * 12)):
        answer = send(to, wrong)
        assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")


def test_no_key_and_no_token_asks_for_nothing(path: Path, time: Time) -> None:
    assert send(client(path, time, MemoryLog()), "").status_code == 202


def test_a_token_beside_keys_still_holds(path: Path, time: Time) -> None:
    text, _ = made(path)
    to = client(path, time, MemoryLog(), token="master")
    assert [send(to, one).status_code for one in ("master", text, "other")] == [202, 202, 401]


def test_a_key_is_good_for_sending_alone(path: Path, time: Time) -> None:
    text, _ = made(path)
    to = client(path, time, MemoryLog())
    assert to.get("/metrics", headers={"authorization": f"Bearer {text}"}).status_code == 401
    assert to.get("/healthz").status_code == 200


def test_an_agents_key_sends_for_that_agent(path: Path, time: Time) -> None:
    log = MemoryLog()
    text, _ = made(path, agents=("bot", "desk"))
    to = client(path, time, log)
    assert send(to, text, "desk").status_code == 202
    refused = send(to, text, "other")
    assert refused.status_code == 403
    assert "it is for bot, desk" in refused.text

    def traces(*spans: dict[str, Any], service: str) -> int:
        body = otlp(*spans, resource={"service.name": service}).SerializeToString()
        given = {"content-type": "application/x-protobuf", "authorization": f"Bearer {text}"}
        return to.post("/v1/traces", content=body, headers=given).status_code

    before = len(log.entries)
    assert traces({}, service="bot") == 200
    assert traces({"attributes": {"gen_ai.agent.name": "bot"}}, service="anything") == 200
    assert len(log.entries) == before + 4
    assert traces({}, service="other") == 403
    assert traces({}, {"attributes": {"agent.name": "other"}}, service="bot") == 403, "not hidden among others either"
    assert len(log.entries) == before + 4


def test_a_rate_is_held_and_says_when_to_come_again(path: Path, time: Time) -> None:
    text, _ = made(path, rate=0.5, burst=3)
    other, _ = made(path)
    to = client(path, time, MemoryLog())
    assert [send(to, text).status_code for _ in range(4)] == [202, 202, 202, 429]
    answer = send(to, text)
    assert (answer.headers["retry-after"], "0.5 requests a second" in answer.text) == ("2", True)
    assert send(to, other).status_code == 202, "another key has its own"
    time.seconds += 2.0
    assert [send(to, text).status_code for _ in range(2)] == [202, 429]


def test_keys_come_and_go_without_a_restart(path: Path, time: Time) -> None:
    first, key = made(path)
    to = client(path, time, MemoryLog())
    time.seconds += 2
    second, _ = made(path, note="later")
    assert send(to, second).status_code == 202
    write_keys(path, [one for one in read_keys(path) if one.id != key.id])
    time.seconds += 2
    assert [send(to, one).status_code for one in (first, second)] == [401, 202]


def test_a_rotated_key_holds_for_a_while(path: Path, time: Time) -> None:
    old, key = made(path, agents=("bot",), rate=7.0)
    new, kept, every = rotated(read_keys(path), key.id[:4], NOW, timedelta(hours=1))
    write_keys(path, every)
    assert (kept.tenant, kept.agents, kept.rate, kept.expires) == ("acme", ("bot",), 7.0, None)
    to = client(path, time, MemoryLog())
    assert [send(to, one).status_code for one in (old, new)] == [202, 202]
    time.now += timedelta(hours=1)
    assert [send(to, one).status_code for one in (old, new)] == [401, 202]


def test_when_the_last_key_expires_the_door_stays_shut(path: Path, time: Time) -> None:
    text, _ = made(path, expires=NOW + timedelta(hours=1))
    to = client(path, time, MemoryLog())
    time.now += timedelta(hours=2)
    time.seconds += 2
    assert send(to, text).status_code == 401
    assert send(to, "").status_code == 401


def test_when_the_last_key_is_revoked_the_door_stays_shut(path: Path, time: Time) -> None:
    text, _ = made(path)
    to = client(path, time, MemoryLog())
    write_keys(path, [])
    time.seconds += 2
    assert [send(to, one).status_code for one in (text, "")] == [401, 401]
    path.unlink()
    time.seconds += 2
    assert send(to, "").status_code == 401, "a file that is lost opens nothing"


def test_a_file_that_is_damaged_later_opens_nothing(path: Path, time: Time, caplog: pytest.LogCaptureFixture) -> None:
    text, _ = made(path)
    to = client(path, time, MemoryLog())
    path.write_text("{")
    time.seconds += 2
    assert [send(to, one).status_code for one in (text, "")] == [401, 401]
    assert "keys.json cannot be read" in caplog.text


def test_the_file_has_no_secret_and_is_its_owners(path: Path) -> None:
    text, key = made(path)
    assert text.split("_", 2)[2] not in path.read_text()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert read_keys(path) == [key]


@pytest.mark.parametrize(("content", "said"), [("{", "keys.json cannot be read"), ('[{"id": "x"}]', "0.sha256: Field")])
def test_a_damaged_file_is_refused(path: Path, content: str, said: str) -> None:
    path.write_text(content)
    with pytest.raises(Refused, match=said):
        read_keys(path)


def test_what_cannot_be_found_or_made() -> None:
    _, one = new_key(NOW, "acme")
    with pytest.raises(UsageError, match="beginning of 0 keys"):
        found([one], "zz")
    with pytest.raises(UsageError, match="beginning of 0 keys"):
        found([one], "")
    with pytest.raises(UsageError, match="--tenant: 'Acme Inc'"):
        new_key(NOW, "Acme Inc")
