"""Injected faults through the real stages: some stories of benchmarks/attribution, and a control."""

from __future__ import annotations

from collections import Counter

from benchmarks.attribution.faults import FORMS
from benchmarks.attribution.held_out import HELD_OUT
from benchmarks.attribution.replay import replay
from benchmarks.attribution.stories import stories
from processors.causes import CAUSES

SOME = ("tool_answer", "route_declined", "query_cut", "docs_beside", "gap_tool", "invented")


def test_causes_are_named_through_the_stages() -> None:
    forms = tuple(one for one in FORMS if one.name in SOME)
    assert {one.cause for one in forms} == set(CAUSES)
    told = list(replay(stories(forms, 2, 99)))
    right = [one.outcome.cause == one.story.cause for one in told]
    assert sum(right) >= 10, [(one.story.form, one.outcome.evidence) for one in told]
    moved = [CAUSES[(CAUSES.index(one.story.cause) + 1) % len(CAUSES)] for one in told]
    assert sum(one.outcome.cause == cause for one, cause in zip(told, moved, strict=True)) <= 2, "the control"
    rules = [name for one in told for name in one.outcome.evidence if name.startswith("rule:")]
    assert any(name.count(":") == 2 for name in rules), "evidence names spans"


def test_there_are_enough_forms_and_none_is_in_both_sets() -> None:
    assert min(Counter(one.cause for one in FORMS).values()) >= 5
    assert min(Counter(one.cause for one in HELD_OUT).values()) >= 2
    names = [one.name for one in (*FORMS, *HELD_OUT)]
    assert len(set(names)) == len(names)
    again = [next(iter(stories(FORMS[:1], 1, 7))) for _ in range(2)]
    assert again[0] == again[1]
