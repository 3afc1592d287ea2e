"""Of very many spans of a trace the oldest alike become one, with counts: so that its state stays small.

Folded are calls of models and tools and searches below one parent, of one tool, under which nothing stands. What a turn
counts is kept: calls, errors, tokens, costs, repeated arguments, whether a tool works in the end. What is lost of them:
their texts, the words they found, and the place of each among the others. A folded span that is delivered once more,
later than the memo reaches, counts once more. While a parent is not known, a model's call may yet be a turn of its own:
it is folded only when it asked for tools, since then it answered nobody.
"""

from __future__ import annotations

from typing import Any

FULL = 16
"""The newest spans of a trace, which are never folded."""
_LOOPS = 8
_FOLDED = ("llm", "tool", "retrieval")

PLACED = ("p", "t", "c", "i", "o", "r", "w")
"""Of a span in state: what is written as a place in the trace's ``texts`` (see ``processors.traces.put``)."""
Kept = dict[str, Any]
"""A span as ``processors.traces.put`` writes it."""


def fold(trace: dict[str, Any]) -> None:
    """Fold the oldest spans of a trace, by their coming, into the first one like them."""
    nodes: dict[str, Kept] = trace["nodes"]
    if len(nodes) <= FULL:
        return
    roots = {turn_id.rpartition(".")[2] for turn_id in trace.get("turns", ())}
    first, count = dict[tuple[Any, ...], Kept](), len(nodes)
    for span_id in list(nodes)[:-FULL]:
        kept = nodes[span_id]
        if span_id in roots or not _is_plain(span_id, kept, trace):
            continue
        one = first.setdefault((kept["k"], kept["p"], kept.get("t"), kept.get("subject_hash")), kept)
        if one is not kept:
            _add(one, kept)
            del nodes[span_id]
    if len(nodes) < count:
        sweep(trace)


def _is_plain(span_id: str, kept: Kept, trace: dict[str, Any]) -> bool:
    """Whether a span is a call below another one, with nothing below it, and surely not the whole of a turn."""
    if kept["k"] not in _FOLDED or "p" not in kept or span_id in trace["texts"]:
        return False
    return kept["k"] != "llm" or "c" in kept or trace["texts"][kept["p"]] in trace["nodes"]


def sweep(trace: dict[str, Any]) -> None:
    """Let go of the texts that no span of a trace has any more."""
    texts, still = trace["texts"], dict[int, int]()
    for kept in trace["nodes"].values():
        for short in PLACED:
            if short in kept:
                kept[short] = still.setdefault(kept[short], len(still))
    trace["texts"] = [texts[place] for place in still]


def _add(one: Kept, kept: Kept) -> None:
    older, newer = sorted((one, kept), key=lambda node: node["s"])
    errors = sum(node.get("errors", 0) for node in (one, kept)) + (older.get("status") == "error")
    loops = _loops(one, kept)
    for name in ("n", "m", "cost"):
        if name in one or name in kept:
            one[name] = one.get(name, 0) + kept.get(name, 0)
    for name in ("consent_train", "consent_evaluate"):
        if kept.get(name, True) is False:
            one[name] = False
    scores = [node["retrieval_score"] for node in (one, kept) if node.get("retrieval_score") is not None]
    one |= {"folded": one.get("folded", 0) + kept.get("folded", 0) + 1, "status": newer.get("status", "ok")}
    one |= {"f": newer.get("f", {})} | ({"errors": errors} if errors else {}) | ({"loops": loops} if loops else {})
    if "w" in newer:
        one["w"] = newer["w"]
    else:
        one.pop("w", None)
    if scores:
        one["retrieval_score"] = max(scores)


def _loops(one: Kept, kept: Kept) -> dict[str, int]:
    """How often each call was made with the same arguments; of the most frequent ones."""
    found: dict[str, int] = dict(one.get("loops", {}))
    for node in (kept,) if found else (one, kept):
        call = node.get("f", {}).get("call")
        if call:
            found[call] = found.get(call, 0) + 1
    return dict(sorted(found.items(), key=lambda item: -item[1])[:_LOOPS])
