"""A thousand hostile payloads, each with secrets planted somewhere: none of them comes out, nor into a log."""

from __future__ import annotations

import base64
import json
import logging
import random
import unicodedata
import urllib.parse
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from processors.redact import Redact
from processors.stage import Message
from processors.state import MemoryState
from schemas.events import Record
from tests.processors.redacting import any_value, key_values, otlp, otlp_message, signal_message

PAYLOADS = 1_000
BATCH = 50
MAIL, CARD, TOKEN = "planted.person@example.com", "4111111111111111", "sk-live-PLANTED0123456789abcdefXYZ"
SECRETS = (MAIL, CARD, TOKEN)
NAMES = (
    "gen_ai.input.messages", "gen_ai.output.messages", "gen_ai.prompt.0.content", "input.value", "output.value",
    "llm.input_messages.0.message.content", "tool.parameters", "retrieval.documents.0.document.content", "user.id",
    "session.id", "gen_ai.request.model", "gen_ai.tool.name", "http.url", "exception.message", "db.statement", "x",
)  # fmt: skip
Chance = random.Random


def disguised(secret: str, chance: Chance) -> str:
    """A secret as it may turn up in a text."""
    before, after = chance.choice(["", "please note ", "key=", "\U0001f642"]), chance.choice(["", ".", " thanks", "\n"])
    plain = f"{before}{secret}{after}"
    kinds: list[Callable[[], str]] = [
        lambda: plain,
        lambda: json.dumps({"a": [{"b": plain}]}),
        lambda: json.dumps(json.dumps({"note": plain})),
        lambda: json.dumps({plain: 1}),
        lambda: f"https://x.example/?q={urllib.parse.quote(plain, safe='')}",
        lambda: base64.b64encode(plain.encode()).decode(),
        lambda: plain.upper() if secret == MAIL else plain,
        lambda: plain.replace("@", "@\u200b"),
        lambda: "".join(chr(ord(c) + 0xFEE0) if c.isdigit() else c for c in plain),
        lambda: "word " * chance.randrange(2_000) + plain,
        lambda: "{" * 60 + plain + "}" * 60,
        lambda: plain + "\udcff",
        lambda: f"<a>{plain}</a>",
        lambda: f"'{plain}',{plain}",
    ]
    return chance.choice(kinds)().encode("utf-8", "replace").decode()


def request(chance: Chance) -> ExportTraceServiceRequest:
    """A request with secrets in some of the places that a request has."""
    text = disguised(chance.choice(SECRETS), chance)
    whole = otlp({"attributes": {"session.id": "s", chance.choice(NAMES): text}, "name": chance.choice(["chat", text])})
    top = whole.resource_spans[0]
    scope = top.scope_spans[0]
    span = scope.spans[0]
    secret = disguised(chance.choice(SECRETS), chance)
    places: list[Callable[[], Any]] = [
        lambda: top.resource.attributes.extend(key_values({"service.name": secret})),
        lambda: setattr(scope.scope, "name", secret),
        lambda: setattr(span, "trace_state", secret),
        lambda: setattr(span.status, "message", secret),
        lambda: span.events.add(name=secret, attributes=key_values({"exception.message": secret})),
        lambda: span.links.add(trace_id=b"1" * 16, span_id=b"2" * 8, attributes=key_values({"to": secret})),
        lambda: span.attributes.extend(key_values({secret: "value"})),
        lambda: span.attributes.extend(key_values({"deep": {"a": [1, {"b": secret}]}})),
        lambda: span.attributes.extend(key_values({"driftwheel.category": secret, "driftwheel.agent": secret})),
        lambda: span.attributes.add(key="raw").value.CopyFrom(any_value([secret, True, 1.5])),
        lambda: setattr(span.attributes.add(key="bytes").value, "bytes_value", secret.encode()),
        lambda: span.attributes.extend(key_values({"user.id": secret, "driftwheel.consent.store": "maybe"})),
    ]
    for place in chance.sample(places, chance.randrange(4)):
        place()
    return whole


def damaged(body: bytes, chance: Chance) -> bytes:
    """The same with bytes changed, cut off, doubled or moved."""
    data = bytearray(body)
    for _ in range(chance.randrange(1, 6)):
        at = chance.randrange(len(data))
        kind = chance.randrange(4)
        if kind == 0:
            data[at] = chance.randrange(256)
        elif kind == 1:
            del data[at : at + chance.randrange(1, 40)]
        elif kind == 2:
            data[at:at] = data[at : at + chance.randrange(1, 60)]
        else:
            data[at:at] = bytes(chance.randrange(256) for _ in range(chance.randrange(1, 9)))
        if not data:
            break
    return bytes(data)


def payload(number: int, chance: Chance) -> Message:
    kind = chance.randrange(10)
    if kind < 3:
        text = disguised(chance.choice(SECRETS), chance)
        body: dict[str, Any] = {
            "session_id": "s",
            "agent": "a",
            "name": "correction",
            "text": text,
            "text_before": text,
        }
        body |= {chance.choice(["session_id", "agent", "turn_id", "extra", "value"]): text} if kind else {}
        whole = json.dumps(body)
        return signal_message(whole if kind < 2 else whole[: chance.randrange(len(whole))], number)
    span = request(chance)
    span.resource_spans[0].scope_spans[0].spans[0].span_id = number.to_bytes(8, "big")
    body_bytes = span.SerializeToString()
    return otlp_message(body_bytes if kind < 7 else damaged(body_bytes, chance), number)


def shown(record: Record) -> str:
    """All that a record says, as plain as it can be made."""
    text = record.model_dump_json()
    return unicodedata.normalize("NFKC", urllib.parse.unquote(text)).replace("\u200b", "").casefold()


def leaks(text: str) -> list[str]:
    found = [secret for secret in SECRETS if secret.casefold() in text]
    return found + [secret for secret in SECRETS if base64.b64encode(secret.encode()).decode()[:-4].casefold() in text]


def test_nothing_planted_comes_out(caplog: pytest.LogCaptureFixture) -> None:
    chance, stage, store, kinds = Chance(7), Redact(), MemoryState(), Counter[str]()
    with caplog.at_level(logging.DEBUG, "processors"):
        for first in range(1, PAYLOADS + 1, BATCH):
            messages = [payload(number, chance) for number in range(first, first + BATCH)]
            for record in stage.process(messages, store):
                kinds[type(record).__name__] += 1
                assert not leaks(shown(record)), record
    assert not leaks(caplog.text.casefold())
    assert kinds["Span"] + kinds["Signal"] > PAYLOADS / 3, "most payloads have something clean in them"
    assert kinds["DeadLetter"] > PAYLOADS / 20, "and some cannot be read or proved"


def test_control_what_is_planted_is_seen() -> None:
    """Without masking the same check finds it, so it looks at something."""
    chance = Chance(7)
    texts = [str(payload(number, chance).value) for number in range(200)]
    assert sum(bool(leaks(urllib.parse.unquote(text).casefold())) for text in texts) > 60
