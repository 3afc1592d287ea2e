"""The load of a run: agents' traces and their users' signals, the same for every run of one seed but for the clock.

Sessions have one to six turns; a turn is a root span, a model call and a tool call, some with a rating. Requests are
what an OpenTelemetry SDK sends: spans of several sessions of one agent; children sometimes leave before their root, and
may not name their session. Texts are few and repeated, as support questions are; now and then they hold an e-mail
address.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from schemas.events import identity

TENANTS = ("acme", "globex")
AGENTS = tuple(f"router-{n:02d}" for n in range(12))
MILLISECOND = 1_000_000
TOO_LONG = 20_000
"""Characters of a text that redaction refuses: ``stages.redact.max_text`` of every run."""

_SUBJECTS = (
    "the vpn", "my laptop", "the mailbox", "the printer on floor two", "my payslip", "the travel request",
    "a supplier contract", "the parking permit", "the meeting room", "my badge",
)  # fmt: skip
_ASKS = (
    "{} does not work", "how do I reset {}", "who is responsible for {}", "please renew {} for next month",
    "where do I find the rules for {}", "{} is slow again today", "cancel {}", "I need access to {}",
)  # fmt: skip
_AGAIN = ("no, I meant {}", "that is wrong, {}", "please let me talk to a human about {}")
_CLOSE = ("thanks", "perfect, thank you", "that worked, bye")
_TEAMS = ("it", "hr", "travel", "legal", "facilities")


@dataclass(frozen=True, slots=True)
class Turn:
    """One message of a session and what the agent did about it."""

    session: str
    number: int
    tenant: str
    agent: str
    text: str
    answer: str
    doubt: float
    tool_failed: bool
    rating: float | None
    poisoned: bool

    @property
    def trace(self) -> str:
        """32 hexadecimal digits."""
        return identity("trace", self.session, str(self.number))

    def span(self, name: str) -> str:
        """16 hexadecimal digits."""
        return identity("span", self.trace, name)[:16]

    @property
    def turn_id(self) -> str:
        """As the product names it."""
        return f"{self.trace}.{self.span('root')}"

    def span_ids(self) -> dict[str, str]:
        """The event id of each span, by what the span is."""
        return {name: identity("span", self.tenant, self.trace, self.span(name)) for name in ("root", "call", "tool")}

    @property
    def signal_id(self) -> str:
        """The event id of its rating."""
        return identity("signal", self.tenant, self.trace)

    @property
    def events(self) -> int:
        """Spans and signals."""
        return 3 + (self.rating is not None)


@dataclass(frozen=True, slots=True)
class Session:
    """A conversation with one agent."""

    name: str
    tenant: str
    agent: str
    turns: tuple[Turn, ...]


@dataclass(frozen=True, slots=True)
class Part:
    """Some spans of a turn, as one request holds them. ``named``: children say their session."""

    turn: Turn
    spans: tuple[str, ...]
    named: bool = True


@dataclass(frozen=True)
class Load:
    """``events`` spans and signals at least, a function of ``seed`` alone. ``poison``: how many spans are too long."""

    seed: int
    events: int
    poison: int = 20
    ring: int = 6
    width: int = 24
    senders: int = 4

    @cached_property
    def sessions(self) -> tuple[Session, ...]:
        """Every session."""
        chance = random.Random(f"chaos/{self.seed}")
        every = max(1, self.events // 3 // (self.poison + 1)) if self.poison else 0
        out: list[Session] = []
        count = turns = 0
        while count < self.events:
            session = _session(chance, f"c{self.seed}-{len(out):06d}", len(out), turns, every)
            out.append(session)
            turns += len(session.turns)
            count += sum(turn.events for turn in session.turns)
        return tuple(out)

    @cached_property
    def turns(self) -> tuple[Turn, ...]:
        """Every turn."""
        return tuple(turn for session in self.sessions for turn in session.turns)

    def steps(self, sender: int) -> Iterator[list[Part] | list[Turn]]:
        """What one sender sends, in order: parts of turns make a trace request, turns a request of their ratings.

        A sender has ``ring`` groups of ``width`` sessions under way at a time, so that a session's turns are apart.
        """
        chance = random.Random(f"chaos/{self.seed}/{sender}")
        groups = list(self._groups(sender))
        for start in range(0, len(groups), self.ring):
            ring = groups[start : start + self.ring]
            for number in range(max(len(s.turns) for group in ring for s in group)):
                for group in ring:
                    yield from _requests([s.turns[number] for s in group if number < len(s.turns)], chance)

    def _groups(self, sender: int) -> Iterator[list[Session]]:
        for place in range(sender, len(AGENTS), self.senders):
            for tenant in TENANTS:
                mine = [s for s in self.sessions if s.agent == AGENTS[place] and s.tenant == tenant]
                for at in range(0, len(mine), self.width):
                    yield mine[at : at + self.width]


def _session(chance: random.Random, name: str, number: int, turns: int, every: int) -> Session:
    agent, tenant = AGENTS[number % len(AGENTS)], TENANTS[number // len(AGENTS) % len(TENANTS)]
    count = chance.choice((1, 2, 2, 3, 3, 4, 5, 6))
    fair = number % 3 == 0
    made: list[Turn] = []
    for at in range(count):
        before = made[-1].text if made else ""
        poisoned = every > 0 and (turns + at) % every == every - 1
        made.append(_turn(chance, Turn(name, at, tenant, agent, before, "", 0.0, False, None, poisoned), count, fair))
    return Session(name, tenant, agent, tuple(made))


def _turn(chance: random.Random, blank: Turn, count: int, fair: bool) -> Turn:
    closing = blank.number and blank.number + 1 == count and chance.random() < 0.5
    ask = chance.choice(_ASKS).format(chance.choice(_SUBJECTS))
    if closing:
        text = chance.choice(_CLOSE)
    elif blank.number and not fair and chance.random() < 0.15:
        text = chance.choice(_AGAIN).format(ask)
    else:
        text = ask
    if not closing and chance.random() < 0.03:
        text = f"{text}, write to employee{chance.randrange(200)}@example.com"
    rating = chance.choice((1.0, 1.0, -1.0)) if chance.random() < 0.35 else None
    return Turn(
        blank.session, blank.number, blank.tenant, blank.agent, text, chance.choice(_TEAMS), chance.random(),
        chance.random() < 0.05, abs(rating) if rating and fair else rating, blank.poisoned,
    )  # fmt: skip


def _requests(turns: list[Turn], chance: random.Random) -> Iterator[list[Part] | list[Turn]]:
    if not turns:
        return
    draw = chance.random()
    if draw < 0.15:
        named = draw < 0.08
        yield [Part(turn, ("call", "tool"), named) for turn in turns]
        yield [Part(turn, ("root",)) for turn in turns]
    else:
        yield [Part(turn, ("call", "tool", "root")) for turn in turns]
    rated = [turn for turn in turns if turn.rating is not None]
    if rated:
        yield rated


def trace_request(parts: list[Part], now: int) -> bytes:
    """An OTLP request; ``now`` in nanoseconds is when its turns began."""
    request = ExportTraceServiceRequest()
    resource = request.resource_spans.add()
    resource.resource.attributes.extend(_attributes({"service.name": parts[0].turn.agent}))
    scope = resource.scope_spans.add()
    scope.scope.name = "chaos"
    for place, part in enumerate(parts):
        for name in part.spans:
            scope.spans.append(_span(part, name, now + place * 20 * MILLISECOND // len(parts)))
    return request.SerializeToString()


def signal_request(turns: list[Turn], now: str) -> bytes:
    """The ratings of these turns, one JSON body. ``now`` is RFC 3339."""
    items = [
        {
            "id": turn.trace, "name": "rating", "agent": turn.agent, "session_id": turn.session, "value": turn.rating,
            "turn_id": turn.turn_id, "time": now, "user_id": f"user-{turn.session[-3:]}",
        }
        for turn in turns
    ]  # fmt: skip
    return json.dumps({"signals": items}).encode()


def _span(part: Part, name: str, start: int) -> Span:
    turn, root = part.turn, name == "root"
    common: dict[str, Any] = {"gen_ai.agent.name": turn.agent, "driftwheel.model.version": "router-v1"}
    if root or part.named:
        common |= {"gen_ai.conversation.id": turn.session, "user.id": f"user-{turn.session[-3:]}"}
    spent = {"root": (0, 20), "call": (5, 19), "tool": (1, 4)}[name]
    return Span(
        trace_id=bytes.fromhex(turn.trace),
        span_id=bytes.fromhex(turn.span(name)),
        parent_span_id=b"" if root else bytes.fromhex(turn.span("root")),
        name=name,
        start_time_unix_nano=start + spent[0] * MILLISECOND,
        end_time_unix_nano=start + spent[1] * MILLISECOND,
        attributes=_attributes(common | _said(turn, name)),
        status=Status(code=Status.STATUS_CODE_ERROR if name == "tool" and turn.tool_failed else Status.STATUS_CODE_OK),
    )


def _said(turn: Turn, name: str) -> dict[str, Any]:
    if name == "tool":
        result = "x " * (TOO_LONG // 2 + 50) if turn.poisoned else "one article found"
        return {
            "gen_ai.operation.name": "execute_tool", "gen_ai.tool.name": "knowledge", "gen_ai.tool.call.result": result,
        }  # fmt: skip
    said: dict[str, Any] = {
        "gen_ai.operation.name": "invoke_agent" if name == "root" else "chat",
        "gen_ai.input.messages": _messages("user", turn.text),
        "gen_ai.output.messages": _messages("assistant", turn.answer),
        "driftwheel.logprobs.top1": -turn.doubt / 2,
        "driftwheel.logprobs.top2": -2.0,
    }
    return said | ({"driftwheel.category": turn.answer} if name == "root" else {})


def _messages(role: str, content: str) -> str:
    return json.dumps([{"role": role, "parts": [{"type": "text", "content": content}]}])


def _attributes(values: dict[str, Any]) -> list[KeyValue]:
    return [
        KeyValue(key=key, value=AnyValue(double_value=one) if isinstance(one, float) else AnyValue(string_value=one))
        for key, one in values.items()
    ]
