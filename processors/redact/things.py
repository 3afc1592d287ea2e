"""What the entity recogniser takes for a name and is none: measures, standards and commands in texts of machines.

Small closed lists: a word is here only where it is nobody's name, and a name that stands beside one is kept.
"""

from __future__ import annotations

import re

_MEASURES = frozenset({
    "accuracy", "size", "sizes", "width", "length", "depth", "format", "formats", "tokens", "latency", "throughput",
    "bandwidth", "timeout", "timestamp", "filename", "checksum", "threshold", "quantity", "epoch", "epochs", "uptime",
    "downtime", "runtime",
})  # fmt: skip
"""What tables, logs and forms count or describe."""
_OF_WHAT = frozenset({
    "average", "batch", "block", "chunk", "context", "file", "image", "input", "max", "maximum", "mean", "min",
    "minimum", "output", "page", "sample", "test", "total", "training", "validation", "window",
})  # fmt: skip
"""What may stand before a measure: ``Batch Size``, ``Max Tokens``."""
_COMMANDS = frozenset({"npm", "npx", "pnpm", "yarn", "sudo", "git", "docker", "kubectl", "cargo", "conda"})
_STANDARD = re.compile(r"(?:SOC|ISO(?:/IEC)?|IEC|NIST|FIPS|PCI|RFC|IEEE|ANSI)[ \-]?\d[\d.:\-]{0,12}(?: Type I{1,2})?")


def is_thing(text: str) -> bool:
    """Whether a name is that of a measure, a standard or a command, and so nobody's.

    >>> [is_thing(text) for text in ("Batch Size", "SOC 2 Type II", "npm ERR")]
    [True, True, True]
    >>> [is_thing(text) for text in ("Max", "Max Weber", "Maria Keller Size", "git Maria", "Sizemore")]
    [False, False, False, False, False]
    """
    words = text.split()
    if not words:
        return False
    *before, last = text.lower().split()
    measured = last in _MEASURES and _OF_WHAT.issuperset(before)
    called = len(words) == 2 and words[0] in _COMMANDS and (words[1].islower() or words[1].isupper())
    return measured or called or _STANDARD.fullmatch(text) is not None
