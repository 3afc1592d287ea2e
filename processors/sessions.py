"""What attribution remembers of a session's turns, small, and the records that it makes of them.

In state a turn is a row of ``FIELDS`` in which names are places in the session's list of ``names``, and so are a
signal's kind and source; names that no longer find room there are written out. What a turn shows (``features``,
``shown``) and what its user asked (``asked``) are there only for the newest ``recent`` turns.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from processors.evidence import Evidence, Judgement
from processors.moments import micros, moment
from schemas.events import Failure, Outcome, Record, Redaction, Score, Signal, Turn, identity

Held = dict[str, Any]
"""A turn, unpacked."""
INPUT = 400
"""Characters of a message that a failure carries."""
NAMED = ("who", "agent", "model_version", "category", "verdict", "cause")
FIELDS = (
    "turn_id", "trace_id", "start", "who", "agent", "model_version", "category", "p_failure", "uncertainty",
    "retrievals", "retrieval_score", "revision", "verdict", "cause", "expected", "basis", "heard", "failed", "p",
    "features", "shown",
)  # fmt: skip
"""``who``: the subject's hash. ``basis``: what the last judgement rested on, hashed. ``heard``: signals that were
told with the last revision. ``failed``: the revision that was last told as a failure. ``p``: P(failure) as it was last
told. ``shown``: the span of each feature."""
_START, _REVISION = FIELDS.index("start") - 1, FIELDS.index("revision") - 1
_NAMES = 64
"""How many names a session keeps once: people may send any."""
_SIGNAL_NAMED = [Evidence._fields.index(name) for name in ("kind", "source")]
_NEW = {
    "revision": -1,
    "verdict": "",
    "cause": "unknown",
    "expected": "",
    "basis": 0,
    "heard": 0,
    "failed": -1,
    "p": 0.0,
}


def opened(data: dict[str, Any]) -> dict[str, Any]:
    """A session's state, made or brought to the present form."""
    if not data:
        data.update(turns={}, signals=[], last=0, closed=False, forget=0, valued=False)
    if "asked" not in data:
        old = list(data["turns"].values())
        data.update(turns={}, asked={}, told={}, names=[], tenant="", session="", causes="", forces={}, sketch="")
        for turn in old:  # as an earlier release kept them
            data.update(tenant=turn["tenant"], session=turn["session_id"])
            pack(data, [_NEW | {"who": turn["subject_hash"], "shown": {}} | turn])
    return data


def pack(data: dict[str, Any], turns: Iterable[Held]) -> None:
    """Put turns into state, in place of what was there of them."""
    for turn in turns:
        row = [_place(data, turn[name]) if name in NAMED else turn[name] for name in FIELDS]
        row[1] = "" if turn["turn_id"].startswith(f"{turn['trace_id']}.") else turn["trace_id"]
        while row[-1] == {}:
            row.pop()
        data["turns"][turn["turn_id"]] = row[1:]


def unpack(data: dict[str, Any]) -> list[Held]:
    """The turns of a session by their start."""
    turns = [_unpacked(data, turn_id) for turn_id in data["turns"]]
    return sorted(turns, key=lambda turn: (turn["start"], turn["turn_id"]))


def _unpacked(data: dict[str, Any], turn_id: str) -> Held:
    turn: Held = dict(zip(FIELDS, (turn_id, *data["turns"][turn_id]), strict=False))
    turn.setdefault("features", {})
    turn.setdefault("shown", {})
    for name in NAMED:
        turn[name] = _named(data, turn[name])
    if not turn["trace_id"]:
        turn["trace_id"] = turn_id.rpartition(".")[0]
    return turn


def _place(data: dict[str, Any], name: str) -> int | str:
    names: list[str] = data["names"]
    if name not in names:
        if len(names) >= _NAMES:
            return name
        names.append(name)
    return names.index(name)


def _named(data: dict[str, Any], place: int | str) -> str:
    """The name at a place, or one that is written out."""
    return place if isinstance(place, str) else data["names"][place]


def keep_score(data: dict[str, Any], score: Score, turns: int, recent: int) -> None:
    """Keep a turn by its score; let go of settled old ones with their signals, and of what less old ones show."""
    data.update(
        tenant=score.tenant, session=score.session_id, causes=score.causes or data["causes"],
        forces=score.forces or data["forces"],
    )  # fmt: skip
    known = _unpacked(data, score.turn_id) if score.turn_id in data["turns"] else _NEW
    now = known | {
        "turn_id": score.turn_id, "trace_id": score.trace_id, "agent": score.agent, "who": score.subject_hash,
        "start": micros(score.event_time), "model_version": score.model_version, "category": score.category,
        "p_failure": score.p_failure, "uncertainty": score.uncertainty, "retrievals": score.retrievals,
        "retrieval_score": score.retrieval_score, "shown": score.fault_spans, "basis": 0,
        "features": score.features,
    }  # fmt: skip
    pack(data, [now])
    rows, full = data["turns"], len(FIELDS) - len(("turn_id", "features", "shown"))
    ordered = sorted(rows, key=lambda one: (rows[one][_START], one))
    settled = [one for one in ordered if rows[one][_REVISION] >= 0 or one != score.turn_id]
    gone = set(settled[: max(len(ordered) - turns, 0)])
    for turn_id in gone:
        del rows[turn_id]
    if gone:
        data["signals"] = [one for one, said in signals_of(data) if said.turn_id not in gone]
    for turn_id in ordered[:-recent]:
        if turn_id not in gone and rows[turn_id][_REVISION] >= 0:
            del rows[turn_id][full:]


def keep_signal(data: dict[str, Any], signal: Signal, signals: int) -> None:
    """Keep a signal, of at most so many."""
    found = Evidence(
        signal.event_id, signal.name, signal.kind, signal.source, signal.value, signal.weight,
        signal.text if signal.name == "correction" else "", signal.turn_id, "" if signal.turn_id else signal.trace_id,
        micros(signal.event_time), signal.span_id, signal.feedback_id, micros(signal.received_time),
        signal.attributes.get("gen_ai.evaluation.name", ""), signal.attributes.get("retracts", ""),
    )  # fmt: skip
    row: list[Any] = list(found)
    for at in _SIGNAL_NAMED:
        row[at] = _place(data, row[at])
    while row[-1] in ("", 0):
        row.pop()
    data["signals"] = [*data["signals"], row][-signals:]


def signals_of(data: dict[str, Any]) -> list[tuple[list[Any], Evidence]]:
    """The signals of a session, each as it is kept and as it is read."""
    found: list[tuple[list[Any], Evidence]] = []
    for row in data["signals"]:
        named: list[Any] = [_named(data, value) if at in _SIGNAL_NAMED else value for at, value in enumerate(row)]
        found.append((row, Evidence(*named)))
    return found


def keep_asked(data: dict[str, Any], turn: Turn, recent: int) -> None:
    """Keep what a turn's user asked, of the newest turns."""
    data.update(tenant=turn.tenant, session=turn.session_id)
    cleaned = turn.redaction
    data["asked"][turn.turn_id] = {
        "text": turn.input[:INPUT], "start": micros(turn.event_time), "who": _place(data, turn.subject_hash),
        "redaction": [_place(data, cleaned.policy_version), _place(data, cleaned.detector), cleaned.counts],
    } | {name: False for name in ("train", "evaluate") if not getattr(turn, f"consent_{name}")}  # fmt: skip
    for turn_id, _ in sorted(data["asked"].items(), key=lambda one: (one[1]["start"], one[0]))[:-recent]:
        del data["asked"][turn_id]


def awaited(data: dict[str, Any], turn_id: str) -> bool:
    """Whether a turn has failed and only waited for what was asked."""
    return turn_id in data["turns"] and unheard(_unpacked(data, turn_id))


def unheard(turn: Held) -> bool:
    """Whether a turn's newest failure has not been told."""
    return turn["verdict"] == "failure" and turn["failed"] < turn["revision"]


def forget_person(data: dict[str, Any], subject_hash: str) -> set[str]:
    """Let go of a person's turns and of what they asked; the ids of those turns."""
    who = FIELDS.index("who") - 1
    gone = {turn_id for turn_id, row in data["turns"].items() if _named(data, row[who]) == subject_hash}
    gone |= {turn_id for turn_id, one in data["asked"].items() if _named(data, one["who"]) == subject_hash}
    for kept in ("turns", "asked"):
        data[kept] = {turn_id: one for turn_id, one in data[kept].items() if turn_id not in gone}
    data["told"] = {name: [one for one in news if one[1][0] not in gone] for name, news in data["told"].items()}
    data["names"] = ["" if one == subject_hash else one for one in data["names"]]
    return gone


def heard(judgement: Judgement) -> int:
    """How many signals a judgement rests on."""
    return sum(one.startswith("signal:") for one in judgement.evidence)


def told(turn: Held, judgement: Judgement, value: int | None, spread: float | None) -> list[Any]:
    """The turn's next revision, in the short form of which ``outcome`` makes the record again.

    ``spread``: how far judges disagree.
    """
    turn["revision"] += 1
    turn.update(verdict=judgement.verdict, expected=judgement.expected, cause=judgement.cause, p=judgement.p_failure)
    turn["heard"] = heard(judgement)
    return [
        turn["turn_id"], turn["revision"], judgement.verdict, judgement.p_failure, judgement.cause,
        judgement.confidence, judgement.evidence, judgement.expected, value, judgement.basis,
        None if spread is None else round(spread, 4),
    ]  # fmt: skip


def outcome(data: dict[str, Any], short: list[Any]) -> Record | None:
    """The record of a revision in short; None when its turn has been let go."""
    turn_id, revision, verdict, p_failure, cause, confidence, evidence, expected, value, basis, spread = short
    if turn_id not in data["turns"]:
        return None
    turn = _unpacked(data, turn_id)
    return Outcome(
        event_id=identity("outcome", data["tenant"], turn_id, str(revision)),
        tenant=data["tenant"],
        agent=turn["agent"],
        subject_hash=turn["who"],
        event_time=moment(turn["start"]),
        session_id=data["session"],
        turn_id=turn_id,
        trace_id=turn["trace_id"],
        model_version=turn["model_version"],
        category=turn["category"],
        revision=revision,
        verdict=verdict,
        p_failure=p_failure,
        uncertainty=turn["uncertainty"],
        cause=cause,
        cause_confidence=confidence,
        evidence=evidence,
        expected=expected,
        session_value=value,
        basis=basis,
        features=(turn["features"] if basis == "said" else {}) | ({} if spread is None else {"judge_spread": spread}),
        sketch=data["sketch"] if value is not None else "",
    )


def failed(turn: Held) -> list[Any]:
    """The failure of a turn in short: its newest revision, cause and probability."""
    turn["failed"] = turn["revision"]
    return [turn["turn_id"], turn["revision"], turn["cause"], turn["p"]]


def failure(data: dict[str, Any], short: list[Any]) -> Record | None:
    """The record of a failure in short; None when its turn or its text has been let go."""
    turn_id, revision, cause, p_failure = short
    asked = data["asked"].get(turn_id)
    if turn_id not in data["turns"] or asked is None:
        return None
    turn = _unpacked(data, turn_id)
    return Failure(
        event_id=identity("failure", data["tenant"], turn_id, str(revision)),
        tenant=data["tenant"],
        agent=turn["agent"],
        subject_hash=turn["who"],
        event_time=moment(turn["start"]),
        redaction=_redaction(data, asked["redaction"]),
        consent_train=asked.get("train", True),
        consent_evaluate=asked.get("evaluate", True),
        session_id=data["session"],
        turn_id=turn_id,
        trace_id=turn["trace_id"],
        model_version=turn["model_version"],
        category=turn["category"],
        input=asked["text"],
        cause=cause,
        p_failure=p_failure,
        revision=revision,
    )


def _redaction(data: dict[str, Any], kept: Any) -> Redaction:
    if isinstance(kept, dict):  # as an earlier release kept it
        return Redaction.model_validate(kept)
    policy, detector, counts = kept
    return Redaction(policy_version=_named(data, policy), detector=_named(data, detector), counts=counts)
