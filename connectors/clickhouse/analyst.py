"""What an analyst's query may be: one statement that reads the store's tables.

``readonly=1`` is not enough: under it the engine still reads any file of the machine with the function ``file``,
writes one with INTO OUTFILE, runs several statements, kills queries and calls other hosts. So a query is split into
tokens first, and everything whose meaning is not plain is refused; ``readonly=1`` and the bounds come on top.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator

from schemas.errors import UsageError

BOUNDS = {
    "max_execution_time": 60,
    "max_result_rows": 100_000,
    "result_overflow_mode": "throw",
    "max_memory_usage": 4_000_000_000,
    "allow_ddl": 0,
    "readonly": 1,
}
"""Bounds of an analyst's query; ``readonly`` comes last, since nothing can be set after it."""

OPENINGS = frozenset({"select", "with", "from", "(", "show", "describe", "desc", "explain", "exists"})
HARMLESS = frozenset({
    "format", "generaterandom", "generateseries", "generate_series", "null", "numbers", "numbers_mt", "primes",
    "sqlstandardvalues", "values", "view", "zeros", "zeros_mt",
})  # fmt: skip
"""Table functions that reach nothing outside the query; every other one of the engine is refused."""
FORBIDDEN = re.compile(
    r"file|outfile|identifier|catboostevaluate|showcertificate|"
    r"ai(classify|embed|extract|filter|generate|redact|similarity|translate)\w*"
)
"""Words that reach the machine or the network as functions, even unquoted without brackets (``APPLY file``)."""

# A comment within a comment is refused, since the engine nests them: a "/" that opens one is never a sign.
_TOKEN = re.compile(
    r"""
      (?P<space> \s+ | --[^\n]* | /\*(?:(?!/\*).)*?\*/ )
    | (?P<text> '(?:[^'\\]|\\.|'')*' )
    | (?P<name> "[^"\\]*" | `[^`\\]*` )
    | (?P<word> [^\W\d]\w* )
    | (?P<sign> \d\w* | /(?!\*) | [-+*%=<>!(),.\[\]{}:?|&^~@;] )
    """,
    re.VERBOSE | re.DOTALL,
)


def check(sql: str, table_functions: Collection[str]) -> str:
    """The statement without the semicolon at its end.

    ``table_functions`` are the engine's own names. Raises UsageError that says what is not allowed.
    """
    text = sql.strip().rstrip(";").rstrip()
    tokens = list(_tokens(text))
    if not tokens or ";" in tokens:
        raise UsageError("one statement is expected, e.g. SELECT count() FROM turns_current")
    if tokens[0] not in OPENINGS:
        raise UsageError(
            f"{tokens[0].upper()[:40]} is not allowed: analysts read, with SELECT, SHOW, DESCRIBE or EXPLAIN"
        )
    outside = {name.lower() for name in table_functions} - HARMLESS
    for token, following in zip(tokens, [*tokens[1:], ""], strict=True):
        if FORBIDDEN.fullmatch(token) or (following == "(" and token in outside):
            raise UsageError(f"{token} is not allowed: analysts read the store's own tables only")
    return text


def _tokens(text: str) -> Iterator[str]:
    """Words and names in lower case, without quotes, and signs; texts and comments are left out."""
    place = 0
    while place < len(text):
        found = _TOKEN.match(text, place)
        if found is None:
            raise UsageError(f"character {place + 1}, {text[place]!r}, is not allowed here, or a quote is not closed")
        if found.lastgroup == "name":
            yield found.group()[1:-1].lower()
        elif found.lastgroup in {"word", "sign"}:
            yield found.group().lower()
        elif found.lastgroup == "text":
            yield "''"
        place = found.end()
