"""Inverse propensity from an audit: the odds of being rated are found, also while the rate of failures moves."""

from __future__ import annotations

import json
import random

import pytest

from processors.auditing import Audit, AuditRules

RULES = AuditRules()


def audited(seed: int, days: int, rate: list[float], ratio: float = 4.0, share: float = 0.02) -> Audit:
    """An audit after so many days of 2,000 turns; failures are rated ``ratio`` times as often as successes."""
    chance, audit = random.Random(seed), Audit()
    for day in range(days):
        for _ in range(2_000):
            failed = chance.random() < rate[day * len(rate) // days]
            if chance.random() < (0.02 * ratio if failed else 0.02):
                audit.rated(day, failed, RULES)
            if chance.random() < share:
                audit.judged(day, failed, share, RULES, by_lot=True)
    return audit


@pytest.mark.parametrize("ratio", [1.0, 4.0])
def test_the_odds_of_being_rated_are_found(ratio: float) -> None:
    assert audited(1, 20, [0.15], ratio).ratio() == pytest.approx(ratio, rel=0.35)


def test_they_are_compared_within_days_since_the_rate_of_failures_moves() -> None:
    """The control adds up over all days; here half of the audit's days had no ratings, and a third of the failures."""
    chance, audit = random.Random(2), Audit()
    for day in range(20):
        rate = 0.1 if day < 10 else 0.3
        for _ in range(4_000):
            failed = chance.random() < rate
            if chance.random() < 0.02:
                audit.judged(day, failed, 0.02, RULES, by_lot=True)
            if day >= 10 and chance.random() < (0.08 if failed else 0.02):
                audit.rated(day, failed, RULES)
    well, bad, rated_well, rated_bad = (sum(one[place] for one in audit.days.values()) for place in range(4))
    assert audit.ratio() == pytest.approx(4.0, rel=0.3)
    assert rated_bad * well / (rated_well * bad) > 6.0


def test_ratings_count_one_on_average_and_failures_less() -> None:
    audit = audited(3, 10, [0.15])
    bad, well = audit.rated(9, True, RULES), audit.rated(9, False, RULES)
    assert well / bad == pytest.approx(audit.ratio(), rel=0.01)
    counts = [sum(one[place] for one in audit.days.values()) for place in (2, 3)]
    assert (counts[0] * well + counts[1] * bad) / sum(counts) == pytest.approx(1.0, abs=0.01)


def test_until_the_audit_has_told_enough_ratings_count_little_and_alike() -> None:
    audit = Audit()
    assert {audit.rated(1, failed, RULES) for failed in (True, False)} == {RULES.unsure}
    for place in range(RULES.needed):
        audit.judged(1, place < 4, 0.02, RULES, by_lot=True)
    assert not audit.believed(RULES), "four failures are too few"
    audit.judged(1, True, 0.02, RULES, by_lot=True)
    assert audit.believed(RULES)


def test_samples_that_were_not_drawn_by_lot_are_no_audit_and_count_by_their_chance() -> None:
    audit = Audit()
    for _ in range(100):
        rare = audit.judged(1, False, 0.01, RULES, by_lot=True)
        often = audit.judged(1, True, 0.1, RULES, by_lot=False)
    assert audit.audited == (100, 0)
    assert rare / often == pytest.approx(10.0, rel=0.05)
    assert rare <= RULES.cap


def test_state_is_bounded_json_and_goes_on_bit_for_bit() -> None:
    audit = audited(4, 100, [0.2])
    assert len(audit.days) == RULES.days
    again = Audit.load(json.loads(json.dumps(audit.dump())))
    for one in (audit, again):
        one.rated(99, True, RULES)
        one.judged(99, True, 0.3, RULES, by_lot=True)
    assert json.dumps(again.dump()) == json.dumps(audit.dump())
    with pytest.raises(ValueError, match="version 9"):
        Audit.load({"v": 9})
