"""Samples: who is chosen, with what chance, within what budget."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from processors.curate import Curate, CurateSettings
from processors.features import features_of
from processors.state import MemoryState
from schemas.events import Alarm, Record, Sample
from schemas.topics import BY_RECORD
from tests.world import AGENT, START, TENANT, message, outcome, turn

WORDS = [f"{a}{b}{c}" for a in "bdfgklmnprst" for b in "aeiou" for c in ("lun", "mir", "tak", "vos", "zed")]


def alarm(version: str = "v1") -> Alarm:
    return Alarm(
        event_id=f"alarm-{version}", tenant=TENANT, agent=AGENT, event_time=START,
        cohort=f"{TENANT}/{AGENT}/{version}/*",
        model_version=version, category="*", detector="d", signal="s", level="alarm", statistic=9.0, threshold=8.6,
        baseline=0.1, current=0.4, sessions=500,
    )  # fmt: skip


class Bench:
    def __init__(self, **settings: Any) -> None:
        self.stage, self.store = Curate(CurateSettings(**({"focus_turns": 100_000} | settings))), MemoryState()
        self.offset, self.chance = 0, random.Random(7)

    def send(self, *records: Record) -> list[Sample]:
        batch = [message(one, self.offset + n) for n, one in enumerate(records)]
        assert all(type(one) in BY_RECORD for one in records)
        self.offset += len(records)
        return [one for one in self.stage.process(batch, self.store) if isinstance(one, Sample)]

    def text(self) -> str:
        return " ".join(self.chance.sample(WORDS, 6))

    def visits(
        self, count: int, start: int = 0, each: Callable[[int], dict[str, Any]] | None = None, **given: Any
    ) -> list[Sample]:
        """So many turns with their outcomes, of ever new texts; ``given`` and ``each`` override the outcome."""
        pairs: list[Record] = []
        for number in range(start, start + count):
            name, body = f"t{number}.r", given | (each(number) if each else {})
            pairs.append(turn(turn_id=name, input=body.pop("text", None) or self.text()))
            pairs.append(outcome(turn_id=name, **body))
        return self.send(*pairs)


def test_before_an_alarm_little_is_spent() -> None:
    found = Bench().visits(3_000, verdict="failure")
    assert 60 <= len(found) <= 90, "15% of 600 at most"


def test_after_an_alarm_about_every_second_failure_is_taken() -> None:
    bench = Bench()
    bench.send(alarm())
    found = bench.visits(400, verdict="failure")
    assert 160 <= len(found) <= 240
    reasons = Counter(one.reason for one in found)
    assert reasons["failed"] > 5 * reasons["random"] > 0


def test_an_alarm_that_does_not_come_again_is_forgotten() -> None:
    bench = Bench(focus_turns=100, budget=10_000)
    bench.send(alarm())
    first, later = (len(bench.visits(100, verdict="failure")) for _ in range(2))
    assert first > 2 * later
    bench.send(alarm())
    assert len(bench.visits(100, verdict="failure")) > 2 * later


def test_an_alarm_on_another_version_changes_nothing() -> None:
    bench = Bench()
    bench.send(alarm("v0"))
    assert len(bench.visits(400, verdict="failure")) < 80


def test_the_budget_is_never_exceeded_until_the_next_period() -> None:
    bench = Bench(budget=50)
    bench.send(alarm())
    assert len(bench.visits(400, verdict="failure")) == 50
    assert bench.visits(100, 1_000, verdict="failure") == []
    later = START + timedelta(days=31)
    assert len(bench.visits(100, 2_000, verdict="failure", event_time=later)) > 20


def test_a_clock_years_ahead_does_not_end_the_budget_for_ever() -> None:
    bench = Bench(budget=20)
    bench.send(alarm())
    bench.visits(1, verdict="failure", event_time=START + timedelta(days=9_999))
    assert len(bench.visits(200, 1_000, verdict="failure")) == 20


def test_successes_are_only_audited_at_their_known_rate() -> None:
    bench = Bench(unsure_share=0.0, budget=10_000)
    bench.send(alarm())
    found = bench.visits(4_000, verdict="success")
    assert {(one.reason, one.propensity) for one in found} == {("random", 0.05)}
    assert 150 <= len(found) <= 250


def test_weighted_by_propensity_the_sample_tells_the_true_share() -> None:
    """A third of all turns fail; the raw sample overstates it, the weighted one does not."""
    bench = Bench(budget=10_000)
    bench.send(alarm())
    found = bench.visits(4_500, each=lambda n: {"verdict": "success" if n % 3 else "failure"})
    wrong = [one.verdict == "failure" for one in found]
    weights = [1 / one.propensity for one in found]
    weighted = sum(w for w, bad in zip(weights, wrong, strict=True) if bad) / sum(weights)
    assert sum(wrong) / len(wrong) > 0.6
    assert weighted == pytest.approx(1 / 3, abs=0.06)


def test_the_most_uncertain_turns_are_wanted() -> None:
    bench = Bench(budget=10_000)
    bench.send(alarm())
    doubts = [bench.chance.random() for _ in range(2_000)]
    found = bench.visits(2_000, each=lambda n: {"uncertainty": doubts[n]})
    unsure = [one for one in found if one.reason == "uncertain"]
    assert 120 <= len(unsure) <= 260
    assert sum(one.uncertainty > 0.7 for one in unsure) > 0.9 * len(unsure)


def test_equal_uncertainty_makes_nobody_unsure() -> None:
    bench = Bench()
    bench.send(alarm())
    assert all(one.reason == "random" for one in bench.visits(500, uncertainty=0.12))


def test_a_correction_is_its_own_reason() -> None:
    bench = Bench()
    bench.send(alarm())
    found = bench.visits(40, verdict="failure", expected="hr")
    assert {one.reason for one in found} <= {"correction", "random"}
    assert any(one.reason == "correction" for one in found)


def test_near_duplicates_are_passed_over() -> None:
    bench = Bench()
    bench.send(alarm())
    assert len(bench.visits(200, verdict="failure", text="reset the password of my mailbox")) == 2


def test_no_class_takes_all() -> None:
    bench = Bench(budget=10_000)
    bench.send(alarm())
    rare = ("hr", "legal", "travel")
    found = bench.visits(1_500, verdict="failure", each=lambda n: {"category": "it" if n % 10 else rare[n // 10 % 3]})
    focused = Counter(one.category for one in found if one.reason == "failed")
    assert focused["it"] <= 0.55 * sum(focused.values())


def test_a_single_class_is_not_starved() -> None:
    bench = Bench()
    bench.send(alarm())
    assert len(bench.visits(200, verdict="failure", category="it")) > 70


@pytest.mark.parametrize("given", [{"consent_train": False}, {"input": "  "}, {"input": "thanks, that is all"}])
def test_no_consent_or_no_text_no_sample(given: dict[str, Any]) -> None:
    bench = Bench(focus=1.0)
    bench.send(alarm())
    kept = turn(**given)
    assert bench.send(kept, outcome(turn_id=kept.turn_id, verdict="failure")) == []
    (state,) = [state for _, state in bench.store]
    assert state.data["turns"] == {}


def test_a_sample_has_the_consents_of_its_turn() -> None:
    bench = Bench(focus=1.0)
    bench.send(alarm())
    kept = turn(consent_evaluate=False)
    (chosen,) = bench.send(kept, outcome(turn_id=kept.turn_id, verdict="failure"))
    assert isinstance(chosen, Sample)
    assert (chosen.consent_train, chosen.consent_evaluate) == (True, False)


def test_an_outcome_may_come_before_its_turn() -> None:
    bench = Bench(focus=1.0)
    bench.send(alarm())
    assert bench.send(outcome(verdict="failure")) == []
    assert len(bench.send(turn())) == 1


def test_a_revision_asks_again_but_never_twice() -> None:
    bench = Bench(focus=1.0, random_share=0.0)
    bench.send(alarm(), turn())
    assert bench.send(outcome(verdict="success")) == []
    (found,) = bench.send(outcome(verdict="failure", revision=1))
    assert (found.reason, found.verdict, found.propensity) == ("failed", "failure", 1.0)
    assert bench.send(outcome(verdict="failure", revision=2)) == []


def test_a_sample_carries_what_a_reviewer_and_a_trainer_need() -> None:
    bench = Bench(focus=1.0, random_share=0.0)
    bench.send(alarm(), turn(subject_hash="h", input="reset my vpn", output="hr"))
    (found,) = bench.send(outcome(verdict="failure", cause="routing", uncertainty=0.4, category="hr"))
    assert (found.input, found.output, found.category, found.model_version) == ("reset my vpn", "hr", "hr", "v1")
    assert (found.cause, found.uncertainty, found.subject_hash, found.turn_id) == ("routing", 0.4, "h", "t1.r1")
    assert found.redaction == turn().redaction


def test_state_stays_bounded() -> None:
    bench = Bench(recent=50)
    for start in range(0, 500, 100):
        bench.visits(100, start)
        bench.send(*[outcome(turn_id=f"lost{start + n}") for n in range(100)])
    (state,) = [state for _, state in bench.store]
    assert max(len(state.data[name]) for name in ("turns", "early", "doubts")) <= 50
    assert len(state.data["prints"]) <= 200


def test_a_turn_that_judges_disagree_on_is_an_uncertain_one() -> None:
    agree, differ = Bench(watch=1.0, random_share=0.0), Bench(watch=1.0, random_share=0.0)
    assert agree.visits(40, uncertainty=0.1, features={"judge_spread": 0.4}) == []
    found = differ.visits(40, uncertainty=0.1, features={"judge_spread": 0.5})
    assert {one.reason for one in found} == {"uncertain"}


def test_a_sample_carries_what_its_score_saw_and_which_signals_there_were() -> None:
    (found,) = Bench(watch=1.0).visits(1, verdict="failure", evidence=["rule:x", "signal:rephrase:e1"])
    assert found.features == features_of(turn(input=found.input, output=found.output))
    assert found.signals == ["rephrase"]
