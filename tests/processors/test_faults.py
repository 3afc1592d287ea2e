"""What spans show: failed calls, queries, documents and answers, each as a small number, and what is harmless."""

from __future__ import annotations

from typing import Any

import pytest

from processors.faults import FAULTS, Turned, Words, faults_of, seen_of, sketched, stems
from processors.traces import members, node_of
from tests.world import span

DOCUMENT = "Return window. Shoes can be sent back within 45 days of delivery. The refund goes to the payment method."
GOOD = "Shoes can be sent back within 45 days of delivery."


def turned(*others: dict[str, Any], asked: str = "", said: str = GOOD, earlier: tuple[str, ...] = ()) -> Turned:
    """The faults of a turn with these spans below its agent's."""
    asked = asked or "How many days do I have to send back shoes?"
    spans = [span(span_id="root", input=asked, output=said)]
    spans += [
        span(span_id=f"s{place}", parent_span_id="root", **{"duration_us": place, **one})
        for place, one in enumerate(others, 1)
    ]
    nodes = {one.span_id: node_of(one) for one in spans}
    return faults_of(nodes["root"], members([nodes["root"]], nodes)["root"], earlier, asked, said)


def tool(**given: Any) -> dict[str, Any]:
    return {"kind": "tool", "tool_name": "get_order", "input": '{"id": 4}', "output": '{"state": "sent"}', **given}


def docs(output: str = DOCUMENT, query: str = "days to send back shoes", found: int = 1) -> dict[str, Any]:
    return {"kind": "retrieval", "input": query, "output": output, "retrieval_documents": found}


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"status": "error", "status_message": "refused"}, "status"),
        ({"status": "error", "status_message": "read timed out"}, "timeout"),
        ({"attributes": {"http.response.status_code": "503"}}, "http"),
        ({"attributes": {"http.status_code": "404"}}, "http"),
        ({"output": '{"error": "no permission"}'}, "answer"),
        ({"output": '{"isError": true, "content": []}'}, "answer"),
        ({"output": '{"success": false}'}, "answer"),
        ({"output": '{"status": 502}'}, "answer"),
        ({"output": "Traceback (most recent call last):\n" + "x" * 400}, "answer"),
        ({"output": "Request timed out after 30s"}, "timeout"),
        ({"output": '{"error": null, "state": "sent"}'}, None),
        ({"output": '{"status": "active"}'}, None),
        ({"output": "The error rate fell " + "and the service was good " * 20}, None),
        ({"attributes": {"http.response.status_code": "200"}}, None),
    ],
)
def test_how_a_call_fails(given: dict[str, Any], why: str | None) -> None:
    assert seen_of(span(**tool(**given))).get("failed") == why
    assert turned(tool(**given)).faults.get("tool_failed") == (1.0 if why else None)


def test_a_tool_that_works_when_called_again_is_no_failure() -> None:
    found = turned(tool(status="error"), tool(input='{"id": 5}')).faults
    assert "tool_failed" not in found
    assert found["tool_retried"] == 1.0
    late = turned(tool(), tool(status="error"))
    assert (late.faults["tool_failed"], late.spans["tool_failed"]) == (1.0, "s2")


def test_a_loop_is_the_same_call_three_times() -> None:
    assert turned(tool(), tool(), tool()).faults["tool_loop"] == 3.0
    assert "tool_loop" not in turned(tool(), tool(), tool(input="{}")).faults


def test_an_answer_from_what_was_found_is_grounded() -> None:
    assert not {"ungrounded", "numbers_unseen", "found_none"} & set(turned(docs()).faults)
    made_up = turned(docs(), said="Shoes can be sent back within 90 days of delivery.").faults
    assert (made_up["ungrounded"], made_up["numbers_unseen"]) == (1.0, 1.0)
    beside = turned(docs(), said="Penguins live far south and eat krill.").faults
    assert beside["ungrounded"] == 1.0
    assert "ungrounded" not in turned().faults, "without documents nothing can be told"


def test_documents_about_something_else_and_none_at_all() -> None:
    other = turned(docs("Roaming in Switzerland costs 12 euros a month.")).faults
    assert other["found_unlike"] > 0.9
    assert turned(docs("", found=0), docs("", "other words", 0)).faults["found_none"] == 1.0
    one_of_two = turned(docs("", "shoes", 0), docs()).faults
    assert (one_of_two["found_none"], one_of_two["searches"], one_of_two["queries"]) == (0.5, 2.0, 2.0)


@pytest.mark.parametrize("nothing", ["No results found.", "[]", '{"results": []}', ""])
def test_a_search_tool_is_a_search(nothing: str) -> None:
    call = tool(tool_name="search_docs", input='{"query": "send back shoes"}', output=nothing)
    assert turned(call).faults["found_none"] == 1.0
    assert "found_none" not in turned(call | {"output": DOCUMENT}).faults


def test_a_query_that_lost_what_matters() -> None:
    ask = "Which plans from 2024 do not include roaming in Norway?"

    def asked(query: str) -> dict[str, float]:
        rewrite = {"kind": "llm", "name": "rewrite_query", "output": query}
        return turned(rewrite, asked=ask).faults

    assert "query_lost" not in asked("plans of 2024 that do not include roaming in Norway")
    assert asked("plans that include roaming")["query_lost"] == 1.0
    assert asked("plans 2024 without roaming")["query_lost"] == pytest.approx(1 / 3, abs=0.01)
    assert asked("opening hours of the shop in town")["query_unlike"] == 1.0


def test_a_question_that_leans_on_the_one_before() -> None:
    def asked(query: str, *earlier: str) -> dict[str, float]:
        return turned(docs(query=query), asked="And what does it cost?", earlier=earlier).faults

    assert asked("what does it cost", "the night train to Vienna")["context_lost"] == 1.0
    assert "context_lost" not in asked("cost of the night train", "the night train to Vienna")
    assert "context_lost" not in asked("what does it cost")


@pytest.mark.parametrize(
    ("said", "feature"),
    [
        ("I only handle billing questions.", "declined"),
        ("I could not find anything about it.", "no_answer"),
        ("I'm sorry, but I cannot help with that.", "refused"),
        ("It might work, I am not entirely sure.", "hedged"),
        ("Error: context length exceeded", "answer_empty"),
    ],
)
def test_what_answers_say_of_themselves(said: str, feature: str) -> None:
    assert turned(said=said).faults.get(feature) == 1.0
    assert feature not in turned(said=GOOD).faults


def test_routes() -> None:
    hands = [tool(tool_name=f"transfer_to_{name}", output="ok", input=name) for name in ("billing", "sales")]
    assert turned(*hands).faults["handoffs"] == 1.0
    assert "handoffs" not in turned(hands[0]).faults
    child = {"kind": "agent", "name": "sales", "output": "That is not my area."}
    found = turned(child)
    assert (found.faults["declined"], found.spans["declined"]) == (1.0, "s1")


def test_every_feature_is_explained_and_a_plain_turn_has_none() -> None:
    assert turned().faults == {}
    every = turned(tool(status="error"), *[tool()] * 3, docs(""), docs("", found=0), said="Perhaps not my area.")
    assert set(every.faults) <= set(FAULTS)
    assert set(every.spans) <= set(every.faults)


@pytest.mark.parametrize("count", [0, 5, 300])
def test_sketches_of_an_earlier_release_are_read(count: int) -> None:
    """Three hexadecimal digits for a word."""
    text = " ".join(f"word{n}" for n in range(count))
    every = sorted(stems(text))
    old, new = Words(["".join(f"{one:03x}" for one in every[:160]) + "+" * (len(every) > 160)]), Words([sketched(text)])
    for asked in (stems("word1 word3 word299 other"), {0, 1, 4095}, set(range(2_000))):
        assert old.share(asked) == new.share(asked)
    assert old.known == new.known


def test_a_sketch_is_small_and_its_shares_are_about_right() -> None:
    words = [f"word{chr(97 + n % 26)}{chr(97 + n // 26)}x" for n in range(600)]
    text, half = " ".join(words), " ".join([*words[:300], *[w[::-1] for w in words[300:]]])
    sketch = sketched(text)
    assert len(sketch) <= 2 * 160 + 2
    share = Words([sketch]).share(stems(half))
    assert share is not None
    assert share == pytest.approx(0.5, abs=0.12)
    assert Words([sketched(GOOD)]).share(stems("Penguins eat krill")) == 0.0
    assert len(str(seen_of(span(**docs("many different words " + text))))) < 1_000
