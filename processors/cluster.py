"""Cluster: failed turns that ask for the like are put together, as they come: what goes wrong most, in words.

Each failed turn gets a cluster, once; a cluster is all model versions' of its agent, so that versions can be compared.
See ``processors.groups`` for how they are found. What a cluster's size and name are is told with every turn that joins
it, and when it is merged into an older one. Without an embedding model texts are compared by spelling; when the measure
changes, clusters begin anew.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any, cast

from processors import groups
from processors.bounds import shorten
from processors.groups import GroupRules, witness
from processors.moments import micros, moment, seconds
from processors.stage import Event, Stage, forget
from processors.state import KeyState
from processors.vectors import SPELLING, Vectors
from schemas.events import Failure, FailureCluster, Record, identity
from schemas.subjects import Subject
from schemas.topics import CLUSTERS, FAILURES


@dataclass(frozen=True, slots=True)
class ClusterSettings:
    """Cosines and days.

    ``near_at``: from where a turn joins a cluster (None: what suits the measure). ``merge_at``: from where two clusters
    become one. ``clusters``: how many an agent has at once. ``half_life_days``: after which a turn counts half when the
    weakest one is let go. ``turns``: of which the cluster is remembered. ``idle_days``: a cluster that nobody joins for
    so long is forgotten.
    """

    near_at: float | None = None
    merge_at: float = 0.7
    clusters: int = 64
    half_life_days: float = 14.0
    turns: int = 400
    idle_days: float = 60.0


class Cluster(Stage):
    """Failures to clusters, per agent."""

    name = "cluster"
    sources = (FAILURES,)
    emits = (CLUSTERS,)
    linger = 5.0

    def __init__(self, settings: ClusterSettings | None = None, vectors: Vectors = SPELLING) -> None:
        chosen = self._settings = settings or ClusterSettings()
        super().__init__(chosen)
        self._vectors = vectors
        near = vectors.near if chosen.near_at is None else chosen.near_at
        self._rules = GroupRules(near, chosen.merge_at, chosen.clusters, 86_400.0 * chosen.half_life_days)

    def step(self, event: Event, state: KeyState) -> Iterable[Record]:
        """Give a failed turn its cluster; a later revision of it keeps the one it has."""
        failure = cast("Failure", event.record)
        data = self._opened(state)
        turn, who = _short(failure.turn_id), witness(failure.subject_hash, failure.session_id)
        known = data["turns"].get(turn)
        if known is not None and known[0] in data["groups"]:
            yield self._told(data, failure, known[0])
        else:
            yield from self._join(data, failure, turn, who)
        state.due = self._next_due(data)

    def _join(self, data: dict[str, Any], failure: Failure, turn: str, who: str) -> Iterator[Record]:
        held, seed = data["groups"], identity("cluster", failure.tenant, failure.agent, failure.turn_id)[:12]
        vector = self._vectors(failure.input)
        name = groups.join(held, seed, vector, failure.input, who, micros(failure.event_time), self._rules)
        name, gone = groups.merge(held, name, self._rules)
        for one in data["turns"].values():
            one[0] = name if one[0] in gone else one[0]
        data["turns"][turn] = [name, who]
        shorten(data["turns"], self._settings.turns)
        yield self._told(data, failure, name)
        for other in gone:
            yield self._merged(data, failure, other, name)

    def tick(self, key: str, state: KeyState, now: datetime) -> Iterable[Record]:
        """Forget clusters that have been idle for long, and the agent with its last one."""
        del key
        data, idle = self._opened(state), seconds(86_400.0 * self._settings.idle_days)
        for name in [name for name, one in data["groups"].items() if one["t"] + idle <= micros(now)]:
            del data["groups"][name]
        if data["groups"]:
            state.due = self._next_due(data)
        else:
            forget(state)
        return ()

    def erase(self, name: str, state: KeyState, about: Subject) -> Iterable[Record]:
        """See Stage: what they alone said goes; what is left of them in a mean of many texts names nobody."""
        yield from super().erase(name, state, about)
        data = state.data
        if not data:
            return
        theirs = {witness(about.hash, ""), *(witness("", one) for one in about.sessions)}
        turns = {_short(one) for one in about.turns}
        gone = set(groups.forget(data["groups"], theirs))
        data["turns"] = {
            turn: held for turn, held in data["turns"].items()
            if held[1] not in theirs and turn not in turns and held[0] not in gone
        }  # fmt: skip
        if not data["groups"]:
            forget(state)

    def _opened(self, state: KeyState) -> dict[str, Any]:
        if state.data.get("measure") != self._vectors.name:
            state.data.clear()
            state.data.update(v=1, measure=self._vectors.name, groups={}, turns={})
        return state.data

    def _next_due(self, data: dict[str, Any]) -> datetime:
        idle = seconds(86_400.0 * self._settings.idle_days)
        return moment(min(one["t"] for one in data["groups"].values()) + idle)

    def _told(self, data: dict[str, Any], failure: Failure, name: str) -> FailureCluster:
        """What a turn's cluster is, and how large and of what name it is now."""
        facts = failure.model_dump(exclude={"schema_version", "event_id", "input"})
        return FailureCluster.model_validate(
            facts
            | {
                "event_id": identity("clustered", failure.tenant, failure.turn_id, str(failure.revision)),
                "cluster_id": name,
                "name": groups.name_of(data["groups"], name),
                "size": data["groups"][name]["n"],
            }
        )

    def _merged(self, data: dict[str, Any], failure: Failure, gone: str, name: str) -> FailureCluster:
        return FailureCluster(
            event_id=identity("merged", failure.tenant, failure.agent, gone, name),
            tenant=failure.tenant,
            agent=failure.agent,
            event_time=failure.event_time,
            redaction=failure.redaction,
            cluster_id=gone,
            merged_into=name,
            name=groups.name_of(data["groups"], name),
            size=data["groups"][name]["n"],
        )


def _short(turn_id: str) -> str:
    return identity(turn_id)[:12]
