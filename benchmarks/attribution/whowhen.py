"""Which agent failed, without a language model: ``python benchmarks/attribution/whowhen.py --data FOLDER``.

Who&When (Zhang et al. 2025, arXiv 2505.00212) has logs of agents that talk to each other, every one of which failed,
and names the agent whose mistake decided it. Chat logs are not the typed spans that the product's rules are made for: a
log is read as spans (terminals are tools, messages are model calls), ``processors.faults`` looks at each, and every
agent gets a few features of what is held against it. A conditional logit over the agents of a log weighs them: fitted
on one half of the logs, tested on the other, both ways round. Nothing looks at the ground truth of the question, at
names of agents or at the kind of a log. Beside it: the rules alone (the first that names somebody), an agent at random, the
one who speaks most, and the first. Published for language models: 53.5% (best, all at once), random 29.1% (algorithm
generated) and 12.0% (hand-crafted); the published set has 184 logs, the data set here about half of them.
"""

from __future__ import annotations

import argparse
import gzip
import json
import sys
import zlib
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).parent.parent.parent))

import numpy as np
from rich.console import Console
from scipy.optimize import minimize

from processors.faults import HEDGED, NO_ANSWER, REFUSED, Words, seen_of, sketched, stems
from processors.phrases import flat
from schemas.events import Redaction, Span

Floats = np.ndarray[Any, np.dtype[np.float64]]
FEATURES = {
    "tool_failed": "share of the failed tool calls that were this agent's",
    "tool_last": "the last failed call that never worked later was this agent's",
    "loop": "most of the repeated messages are this agent's",
    "new": "share of this agent's words that nobody had said before it (0 to 1, the mean)",
    "unsure": "share of this agent's messages that hedge, refuse or know nothing",
    "first": "this agent spoke first",
    "last": "this agent spoke last",
    "talk": "share of the messages",
    "origin": "this agent was the first to say the numbers and names of the last message",
}
"""What is held against an agent."""
PULL = 1.0
"""The pull towards zero of every weight."""
_AT = datetime(2026, 1, 1, tzinfo=UTC)
_NOT_AGENTS = ("human", "user", "terminal")


class Log(NamedTuple):
    """One log: its agents with their features, and which of them is to blame (-1: none that spoke)."""

    kind: str
    half: int
    agents: list[str]
    x: Floats
    truth: int


def read(path: Path) -> list[Log]:
    """Every log of the data set."""
    with gzip.open(path, "rt") as lines:
        return [_log(json.loads(line)) for line in lines]


def _log(row: dict[str, Any]) -> Log:
    said = [(_speaker(one), str(one.get("content") or "")) for one in row["history"]]
    agents = list(dict.fromkeys(name for name, _ in said if not _is_tool(name)))
    blamed = _base(str(row["mistake_agent"]))
    x = np.array([[held.get(name, 0.0) for name in FEATURES] for held in _held(said, agents)])
    return Log(
        row["kind"], zlib.crc32(row["id"].encode()) % 2, agents, x, agents.index(blamed) if blamed in agents else -1
    )


def _base(name: str) -> str:
    return name.partition(" (")[0].strip()


def _speaker(one: dict[str, Any]) -> str:
    return _base(str(one.get("name") or one["role"]))


def _is_tool(name: str) -> bool:
    return any(part in name.lower() for part in _NOT_AGENTS)


def _span(name: str, asked: str, said: str) -> Span:
    kind = "tool" if _is_tool(name) else "llm"
    failed = kind == "tool" and "exitcode: 1" in said[:60]
    return Span(
        event_id="x", tenant="t", agent="a", event_time=_AT, redaction=Redaction(policy_version="1", detector="1"),
        session_id="s", trace_id="t", span_id="x", kind=kind, tool_name=name, name=name, input=asked, output=said,
        status="error" if failed else "unset",
    )  # fmt: skip


def _held(said: Sequence[tuple[str, str]], agents: Sequence[str]) -> list[dict[str, float]]:
    failed, unsure, talk, new = Counter[str](), Counter[str](), Counter[str](), dict[str, list[float]]()
    repeats, seen = Counter[str](), Counter[str]()
    last_failed, sketches, before = "", list[str](), ("", "")
    for name, text in said:
        if _is_tool(name):
            broken = "failed" in seen_of(_span(name, before[1], text))
            failed[before[0]] += broken
            last_failed = before[0] if broken else ""
        else:
            talk[name] += 1
            spoken = flat(text)
            unsure[name] += any(pattern.search(spoken) is not None for pattern in (HEDGED, NO_ANSWER, REFUSED))
            share = Words(sketches).share(stems(text)) if sketches else 1.0
            new.setdefault(name, []).append(1.0 - (share if share is not None else 1.0))
            seen[spoken[:200]] += 1
            repeats[name] += seen[spoken[:200]] >= 2
            before = (name, text)
        sketches.append(sketched(text))
    first, last = agents[0], next(name for name, _ in reversed(said) if not _is_tool(name))
    origin = _origin(said)
    most = max(repeats.values(), default=0)
    return [
        {
            "tool_failed": failed[name] / max(sum(failed.values()), 1),
            "tool_last": float(name == last_failed),
            "loop": float(most > 0 and repeats[name] == most),
            "new": float(np.mean(new.get(name, [0.0]))),
            "unsure": unsure[name] / max(talk[name], 1),
            "first": float(name == first),
            "last": float(name == last),
            "talk": talk[name] / max(sum(talk.values()), 1),
            "origin": float(name == origin),
        }
        for name in agents
    ]


def _origin(said: Sequence[tuple[str, str]]) -> str:
    """Who said most of the last message first."""
    words, by, known = stems(said[-1][1]), Counter[str](), set[int]()
    for name, text in said[:-1]:
        if not _is_tool(name):
            here = (stems(text) & words) - known
            by[name] += len(here)
            known |= here
    return by.most_common(1)[0][0] if by else ""


def fit(logs: Sequence[Log]) -> Floats:
    """The weights of a conditional logit: the blamed agent against the others of the same log."""
    held = [one for one in logs if one.truth >= 0]

    def loss(w: Floats) -> tuple[float, Floats]:
        value, slope = 0.5 * PULL * float(w @ w), PULL * w
        for one in held:
            z = one.x @ w
            p = np.exp(z - z.max())
            p /= p.sum()
            value -= float(np.log(max(p[one.truth], 1e-12)))
            slope = slope - one.x[one.truth] + p @ one.x
        return value, slope

    return np.asarray(minimize(loss, np.zeros(len(FEATURES)), jac=True, method="L-BFGS-B")["x"], dtype=float)


def by_rules(one: Log) -> int:
    """The first rule that names somebody: a tool that never worked again, a loop, doubt, the origin of the end."""
    for name in ("tool_last", "loop", "origin"):
        column = one.x[:, list(FEATURES).index(name)]
        if column.max() > 0:
            return int(column.argmax())
    return 0


def accuracy(logs: Sequence[Log], said: Sequence[float]) -> str:
    """Shares of right answers, by kind and in all; ``said`` is 1 or a chance for each log."""
    kinds = sorted({one.kind for one in logs})
    parts = [
        f"{kind} {np.mean([s for one, s in zip(logs, said, strict=True) if one.kind == kind]):.3f}" for kind in kinds
    ]
    return f"{np.mean(said):.3f} ({', '.join(parts)})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="whowhen.jsonl.gz")
    options = parser.parse_args()
    logs, console = read(options.data), Console(width=120)
    talk = list(FEATURES).index("talk")
    ways: dict[str, list[float]] = {
        "random agent": [(one.truth >= 0) / len(one.agents) for one in logs],
        "who speaks most": [float(one.x[:, talk].argmax() == one.truth) for one in logs],
        "who speaks first": [float(one.truth == 0) for one in logs],
        "rules alone": [float(by_rules(one) == one.truth) for one in logs],
    }
    said, mixed = np.zeros(len(logs)), np.zeros(len(logs))
    chance = np.random.default_rng(7)
    for half in (0, 1):
        weights = fit([one for one in logs if one.half != half])
        shuffled = [one._replace(truth=int(chance.integers(len(one.agents)))) for one in logs if one.half != half]
        control = fit(shuffled)
        for place, one in enumerate(logs):
            if one.half == half:
                said[place] = float((one.x @ weights).argmax() == one.truth)
                mixed[place] = float((one.x @ control).argmax() == one.truth)
        told = ", ".join(f"{name} {w:+.2f}" for name, w in zip(FEATURES, weights, strict=True))
        console.print(f"tested on half {half}: {np.mean(said[[one.half == half for one in logs]]):.3f}; weights {told}")
    ways |= {"weighed, left-out half": list(said), "control: blame shuffled": list(mixed)}
    missing = sum(one.truth < 0 for one in logs)
    console.print(f"{len(logs)} logs; in {missing} the blamed agent never speaks. Agent-level accuracy:")
    for name, right in ways.items():
        console.print(f"  {name}: {accuracy(logs, right)}", highlight=False)


if __name__ == "__main__":
    main()
