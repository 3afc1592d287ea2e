from __future__ import annotations

import logging
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from connectors.judge.endpoint import Endpoint, EndpointSettings
from schemas.errors import Invalid, Refused, Retry
from tests.judging import KEY, Server, chat, honest, serving

NOW = datetime(2026, 1, 5, tzinfo=UTC)
SECRET = "maria.keller@example.com"
ASK = [{"role": "user", "content": f'RUBRIC tone\n\nMATERIAL\n{{"question": "{SECRET}", "answer": "a"}}'}]


@pytest.fixture
def server() -> Iterator[Server]:
    with serving(honest()) as found:
        yield found


def endpoint(server: Server, waits: list[float] | None = None, **given: object) -> Endpoint:
    settings = EndpointSettings(server.url, "m-1", KEY, **given)  # type: ignore[arg-type]
    kept = waits if waits is not None else []
    return Endpoint(settings, kept.append, lambda: NOW)


def test_what_is_sent_and_what_comes_back(server: Server) -> None:
    one = endpoint(server, max_tokens=99, extra={"seed": 7})
    reply = one.ask(ASK)
    assert (reply.tokens, '"score": 0.9' in reply.text) == (120, True)
    (sent,) = server.requests
    assert (sent["model"], sent["temperature"], sent["max_tokens"], sent["seed"]) == ("m-1", 0, 99, 7)
    assert sent["response_format"] == {"type": "json_object"}
    assert (server.paths, server.keys) == (["/v1/chat/completions"], [f"Bearer {KEY}"])
    endpoint(server, json_mode=False).ask(ASK)
    assert "response_format" not in server.requests[-1]
    one.close()


def test_without_a_key_none_is_sent_and_tokens_are_estimated(server: Server) -> None:
    server.answers = [(200, {}, '{"choices": [{"message": {"content": null}}]}')]
    one = Endpoint(EndpointSettings(server.url + "/", "m"))
    reply = one.ask(ASK)
    assert (reply.text, server.keys) == ("", [""])
    assert 20 < reply.tokens < 60


@pytest.mark.parametrize(
    ("headers", "waited"),
    [
        ({"retry-after": "7"}, 7.0),
        ({"retry-after": format_datetime(NOW + timedelta(seconds=9), usegmt=True)}, 9.0),
        ({"retry-after": format_datetime(NOW - timedelta(seconds=9), usegmt=True)}, 0.0),
        ({"retry-after": "soon"}, 1.0),
        ({}, 1.0),
    ],
)
def test_a_busy_server_is_asked_again_when_it_says(server: Server, headers: dict[str, str], waited: float) -> None:
    server.answers = [(429, headers, "slow down")]
    waits: list[float] = []
    assert endpoint(server, waits).ask(ASK).text
    assert waits == [waited]


def test_pauses_double_and_end(server: Server) -> None:
    server.answers = [(503, {}, SECRET)] * 4
    waits: list[float] = []
    with pytest.raises(Retry, match=r"the judge's endpoint 127\.0\.0\.1 answers 503$"):
        endpoint(server, waits, attempts=4).ask(ASK)
    assert waits == [1.0, 2.0, 4.0]


def test_who_wants_a_long_pause_is_away(server: Server) -> None:
    server.answers = [(429, {"retry-after": "3600"}, "")]
    waits: list[float] = []
    with pytest.raises(Retry, match="answers 429"):
        endpoint(server, waits).ask(ASK)
    assert (waits, len(server.requests)) == ([], 1)


def test_a_no_is_final(server: Server) -> None:
    for status in (401, 403, 404, 302, 405):
        server.answers = [(status, {"location": "http://127.0.0.1:1/"}, SECRET)]
        with pytest.raises(Refused, match=rf"answers {status}: look at judge\.url") as refused:
            endpoint(server).ask(ASK)
        assert SECRET not in str(refused.value)
    assert len(server.requests) == 5
    for status in (400, 413, 422):
        server.answers = [(status, {}, SECRET)]
        with pytest.raises(Invalid, match=f"refused: .* answers {status}") as unfit:
            endpoint(server).ask(ASK)
        assert SECRET not in str(unfit.value)
    for body in ("<html>", "{}", '{"choices": []}', "[]", '{"choices": [{"message": null}]}'):
        server.answers = [(200, {}, body)]
        with pytest.raises(Refused, match="no chat completion"):
            endpoint(server).ask(ASK)


def test_nobody_there_is_a_retry() -> None:
    one = Endpoint(EndpointSettings("http://127.0.0.1:9/v1", "m", attempts=2), lambda _: None)
    with pytest.raises(Retry, match=r"does not answer: ConnectError"):
        one.ask(ASK)
    assert one.calls == 2


def test_neither_key_nor_text_is_logged(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    server.answers = [(429, {"retry-after": "0"}, SECRET), (200, {}, chat(SECRET)), (401, {}, SECRET)]
    one = endpoint(server)
    one.ask(ASK)
    with pytest.raises(Refused) as refused:
        one.ask(ASK)
    told = caplog.text + str(refused.value) + repr(one.settings)
    assert KEY not in told
    assert SECRET not in told
