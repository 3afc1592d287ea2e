"""How much privacy a tenant's people have spent on exported statistics: sums that only grow, and an end to them.

``privacy_budget.jsonl`` in the data folder, readable by the owner alone. What an export spends is on the disk before
anything is drawn, so that a crash spends too much rather than too little. Two exports at once take turns.
"""

from __future__ import annotations

import fcntl
import json
import math
import os
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from schemas.errors import Refused

FILE = "privacy_budget.jsonl"


class Spent(NamedTuple):
    """Sums over all exports of a tenant (basic composition: epsilons and deltas add up)."""

    epsilon: float
    delta: float


class PrivacyBudget:
    """The budget of every tenant in one file; ``limit`` holds for each."""

    def __init__(self, path: Path, limit: Spent) -> None:
        self._path, self._limit = path, limit

    def spent(self, tenant: str) -> Spent:
        """What a tenant's exports have spent so far."""
        return _sum(self._path.read_text(encoding="utf-8"), tenant, self._path) if self._path.exists() else Spent(0, 0)

    def spend(self, tenant: str, cost: Spent, now: datetime, about: Mapping[str, Any]) -> Spent:
        """Write down a cost, and give what is spent with it. Raises Refused, and spends nothing, beyond the limit."""
        self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        with os.fdopen(descriptor, "r+", encoding="utf-8") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            before = _sum(file.read(), tenant, self._path)
            after = Spent(math.fsum((before.epsilon, cost.epsilon)), math.fsum((before.delta, cost.delta)))
            self._check(tenant, before, after)
            line = {"time": now.isoformat(), "tenant": tenant, "epsilon": cost.epsilon, "delta": cost.delta, **about}
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
            file.flush()
            os.fsync(file.fileno())
        return after

    def _check(self, tenant: str, before: Spent, after: Spent) -> None:
        for name in ("epsilon", "delta"):
            limit, spent = getattr(self._limit, name), getattr(before, name)
            if getattr(after, name) > limit * (1 + 1e-9):
                raise Refused(
                    f"exports of {tenant} have spent {name} {spent:g} of {limit:g} (export.{name}_budget): this one "
                    f"would go beyond it. Ask with less, or raise the budget if that can be answered for"
                )


def _sum(text: str, tenant: str, path: Path) -> Spent:
    own: list[Spent] = []
    for number, line in enumerate(text.splitlines(), 1):
        try:
            found = json.loads(line)
            owner, cost = str(found["tenant"]), Spent(float(found["epsilon"]), float(found["delta"]))
        except (ValueError, KeyError, TypeError) as error:
            raise Refused(f"{path}, line {number} is damaged: mend it before anything else is exported") from error
        own += [cost] if owner == tenant else []
    return Spent(math.fsum(cost.epsilon for cost in own), math.fsum(cost.delta for cost in own))
