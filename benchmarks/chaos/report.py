"""Results as lines and as a table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

_HEAD = "| seed | brokers | events | faults | lost | doubled | counters | ledger off | dead letters | s |"
_RULE = "|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|"


def line(result: dict[str, Any]) -> str:
    """One run in one line."""
    if "error" in result:
        return f"seed {result['seed']}: FAILED {result['error']} (files in {result['kept']})"
    faults = " ".join(f"{kind}:{count}" for kind, count in sorted(result["faults"].items()))
    verdict = "ok" if not result["wrong"] else f"WRONG {result['wrong']}"
    kept = f" (files in {result['kept']})" if "kept" in result else ""
    return (
        f"seed {result['seed']}, {result['nodes']} broker(s), {result['events']} events, {result['seconds']:.0f} s: "
        f"{verdict}; lost {result['lost']}, doubled {result['doubled']}, counters {result['counters']}, ledger "
        f"{result['ledger']}, dead letters {result['dead']}/{result['dead_expected']}; {faults or 'no faults'}{kept}"
    )


def table(results: Sequence[dict[str, Any]]) -> str:
    """Runs as a Markdown table, with the sum of the faults by kind."""
    whole = [one for one in results if "error" not in one]
    rows = [
        f"| {r['seed']}{_sabotaged(r)} | {r['nodes']} | {r['events']} | {sum(r['faults'].values())} | {r['lost']} "
        f"| {r['doubled']} | {r['counters']} | {r['ledger']} | {r['dead']} of {r['dead_expected']} "
        f"| {r['seconds']:.0f} |"
        for r in whole
    ]
    faults: Counter[str] = sum((Counter(r["faults"]) for r in whole), Counter())
    told = ", ".join(f"{kind} {count}" for kind, count in sorted(faults.items()))
    wrong = [f"seed {r['seed']}: {r['wrong']}" for r in results if r["wrong"]]
    last = [f"Faults: {told}." if told else "No faults.", *(["Wrong:", *wrong] if wrong else ["Nothing was wrong."])]
    return "\n".join([_HEAD, _RULE, *rows, "", *last])


def _sabotaged(result: dict[str, Any]) -> str:
    return f" ({result['sabotage']})" if result.get("sabotage") else ""
