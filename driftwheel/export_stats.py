"""``driftwheel export stats``: how many turns and failures by group, without telling of anybody."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable, Generator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Protocol

from connectors.clickhouse.store import Store, StoreSettings
from driftwheel.clock import utc_now
from driftwheel.config import Config
from driftwheel.desk import open_desk
from driftwheel.files import writing
from driftwheel.privacy_budget import FILE, PrivacyBudget, Spent
from driftwheel.private_counts import Counted, Privacy, private_counts, threshold
from schemas.errors import UsageError

GROUPS = {
    "agent": "agent",
    "category": "category",
    "model_version": "model_version",
    "cause": "cause",
    "day": "toString(toDate(event_time))",
}
"""What turns can be counted by."""
PERSON = "if(subject_hash = '', concat('session ', session_id), subject_hash)"
"""Who a turn is of: its subject, or its session where nobody is named."""


class Rows(Protocol):
    """What a query gives."""

    @property
    def rows(self) -> list[list[Any]]:
        """Its rows."""
        ...


@dataclass(frozen=True, slots=True)
class Wanted:
    """Settled turns of a ``tenant`` from ``since`` until ``until``, counted ``by`` some of ``GROUPS``."""

    tenant: str
    by: tuple[str, ...]
    since: datetime
    until: datetime
    privacy: Privacy

    def __post_init__(self) -> None:
        """UsageError names what is wrong."""
        unknown = [name for name in self.by if name not in GROUPS]
        if unknown or not self.by or len(set(self.by)) < len(self.by):
            raise UsageError(f"--by: each of these once at most, with commas: {', '.join(GROUPS)}")
        if self.since >= self.until:
            raise UsageError("--since: has to be before now, and before --until")


def query(wanted: Wanted) -> str:
    """True counts by group, with ``bound`` turns of each person at most, chosen by a hash of theirs alone."""
    keys = ", ".join(f"{GROUPS[name]} AS key_{name}" for name in wanted.by)
    names = ", ".join(f"key_{name}" for name in wanted.by)
    return (
        f"SELECT {names}, count(), countIf(verdict = 'failure') FROM ("  # noqa: S608  # names are ours, values quoted
        f"SELECT {keys}, verdict FROM outcomes_current WHERE tenant = {_quoted(wanted.tenant)} "
        f"AND event_time >= {_time(wanted.since)} AND event_time < {_time(wanted.until)} "
        f"ORDER BY sipHash64(turn_id), turn_id LIMIT {wanted.privacy.bound} BY {PERSON}) GROUP BY {names}"
    )


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


def _time(time: datetime) -> str:
    return f"toDateTime64('{time.astimezone(UTC):%Y-%m-%d %H:%M:%S.%f}', 6, 'UTC')"


def release(ask: Callable[[str], Rows], budget: PrivacyBudget, wanted: Wanted, now: datetime) -> dict[str, Any]:
    """The statistics, with what they rest on; their price is written down before anything is drawn."""
    least = threshold(wanted.privacy)
    counts = {
        json.dumps([str(one) for one in row[:-2]]): (int(row[-2]), int(row[-1])) for row in ask(query(wanted)).rows
    }
    cost = Spent(wanted.privacy.epsilon, wanted.privacy.delta)
    about = {"by": list(wanted.by), "since": wanted.since.isoformat(), "until": wanted.until.isoformat()}
    spent = budget.spend(wanted.tenant, cost, now, about)
    noisy = private_counts(counts, wanted.privacy)
    return {
        "tenant": wanted.tenant, **about, "epsilon": cost.epsilon, "delta": cost.delta,
        "max_turns": wanted.privacy.bound, "threshold": least,
        "within_95": math.ceil(wanted.privacy.scale * math.log(20)),
        "epsilon_spent": spent.epsilon, "delta_spent": spent.delta,
        "rows": [_row(wanted.by, name, found) for name, found in sorted(noisy.items())],
    }  # fmt: skip


def _row(by: Sequence[str], name: str, found: Counted) -> dict[str, Any]:
    keys = dict(zip(by, json.loads(name), strict=True))
    return {
        **keys,
        "turns": found.items,
        "failures": found.marked,
        "failure_rate": round(found.marked / found.items, 4),
    }


def export_stats(config: Config, wanted: Wanted, target: str) -> dict[str, Any]:
    """Write the statistics as CSV, or as JSON with what they rest on when the file's name says so; and give them."""
    limit = Spent(config.export.epsilon_budget, config.export.delta_budget)
    budget = PrivacyBudget(config.data_dir.expanduser() / FILE, limit)
    with _questions(config) as ask, writing(target) as file:
        found = release(ask, budget, wanted, utc_now())
        if target.endswith(".json"):
            file.write(json.dumps(found, indent=2, ensure_ascii=False) + "\n")
        else:
            columns = [*wanted.by, "turns", "failures", "failure_rate"]
            writer = csv.DictWriter(file, columns, lineterminator="\n")
            writer.writeheader()
            writer.writerows(found["rows"])
    return found


@contextmanager
def _questions(config: Config) -> Generator[Callable[[str], Rows]]:
    """The ClickHouse server that the configuration names, else whoever has the data folder open, else this process."""
    url = config.store.url.get_secret_value()
    if url:
        days = config.store.retention_days
        with closing(Store(StoreSettings(url=url, database=config.store.database, retention_days=days))) as store:
            yield store.query
    else:
        with open_desk(config) as desk:
            yield desk.sql
