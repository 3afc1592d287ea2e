"""``driftwheel clusters``: what goes wrong most, from the store's view of failure clusters."""

from __future__ import annotations

from driftwheel.api import Table
from driftwheel.config import Config
from driftwheel.desk import open_desk

_QUERY = """SELECT tenant, agent, model_version, category, cluster_id, any(name) AS name, sum(turns) AS turns,
round(sum(badness), 2) AS badness, topKWeighted(1)(main_cause, turns)[1] AS main_cause, max(day) AS last_day
FROM (SELECT * FROM top_clusters WHERE day > today() - {days}{agent})
GROUP BY tenant, agent, model_version, category, cluster_id
ORDER BY badness DESC, cluster_id, model_version, category LIMIT {limit}"""


def top_clusters(config: Config, agent: str, days: int, limit: int) -> Table:
    """The clusters with the largest sum of P(failure) in the last days, by cohort; of one agent, or of all with ''."""
    name = agent.replace("\\", "\\\\").replace("'", "\\'")
    wanted = f" AND agent = '{name}'" if agent else ""
    with open_desk(config) as desk:
        return desk.sql(_QUERY.format(days=days, agent=wanted, limit=limit))
