"""Forms of injected faults that were written when rules and model were done: nothing was fitted or tuned on them."""

from __future__ import annotations

import json

from benchmarks.attribution.faults import FUSE, LOOP, OPEN, SEM
from benchmarks.attribution.stories import Form, Kit, Op


def _denied(kit: Kit) -> None:
    body = json.dumps({"status": "failed", "message": "account is locked"})
    kit.turn(kit.fact.ask, "I have put in the request for you, all done.", kit.tool(body), kit.model("x", "all done"))


def _half_way(kit: Kit) -> None:
    first = Op("tool", "check_stock", '{"item": 3}', '{"stock": 12}')
    second = Op("tool", "create_ticket", '{"title": "help"}', "", error="422 Unprocessable Entity: field owner missing")
    kit.turn(kit.fact.ask, kit.fact.answer, kit.found(), first, second)


def _sent_away(kit: Kit) -> None:
    other = kit.others[0].expert
    said = f"You have reached {other}. For anything else please ring the switchboard."
    kit.turn(kit.fact.ask, said, Op("llm", "intent_classifier", kit.fact.ask, other), kit.model(kit.fact.ask, said))


def _wrong_desk(kit: Kit) -> None:
    other = kit.others[1].expert
    desk = Op("agent", f"{other} specialist", kit.fact.ask, "I am sorry, you need a different department for this.")
    said = "It seems that you need a different department for this."
    kit.turn(kit.fact.ask, said, Op("chain", "dispatch", kit.fact.ask, other), desk)


def _translated(kit: Kit) -> None:
    query = "information about opening hours and contact"
    rewrite = Op("chain", "standalone_question", kit.fact.ask, json.dumps({"query": query}))
    kit.turn(kit.fact.ask, "We are open from 9 to 5.", rewrite, kit.search(query, (kit.others[0], kit.others[1])))


def _keyword(kit: Kit) -> None:
    query = kit.fact.document.split(".")[0].lower().split()[0]
    search = Op("tool", "lookup_docs", json.dumps({"q": query}), "\n".join(one.document for one in kit.others[:3]))
    kit.turn(kit.fact.ask, kit.others[2].answer, search, kit.model(kit.fact.ask, kit.others[2].answer))


def _stale_index(kit: Kit) -> None:
    found = kit.search(kit.fact.ask, tuple(kit.others[:4]), 0.2, 0.34)
    said = f"Going by what I found: {kit.others[1].answer}"
    kit.turn(kit.fact.ask, said, kit.tool(), found, kit.model(kit.fact.ask, said))


def _one_off(kit: Kit) -> None:
    body = json.dumps({"documents": [{"page_content": kit.others[3].document, "score": 0.71}]})
    search = Op("tool", "retrieve_context", json.dumps({"query": kit.fact.ask}), body)
    kit.turn(kit.fact.ask, kit.others[3].answer, search)


def _blank_shelf(kit: Kit) -> None:
    said = "Our handbook says nothing about this topic."
    tries = (kit.fact.ask, f"{kit.fact.key} policy", f"{kit.fact.tool} manual")
    kit.turn(kit.fact.ask, said, *[Op("tool", "faq_search", json.dumps({"text": q}), "0 results") for q in tries])


def _no_page(kit: Kit) -> None:
    said = "There is no documentation available for this, I will pass on that it is missing."
    first = kit.search(kit.fact.ask, (kit.others[0],), 0.05, 0.2)
    second = kit.search(f"manual {kit.fact.key}", (kit.others[1],), 0.05, 0.2)
    kit.turn(kit.fact.ask, said, first, kit.tool(), second, kit.model(kit.fact.ask, said))


def _misread(kit: Kit) -> None:
    said = "According to our terms this always takes 93 days and costs 777 euros, whatever you have booked."
    kit.turn(kit.fact.ask, said, kit.found(), kit.tool(), kit.model(kit.fact.ask, said))


def _cut_off(kit: Kit) -> None:
    said = "Unfortunately it is not possible for me to comment on that."
    kit.turn(kit.fact.ask, said, kit.found(), kit.model(kit.fact.ask, said))


HELD_OUT = (
    Form("tool", "late_denied", OPEN, _denied),
    Form("tool", "late_half_way", LOOP, _half_way),
    Form("routing", "late_sent_away", SEM, _sent_away),
    Form("routing", "late_wrong_desk", FUSE, _wrong_desk),
    Form("rephrasal", "late_translated", OPEN, _translated),
    Form("rephrasal", "late_keyword", SEM, _keyword),
    Form("retrieval", "late_stale_index", FUSE, _stale_index),
    Form("retrieval", "late_one_off", LOOP, _one_off),
    Form("knowledge_gap", "late_blank_shelf", SEM, _blank_shelf),
    Form("knowledge_gap", "late_no_page", OPEN, _no_page),
    Form("generation", "late_misread", SEM, _misread),
    Form("generation", "late_cut_off", OPEN, _cut_off),
)
"""Two for each cause."""
