"""Shadow evidence: who was right where candidate and live model answered differently.

Only pairs whose truth is known count: a label or a correction names the right answer, or the turn was a success, so
that the live answer was right. Of a failed turn without a named answer nothing follows. Since failures are explained
more rarely than successes are noticed, a pair that the live model won counts with the share of its failures that were
explained: otherwise silence would speak against every candidate. Assumption: whether a failure gets explained does not
depend on what the shadow, which nobody saw, answered.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from deploy.sequential import evidence
from processors.bounds import shorten
from processors.text import chance, normal
from schemas.events import Label, Outcome, Record, Signal

_REMEMBERED = 2_000


@dataclass(frozen=True, slots=True)
class ShadowSettings:
    """``evidence``: the e-value that decides, so that each wrong decision has at most the chance 1 / evidence.

    ``pairs``: known differing pairs that a promotion needs at least. ``most``: pairs after which a shadow that
    decided nothing is stopped.
    """

    evidence: float = 20.0
    pairs: int = 10
    most: int = 3_000


def begin() -> dict[str, Any]:
    """The state of a new shadow phase."""
    return {"seen": 0, "open": {}, "facts": {}, "wins": 0, "losses": 0, "explained": 0, "failed": 0}


def take(data: dict[str, Any], record: Record, salt: str) -> None:
    """Note a comparison, or what became known about a turn; order does not matter."""
    if isinstance(record, Signal):
        _pair(data, record, salt)
    elif isinstance(record, Label) and record.turn_id:
        _fact(data, (record.turn_id,), record.value, "", salt)
    elif isinstance(record, Outcome):
        _fact(data, (record.turn_id, record.trace_id), record.expected, record.verdict, salt)


def _pair(data: dict[str, Any], signal: Signal, salt: str) -> None:
    data["seen"] += 1
    place = signal.turn_id or signal.trace_id
    if normal(signal.text) != normal(signal.text_before):
        data["open"][place] = [normal(signal.text_before), normal(signal.text), 0]
        shorten(data["open"], _REMEMBERED)
        _settle(data, place, salt)


def _fact(data: dict[str, Any], places: tuple[str, ...], truth: str, verdict: str, salt: str) -> None:
    """A label outweighs what an outcome says, which replaces what an earlier one said."""
    for place in places:
        known = data["facts"].get(place, ["", ""])
        data["facts"][place] = [normal(truth) or known[0], verdict or known[1]]
        shorten(data["facts"], _REMEMBERED)
        _settle(data, place, salt)


def _settle(data: dict[str, Any], place: str, salt: str) -> None:
    pair, fact = data["open"].get(place), data["facts"].get(place)
    if pair is None or fact is None:
        return
    (live, shadow, failed), (truth, verdict) = pair, fact
    if live == truth or (not truth and verdict == "success"):
        explained = (data["explained"] + 1) / (data["failed"] + 1)
        data["losses"] += int(chance("shadow", salt, place) < explained)
        data["failed"] -= failed
    elif truth:
        data["wins"] += int(shadow == truth)
        data["explained"] += 1
        data["failed"] += 1 - failed
    else:
        if verdict == "failure" and not failed:
            data["failed"] += 1
            pair[2] = 1
        return
    del data["open"][place]


def evidence_of(data: dict[str, Any]) -> dict[str, float]:
    """The numbers that a decision rests on."""
    wins, losses = data["wins"], data["losses"]
    return {
        "pairs": float(data["seen"]),
        "wins": float(wins),
        "losses": float(losses),
        "e_better": round(evidence(wins, losses, 0.5, "above"), 4),
        "e_worse": round(evidence(wins, losses, 0.5, "below"), 4),
    }


def decide(data: dict[str, Any], settings: ShadowSettings) -> tuple[str, str] | None:
    """(state, reason) when the evidence decides: ``canary`` or ``stopped``."""
    found = evidence_of(data)
    wins, total = data["wins"], data["wins"] + data["losses"]
    told = f"right in {wins} of the {total} known turns where the two differ"
    if found["e_better"] >= settings.evidence and total >= settings.pairs:
        return "canary", f"the shadow was {told} (e-value {found['e_better']:.3g})"
    if found["e_worse"] >= settings.evidence:
        return "stopped", f"the shadow was {told} only (e-value against it {found['e_worse']:.3g})"
    if data["seen"] >= settings.most:
        return "stopped", f"{data['seen']} shadow pairs decided nothing: {told}"
    return None
