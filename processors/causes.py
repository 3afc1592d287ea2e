"""Which fault came first: ordered rules over what spans, signals and the rest of the session show of a failed turn.

The rules stand in the order in which an agent works (tools, routing, the query, documents, knowledge, the answer). All
that fire are kept, each with the span that shows it; the first that is sure enough decides (``DECISIVE``). They are the
evidence of an outcome and half of what the learnt model sees (``processors.cause_model``).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from schemas.events import Cause

CAUSES: tuple[Cause, ...] = ("retrieval", "generation", "routing", "rephrasal", "knowledge_gap", "tool")
"""Every cause that can be told."""
DECISIVE = 0.6
"""The confidence from which a rule decides, and a cause is told at all."""
SAID = {
    "rephrase": "asked_again", "repeat": "asked_again", "regenerate": "asked_again", "correction": "corrected",
    "explicit_correction": "contradicted", "missing_knowledge": "missing_knowledge", "stopped": "was_stopped",
    "knowledge_relevance": "irrelevant", "forgetfulness": "forgot", "manual_takeover": "taken_over",
}  # fmt: skip
"""Signals against a turn that hint at a cause, and the fact that each is."""


@dataclass(frozen=True, slots=True)
class Case:
    """What is known of a failed turn.

    ``features``: of its score, which hold the faults of its spans (``processors.faults.FAULTS``); ``spans``: the span
    of each. ``facts``: what signals and the session say (values of ``SAID``, ``corrected_route``, ``rerouted``).
    """

    features: Mapping[str, float]
    retrievals: int = 0
    retrieval_score: float | None = None
    spans: Mapping[str, str] = field(default_factory=dict[str, str])
    facts: frozenset[str] = frozenset()


class Fired(NamedTuple):
    """A rule that fired. ``feature``: whose span shows it, '' when a signal does."""

    rule: str
    cause: Cause
    confidence: float
    feature: str = ""


def rules(case: Case, low: float) -> list[Fired]:
    """Every rule that fires, in order. ``low``: the retrieval score under which documents are poor."""
    return [one for part in (_tool, _routing, _rephrasal, _documents, _generation) for one in part(case, low)]


def first(fired: Iterable[Fired]) -> Fired | None:
    """The rule that decides: the first that is sure enough; None when none is."""
    return next((one for one in fired if one.confidence >= DECISIVE), None)


def _tool(case: Case, low: float) -> Iterator[Fired]:
    del low
    has = case.features.get
    if has("tool_failed") or has("tool_unresolved"):
        yield Fired("tool_unresolved", "tool", 0.9, "tool_failed")
    if has("tool_loop", 0.0) >= 3:
        yield Fired("tool_loop", "tool", 0.8, "tool_loop")


def _routing(case: Case, low: float) -> Iterator[Fired]:
    del low
    has = case.features.get
    if "corrected_route" in case.facts:
        yield Fired("corrected_route", "routing", 0.9)
    if "rerouted" in case.facts:
        yield Fired("rerouted", "routing", 0.8)
    if has("declined"):
        yield Fired("not_my_area", "routing", 0.75, "declined")
    if has("router"):
        yield Fired("answer_is_route", "routing", 0.7)
    if has("handoffs", 0.0) >= 1:
        yield Fired("handed_on", "routing", 0.4, "handoffs")


def _rephrasal(case: Case, low: float) -> Iterator[Fired]:
    del low
    has = case.features.get
    if has("context_lost"):
        yield Fired("query_lost_context", "rephrasal", 0.8, "context_lost")
    if has("query_lost", 0.0) >= 0.3:
        yield Fired("query_lost_words", "rephrasal", 0.75, "query_lost")
    if has("query_unlike", 0.0) >= 0.4 and has("query_fit", 0.0) >= 0.1:
        yield Fired("query_fits_worse", "rephrasal", 0.7, "query_unlike")
    elif has("query_unlike", 0.0) >= 0.6:
        yield Fired("query_unlike", "rephrasal", 0.6, "query_unlike")


def _documents(case: Case, low: float) -> Iterator[Fired]:
    """Retrieval, or a knowledge gap: nothing for different queries, or somebody says that it is missing."""
    has = case.features.get
    tried, empty = has("queries", 0.0) >= 2, has("found_none", 0.0) >= 1
    poor = case.retrieval_score is not None and case.retrieval_score < low
    unlike = has("found_unlike", 0.0) >= 0.6
    missing = "missing_knowledge" in case.facts
    gap = missing or (tried and (empty or poor or unlike)) or (has("no_answer", 0.0) > 0 and (empty or poor))
    if "irrelevant" in case.facts:
        yield Fired("irrelevant_documents", "retrieval", 0.85)
    weight = 0.5 if gap else 1.0
    if empty:
        yield Fired("no_documents", "retrieval", 0.75 * weight, "found_none")
    if poor:
        yield Fired("poor_retrieval", "retrieval", 0.7 * weight, "searches")
    if unlike:
        yield Fired("unlike_documents", "retrieval", 0.65 * weight, "found_unlike")
    if missing:
        yield Fired("missing_knowledge", "knowledge_gap", 0.85)
    elif gap and tried:
        yield Fired("nothing_for_any_query", "knowledge_gap", 0.8, "found_none" if empty else "searches")
    elif gap:
        yield Fired("nothing_known", "knowledge_gap", 0.7, "no_answer")


def _generation(case: Case, low: float) -> Iterator[Fired]:
    has = case.features.get
    poor = case.retrieval_score is not None and case.retrieval_score < low
    searched = max(has("searches", 0.0), float(case.retrievals)) > 0
    good = searched and not poor and has("found_none", 0.0) < 1 and has("found_unlike", 0.0) < 0.6
    unsure = [name for name in ("refused", "refusal", "no_answer", "hedged", "hedges") if has(name)]
    if has("ungrounded", 0.0) > 0.5:
        yield Fired("ungrounded", "generation", 0.8 if good else 0.55, "ungrounded")
    if has("numbers_unseen", 0.0) >= 0.5:
        yield Fired("numbers_unseen", "generation", 0.75 if good else 0.5, "numbers_unseen")
    if good and unsure:
        yield Fired("unsure_of_good_documents", "generation", 0.7, unsure[0])
    if has("answer_empty") or has("empty") or has("error"):
        yield Fired("no_answer", "generation", 0.65, "answer_empty")
    if unsure and not good:
        yield Fired("unsure_answer", "generation", 0.6, unsure[0])
    if good:
        yield Fired("good_retrieval", "generation", 0.5, "searches")
    if "asked_again" in case.facts:
        yield Fired("asked_again", "rephrasal", 0.4)
