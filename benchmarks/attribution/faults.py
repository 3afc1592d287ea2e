"""Injected faults: for each cause several forms in which it shows itself, as different frameworks would tell it.

Every story has a known cause and a fixed seed. The forms differ in what goes wrong and how that is recorded (a status,
an attribute, a text in an answer, a second search), not only in words. What is common to all causes: users react in one
of several ways that say nothing about the cause, tools are retried, poor documents lie about without harm.
"""

from __future__ import annotations

import json

from benchmarks.attribution.stories import Fact, Form, Kit, Op

OPEN, SEM, FUSE, LOOP = "openinference", "genai", "langfuse", "traceloop"


# Tools


def _tool_status(kit: Kit) -> None:
    said = kit.choice("Sorry, I could not reach the order system.", "Something went wrong on our side, try later.")
    kit.turn(kit.fact.ask, said, kit.tool(error=kit.choice("ConnectionError: refused", "upstream failed")))


def _tool_http(kit: Kit) -> None:
    status = kit.choice(500, 502, 503, 404)
    call = kit.tool(kit.choice("Service Unavailable", "<html>Bad gateway</html>", "null"))
    call.attributes["http.response.status_code"] = status
    kit.turn(kit.fact.ask, "I do not have the details at the moment.", call, kit.model(kit.fact.ask, "no details"))


def _tool_answer(kit: Kit) -> None:
    body = kit.choice('{"error": "insufficient permissions", "code": 403}', '{"success": false, "reason": "locked"}')
    kit.turn(kit.fact.ask, f"Your request is done. {kit.others[0].answer}", kit.found(), kit.tool(body))


def _tool_timeout(kit: Kit) -> None:
    call = kit.tool(kit.choice("Request timed out after 30s", "timeout: deadline exceeded", "The call timed out."))
    kit.turn(kit.fact.ask, kit.fact.answer.replace("4", "9").replace("1", "8"), call)


def _tool_loop(kit: Kit) -> None:
    calls = [kit.tool('{"state": "pending"}') for _ in range(kit.chance.randint(3, 6))]
    kit.turn(kit.fact.ask, "It is still pending, I will keep checking.", *calls)


def _tool_traceback(kit: Kit) -> None:
    trace = 'Traceback (most recent call last):\n  File "tool.py", line 8\nValueError: bad id'
    kit.turn(kit.fact.ask, "Here is what I could do so far.", kit.found(), kit.tool(trace), kit.tool(trace))


def _tool_mcp(kit: Kit) -> None:
    body = '{"content": [{"type": "text", "text": "quota exceeded"}], "isError": true}'
    kit.turn(kit.fact.ask, "I was not able to complete that step.", kit.tool(body), kit.model("x", "not able"))


# Routes


def _route_corrected(kit: Kit) -> None:
    wrong = kit.others[0].expert if kit.others[0].expert != kit.fact.expert else "front desk"
    kit.turn(kit.fact.ask, wrong, kit.model(kit.fact.ask, wrong), category=wrong)
    kit.said.append({"name": "correction", "value": -1.0, "text": kit.fact.expert})


def _route_rated(kit: Kit) -> None:
    wrong = kit.others[1].expert
    kit.turn(kit.fact.ask, wrong, category=wrong)


def _route_declined(kit: Kit) -> None:
    wrong = kit.others[0]
    no = kit.choice("This is not my area, I only handle " + wrong.expert + ".", "That is outside my scope.")
    child = Op("agent", f"{wrong.expert}_agent", kit.fact.ask, no)
    kit.turn(kit.fact.ask, no, Op("tool", f"transfer_to_{wrong.expert}", "{}", "transferred"), child)


def _route_again(kit: Kit) -> None:
    wrong = kit.others[0].expert if kit.others[0].expert != kit.fact.expert else "front desk"
    kit.turn(kit.fact.ask, kit.others[0].answer, kit.search(kit.fact.ask, (kit.others[0], kit.fact)), category=wrong)
    kit.turn(f"No, I meant: {kit.fact.ask}", kit.fact.answer, kit.found(), category=kit.fact.expert)
    kit.turn("Great, thanks, that helped!", "You are welcome.", category=kit.fact.expert)
    kit.said.append({"name": "rating", "value": -0.7})
    kit.said.append({"name": "rating", "value": 1.0, "turn": 1})


def _route_contact(kit: Kit) -> None:
    wrong = kit.others[2].expert
    said = f"I can only help with {wrong} questions. Please contact the {kit.fact.expert} team about this."
    router = Op("chain", "route_question", kit.fact.ask, wrong)
    kit.turn(kit.fact.ask, said, router, kit.model(kit.fact.ask, said))


def _route_thrown(kit: Kit) -> None:
    names = [one.expert for one in kit.others[:3]]
    hands = [Op("tool", f"handoff_to_{name}", "{}", "ok") for name in names]
    last = f"Questions like this are handled by another team, I am from {names[-1]}."
    kit.turn(kit.fact.ask, last, *hands, Op("agent", names[-1], kit.fact.ask, last))


# The query


def _plain(fact: Fact) -> str:
    """A question without its key and its numbers."""
    kept = [word for word in fact.ask.split() if fact.key not in word and not any(c.isdigit() for c in word)]
    return " ".join(kept)


def _query_lost(kit: Kit) -> None:
    short = " ".join(word for word in _plain(kit.fact).rstrip("?").lower().split() if len(word) > 3)
    rewrite = Op("llm", "rewrite_query", kit.fact.ask, short)
    kit.turn(kit.fact.ask, kit.others[0].answer, rewrite, kit.search(short, (kit.others[0], kit.fact)))


def _query_negation(kit: Kit) -> None:
    ask = kit.choice("Which of these are not covered: ", "What is never included in: ", "Who pays without having: ")
    topic = kit.fact.document.partition(".")[0].lower()
    query = f"what is included and covered in {topic}"
    rewrite = Op("chain", "condense_question", ask + topic, query)
    kit.turn(ask + topic + "?", kit.fact.answer, rewrite, kit.search(query, (kit.fact,)))


def _query_context(kit: Kit) -> None:
    kit.turn(kit.fact.ask, kit.fact.answer, kit.found(), kit.model(kit.fact.ask, kit.fact.answer))
    ask = kit.choice("And what does it cost for two?", "Is that the same for students?", "How long does it take then?")
    query = ask.lower().rstrip("?").removeprefix("and ")
    search = kit.search(query, (kit.others[0], kit.others[1]))
    kit.turn(ask, kit.others[0].answer, Op("llm", "standalone question", ask, query), search)
    kit.turns[-1][0].attributes["fails"] = True


def _query_drift(kit: Kit) -> None:
    other = kit.others[0]
    query = kit.choice(other.ask, _plain(other), other.document.partition(".")[0])
    made = Op("llm", "generate_search_query", kit.fact.ask, query)
    search = kit.search(query, (other, *kit.others[1:3]))
    kit.turn(kit.fact.ask, other.answer, made, search, kit.model("x", other.answer))


def _query_cut(kit: Kit) -> None:
    words = kit.fact.ask.rstrip("?").split()
    query = " ".join([word for word in words if kit.fact.key not in word and not word[0].isdigit()][:5])
    body = "\n\n".join(one.document for one in kit.others[:2])
    search = Op("tool", "search_knowledge_base", '{"query": "' + query + '", "top_k": 4}', body)
    kit.turn(kit.fact.ask, kit.others[0].answer, search)


def _query_swapped(kit: Kit) -> None:
    query = kit.fact.ask.replace(kit.fact.key, kit.choice("Basic", "Z-9000", "Madrid", "standard"))
    rewrite = Op("chain", "query transformation", kit.fact.ask, query)
    kit.turn(kit.fact.ask, kit.others[1].answer, rewrite, kit.search(query, (kit.others[1], kit.fact)))


# Documents


def _docs_none(kit: Kit) -> None:
    said = kit.choice("I think it should be possible, but I am not sure.", kit.others[0].answer)
    kit.turn(kit.fact.ask, said, kit.search(kit.fact.ask, ()), kit.model(kit.fact.ask, said))


def _docs_poor(kit: Kit) -> None:
    found = kit.search(kit.fact.ask, tuple(kit.others[:3]), 0.03, 0.3)
    kit.turn(kit.fact.ask, kit.others[0].answer, found, kit.model(kit.fact.ask, kit.others[0].answer))


def _docs_beside(kit: Kit) -> None:
    found = kit.search(kit.fact.ask, tuple(kit.others[:3]), 0.55, 0.9)
    kit.turn(kit.fact.ask, kit.others[0].answer, found)


def _docs_tool(kit: Kit) -> None:
    body = json.dumps([{"title": one.key, "text": one.document} for one in kit.others[:3]])
    search = Op("tool", "search_docs", '{"query": "' + kit.fact.ask + '"}', body)
    kit.turn(kit.fact.ask, kit.others[1].answer, search, kit.model(kit.fact.ask, kit.others[1].answer))


def _docs_irrelevant(kit: Kit) -> None:
    found = kit.search(kit.fact.ask, (kit.others[0], kit.others[1]), 0.4, 0.7)
    kit.turn(kit.fact.ask, kit.others[0].answer, found)
    kit.said += [{"name": "knowledge_relevance", "value": -1.0}, {"name": "rating", "value": -1.0}]


def _docs_unranked(kit: Kit) -> None:
    found = kit.search(kit.fact.ask, tuple(kit.others[:3]))
    found.docs = tuple((text, None) for text, _ in found.docs or ())
    said = f"Based on the documents: {kit.others[2].answer}"
    kit.turn(kit.fact.ask, said, found, kit.model(kit.fact.ask, said))


# Knowledge


def _other_words(fact: Fact) -> str:
    return f"{fact.document.partition('.')[0].lower()} {fact.key} rules"


def _gap_empty(kit: Kit) -> None:
    said = kit.choice("I have no information about this.", "I could not find anything on that in our documents.")
    first, second = (kit.search(query, ()) for query in (kit.fact.ask, _other_words(kit.fact)))
    kit.turn(kit.fact.ask, said, first, second, kit.model(kit.fact.ask, said))


def _gap_low(kit: Kit) -> None:
    said = "Unfortunately I don't have any details about that."
    queries = (kit.fact.ask, _other_words(kit.fact), f"{kit.fact.key} help")
    kit.turn(kit.fact.ask, said, *[kit.search(q, tuple(kit.others[:2]), 0.02, 0.28) for q in queries])


def _gap_reported(kit: Kit) -> None:
    found = kit.search(kit.fact.ask, (kit.others[0],), 0.25, 0.6)
    kit.turn(kit.fact.ask, kit.choice("I am afraid I don't know.", kit.others[0].answer), found)
    kit.said += [{"name": "missing_knowledge", "value": -1.0, "text": "there is no article about it"}]


def _gap_tool(kit: Kit) -> None:
    queries = (kit.fact.ask, _other_words(kit.fact), kit.fact.key)
    none = kit.choice("No results found.", "[]", '{"results": []}')
    calls = [Op("tool", "kb_search", '{"q": "' + query + '"}', none) for query in queries]
    kit.turn(kit.fact.ask, "I searched our knowledge base and found nothing about it.", *calls)


def _gap_beside(kit: Kit) -> None:
    queries = (kit.fact.ask, _other_words(kit.fact))
    said = "This is not covered in our knowledge base, sorry."
    searches = [kit.search(query, (kit.others[n], kit.others[n + 1]), 0.35, 0.6) for n, query in enumerate(queries)]
    kit.turn(kit.fact.ask, said, *searches, kit.model(kit.fact.ask, said))


def _gap_once(kit: Kit) -> None:
    said = "The documentation has no article on this, so I cannot say. I do not know."
    kit.turn(kit.fact.ask, said, kit.search(kit.fact.ask, ()), kit.model(kit.fact.ask, said))


# The answer


def _wrong_numbers(kit: Kit) -> None:
    changed = "".join(str((int(c) * 3 + 7) % 10) if c.isdigit() else c for c in kit.fact.answer)
    said = changed if changed != kit.fact.answer else kit.fact.answer + " That costs 95 euros and takes 17 weeks."
    kit.turn(kit.fact.ask, said, kit.found(), kit.model(kit.fact.ask, said))


def _invented(kit: Kit) -> None:
    said = kit.choice(
        "Every customer gets a free upgrade and a personal consultant who visits at home. Simply reply with yes.",
        "Our founders decided years ago that such wishes are always granted by the mayor. A courier brings the form.",
    )
    kit.turn(kit.fact.ask, said, kit.found(), kit.model(kit.fact.ask, said))


def _refused(kit: Kit) -> None:
    said = kit.choice("I'm sorry, but I cannot help with that.", "As an AI I am not able to answer such questions.")
    kit.turn(kit.fact.ask, said, kit.found(), kit.tool())


def _unsure(kit: Kit) -> None:
    said = f"It might be possible, perhaps. I am not entirely sure. {kit.fact.answer.split(',')[0]}, I guess."
    kit.turn(kit.fact.ask, said, kit.found())


def _bare(kit: Kit) -> None:
    said = kit.choice("I believe it is probably fine, but I would guess it depends.", "Hard to say, maybe ask around.")
    kit.turn(kit.fact.ask, said, kit.model(kit.fact.ask, said))


def _crashed(kit: Kit) -> None:
    said = kit.choice("Error: context length exceeded", "RuntimeError: model overloaded")
    kit.turn(kit.fact.ask, said, kit.found(), error="generation failed")


def _off_topic(kit: Kit) -> None:
    body = kit.fact.document + "\n\n" + kit.others[0].document
    search = Op("tool", "search_handbook", '{"query": "' + kit.fact.ask + '"}', body)
    said = "Penguins live in the southern hemisphere and feed on krill, squid and small fish."
    kit.turn(kit.fact.ask, said, search, kit.model(kit.fact.ask, said))


FORMS = (
    Form("tool", "tool_status", OPEN, _tool_status),
    Form("tool", "tool_http", SEM, _tool_http),
    Form("tool", "tool_answer", SEM, _tool_answer),
    Form("tool", "tool_timeout", FUSE, _tool_timeout),
    Form("tool", "tool_loop", OPEN, _tool_loop),
    Form("tool", "tool_traceback", LOOP, _tool_traceback),
    Form("tool", "tool_mcp", OPEN, _tool_mcp),
    Form("routing", "route_corrected", OPEN, _route_corrected, alone=True),
    Form("routing", "route_rated", SEM, _route_rated),
    Form("routing", "route_declined", SEM, _route_declined),
    Form("routing", "route_again", OPEN, _route_again, alone=True),
    Form("routing", "route_contact", LOOP, _route_contact),
    Form("routing", "route_thrown", FUSE, _route_thrown),
    Form("rephrasal", "query_lost", OPEN, _query_lost),
    Form("rephrasal", "query_negation", LOOP, _query_negation),
    Form("rephrasal", "query_context", FUSE, _query_context),
    Form("rephrasal", "query_drift", OPEN, _query_drift),
    Form("rephrasal", "query_cut", SEM, _query_cut),
    Form("rephrasal", "query_swapped", SEM, _query_swapped),
    Form("retrieval", "docs_none", OPEN, _docs_none),
    Form("retrieval", "docs_poor", SEM, _docs_poor),
    Form("retrieval", "docs_beside", OPEN, _docs_beside),
    Form("retrieval", "docs_tool", SEM, _docs_tool),
    Form("retrieval", "docs_irrelevant", FUSE, _docs_irrelevant, alone=True),
    Form("retrieval", "docs_unranked", FUSE, _docs_unranked),
    Form("knowledge_gap", "gap_empty", OPEN, _gap_empty),
    Form("knowledge_gap", "gap_low", SEM, _gap_low),
    Form("knowledge_gap", "gap_reported", OPEN, _gap_reported, alone=True),
    Form("knowledge_gap", "gap_tool", LOOP, _gap_tool),
    Form("knowledge_gap", "gap_beside", FUSE, _gap_beside),
    Form("knowledge_gap", "gap_once", SEM, _gap_once),
    Form("generation", "wrong_numbers", OPEN, _wrong_numbers),
    Form("generation", "invented", FUSE, _invented),
    Form("generation", "refused", SEM, _refused),
    Form("generation", "unsure", OPEN, _unsure),
    Form("generation", "bare", SEM, _bare),
    Form("generation", "crashed", OPEN, _crashed),
    Form("generation", "off_topic", LOOP, _off_topic),
)
"""Every form, in the order of causes."""
