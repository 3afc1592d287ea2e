"""The rules of causes: which fire, in which order, and which one decides."""

from __future__ import annotations

import pytest

from processors.cause_model import LOW
from processors.causes import CAUSES, Case, first, rules

GOOD = {"searches": 1.0, "queries": 1.0}


@pytest.mark.parametrize(
    ("case", "rule", "cause"),
    [
        (Case({"tool_failed": 1.0, "declined": 1.0}), "tool_unresolved", "tool"),
        (Case({"tool_loop": 3.0}), "tool_loop", "tool"),
        (Case({"router": 1.0}, facts=frozenset({"corrected_route"})), "corrected_route", "routing"),
        (Case({}, facts=frozenset({"rerouted"})), "rerouted", "routing"),
        (Case({"declined": 1.0}), "not_my_area", "routing"),
        (Case({**GOOD, "context_lost": 1.0, "found_unlike": 0.9}, 1), "query_lost_context", "rephrasal"),
        (Case({**GOOD, "query_lost": 0.5}, 1, 0.1), "query_lost_words", "rephrasal"),
        (Case({**GOOD, "query_unlike": 0.5, "query_fit": 0.3}, 1), "query_fits_worse", "rephrasal"),
        (Case({**GOOD, "found_none": 1.0}), "no_documents", "retrieval"),
        (Case(GOOD, 1, 0.1), "poor_retrieval", "retrieval"),
        (Case({**GOOD, "found_unlike": 0.8}, 1, 0.9), "unlike_documents", "retrieval"),
        (Case(GOOD, 1, 0.6, facts=frozenset({"irrelevant"})), "irrelevant_documents", "retrieval"),
        (Case({"searches": 2.0, "queries": 2.0, "found_none": 1.0}), "nothing_for_any_query", "knowledge_gap"),
        (Case({**GOOD, "found_none": 1.0, "no_answer": 1.0}), "nothing_known", "knowledge_gap"),
        (Case({}, facts=frozenset({"missing_knowledge"})), "missing_knowledge", "knowledge_gap"),
        (Case({**GOOD, "ungrounded": 1.0}, 1, 0.9), "ungrounded", "generation"),
        (Case({**GOOD, "refused": 1.0}, 1, 0.9), "unsure_of_good_documents", "generation"),
        (Case({"answer_empty": 1.0}), "no_answer", "generation"),
        (Case({"hedges": 2.0}), "unsure_answer", "generation"),
    ],
)  # fmt: skip
def test_the_rule_that_decides(case: Case, rule: str, cause: str) -> None:
    found = first(rules(case, LOW))
    assert found is not None
    assert (found.rule, found.cause) == (rule, cause)


@pytest.mark.parametrize(
    "case",
    [
        Case({}),
        Case({"tool_retried": 1.0}),
        Case({"handoffs": 1.0}),
        Case(GOOD, 1, 0.9),
        Case({**GOOD, "query_lost": 0.2, "found_unlike": 0.3, "ungrounded": 0.3}, 1, 0.5),
        Case({}, facts=frozenset({"asked_again"})),
    ],
)
def test_what_is_harmless_decides_nothing(case: Case) -> None:
    assert first(rules(case, LOW)) is None


def test_all_that_fire_are_kept_in_order() -> None:
    case = Case({"tool_failed": 1.0, "declined": 1.0, "hedged": 1.0, **GOOD, "found_none": 1.0})
    found = [one.rule for one in rules(case, LOW)]
    assert found == ["tool_unresolved", "not_my_area", "no_documents", "unsure_answer"]
    assert {one.cause for one in rules(case, LOW)} <= set(CAUSES)


def test_poor_is_what_an_agent_calls_poor() -> None:
    assert first(rules(Case(GOOD, 1, 5.0), 8.0)) is not None
    assert first(rules(Case(GOOD, 1, 5.0), LOW)) is None
