"""A trace's spans as they lie in state, and the turns they make: which span is a root, what belongs to it."""

from __future__ import annotations

import base64
import math
import zlib
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from typing import Any, cast

from processors.faults import faults_of, seen_of
from processors.folding import PLACED, fold, sweep
from processors.moments import micros, moment
from schemas.events import Redaction, Span, Turn, identity

Node = dict[str, Any]
"""One span in state: JSON only, with the text of those kinds that can answer a user."""

_TEXT_KINDS = ("agent", "llm", "chain", "other")
_KEPT = (
    "session_id", "trace_id", "span_id", "parent_span_id", "kind", "status", "status_message", "model",
    "model_version", "tool_name", "category", "input_tokens", "output_tokens", "consent_train",
    "consent_evaluate", "subject_hash", "agent",
)  # fmt: skip
_SELDOM = ("cost", "prompt_name", "prompt_version", "called_tools", "estimates")
"""Kept where they say something."""
_NOTHING: tuple[Any, ...] = (None, "", [], {})
_EMPTY: Node = {
    "session_id": "", "parent_span_id": "", "status": "ok", "status_message": "", "model": "", "model_version": "",
    "tool_name": "", "category": "", "input_tokens": 0, "output_tokens": 0, "consent_train": True,
    "consent_evaluate": True, "end": 0, "received": 0, "logprob_top1": None, "logprob_top2": None,
    "retrieval_score": None, "input": "", "output": "", "redaction": {},
}  # fmt: skip
"""What is not written down."""
_SHARED = ("session_id", "trace_id", "subject_hash", "agent", "model", "model_version")
_NODE_BYTES = 110
_SKETCHES, _MESSAGE = 8, 400
FORM = 4
"""How ``put`` writes a span."""
_SHORT = {
    "parent_span_id": "p", "kind": "k", "tool_name": "t", "input_tokens": "n", "output_tokens": "m",
    "called_tools": "c", "input": "i", "output": "o", "redaction": "r", "start": "s",
    "end": "e", "received": "a", "seen": "f", "words": "w",
}  # fmt: skip
_LONG = {short: name for name, short in _SHORT.items()}
_SAID = ("i", "o", "r")
_SINCE = ("e", "a")
"""Written as the time since the start."""
_NUMBERS = ("logprob_top1", "logprob_top2", "retrieval_score")


def node_of(span: Span) -> Node:
    """What state keeps of a span: of one that stands for no turn, no text, and nothing that is asked of roots alone."""
    facts = vars(span)
    node: Node = {name: facts[name] for name in _KEPT}
    for name in _SELDOM:
        if (value := facts[name]) not in _NOTHING:
            node[name] = value
    for name in _NUMBERS:
        value = facts[name]
        node[name] = value if value is not None and math.isfinite(value) else None
    texts, start = span.kind in _TEXT_KINDS, micros(span.event_time)
    node["input"], node["output"] = (span.input, span.output) if texts else ("", "")
    node["redaction"] = dict(vars(span.redaction)) if texts and (span.input or span.output) else {}
    node["start"] = start
    node["end"] = start + max(span.duration_us, 0) if texts else 0
    node["received"] = micros(span.received_time) if texts else 0
    if not texts:
        node |= {"input_tokens": 0, "output_tokens": 0, "status_message": span.status_message[:_MESSAGE]}
    seen = seen_of(span)
    if seen:
        node["seen"] = seen
    return node


def put(trace: dict[str, Any], node: Node) -> None:
    """Put a span into its trace as state keeps it: short, without what is empty or what its first span says as well.

    What several spans have (the message, an answer that is passed on, a parent, a tool, words that were found) lies
    once in ``texts``. Of many spans that found something only the newest keep the words of it.
    """
    shared = trace.setdefault("shared", {name: node[name] for name in _SHARED})
    texts: list[Any] = trace.setdefault("texts", [])
    plain = _EMPTY | shared | {"span_id": node["span_id"]}
    kept = {_SHORT.get(name, name): value for name, value in node.items() if name not in plain or plain[name] != value}
    if "words" in kept.get("f", ()):
        kept["w"] = kept["f"]["words"]
        kept["f"] = {name: value for name, value in kept["f"].items() if name != "words"}
    for short in PLACED:
        if short in kept:
            kept[short] = _place(texts, kept[short])
    for short in _SINCE:
        if short in kept:
            kept[short] -= node["start"]
    trace["nodes"][node["span_id"]] = kept
    fold(trace)
    if len(trace["nodes"]) > _SKETCHES and "w" in kept:
        old = [one for one in trace["nodes"].values() if "w" in one][:-_SKETCHES]
        for one in old:
            del one["w"]
        if old:
            sweep(trace)


def is_leaf(span_id: str, trace: dict[str, Any]) -> bool:
    """Whether a span is new and nothing is known to stand below it: a tool's or a search's then changes no root."""
    nodes, texts = trace["nodes"], trace.get("texts", [])
    if span_id in nodes or span_id not in texts:
        return span_id not in nodes
    place = texts.index(span_id)
    return place not in [node.get("p") for node in nodes.values()]


def _place(texts: list[Any], text: Any) -> int:
    if text not in texts:
        texts.append(text)
    return texts.index(text)


def whole(trace: dict[str, Any]) -> dict[str, Node]:
    """The spans of a trace, as ``node_of`` made them."""
    plain, texts = _EMPTY | trace.get("shared", {}), trace.get("texts", [])
    nodes: dict[str, Node] = {}
    for span_id, kept in trace["nodes"].items():
        node = nodes[span_id] = {**plain, "span_id": span_id}
        for name, value in kept.items():
            node[_LONG.get(name, name)] = texts[value] if name in PLACED else value
        for name in _SINCE:
            if name in kept:
                node[_LONG[name]] = kept["s"] + kept[name]
        if "words" in node:
            node["seen"] = {**node["seen"], "words": node.pop("words")}
    return nodes


def renewed(trace: dict[str, Any]) -> None:
    """Bring a trace that an earlier release kept to the present form."""
    texts = trace["texts"] = [_inflated(one) for one in trace.get("texts", ())]
    nodes = whole(trace)
    trace.update(nodes={}, texts=[], form=FORM)
    for node in nodes.values():
        for name in ("input", "output"):
            if isinstance(node[name], int):
                node[name] = texts[node[name]]
        put(trace, node)


def outline(trace: dict[str, Any]) -> dict[str, Node]:
    """The spans of a trace with only what tells which of them are roots, and when these came."""
    texts: list[Any] = trace.get("texts", [])
    return {
        span_id: {
            "span_id": span_id, "kind": kept["k"], "parent_span_id": texts[kept["p"]] if "p" in kept else "",
            "start": kept["s"], "received": kept["s"] + kept.get("a", 0),
        }
        for span_id, kept in trace["nodes"].items()
    }  # fmt: skip


def slim(root: Node, trace: dict[str, Any]) -> None:
    """Let go of the texts that the turn of a root no longer needs: those below it, when it has both of its own."""
    if root["input"] and root["output"]:
        nodes, texts = trace["nodes"], trace["texts"]
        for kept in nodes.values():
            if kept["k"] != "agent" and "p" in kept and texts[kept["p"]] in nodes:
                for short in _SAID:
                    kept.pop(short, None)
        sweep(trace)


def _inflated(text: Any) -> Any:
    """A text as it is; before form 4 long ones were deflated one by one."""
    if not isinstance(text, dict) or "z" not in text:
        return text
    return zlib.decompress(base64.b64decode(cast("str", text["z"]))).decode("utf-8", "surrogatepass")


def weight_of(trace: dict[str, Any]) -> int:
    """About how many bytes the spans of a trace have."""
    return sum(map(len, trace.get("texts", ()))) + _NODE_BYTES * len(trace["nodes"])


def roots(nodes: dict[str, Node]) -> list[Node]:
    """The spans that stand for turns, by start.

    They are the topmost agent spans; without any, the topmost LLM or chain spans, or a topmost span of
    another kind that has an LLM span below it (a web request, say). What an evaluator does is no turn.
    """
    nodes = _working(nodes)
    found = [n for n in nodes.values() if n["kind"] == "agent" and not _above(n, nodes, "agent")]
    if not found:
        answering = [top_of(n, nodes)["span_id"] for n in nodes.values() if n["kind"] == "llm"]
        tops = [n for n in nodes.values() if n["parent_span_id"] not in nodes]
        found = [
            n for n in tops if n["kind"] in ("llm", "chain") or (n["kind"] == "other" and n["span_id"] in answering)
        ]
    return sorted(found, key=_order)


def _working(nodes: dict[str, Node]) -> dict[str, Node]:
    """The spans without those of evaluators and what they call."""
    if "evaluator" not in [node["kind"] for node in nodes.values()]:
        return nodes
    judging = {name for name, n in nodes.items() if n["kind"] == "evaluator" or _above(n, nodes, "evaluator")}
    return {name: node for name, node in nodes.items() if name not in judging}


def _order(node: Node) -> tuple[int, str]:
    return node["start"], node["span_id"]


def _lineage(node: Node, nodes: dict[str, Node]) -> Iterable[Node]:
    """The spans above a span, nearest first; a circle ends where it closes."""
    seen = {node["span_id"]}
    parent = nodes.get(node["parent_span_id"])
    while parent is not None and parent["span_id"] not in seen:
        seen.add(parent["span_id"])
        yield parent
        parent = nodes.get(parent["parent_span_id"])


def _above(node: Node, nodes: dict[str, Node], kind: str) -> bool:
    return any(parent["kind"] == kind for parent in _lineage(node, nodes))


def top_of(node: Node, nodes: dict[str, Node]) -> Node:
    """The topmost known span above a span; itself when there is none."""
    return ([node, *_lineage(node, nodes)])[-1]


def members(tops: list[Node], nodes: dict[str, Node]) -> dict[str, list[Node]]:
    """The spans of each root's turn, by start: all below it, and strays whose parents are not known.

    A stray belongs to the last root that began before it, or else to the first root.
    """
    found: dict[str, list[Node]] = {top["span_id"]: [] for top in tops}
    starts = [top["start"] for top in tops]

    def owner(node: Node) -> str:
        for one in (node, *_lineage(node, nodes)):
            if one["span_id"] in found:
                return one["span_id"]
        return tops[max(bisect_right(starts, node["start"]) - 1, 0)]["span_id"]

    for node in sorted(_working(nodes).values(), key=_order):
        found[tops[0]["span_id"] if len(tops) == 1 else owner(node)].append(node)
    return found


def turn_id_of(root: Node) -> str:
    """The turn that a root stands for."""
    return f"{root['trace_id']}.{root['span_id']}"


def turn_of(root: Node, spans: list[Node], index: int, tenant: str, earlier: Sequence[str] = ()) -> Turn | None:
    """The turn of a root and its spans; None when nothing was asked or nothing answered.

    ``earlier``: what the user said in the turns before it, oldest first.
    """
    models = [n for n in spans if n["kind"] == "llm"]
    asked = next((n for n in (root, *models) if n["input"]), root)
    said = next((n for n in (root, *reversed(models)) if n["output"]), root)
    if not said["output"] or not asked["input"]:
        return None
    voices = (root, *reversed(models))
    turn_id = turn_id_of(root)
    noticed = faults_of(root, spans, earlier, asked["input"], said["output"])
    return Turn(
        event_id=identity("turn", tenant, turn_id),
        tenant=tenant,
        agent=root["agent"],
        subject_hash=_first(spans, "subject_hash", root),
        event_time=moment(root["start"]),
        end_time=moment(root["end"]),
        redaction=_merged(asked, said),
        consent_train=all(n["consent_train"] for n in spans),
        consent_evaluate=all(n.get("consent_evaluate", True) for n in spans),
        session_id=root["session_id"],
        turn_id=turn_id,
        turn_index=index,
        trace_id=root["trace_id"],
        model=_first(voices, "model", root),
        model_version=_first(voices, "model_version", root) or _first(voices, "model", root),
        category=_first(voices, "category", root),
        input=asked["input"],
        output=said["output"],
        error=root["status_message"] if root["status"] == "error" else "",
        faults=noticed.faults,
        fault_spans=noticed.spans,
        **_prompt(voices),
        **_logprobs(voices),
        estimates=next((n["estimates"] for n in voices if n.get("estimates")), {}),
        **_counts(root, spans, _lowest(models)),
        **_tools(spans, models),
    )


def _first(nodes: Iterable[Node], name: str, default: Node) -> str:
    return default[name] or next((n[name] for n in nodes if n[name]), "")


def _prompt(voices: Iterable[Node]) -> dict[str, Any]:
    """Name and version from the same span."""
    chosen = next((n for n in voices if n.get("prompt_name") or n.get("prompt_version")), {})
    return {name: chosen.get(name, "") for name in ("prompt_name", "prompt_version")}


def _logprobs(voices: Iterable[Node]) -> dict[str, Any]:
    """Both from the same span: a difference between two spans means nothing."""
    chosen = next((n for n in voices if n["logprob_top1"] is not None), None)
    return {} if chosen is None else {name: chosen[name] for name in ("logprob_top1", "logprob_top2")}


def _lowest(models: list[Node]) -> list[Node]:
    """The model calls that count: not those that another stands below, which counts the same again."""
    nodes = {n["span_id"]: n for n in models if n["input_tokens"] or n["output_tokens"] or n.get("cost") is not None}
    above = {n["parent_span_id"] for n in nodes.values()}
    return [n for n in nodes.values() if n["span_id"] not in above]


def _counts(root: Node, spans: list[Node], models: list[Node]) -> dict[str, Any]:
    """Tokens and costs from the model calls when they say, else from the root; the best retrieval of the turn."""
    found = [n for n in spans if n["kind"] == "retrieval"]
    scores = [n["retrieval_score"] for n in (*found, root) if n["retrieval_score"] is not None]
    called = models or [root]
    costs = [n["cost"] for n in models if n.get("cost") is not None] or [root.get("cost")]
    return {
        "cost": None if costs[0] is None else math.fsum(costs),
        "retrievals": sum(_times(n) for n in found),
        "retrieval_score": max(scores, default=None),
        "input_tokens": sum(n["input_tokens"] for n in called),
        "output_tokens": sum(n["output_tokens"] for n in called),
    }


def _tools(spans: list[Node], models: list[Node]) -> dict[str, Any]:
    """Calls and errors of the turn; ``failed_tool``: the last that failed and never worked afterwards."""
    tools = [n for n in spans if n["kind"] == "tool"]
    last = {n["tool_name"]: n["status"] == "error" for n in tools}
    broken = [n["tool_name"] or "unnamed" for n in tools if last[n["tool_name"]]]
    asked = _asked_for(models)
    called = [name for n in tools for name in [n["tool_name"]] * _times(n)] or asked
    return {
        "tool_calls": len(called),
        "tool_errors": sum((n["status"] == "error") + n.get("errors", 0) for n in tools),
        "failed_tool": broken[-1] if broken else "",
        "called_tools": called,
    }


def _times(node: Node) -> int:
    """For how many spans one stands (``processors.folding``)."""
    return 1 + node.get("folded", 0)


def _asked_for(models: list[Node]) -> list[str]:
    """The tools that model calls asked for, each once: the last one's history may repeat those of all before."""
    lists: list[list[str]] = [n.get("called_tools", []) for n in models]
    every = [name for some in lists for name in some]
    return lists[-1] if lists and set(every) <= set(lists[-1]) else every


def _merged(asked: Node, said: Node) -> Redaction:
    first = Redaction.model_validate(said["redaction"])
    if asked is said:
        return first
    counts = dict(first.counts)
    for name, count in asked["redaction"]["counts"].items():
        counts[name] = counts.get(name, 0) + count
    return first.model_copy(update={"counts": counts})
