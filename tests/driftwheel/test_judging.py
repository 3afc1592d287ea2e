"""The loop over a real store: what is chosen, said, counted, and what a judge may do after that."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from connectors.clickhouse.store import Store
from connectors.judge.budget import Budget
from connectors.judge.cache import MemoryCache
from connectors.judge.endpoint import Endpoint, EndpointSettings
from connectors.judge.judge import Judge
from connectors.judge.rubrics import rubric
from connectors.log import MemoryLog
from driftwheel.config import Config, JudgeConfig
from driftwheel.judge_rows import standings
from driftwheel.judge_setup import PolicyRedactor, open_judging
from driftwheel.judging import Judging, JudgingRules
from driftwheel.telemetry import Metrics
from processors.agreement import Floor
from processors.attribute import Attribute
from processors.state import MemoryState
from processors.text import chance
from schemas import codec
from schemas.errors import Refused, Reject, Retry
from schemas.events import EPOCH, Outcome, Record, Signal
from schemas.topics import SIGNALS
from tests.judging import KEY, Server, chat, first_wins, honest, rambling, serving, verdict
from tests.store import temporary_store
from tests.world import START, TENANT, hex_id, label, message, sample, score, signal, span, turn

PLANTED = "maria.keller@example.com"
ALL = JudgingRules(share=1.0, probe_share=0.0)


def a_turn(number: int, **given: object) -> Any:
    trace = hex_id("trace", number, size=32)
    about = {"trace_id": trace, "turn_id": f"{trace}.{hex_id('root', number)}", "event_id": f"t{number}"}
    times = {"event_time": START + timedelta(minutes=number), "end_time": START + timedelta(minutes=number, seconds=9)}
    texts = {"input": f"question {number}", "output": f"answer {number}", "session_id": f"s{number}"}
    return turn(**{**about, **times, **texts, "subject_hash": f"u{number}", **given})


class Bench:
    """A store with turns, a judge's server, and the loop between them."""

    def __init__(
        self, store: Store, server: Server, rules: JudgingRules = ALL, names: Sequence[str] = ("tone",)
    ) -> None:
        self.store, self.server, self.log, self.metrics = store, server, MemoryLog(), Metrics()
        self.now = datetime.now(UTC) + timedelta(minutes=1)
        self.budget = Budget(10_000, 10**9, self.clock)
        self.cache = MemoryCache()
        self.rules, self.names, self.model = rules, names, "m"
        self.loop = self.new()

    def clock(self) -> datetime:
        return self.now

    def new(self) -> Judging:
        one = Endpoint(EndpointSettings(self.server.url, self.model, KEY), lambda _: None)
        judges = [Judge(rubric(n), one, self.budget, secret=b"s", cache=self.cache) for n in self.names]
        redactor = PolicyRedactor(Config(), b"key")
        return Judging(judges, self.store, self.log, redactor, self.clock, self.metrics.judges, self.rules)

    def said(self) -> list[Signal]:
        found = [codec.decode(entry.value, Signal) for entry in self.log.entries]
        assert {entry.topic for entry in self.log.entries} <= {SIGNALS.name}
        return [one for one in found if isinstance(one, Signal)]

    def settle(self) -> int:
        """What was said arrives in the store."""
        done = self.loop.round()
        records: list[Record] = [*self.said()]
        if records:
            self.store.write(records)
        self.now += timedelta(minutes=1)
        return done


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serving(honest()) as found:
        yield found


@pytest.fixture(scope="module")
def store() -> Iterator[Store]:
    with temporary_store() as found:
        yield found


@pytest.fixture
def bench(store: Store, server: Server) -> Bench:
    server.mind, server.answers, server.requests[:] = honest(), [], []
    for table in ("turns", "signals", "scores", "spans", "samples", "labels", "ledger", "erasure_keys"):
        store.command(f"TRUNCATE TABLE {table}")
    return Bench(store, server)


def test_a_verdict_is_a_signal_about_its_turn(bench: Bench) -> None:
    bench.store.write([a_turn(1)])
    assert bench.loop.round() == 1
    (found,) = bench.said()
    about = a_turn(1)
    assert (found.name, found.kind, found.source, found.value, found.weight) == (
        "evaluation",
        "explicit",
        "judge",
        0.8,
        0.2,
    )
    assert (found.turn_id, found.session_id, found.subject_hash) == (about.turn_id, "s1", "u1")
    assert (found.event_time, found.received_time) == (about.end_time, EPOCH), "nobody sent it: the ledger has no entry"
    assert found.redaction.policy_version
    told = found.attributes
    assert told["driftwheel.judge"] == f"tone:{rubric('tone').version}/m"
    assert told["annotation.identifier"] == f"driftwheel:judge:{told['driftwheel.judge']}"
    assert (told["gen_ai.evaluation.name"], told["gen_ai.evaluation.score.label"]) == ("tone", "pass")
    assert (told["turns"], told["driftwheel.judge.propensity"]) == (about.turn_id, "1")


def test_judged_once_whoever_looks(bench: Bench) -> None:
    bench.store.write([a_turn(n) for n in range(5)])
    assert bench.settle() == 5
    assert bench.settle() == 0
    bench.store.write([a_turn(3, tool_calls=2)])
    assert bench.settle() == 0, "a turn that comes again is not judged again"
    bench.loop = bench.new()
    assert bench.settle() == 0, "nor after a new start"
    assert len(bench.server.requests) == 5
    bench.loop = bench.new()
    bench.store.command("TRUNCATE TABLE signals")
    bench.settle()
    assert len({one.event_id for one in bench.said()}) == 5, "what is lost on the way is said again under the same id"
    assert len(bench.server.requests) == 5, "and costs nothing"


def test_only_those_who_agree_and_nobody_planted(bench: Bench) -> None:
    bench.store.write([a_turn(1, consent_evaluate=False), a_turn(2, tenant="driftwheel-canary"), a_turn(3)])
    bench.settle()
    assert [one.session_id for one in bench.said()] == ["s3"]
    bench.store.write([a_turn(4)])
    bench.loop = bench.new()
    bench.loop._choose()
    bench.store.write([a_turn(4, consent_evaluate=False, tool_calls=1)])
    assert bench.loop.round() == 0, "consent that was withdrawn meanwhile holds"
    assert 'driftwheel_judge_skipped_total{reason="gone"} 1.0' in bench.metrics.text()


def test_a_turn_waits_until_it_has_settled(bench: Bench) -> None:
    bench.store.write([a_turn(1)])
    bench.now = datetime.now(UTC)
    assert bench.loop.round() == 0
    bench.now += timedelta(seconds=30)
    assert bench.loop.round() == 1


def test_uncertain_turns_are_preferred_with_a_known_chance(bench: Bench) -> None:
    sure, unsure = [a_turn(n) for n in range(400)], [a_turn(n) for n in range(400, 800)]
    bench.store.write([*sure, *unsure])
    bench.store.write([
        score(turn_id=one.turn_id, trace_id=one.trace_id, event_id=f"s{one.event_id}", uncertainty=u, session_id="x",
              event_time=one.event_time)
        for some, u in ((sure, 0.0), (unsure, 1.0)) for one in some
    ])  # fmt: skip
    bench.rules = JudgingRules(share=0.05, uncertain=0.25, probe_share=0.0)
    bench.loop = bench.new()
    bench.settle()
    chosen = {one.turn_id: float(one.attributes["driftwheel.judge.propensity"]) for one in bench.said()}
    for some, share in ((sure, 0.05), (unsure, 0.3)):
        expected = {one.turn_id for one in some if chance("judge", one.turn_id) < share}
        found = {one.turn_id for one in some} & set(chosen)
        assert found == expected
        assert {chosen[one] for one in found} == {share}
        assert abs(len(found) / 400 - share) < 0.07


def test_documents_come_from_the_turns_own_retrievals(bench: Bench) -> None:
    one, bare = a_turn(1, retrievals=1, retrieval_score=0.9), a_turn(2)
    bench.store.write([one, bare])
    bench.store.write([
        span(trace_id=one.trace_id, span_id="r1", kind="retrieval", output="the vpn page", event_time=one.event_time,
             event_id="r1"),
        span(trace_id=one.trace_id, span_id="r2", kind="retrieval", output="private", event_time=one.event_time,
             event_id="r2", consent_evaluate=False),
        span(trace_id=bare.trace_id, span_id="r3", kind="retrieval", output="x", tenant="other", event_id="r3"),
    ])  # fmt: skip
    bench.names = ("factuality", "retrieval_relevance")
    bench.loop = bench.new()
    bench.settle()
    assert [s.session_id for s in bench.said()] == ["s1", "s1"], "a turn without documents cannot be judged by them"
    for request in bench.server.requests:
        text = request["messages"][-1]["content"]
        assert "the vpn page" in text
        assert "private" not in text


def test_abstentions_are_counted_and_not_asked_again(bench: Bench) -> None:
    bench.server.mind = rambling
    bench.store.write([a_turn(1), a_turn(2)])
    assert bench.settle() == 2
    assert [(one.weight, one.value, one.attributes["error.type"]) for one in bench.said()] == [
        (0.0, 0.0, "unparsable")
    ] * 2
    bench.loop = bench.new()
    assert bench.settle() == 0
    found = standings(bench.store.select, TENANT, bench.now, Floor(days=3650))
    (one,) = found.values()
    assert one.tally.abstained == (2, 2)
    assert 'result="unparsable"} 2.0' in bench.metrics.text()


def test_what_a_model_writes_is_redacted_and_nothing_is_logged(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    bench.server.mind = lambda name, material: verdict(0.0, f"the answer names {PLANTED}, card 4111 1111 1111 1111")
    bench.store.write([a_turn(1, input=f"I am {PLANTED}")])
    bench.settle()
    (found,) = bench.said()
    assert PLANTED not in found.text
    assert "4111" not in found.text
    assert "the answer names <" in found.text
    everything = json.dumps([one.model_dump_json() for one in bench.said()]) + bench.metrics.text() + caplog.text
    assert PLANTED not in everything
    assert KEY not in everything
    assert list(bench.cache.scores.values()) == [0.0]


def test_an_endpoint_that_is_away_holds_nothing_up(bench: Bench) -> None:
    bench.names = ("tone", "instruction_following")
    bench.loop = bench.new()
    bench.store.write([a_turn(1), a_turn(2)])
    bench.server.answers = [(200, {}, chat(verdict(1.0))), *[(503, {}, "")] * 3]
    with pytest.raises(Retry, match="answers 503"):
        bench.loop.round()
    assert len(bench.said()) == 1, "what was said stays said"
    bench.server.answers = [(401, {}, "")]
    with pytest.raises(Refused, match=r"judge\.key"):
        bench.loop.round()
    assert bench.loop.round() == 2
    assert len(bench.said()) == 4 == len({one.event_id for one in bench.said()})


def test_a_spent_budget_waits_and_late_turns_are_let_go(bench: Bench) -> None:
    bench.budget = Budget(2, 10**9, bench.clock)
    bench.loop = bench.new()
    bench.store.write([a_turn(n) for n in range(4)])
    with pytest.raises(Reject, match="budget is spent"):
        bench.loop.round()
    assert len(bench.said()) == 2
    assert "driftwheel_judge_waiting 2.0" in bench.metrics.text()
    bench.now += timedelta(hours=25)
    assert bench.loop.round() == 0
    assert 'skipped_total{reason="too_late"} 2.0' in bench.metrics.text()


def test_probes_are_rows_and_rates(bench: Bench) -> None:
    bench.rules = JudgingRules(share=1.0, probe_share=1.0)
    bench.loop = bench.new()
    bench.server.mind = first_wins
    bench.store.write([a_turn(n, output="restart the router and wait for the light") for n in range(25)])
    bench.settle()
    rows = bench.store.select("SELECT probe, failed, count() FROM judge_probes GROUP BY ALL ORDER BY probe").rows
    assert rows == [["position", 1, 25], ["verbosity", 0, 25]]
    assert bench.store.select("SELECT count() FROM judge_verdicts").rows == [[25]]
    (one,) = standings(bench.store.select, TENANT, bench.now, Floor(days=3650)).values()
    assert (one.tally.position, one.tally.verbosity) == ((25, 25), (0, 25))
    assert any("order of the answers in 100% of 25" in reason for reason in one.reasons)
    assert 'probes_failed_total{judge="tone:' in bench.metrics.text()
    assert all(signal.weight == 0 for signal in bench.said() if "driftwheel.judge.probe" in signal.attributes)


def test_a_probe_that_fails_to_run_costs_no_verdict(bench: Bench) -> None:
    bench.rules = JudgingRules(share=1.0, probe_share=1.0)
    bench.loop = bench.new()
    bench.store.write([a_turn(1)])
    bench.server.answers = [(200, {}, chat(verdict(1.0, "once"))), *[(503, {}, "")] * 3]
    with pytest.raises(Retry):
        bench.loop.round()
    assert bench.loop.round() == 1
    assert [one.text for one in bench.said()] == ["once"]


def test_a_rubric_that_is_new_judges_and_the_old_ones_do_not_again(bench: Bench) -> None:
    bench.store.write([a_turn(1)])
    bench.settle()
    bench.names = ("instruction_following",)
    bench.loop = bench.new()
    assert bench.settle() == 1
    bench.names = ("tone", "instruction_following")
    bench.loop = bench.new()
    assert bench.settle() == 0
    assert sorted(one.attributes["gen_ai.evaluation.name"] for one in bench.said()) == ["instruction_following", "tone"]


def people(numbers: Sequence[int], *, wrong: Sequence[int] = (), time: datetime, name: str = "tone") -> list[Signal]:
    """What people say by a rubric: even turns pass, odd ones fail, but for those they see differently."""
    return [
        signal(
            event_id=f"h{name}{n}", turn_id=a_turn(n).turn_id, name="evaluation", kind="explicit", source="human",
            weight=1.0, value=1.0 if (n % 2 == 0) != (n in wrong) else -1.0, event_time=time, received_time=time,
            attributes={"gen_ai.evaluation.name": name, "annotation.annotator_kind": "HUMAN"},
        )
        for n in numbers
    ]  # fmt: skip


def even_is_right(question: str, answer: str) -> bool:
    return int(question.split()[1]) % 2 == 0


def test_agreement_gives_the_right_and_time_takes_it(bench: Bench) -> None:
    bench.rules = JudgingRules(share=1.0, probe_share=1.0, floor=Floor(pairs=40, days=30))
    bench.loop = bench.new()
    bench.server.mind = honest(even_is_right)
    start = bench.now - timedelta(days=1)
    turns = [a_turn(n, output=f"one two three {n}", event_time=start, end_time=start) for n in range(60)]
    bench.store.write(turns)
    bench.settle()
    assert {one.weight for one in bench.said() if one.value} == {0.2}
    bench.store.write(people(range(60), wrong=[7], time=bench.now))
    (one,) = standings(bench.store.select, TENANT, bench.now, bench.rules.floor).values()
    assert one.tally.pairs == (30, 0, 1, 29)
    assert one.may_gate, one.reasons
    bench.loop = bench.new()
    bench.store.write([a_turn(100, output="x", event_time=start, end_time=start)])
    bench.loop.round()
    (last,) = [one for one in bench.said() if one.session_id == "s100" and one.value]
    assert last.weight == 0.4, "a judge that has shown its agreement counts more"
    assert 'may_gate{judge="tone:' in bench.metrics.text()
    later = standings(bench.store.select, TENANT, bench.now + timedelta(days=31), bench.rules.floor)
    (old,) = later.values()
    assert any("its agreement has expired: 60 are older" in reason for reason in old.reasons)
    assert standings(bench.store.select, "other", bench.now, Floor()) == {}


def test_labels_and_traces_count_and_judges_do_not(bench: Bench) -> None:
    bench.server.mind = honest(even_is_right)
    bench.store.write([a_turn(n) for n in range(6)])
    bench.settle()
    at = bench.now
    roots = [a_turn(n) for n in range(6)]
    by_trace = people([0], time=at)[0].model_copy(update={"turn_id": "", "trace_id": roots[0].trace_id})
    by_span = people([1], time=at)[0].model_copy(
        update={"turn_id": "", "trace_id": roots[1].trace_id, "span_id": roots[1].turn_id.partition(".")[2]}
    )
    other = people([2], time=at, name="factuality")
    machine = [one.model_copy(update={"source": "llm"}) for one in people([3], time=at)]
    forged = bench.said()[0].model_copy(update={"event_id": "forged", "turn_id": roots[5].turn_id, "received_time": at})
    torn = [
        one.model_copy(update={"event_id": f"torn{v}", "value": v}) for one in people([2], time=at) for v in (1.0, -1.0)
    ]
    samples = [sample(event_id=f"x{n}", turn_id=roots[n].turn_id) for n in (4, 5)]
    labels = [
        label(event_id="l4", sample_id="x4", value="Pass", rater="ann", rubric_version="tone:3", event_time=at),
        label(
            event_id="l5", sample_id="x5", value="fail", rater="judge:tone:1/m", rubric_version="tone", event_time=at
        ),
        label(event_id="l6", sample_id="x5", value="it_help", rater="ann", rubric_version="tone", event_time=at),
    ]
    bench.store.write([by_trace, by_span, *other, *machine, forged, *torn, *samples, *labels])
    found = bench.store.select("SELECT turn_id, judge_pass, person_pass FROM judge_pairs ORDER BY turn_id").rows
    expected = [(roots[0].turn_id, True, True), (roots[1].turn_id, False, False), (roots[4].turn_id, True, True)]
    assert found == [list(one) for one in sorted(expected)]


def test_attribution_hears_a_judge_and_none_decides_alone(bench: Bench) -> None:
    bench.server.mind = lambda name, material: verdict(0.0)
    bench.names = ("tone", "instruction_following", "safety_refusal")
    bench.loop = bench.new()
    bench.store.write([a_turn(1)])
    bench.settle()
    about = a_turn(1)
    told = score(turn_id=about.turn_id, trace_id=about.trace_id, session_id="s1", p_failure=0.5)

    def outcome(*signals: Record) -> Outcome:
        stage, state = Attribute(), MemoryState()
        stage.process([message(told), *map(message, signals)], state)
        return [one for one in stage.expire(state, START + timedelta(days=2)) if isinstance(one, Outcome)][-1]

    alone, heard = outcome(), outcome(*bench.said())
    assert (alone.p_failure, heard.verdict) == (0.5, "unknown"), "without agreement all judges together decide nothing"
    assert 0.5 < heard.p_failure < 0.7
    assert len(heard.evidence) == 3, "each rubric is heard"
    proven = [one.model_copy(update={"weight": 0.4}) for one in bench.said()]
    assert outcome(*proven).verdict == "failure"


def test_erased_people_are_not_judged(bench: Bench) -> None:
    bench.store.write([a_turn(1), a_turn(2)])
    bench.settle()
    erasure = bench.store.erasure(TENANT, "u1", "e1")
    erasure.note_keys()
    erasure.erase()
    left = bench.store.select("SELECT turn_id FROM judge_verdicts").rows
    assert left == [[a_turn(2).turn_id]]


def test_it_is_opened_as_configured_and_remembers_what_was_spent(bench: Bench, tmp_path: Path) -> None:
    given = {"url": bench.server.url, "model": "m", "key": KEY, "rubrics": ["tone"], "share": 1.0, "probe_share": 0.0}
    config = Config(judge=JudgeConfig.model_validate({**given, "calls_per_hour": 2}))
    bench.store.write([a_turn(n) for n in range(3)])

    def opened(chosen: Config) -> AbstractContextManager[Judging]:
        return open_judging(
            chosen, b"key", tmp_path / "judge", bench.store, bench.log, bench.metrics.judges, bench.clock
        )

    with opened(config) as loop, pytest.raises(Reject):
        loop.round()
    bench.store.write(bench.said())
    with opened(config) as loop, pytest.raises(Reject):
        loop.round()
    assert len(bench.said()) == len(bench.server.requests) == 2
    assert bench.server.keys[-1] == f"Bearer {KEY}"
    with opened(Config()) as nobody:
        assert nobody.round() == 0, "without an address nothing is judged"


def test_the_thread_says_what_keeps_it(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    from tests.driftwheel.engine_kit import until

    bench.server.answers = [(401, {}, "")]
    bench.store.write([a_turn(1)])
    with bench.loop.running():
        until(lambda: bool(bench.loop.problems()))
    assert "judging waits: the judge's endpoint 127.0.0.1 answers 401" in bench.loop.problems()[0]
    assert sum("judging waits" in record.message for record in caplog.records) == 1
    bench.names = ()
    with bench.new().running():
        pass
