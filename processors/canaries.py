"""Canaries: planted values that nobody has, to see whether redaction takes them away.

A canary is a trace of two spans with a value of each type, each in a place of its own. The values follow from the
master key, the canary's tenant and its time, so that whoever has the key can tell later what to look for, and nobody
else can. They are invented: names that no one bears, domains, addresses and numbers of the ranges kept for examples
(RFC 2606, RFC 3849, 555-01xx), a bank that does not exist.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Status

from processors.redact.settings import keyed, tenant_key

AGENT = "canary"
SPANS = 2
"""Spans of a canary, which are its trace."""
DAY = timedelta(days=1)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_FIRST = (
    "Maria",
    "Thomas",
    "Julia",
    "Peter",
    "Laura",
    "Daniel",
    "Sophie",
    "Martin",
    "Emma",
    "Michael",
    "Clara",
    "David",
)
_LAST = ("Quillmark", "Ashverton", "Brackenwold", "Thistledorn", "Marrowgate", "Fennimere", "Oxbarrow", "Kestlewyn")
_CONSENT = {"driftwheel.consent.store": "true", "driftwheel.consent.train": "false"}
_APART = re.compile(r"[\s\-]+")


class Planted(NamedTuple):
    """One value: of which type, where in the span it stands, and what it is."""

    entity: str
    place: str
    value: str


@dataclass(frozen=True, slots=True)
class Canary:
    """One canary: the ``values`` of a span with this ``trace_id``, at ``time``, of a canary ``tenant``."""

    tenant: str
    time: datetime
    trace_id: str
    values: tuple[Planted, ...]

    def left_in(self, text: str) -> list[Planted]:
        """The values that a text still holds, however they are spaced or written in capitals."""
        folded = text.casefold()
        bare = _APART.sub("", folded)
        return [one for one in self.values if one.value.casefold() in folded or _bare(one.value) in bare]


def _bare(value: str) -> str:
    return _APART.sub("", value.casefold())


def canary(master: bytes, tenant: str, time: datetime) -> Canary:
    """The canary of this tenant and time: always the same under one key."""
    seed = keyed(tenant_key(master, tenant), "canary", time.isoformat())
    digits = str(int(seed, 16))
    first, last = _FIRST[int(seed[:4], 16) % len(_FIRST)], _LAST[int(seed[4:8], 16) % len(_LAST)]
    values = (
        Planted("PERSON", "input", f"{first} {last}"),
        Planted("PHONE_NUMBER", "input", f"+1 {digits[:3].replace('0', '2')}-555-01{digits[3:5]}"),
        Planted("EMAIL_ADDRESS", "output", f"{first}.{last}.{seed[8:14]}@example.org".lower()),
        Planted("ACCOUNT", "tool arguments", f"{digits[5:15]}"),
        Planted("IBAN_CODE", "tool result", _iban(digits[15:29])),
        Planted("IP_ADDRESS", "status message", f"2001:db8:{seed[16:20]}:{seed[20:24]}::{seed[24:28]}"),
        Planted("SECRET", "address", seed[28:60]),
    )
    return Canary(tenant, time, seed[:32], values)


def _iban(account: str) -> str:
    """An IBAN whose check digits are right (ISO 13616, ISO 7064 mod 97), of a bank that does not exist."""
    body = f"TEST{account}"
    number = "".join(str(int(letter, 36)) for letter in f"{body}GB00")
    return f"GB{98 - int(number) % 97:02d}{body}"


def times(until: datetime, per_day: int, back: timedelta = DAY) -> list[datetime]:
    """When canaries are planted, ``per_day`` a day, from ``back`` before an instant up to it.

    >>> [t.hour for t in times(datetime(2026, 1, 5, 9, 30, tzinfo=UTC), 3)]
    [16, 0, 8]
    """
    if not per_day:
        return []
    step = DAY / per_day
    last = (until - _EPOCH) // step
    first = -((_EPOCH + back - until) // step)
    return [_EPOCH + step * n for n in range(first, last + 1)]


def request(planted: Canary) -> bytes:
    """The canary as an OTLP request: ``SPANS`` spans as frameworks send them, to be stored and never trained on."""
    said = {one.entity: one.value for one in planted.values}
    asked = f"Hello, my name is {said['PERSON']} and my phone number is {said['PHONE_NUMBER']}. Please reset my VPN."
    told = f"I have sent the link to {said['EMAIL_ADDRESS']}."
    chat = {
        "gen_ai.operation.name": "chat",
        "gen_ai.input.messages": json.dumps([{"role": "user", "parts": [{"type": "text", "content": asked}]}]),
        "gen_ai.output.messages": json.dumps([{"role": "assistant", "parts": [{"type": "text", "content": told}]}]),
        "url.full": f"https://api.example.org/v1/reset?access_token={said['SECRET']}",
    }
    tool = {
        "gen_ai.operation.name": "execute_tool",
        "gen_ai.tool.call.arguments": json.dumps({"account_number": said["ACCOUNT"], "limit": 3}),
        "gen_ai.tool.call.result": json.dumps({"status": "ok", "transfer": {"to": said["IBAN_CODE"]}}),
    }
    made = ExportTraceServiceRequest()
    scope = made.resource_spans.add().scope_spans.add()
    nanos = int(planted.time.timestamp()) * 1_000_000_000
    for number, values in enumerate((chat, tool), 1):
        span = scope.spans.add(name="canary", start_time_unix_nano=nanos, end_time_unix_nano=nanos)
        span.trace_id, span.span_id = bytes.fromhex(planted.trace_id), number.to_bytes(8, "big")
        span.status.code = Status.STATUS_CODE_ERROR
        span.status.message = f"ConnectionError: no answer from {said['IP_ADDRESS']}"
        every = {"gen_ai.agent.name": AGENT, "session.id": planted.trace_id} | _CONSENT | values
        span.attributes.extend(KeyValue(key=name, value=AnyValue(string_value=value)) for name, value in every.items())
    return made.SerializeToString()


class Look(NamedTuple):
    """What was found of canaries on the clean side: how many values were looked for, and what was left, by type."""

    checked: dict[str, int]
    leaked: dict[str, int]


def look(canaries: Sequence[Canary], rows: Iterable[tuple[str, str]]) -> Look:
    """Look for planted values in clean rows: the trace that a row is of, '' when it has none, and all of its text.

    A canary is checked when every row of its trace is there. What is left counts once for each value.
    """
    texts: dict[str, list[str]] = {}
    for trace_id, text in rows:
        texts.setdefault(trace_id, []).append(text)
    loose = "\n".join(texts.pop("", []))
    checked: dict[str, int] = {}
    leaked: dict[str, int] = {}
    for one in canaries:
        arrived = len(texts.get(one.trace_id, [])) >= SPANS
        left = {found.place + found.entity for found in one.left_in("\n".join([*texts.get(one.trace_id, []), loose]))}
        for value in one.values:
            checked[value.entity] = checked.get(value.entity, 0) + arrived
            leaked[value.entity] = leaked.get(value.entity, 0) + (value.place + value.entity in left)
    return Look(checked, leaked)
