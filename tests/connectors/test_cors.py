"""Web pages: those of named origins may send, and others get nothing."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from connectors.log import MemoryLog
from driftwheel.clock import utc_now
from driftwheel.gateway import GatewaySettings, create_app
from tests.asgi import TestClient

OURS, FOREIGN = "https://app.example.com", "https://evil.example"
SIGNAL = {"name": "copy", "agent": "a", "session_id": "s"}


@pytest.fixture
def log() -> MemoryLog:
    return MemoryLog()


def client(log: MemoryLog, *origins: str, **more: Any) -> TestClient:
    async def own(request: Request) -> Response:
        return PlainTextResponse("rows")

    settings = GatewaySettings(origins=origins, own_paths=("/v1/sql",), **more)
    return TestClient(create_app(log, utc_now, settings, list, [Route("/v1/sql", own, methods=["GET", "POST"])]))


def preflight(app: TestClient, origin: str, path: str = "/v1/signals", **more: str) -> httpx.Response:
    asked = {"origin": origin, "access-control-request-method": "POST"}
    wanted = {"access-control-request-headers": "authorization,content-type,x-driftwheel-tenant"}
    return app.request("OPTIONS", path, headers=asked | wanted | more)


def shared(response: httpx.Response) -> dict[str, str]:
    return {name: value for name, value in response.headers.items() if name.startswith("access-control-")}


def test_a_page_of_a_named_origin_sends_after_its_preflight(log: MemoryLog) -> None:
    app = client(log, OURS, "http://localhost:3000", token="key")
    asked = preflight(app, OURS)
    assert asked.status_code == 200
    assert asked.headers["access-control-allow-origin"] == OURS
    assert asked.headers["access-control-allow-methods"] == "POST"
    assert "authorization" in asked.headers["access-control-allow-headers"]
    assert "access-control-allow-credentials" not in asked.headers
    headers = {"origin": OURS, "authorization": "Bearer key"}
    sent = app.post("/v1/signals", json=SIGNAL, headers=headers)
    assert (sent.status_code, sent.headers["access-control-allow-origin"]) == (202, OURS)
    assert sent.headers["vary"] == "Origin"
    assert len(log.entries) == 2


def test_its_page_still_needs_the_token_and_may_read_why(log: MemoryLog) -> None:
    refused = client(log, OURS, token="key").post("/v1/signals", json=SIGNAL, headers={"origin": OURS})
    assert (refused.status_code, refused.headers["access-control-allow-origin"]) == (401, OURS)
    assert log.entries == []


@pytest.mark.parametrize("origins", [(), (OURS,)])
@pytest.mark.parametrize("origin", [FOREIGN, "null", f"{OURS}.evil.example", f"{OURS}:444", "http://app.example.com"])
def test_a_foreign_page_gets_nothing(log: MemoryLog, origins: tuple[str, ...], origin: str) -> None:
    app = client(log, *origins)
    answers = [preflight(app, origin), preflight(app, origin, "/v1/traces"), preflight(app, origin, "/v1/sql")]
    answers.append(preflight(app, origin, **{"access-control-request-private-network": "true"}))
    answers.append(app.post("/v1/signals", json=SIGNAL, headers={"origin": origin}))
    answers += [app.get(path, headers={"origin": origin}) for path in ("/healthz", "/readyz", "/v1/sql")]
    assert [answer.status_code for answer in answers] == [403] * len(answers)
    assert [shared(answer) for answer in answers] == [{}] * len(answers)
    assert log.entries == []


def test_the_owners_paths_are_for_no_other_origin(log: MemoryLog) -> None:
    app = client(log, OURS)
    for answer in (preflight(app, OURS, "/v1/sql"), app.get("/v1/sql", headers={"origin": OURS})):
        assert (answer.status_code, shared(answer)) == (403, {})
    assert app.get("/v1/sql").text == "rows"


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_its_own_pages_are_of_the_same_origin(log: MemoryLog, scheme: str) -> None:
    """Whichever scheme a proxy speaks; without a single origin named."""
    headers = {"origin": f"{scheme}://localhost:4318", "host": "localhost:4318"}
    assert client(log).post("/v1/signals", json=SIGNAL, headers=headers).status_code == 202


def test_a_rebound_name_is_the_same_origin_and_still_refused(log: MemoryLog) -> None:
    headers = {"origin": "http://evil.example:4318", "host": "evil.example:4318"}
    refused = client(log).post("/v1/signals", json=SIGNAL, headers=headers)
    assert (refused.status_code, refused.json()["detail"]) == (400, "host: not a name of this server")
    assert log.entries == []


def test_without_an_origin_nothing_changes(log: MemoryLog) -> None:
    answer = client(log, OURS).post("/v1/signals", json=SIGNAL)
    assert (answer.status_code, shared(answer)) == (202, {})


def test_other_methods_are_not_offered(log: MemoryLog) -> None:
    asked = {"origin": OURS, "access-control-request-method": "DELETE"}
    assert client(log, OURS).request("OPTIONS", "/v1/signals", headers=asked).status_code == 400
