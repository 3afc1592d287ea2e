"""A judge: one rubric, one model. It scores a case, and says which of two is better whatever their order.

``assess`` costs nothing for what was scored before. Before anything is sent the budget is asked; what the model cost is
noted even when it cannot be read. A rationale is the model's own text: ``clean`` redacts it before anybody sees it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from connectors.judge.budget import Budget
from connectors.judge.cache import Cache, cache_key
from connectors.judge.endpoint import Endpoint, Reply
from connectors.judge.prompts import (
    PASS_AT,
    Case,
    Messages,
    Winner,
    pair_prompt,
    score_prompt,
    scored,
    tokens_of,
    winner,
)
from connectors.judge.rubrics import Rubric, judge_id
from schemas.errors import Invalid

Clean = Callable[[str], str]
"""A text of the model's, redacted; '' when it cannot be proved clean."""


def nothing(text: str) -> str:
    """The safe ``Clean``: no rationale is kept."""
    del text
    return ""


@dataclass(frozen=True, slots=True)
class Opinion:
    """What a judge says. ``score`` None: it abstains, and ``abstained`` is the word for why.

    ``unparsable``, ``unsure``, ``empty``: what it answered; ``refused``: the endpoint does not take this prompt, mostly
    because it is too long.
    """

    judge: str
    rubric: str
    version: str
    model: str
    score: float | None
    rationale: str = ""
    abstained: str = ""
    tokens: int = 0
    cached: bool = False

    @property
    def label(self) -> Literal["pass", "fail", ""]:
        """What the score means; '' for none, and for one right in the middle."""
        if self.score is None or self.score == PASS_AT:
            return ""
        return "pass" if self.score > PASS_AT else "fail"


@dataclass(frozen=True, slots=True)
class Comparison:
    """Which of two is better, asked in both orders. ``winner`` 0: a tie, which is also what an inconsistent judge gets.

    ``consistent`` None: it abstained in one order at least.
    """

    winner: Winner
    consistent: bool | None
    tokens: int


class Judge:
    """``secret`` keys the cache; ``cache`` None: every case is asked about."""

    def __init__(
        self, rubric: Rubric, endpoint: Endpoint, budget: Budget, *, secret: bytes = b"", cache: Cache | None = None
    ) -> None:
        self.rubric, self.model = rubric, endpoint.settings.model
        self.id = judge_id(rubric, self.model)
        self._endpoint, self._budget, self._secret, self._cache = endpoint, budget, secret, cache

    def assess(self, case: Case, clean: Clean = nothing) -> Opinion:
        """Score a case that fits the rubric.

        Raises Reject when the budget is spent, Retry when the endpoint is away, Refused when it says no.
        """
        key = cache_key(self._secret, self.id, case.parts())
        known = None if self._cache is None else self._cache.get(key)
        if known is not None:
            return self._opinion(known, cached=True)
        try:
            reply = self._ask(score_prompt(self.rubric, case))
        except Invalid as error:
            return self._opinion(None, abstained=error.reason)
        if not reply.text.strip():
            return self._opinion(None, abstained="empty", tokens=reply.tokens)
        found = scored(reply.text)
        if found.score is not None and self._cache is not None:
            self._cache.put(key, found.score)
        rationale = clean(found.rationale) if found.rationale else ""
        return self._opinion(found.score, rationale, found.abstained, reply.tokens)

    def compare(self, case: Case, first: str, second: str) -> Comparison:
        """Which of two is better. Both orders are asked; a judge whose word follows the order gets a tie.

        Raises as ``assess`` does. Nothing is cached: this is how a judge is probed.
        """
        try:
            one = self._ask(pair_prompt(self.rubric, case, first, second))
            two = self._ask(pair_prompt(self.rubric, case, second, first))
        except Invalid:
            return Comparison(0, None, 0)
        said, turned = winner(one.text), winner(two.text)
        tokens = one.tokens + two.tokens
        if said is None or turned is None:
            return Comparison(0, None, tokens)
        back: Winner = 2 if turned == 1 else 1 if turned == 2 else 0
        return Comparison(said if said == back else 0, said == back, tokens)

    def _ask(self, messages: Messages) -> Reply:
        self._budget.check(tokens_of(messages) + self._endpoint.settings.max_tokens)
        before = self._endpoint.calls
        tokens = 0
        try:
            reply = self._endpoint.ask(messages)
            tokens = reply.tokens
        finally:
            self._budget.note(self._endpoint.calls - before, tokens)
        return reply

    def _opinion(
        self, score: float | None, rationale: str = "", abstained: str = "", tokens: int = 0, *, cached: bool = False
    ) -> Opinion:
        return Opinion(
            self.id, self.rubric.name, self.rubric.version, self.model, score, rationale, abstained, tokens, cached
        )
