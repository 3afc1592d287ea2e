"""What a turn's spans show that may be a fault: small numbers, computed where their texts are.

Two halves. ``seen_of`` looks at one span when it arrives and keeps a few facts of it (a failed call, a query, a sketch
of the words that were found), at most about 1 KB, so that state holds no documents. ``faults_of`` puts the facts of a
turn's spans together when the turn is built, beside its message and answer. Nothing here judges: what is a fault, the
rules decide (``processors.causes``).

Sketches are the smallest 12-bit hashes of a text's stems (bottom-k, Cohen 1997): a share of words is estimated from
those below the lowest cut, less the share that would be there by collision alone.
"""

from __future__ import annotations

import re
import string
import zlib
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple, cast

import orjson

from processors.phrases import flat
from processors.text import LIMIT, different_words
from schemas.events import Span

Seen = dict[str, Any]
"""The facts of one span, JSON only; see ``seen_of``."""

FAULTS = {
    "tool_failed": "a tool failed (status, HTTP 400 and above, time-out, an error as answer) and never worked later",
    "tool_retried": "a tool failed and worked when it was called again",
    "tool_loop": "how often the same tool was called with the same arguments, from 3 on",
    "declined": "an agent or the answer says that the question is not its area",
    "handoffs": "routes that were taken after the first one",
    "query_lost": "share of the message's names, numbers and negations that no query has",
    "context_lost": "the message leans on an earlier one, and no query has a word of that",
    "query_unlike": "share of the queries' words that neither the message nor those before it have",
    "query_fit": "how much better the message fits what was found than the queries do",
    "searches": "searches, by retrieval spans or search tools",
    "queries": "different queries among them",
    "found_none": "share of the searches that found nothing",
    "found_unlike": "share of the words asked for that are not in what was found",
    "ungrounded": "share of the answer's sentences that what was found does not carry",
    "numbers_unseen": "share of the answer's numbers that are neither in what was found nor in the message",
    "no_answer": "the answer says that nothing is known about it",
    "refused": "the answer refuses",
    "hedged": "the answer is unsure",
    "answer_empty": "there is no answer, or an error in its place",
}
"""Every feature: 0 or 1 where it says no more, else a share or a count. Absent: it cannot be told, or is 0."""

_QUERY, _WORDS, _ROUTE = 240, 160, 40
_HASHES = 4096
_LETTERS = f"{string.ascii_letters}{string.digits}-_"
_PAIRS = [first + second for first in _LETTERS for second in _LETTERS]
_PLACES = {pair: place for place, pair in enumerate(_PAIRS)}
_EARLIER = 2
_TIMEOUT = re.compile(r"\btime[d]?[ -]?out\b|\bdeadline exceeded\b")
_ERROR = re.compile(
    r"^\W*(?:(?:error|exception|traceback|failed|failure|fatal)\b|\w*(?:error|exception)\b ?:)"
    r"|\b(?:http (?:4|5)\d\d|status(?:_| )?code\W{1,4}[45]\d\d|connection refused|service unavailable"
    r"|internal server error|permission denied|rate limit(?:ed)?|too many requests|unauthori[sz]ed)\b"
)
_STATUS = re.compile(r"(?:^|[._])(?:http[._](?:response[._])?)?status_?code$")
_SEARCH = re.compile(
    r"search|retriev|knowledge|look_?up_?doc|\bkb\b|(?:^|_)(?:kb|rag|faq)(?:_|$)|find_?(?:doc|article)"
)
_REWRITE = re.compile(
    r"rewrit|rephras|condens|standalone|contextuali[sz]|query[ _-]?(?:transform|expan|gen|reform|plan)"
)
_ROUTER = re.compile(r"\brout(?:e|er|ing)\b|triage|dispatch|_route|route_|intent")
_HANDOFF = re.compile(r"(?:transfer|hand_?off|delegate|route|escalate)_?(?:back_)?to_?(\w+)")
_NOTHING = re.compile(
    r"\bno (?:\w+ )?(?:results?|documents?|matches|match|hits|articles?|passages?|entries)\b|\bnothing (?:was )?found\b"
    r"|\bnot found\b|\b0 (?:results|documents|hits)\b"
)
DECLINED = re.compile(
    r"\b(?:not|isn'?t|outside|beyond|out of) (?:of )?(?:my|our|this team'?s|the) (?:area|scope|department|remit"
    r"|expertise|responsibilit\w+|desk|domain|field)\b|\bi (?:only|just) (?:handle|deal with|help with|cover|answer)\b"
    r"|\b(?:wrong|another|different|other) (?:team|department|desk|agent|specialist|assistant)\b"
    r"|\b(?:is|are) handled by\b|\bnot something (?:i|we|this team) (?:handle|deal with|cover)\b"
    r"|\bcontact the [\w ]{2,30} (?:team|department|desk)\b|\bbelongs to (?:the )?[\w ]{2,20}(?:team|department|desk)\b"
)
NO_ANSWER = re.compile(
    r"\b(?:no|any|enough) (?:\w+ )?(?:information|documentation|details|mention|article|guidance|data|entry|policy)\b"
    r"[\w ]{0,20}\b(?:about|on|for|regarding|in|available|covering)\b"
    r"|\b(?:could not|couldn'?t|cannot|can'?t|did not|didn'?t|unable to|do not|don'?t|was not able to)"
    r" (?:find|locate|see|have|know)\b"
    r"|\bnot (?:covered|documented|mentioned|described|contained|in)\b[\w ]{0,16}\b(?:knowledge|documents"
    r"|documentation|sources|handbook|base|articles|material)\b|\bnothing (?:about|on|regarding|in)\b|\bi do not know\b"
    r"|\bi don'?t know\b"
)
REFUSED = re.compile(
    r"\bi(?:'m| am) (?:sorry|afraid|unable|not able)\b|\bi (?:cannot|can'?t|couldn'?t|won'?t|will not) (?:help|assist"
    r"|answer|do|discuss|provide|share|comply)\b|\bnot able to (?:help|assist|answer|provide)\b|\bas an ai\b"
)
HEDGED = re.compile(
    r"\b(?:might|may|perhaps|possibly|probably|presumably|not (?:entirely |quite |completely )?(?:sure|certain)"
    r"|i (?:think|believe|guess|suppose|assume)|it (?:seems|appears)|unable to (?:verify|confirm)|as far as i know"
    r"|i would guess|more or less|hard to say)\b"
)
_ANY = re.compile("|".join(one.pattern for one in (NO_ANSWER, REFUSED, HEDGED, DECLINED)))
"""Most answers say none of it: one look tells."""
_LEANS = re.compile(
    r"^(?:and|but|so|or|what about|how about|also|then)\b|\b(?:it|its|that one|this one|those|they|them|their|there"
    r"|the same|the other|the second|the first|the latter|that|this)\b"
)
_ENTITY = re.compile(r"<[A-Z_]+_\d+>|\b\w*\d[\w.\-]*\w\b|\b\d\b|(?<=[\w,;] )[A-Z][\w'\-]*[a-z]\w*|\b[A-Z]{2,}\b")
_NEGATION = re.compile(r"\b(?:not|no|never|without|except|excluding|cannot|unless|neither|nor)\b|n't\b")
_DIGITS = re.compile(r"\d+")
_ENDING = re.compile(r"(?<=\w{3})(?:'s|ing|ed|ly|es|s)$")
_SENTENCE = re.compile(r"(?<=[.!?])\s+|\n+")


class Turned(NamedTuple):
    """What ``faults_of`` found: a number for each feature that is there, and the span that shows it."""

    faults: dict[str, float]
    spans: dict[str, str]


def seen_of(span: Span) -> Seen:
    """The facts of a span that matter for causes; {} when there are none.

    ``failed``: why a call failed. ``call``: a tool with its arguments, hashed. ``query``: what was searched for.
    ``found``: how much was. ``words``: a sketch of it. ``rewrites``: it made the query. ``route``: whom it chose.
    """
    seen: Seen = {}
    role, handed = _role(span.kind, span.tool_name or span.name)
    if span.kind == "tool":
        seen["failed"] = _problem(span)
        seen["call"] = f"{zlib.crc32(f'{span.tool_name} {span.input}'.encode('utf-8', 'replace')):08x}"
    if role == "search" and not seen.get("failed"):
        seen |= {"query": _asked(span.input), "found": _count(span)}
    if span.kind in ("retrieval", "tool") and span.output and not seen.get("failed"):
        seen["words"] = sketched(span.output)
    if role == "rewrite" and span.output:
        seen |= {"query": _asked(span.output), "rewrites": 1}
    elif handed:
        seen["route"] = handed
    elif role == "router" and len(span.output) <= 200:
        seen["route"] = flat(span.output)[:_ROUTE]
    if span.kind == "agent" and span.parent_span_id and DECLINED.search(flat(span.output)):
        seen["declined"] = 1
    return {key: value for key, value in seen.items() if value not in ("", None)}


@lru_cache(4_096)
def _role(kind: str, name: str) -> tuple[str, str]:
    """What a span of this kind and name is for, ``search``, ``rewrite``, ``router`` or ''; and to whom it hands on."""
    name = name.lower()
    handed = _HANDOFF.search(name)
    role = ""
    if kind == "retrieval" or (kind == "tool" and _SEARCH.search(name)):
        role = "search"
    elif kind in ("llm", "chain", "other"):
        role = "rewrite" if _REWRITE.search(name) else "router" if _ROUTER.search(name) else ""
    return role, handed.group(1)[:_ROUTE] if handed else ""


def _problem(span: Span) -> str:
    """Why a call failed: ``status``, ``http``, ``timeout`` or ``answer``; '' when it did not."""
    if span.status == "error":
        return "timeout" if _TIMEOUT.search(flat(f"{span.status_message} {span.output[:400]}")) else "status"
    for key, value in span.attributes.items():
        if _STATUS.search(key) and value.isdecimal() and int(value) >= 400:
            return "http"
    body = _body(span.output)
    if isinstance(body, dict):
        told = cast("dict[str, Any]", body)
        wrong = told.get("isError") is True or told.get("success") is False or told.get("ok") is False
        code = told.get("status_code", told.get("status", told.get("code")))
        failed = isinstance(code, int) and not isinstance(code, bool) and 400 <= code <= 599
        return "answer" if wrong or failed or told.get("error") or told.get("status") in ("error", "failed") else ""
    if len(span.output) >= 300:
        return "answer" if span.output.startswith("Traceback (") else ""
    said = flat(span.output)
    return "timeout" if _TIMEOUT.search(said) else "answer" if _ERROR.search(said) else ""


def _body(text: str) -> Any:
    stripped = text.strip()
    if not stripped or len(stripped) > LIMIT or stripped[0] + stripped[-1] not in ("{}", "[]"):
        return None
    try:
        return orjson.loads(stripped)
    except orjson.JSONDecodeError:
        return None


def _asked(text: str) -> str:
    """A query as text: itself, or what an object calls so."""
    body = _body(text)
    if isinstance(body, dict):
        told = cast("dict[str, Any]", body)
        named = (told.get(key) for key in ("query", "q", "search_query", "question", "text", "input", "standalone"))
        text = next((one for one in named if isinstance(one, str)), " ".join(map(str, told.values())))
    return " ".join(text[:_QUERY].split())


def _count(span: Span) -> int:
    """How many documents a search found, as far as it can be told."""
    if span.retrieval_documents or not span.output.strip():
        return span.retrieval_documents
    body = _body(span.output)
    if isinstance(body, dict):
        lists = [one for one in cast("dict[str, Any]", body).values() if isinstance(one, list)]
        return len(cast("list[Any]", lists[0])) if lists else int(bool(body))
    if isinstance(body, list):
        return len(cast("list[Any]", body))
    said = flat(span.output[:200])
    return 0 if len(said) < 120 and _NOTHING.search(said) else 1


def stems(text: str) -> set[int]:
    """The hashes of a text's words that carry meaning, endings cut, and of its numbers.

    >>> stems("returns are accepted") == stems("Return accept!")
    True
    """
    return {_hash(word) for word in different_words(text)}


@lru_cache(32_768)
def _hash(word: str) -> int:
    if not word[-1].isdigit() and len(word) > 4:
        word = _ENDING.sub("", word)[:7]
    return zlib.crc32(word.encode("utf-8", "replace")) % _HASHES


def sketched(text: str) -> str:
    """The sketch of a text: a ``~``, its smallest hashes, two letters each, and a ``+`` where there are more."""
    every = sorted(stems(text))
    return "~" + "".join([_PAIRS[one] for one in every[:_WORDS]]) + "+" * (len(every) > _WORDS)


def _hashes_of(sketch: str) -> list[int]:
    sketch = sketch.removesuffix("+")
    if sketch.startswith("~"):
        return [_PLACES[sketch[at : at + 2]] for at in range(1, len(sketch), 2)]
    return [int(sketch[at : at + 3], 16) for at in range(0, len(sketch), 3)]  # as an earlier release wrote it


class Words:
    """The words of several sketches, asked for the share of a text's words that they have."""

    def __init__(self, sketches: Iterable[str]) -> None:
        self.known, self._below = set[int](), _HASHES - 1
        for one in sketches:
            held = _hashes_of(one)
            self.known.update(held)
            if one.endswith("+"):
                self._below = min(self._below, held[-1])
        self._inside = len(self._told(self.known))

    def share(self, asked: set[int]) -> float | None:
        """The share of words that are there; None when it cannot be told of any."""
        told = self._told(asked)
        if not told:
            return None
        chance = min(self._inside / (self._below + 1), 0.9)
        seen = len(told & self.known) / len(told)
        return max((seen - chance) / (1.0 - chance), 0.0)

    def _told(self, words: set[int]) -> set[int]:
        """Those of which the sketches tell whether they are there."""
        return words if self._below == _HASHES - 1 else {one for one in words if one <= self._below}


def faults_of(
    root: dict[str, Any], spans: Sequence[dict[str, Any]], earlier: Sequence[str], asked: str, said: str
) -> Turned:
    """The features of a turn: ``spans`` by start, ``earlier`` the user's messages before it, oldest first."""
    found = Turned({}, {})
    told = [(node["span_id"], node["seen"]) for node in spans if node.get("seen")]
    _tools(found, spans)
    _routes(found, root, told)
    searches = [(name, seen) for name, seen in told if "found" in seen]
    shown = Words(seen["words"] for _, seen in told if "words" in seen)
    message = stems(asked)
    _queries(found, told, shown, message, earlier[-_EARLIER:], asked)
    if searches:
        found.faults["searches"] = float(len(searches))
        _note(found, "found_none", sum(not seen["found"] for _, seen in searches) / len(searches), searches[0][0])
        missing = shown.share(message) if shown.known else None
        if missing is not None:
            _note(found, "found_unlike", 1.0 - missing, searches[0][0])
    _answer(found, root, said, shown, message)
    return found


def _note(found: Turned, name: str, value: float, span_id: str = "") -> None:
    if value > 0.0:
        found.faults[name] = round(value, 3)
        if span_id:
            found.spans[name] = span_id


def _tools(found: Turned, spans: Sequence[dict[str, Any]]) -> None:
    calls: dict[str, list[str]] = {}
    last: dict[str, tuple[bool, str]] = {}
    retried = ""
    for node in spans:
        seen = node.get("seen", {})
        if node["kind"] != "tool" or "call" not in seen:
            continue
        broken = last.get(node["tool_name"], (False, ""))[0]
        retried = node["span_id"] if broken and "failed" not in seen else retried
        last[node["tool_name"]] = ("failed" in seen, node["span_id"])
        for call, times in node.get("loops", {seen["call"]: 1}).items():
            calls.setdefault(call, []).extend([node["span_id"]] * times)
    failed = [span_id for broken, span_id in last.values() if broken]
    _note(found, "tool_failed", float(bool(failed)), failed[-1] if failed else "")
    _note(found, "tool_retried", float(bool(retried)), retried)
    most = max(calls.values(), key=len, default=[])
    _note(found, "tool_loop", float(len(most)) if len(most) >= 3 else 0.0, most[-1] if most else "")


def _routes(found: Turned, root: dict[str, Any], told: Sequence[tuple[str, Seen]]) -> None:
    routes = list(dict.fromkeys(seen["route"] for _, seen in told if seen.get("route")))
    chosen = [name for name, seen in told if seen.get("route")]
    _note(found, "handoffs", float(max(len(routes) - 1, 0)), chosen[-1] if chosen else "")
    declined = [name for name, seen in told if seen.get("declined") and name != root["span_id"]]
    _note(found, "declined", float(bool(declined)), declined[0] if declined else "")


def _queries(
    found: Turned, told: Sequence[tuple[str, Seen]], shown: Words, message: set[int], earlier: Sequence[str], asked: str
) -> None:
    rewritten = [(name, seen["query"]) for name, seen in told if seen.get("query") and seen.get("rewrites")]
    searched = [(name, seen["query"]) for name, seen in told if seen.get("query") and not seen.get("rewrites")]
    queries = searched or rewritten
    if not queries:
        return
    name, every = (rewritten or queries)[0][0], " ".join(query for _, query in queries)
    found.faults["queries"] = float(len({flat(query) for _, query in queries}))
    words, before = stems(every), set[int]().union(*map(stems, earlier))
    key = _keys(asked)
    lost = [one for one in key if one not in every.lower()]
    lost += ["not"] * (bool(_NEGATION.search(asked.lower())) and not _NEGATION.search(every.lower()))
    _note(found, "query_lost", len(lost) / max(len(key) + bool(_NEGATION.search(asked.lower())), 1), name)
    leans = bool(before) and len(message) <= 6 and bool(_LEANS.search(flat(asked)))
    _note(found, "context_lost", float(leans and not (words - message) & before), name)
    if words:
        _note(found, "query_unlike", len(words - message - before) / len(words), name)
    fits = (shown.share(message - words), shown.share(words - message))
    if shown.known and fits[0] is not None:
        _note(found, "query_fit", fits[0] - (fits[1] or 0.0), name)


def _keys(text: str) -> set[str]:
    """The names, numbers and placeholders of a message."""
    return {one.lower().rstrip(".,:-") for one in _ENTITY.findall(text[:LIMIT])} - {"i"}


def _answer(found: Turned, root: dict[str, Any], said: str, shown: Words, message: set[int]) -> None:
    """What the answer says of itself, and how much of it was found or asked.

    A sentence is carried when at least half of its words, and all of its numbers, were.
    """
    spoken = flat(said)
    if _ANY.search(spoken):
        for name, pattern in (("no_answer", NO_ANSWER), ("refused", REFUSED), ("hedged", HEDGED)):
            _note(found, name, float(bool(pattern.search(spoken))))
        if DECLINED.search(spoken):
            _note(found, "declined", 1.0, root["span_id"])
    broken = not spoken or root["status"] == "error" or bool(len(spoken) < 200 and _ERROR.search(spoken))
    _note(found, "answer_empty", float(broken), root["span_id"])
    if not shown.known:
        return
    carried, numbers = list[bool](), set[int]()
    for sentence in _SENTENCE.split(said[:LIMIT]):
        words = stems(sentence) - message
        figures = set(map(_hash, _DIGITS.findall(sentence))) - message
        numbers |= figures
        if len(words) >= 3:
            share, sure = shown.share(words), shown.share(figures)
            carried.append((share is None or share >= 0.5) and (sure is None or sure >= 1.0))
    if carried:
        _note(found, "ungrounded", 1.0 - sum(carried) / len(carried), root["span_id"])
    seen = shown.share(numbers)
    if seen is not None:
        _note(found, "numbers_unseen", 1.0 - seen, root["span_id"])
