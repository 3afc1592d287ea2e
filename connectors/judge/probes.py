"""Probes: questions whose right answer is known without knowing anything, by which a judge's biases show.

**position** The answer and its own first half, in both orders. Whoever reads them says the same both times; who goes by
the place says something else, and gets a tie. A probe fails when the two orders contradict each other.

**verbosity** The answer and the same answer with padding that says nothing. The padded one may tie and may lose; a
probe fails when it wins in both orders.

Sources: Zheng et al. 2023 (MT-Bench), position and verbosity bias; Wang et al. 2023, "not fair evaluators", swapping.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from connectors.judge.judge import Judge
from connectors.judge.prompts import Case

Kind = Literal["position", "verbosity"]
KINDS: tuple[Kind, ...] = ("position", "verbosity")
ITEMS = Path(__file__).parent / "rubrics" / "probes.jsonl"
_PADDING = (
    "To put it another way, the above is what there is to say about this, and it has been said above. As was "
    "mentioned, this is the answer to what was asked, and it answers it. It is worth repeating that the points above "
    "are the points that were made. In summary, the foregoing covers what was covered in the foregoing."
)


@dataclass(frozen=True, slots=True)
class Probe:
    """What came of one. ``failed`` None: the judge abstained, and it tells nothing."""

    kind: Kind
    judge: str
    failed: bool | None
    tokens: int

    @property
    def label(self) -> str:
        """One word for it."""
        words = {"position": ("consistent", "inconsistent"), "verbosity": ("padded_did_not_win", "padded_won")}
        return "abstained" if self.failed is None else words[self.kind][self.failed]


def probe(judge: Judge, case: Case, kind: Kind) -> Probe:
    """Two calls. Raises as ``Judge.compare`` does."""
    thing = case.thing(judge.rubric)
    if kind == "position":
        found = judge.compare(case, thing, half(thing))
        return Probe(kind, judge.id, None if found.consistent is None else not found.consistent, found.tokens)
    found = judge.compare(case, thing, padded(thing))
    return Probe(kind, judge.id, None if found.consistent is None else found.winner == 2, found.tokens)


def half(text: str) -> str:
    """The first half of a text, by words.

    >>> half("first restart the router, then wait")
    'first restart the'
    """
    words = text.split()
    return " ".join(words[: max(1, len(words) // 2)])


def padded(text: str) -> str:
    """A text twice as long at least, which says no more."""
    times = 1 + len(text) // len(_PADDING)
    return "\n\n".join([text, *[_PADDING] * times])


def own_items() -> Iterator[Case]:
    """The cases that come with the product, for probing without any data."""
    for line in ITEMS.read_text(encoding="utf-8").splitlines():
        body = json.loads(line)
        yield Case(body["question"], body["answer"], body["reference"], tuple(body["documents"]))
