"""Judging live turns: choose some, have them scored, probe the judges, and say so on the clean log.

The store is the queue: turns that were stored and chosen, and that nobody has judged, are judged. So the loop keeps
nothing, holds up nobody's ingest, and goes on after a crash where the store says. A verdict's id follows from turn and
judge: what is done twice is one signal. Delivery is at least once.

Which turns: a hash of the turn's id against a share that grows with its uncertainty; that share goes with the verdict,
so that whoever counts can weigh by its inverse. Only clean turns of people who agree to models being evaluated by them
are ever read.
"""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, NamedTuple, Protocol

from connectors.judge.judge import Clean, Judge, Opinion
from connectors.judge.probes import KINDS, probe
from connectors.judge.prompts import Case
from connectors.log import Log, entry_of
from driftwheel.background import background
from driftwheel.judge_rows import Answer, Told, probe_signal, standings, turn_of, verdict_signal
from driftwheel.telemetry import JudgeMetrics
from processors.agreement import Floor, Standing
from processors.text import chance
from schemas.errors import DriftwheelError, Reject
from schemas.events import EPOCH, Record, Redaction, Turn
from schemas.tenants import CANARY

logger = logging.getLogger(__name__)

ROUND_SECONDS = 10.0
_PAUSE_LIMIT = 300.0
_BATCH = 20
_ASKED = 1_000
"""Turns that one query asks about."""
_OVERLAP = timedelta(minutes=2)
"""How far the store's clock may be behind ours, with the time that an insert takes."""
_REFRESH = timedelta(minutes=5)
_MOST_WAITING = 10_000
_MOST_DONE = 50_000


class JudgeStore(Protocol):
    """What judging asks of the store."""

    def named(self, query: str, **parameters: Any) -> list[dict[str, Any]]:
        """The rows of a query file. Raises Retry when the store is away."""
        ...

    def select(self, sql: str) -> Answer:
        """A query. Raises Retry when the store is away."""
        ...


class Redactor(Protocol):
    """Redacts what a model wrote by a tenant's policy, and tells the envelope that goes with it."""

    def cleaner(self, tenant: str, session: str) -> Clean:
        """What redacts a text of this session; '' for one that cannot be proved clean."""
        ...

    def envelope(self, tenant: str) -> Redaction:
        """The proof that goes with such texts."""
        ...


@dataclass(frozen=True, slots=True)
class JudgingRules:
    """``share`` of all turns, and ``uncertain`` times its uncertainty of each. ``settle``: how long a turn may change.

    ``lookback``: for how long a chosen turn may wait. See ``driftwheel.config.JudgeConfig`` for the others.
    """

    share: float = 0.01
    uncertain: float = 0.05
    probe_share: float = 0.1
    weight: float = 0.4
    weight_unproven: float = 0.2
    settle: timedelta = timedelta(seconds=15)
    lookback: timedelta = timedelta(hours=24)
    floor: Floor = field(default_factory=Floor)

    def propensity(self, uncertainty: float) -> float:
        """The chance with which a turn is chosen."""
        return min(1.0, self.share + self.uncertain * min(max(uncertainty, 0.0), 1.0))


class Chosen(NamedTuple):
    """A turn that waits to be judged."""

    tenant: str
    turn_id: str
    time: datetime
    propensity: float
    since: datetime


class Judging:
    """``round`` does what can be done now; ``running`` does rounds in a thread of its own."""

    def __init__(
        self,
        judges: Sequence[Judge],
        store: JudgeStore,
        log: Log,
        redactor: Redactor,
        clock: Callable[[], datetime],
        metrics: JudgeMetrics,
        rules: JudgingRules | None = None,
    ) -> None:
        self._judges, self._store, self._log, self._redactor = list(judges), store, log, redactor
        self._clock, self._metrics, self._rules = clock, metrics, rules or JudgingRules()
        self._waiting: OrderedDict[tuple[str, str], Chosen] = OrderedDict()
        self._done: OrderedDict[tuple[str, str], None] = OrderedDict()
        self._said: dict[tuple[str, str], set[str]] = {}
        self._cursor: datetime | None = None
        self._standings: dict[str, tuple[datetime, dict[str, Standing]]] = {}
        self._stopping = threading.Event()
        self.trouble = ""
        """What keeps it from judging, or ''."""
        self.failure: BaseException | None = None
        """The defect that ended its thread, or None."""

    # Rounds.

    def round(self) -> int:
        """Choose among what is new and judge what waits; returns how many turns were judged.

        Raises Reject when the budget is spent or the log is full, Retry when something is away, Refused when the
        endpoint says no; what was judged stays, the rest waits.
        """
        self._choose()
        done = 0
        try:
            while self._waiting and not self._stopping.is_set():
                some = [*self._waiting.values()][:_BATCH]
                turns, known = self._turns(some), self._known(some)
                for one in some:
                    place = (one.tenant, one.turn_id)
                    done += self._finish(one, turns.get(place), known.get(place, set()))
        finally:
            self._metrics.waiting(len(self._waiting))
        return done

    def _choose(self) -> None:
        """Take in turns that have been stored since the last look, and drop what has waited for too long."""
        now = self._clock()
        since = self._cursor or now - self._rules.lookback
        until = now - self._rules.settle
        if until > since:
            rows = self._store.named("judge_new", since=_second(since - _OVERLAP), until=_second(until), canary=CANARY)
            self._take([one for row in rows if (one := self._chosen(row, now)) is not None])
            self._cursor = until
        late = [name for name, one in self._waiting.items() if one.since < now - self._rules.lookback]
        self._drop("too_late", late)
        self._drop("too_many", [*self._waiting][: max(0, len(self._waiting) - _MOST_WAITING)])

    def _chosen(self, row: dict[str, Any], now: datetime) -> Chosen | None:
        place = (str(row["tenant"]), str(row["turn_id"]))
        share = self._rules.propensity(float(row["uncertainty"]))
        if place in self._waiting or place in self._done or chance("judge", place[1]) >= share:
            return None
        return Chosen(*place, row["event_time"], share, now)

    def _take(self, chosen: Sequence[Chosen]) -> None:
        known = self._known(chosen)
        every = {(judge.rubric.name, judge.model) for judge in self._judges}
        for one in chosen:
            if every - known.get((one.tenant, one.turn_id), set()):
                self._waiting[one.tenant, one.turn_id] = one

    def _known(self, chosen: Sequence[Chosen]) -> dict[tuple[str, str], set[tuple[str, str]]]:
        """Which rubrics and models have judged these turns, in any version of the rubric."""
        found: dict[tuple[str, str], set[tuple[str, str]]] = {}
        for at in range(0, len(chosen), _ASKED):
            some = chosen[at : at + _ASKED]
            asked = {"first": _first(some), "turns": [one.turn_id for one in some]}
            for row in self._store.named("judge_known", **asked):
                found.setdefault((row["tenant"], row["turn_id"]), set()).add((row["rubric"], row["model"]))
        return found

    def _turns(self, some: Sequence[Chosen]) -> dict[tuple[str, str], Turn]:
        asked = {"first": _first(some), "turns": [one.turn_id for one in some]}
        rows = self._store.named("judge_turns", **asked)
        return {(row["tenant"], row["turn_id"]): turn_of(row) for row in rows}

    def _drop(self, reason: str, names: Iterable[tuple[str, str]]) -> None:
        gone = [(self._waiting.pop(name), self._said.pop(name, None)) for name in names]
        if gone:
            self._metrics.skipped(reason, len(gone))

    # One turn.

    def _finish(self, one: Chosen, turn: Turn | None, known: set[tuple[str, str]]) -> bool:
        """Judge a turn; one that is not there any more, or may not be judged now, is let go."""
        place = (one.tenant, one.turn_id)
        if self._stopping.is_set():
            return False
        if turn is None:
            self._drop("gone", [place])
            return False
        said = self._said.setdefault(place, set())
        wanted = [judge for judge in self._judges if (judge.rubric.name, judge.model) not in known]
        case = self._case(turn, wanted)
        for judge in wanted:
            if judge.id not in said and case.fits(judge.rubric):
                self._judge(judge, turn, case, one.propensity)
                said.add(judge.id)
                self._probe(judge, turn, case)
        self._waiting.pop(place, None)
        self._said.pop(place, None)
        self._done[place] = None
        while len(self._done) > _MOST_DONE:
            self._done.popitem(last=False)
        return True

    def _case(self, turn: Turn, judges: Sequence[Judge]) -> Case:
        """What is judged. A correction is no reference: who agrees with it would only repeat what a person said."""
        documents: tuple[str, ...] = ()
        if turn.retrievals and any("documents" in judge.rubric.needs for judge in judges):
            asked = {"tenant": turn.tenant, "trace": turn.trace_id, "first": _second(turn.event_time) - 86_400}
            documents = tuple(str(row["output"]) for row in self._store.named("judge_documents", **asked))
        return Case(turn.input, turn.output, documents=documents)

    def _judge(self, judge: Judge, turn: Turn, case: Case, propensity: float) -> None:
        opinion = judge.assess(case, self._redactor.cleaner(turn.tenant, turn.session_id))
        self._count(opinion)
        told = Told(self._weight(turn.tenant, judge.id), propensity, self._redactor.envelope(turn.tenant))
        self._say(verdict_signal(turn, opinion, told))

    def _probe(self, judge: Judge, turn: Turn, case: Case) -> None:
        """Probe a judge on some of the turns that it judged. What keeps it from that costs no verdict."""
        if chance("judge probe", judge.id, turn.turn_id) < self._rules.probe_share:
            for kind in KINDS:
                found = probe(judge, case, kind)
                self._metrics.probe(judge.id, kind, found.failed, found.tokens)
                self._say(probe_signal(turn, found))

    def _count(self, opinion: Opinion) -> None:
        result = opinion.abstained or opinion.label or "neither"
        self._metrics.verdict(opinion.judge, result, opinion.tokens, cached=opinion.cached)

    def _say(self, record: Record) -> None:
        """Each record as soon as it is there: what was paid for is not lost with what comes after it."""
        self._log.append([entry_of(record, self._clock())])

    def _weight(self, tenant: str, judge: str) -> float:
        found = self._standing(tenant).get(judge)
        if found is not None and found.may_gate:
            return self._rules.weight
        return round(self._rules.weight_unproven / max(1, len(self._judges)), 6)

    def _standing(self, tenant: str) -> dict[str, Standing]:
        """How the tenant's judges stand, looked at every few minutes."""
        now = self._clock()
        at, found = self._standings.get(tenant, (EPOCH, {}))
        if now - at >= _REFRESH:
            found = standings(self._store.select, tenant, now, self._rules.floor)
            self._standings[tenant] = (now, found)
            self._metrics.standings(tenant, found)
        return found

    # The thread.

    @contextmanager
    def running(self) -> Generator[None]:
        """Rounds in a thread of its own while inside; nothing runs without judges."""
        if not self._judges:
            yield
            return
        with background(self._guarded, "driftwheel-judging", self._stopping):
            yield

    def _run(self) -> None:
        pause = ROUND_SECONDS
        while not self._stopping.is_set():
            try:
                self.round()
            except DriftwheelError as error:
                if str(error) != self.trouble:
                    logger.warning("judging waits: %s", error)
                asked = error.retry_after if isinstance(error, Reject) else 0.0
                self.trouble, pause = str(error), min(_PAUSE_LIMIT, max(2 * pause, asked))
            else:
                self.trouble, pause = "", ROUND_SECONDS
            self._stopping.wait(pause)

    def _guarded(self) -> None:
        try:
            self._run()
        except BaseException as error:
            logger.exception("judging failed; nothing is judged until the next start")
            self.failure, self.trouble = error, f"it failed: {type(error).__name__}"

    def problems(self) -> list[str]:
        """What keeps it from judging, or nothing."""
        return [f"judging waits: {self.trouble}"] if self.trouble else []

    def defects(self) -> list[str]:
        """Why only a new start helps, or nothing."""
        return [] if self.failure is None else [f"judging failed: {type(self.failure).__name__}"]

    def pause(self, seconds: float) -> object:
        """Wait, and no longer than until the end: what an endpoint waits by."""
        return self._stopping.wait(seconds)


def _second(time: datetime) -> int:
    return int(time.timestamp())


def _first(some: Sequence[Chosen]) -> int:
    return _second(min(one.time for one in some)) - 1
