from __future__ import annotations

import math
import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import cohen_kappa_score

from processors.agreement import Floor, Kappa, Pairs, Rate, Tally, kappa, pairs_of, standing

GOOD = Tally("j", Pairs(60, 3, 4, 40), 0, Rate(1, 200), Rate(1, 40), Rate(0, 40))


def test_by_hand() -> None:
    # 20 both pass, 5 + 10 apart, 15 both fail: observed 35/50 = 0.7; chance (25*30 + 25*20)/2500 = 0.5; 0.2/0.5 = 0.4.
    assert kappa(Pairs(20, 5, 10, 15)).value == 0.4
    # Fleiss, Cohen and Everitt's variance of the table with one added to each cell (21, 6, 11, 16; n = 54):
    # p = .38889 .11111 .20370 .29630; judge passes .5, person .59259; chance .5; kappa .37037.
    agreed = 0.388889 * (1 - 1.092593 * 0.62963) ** 2 + 0.296296 * (1 - 0.907407 * 0.62963) ** 2
    apart = 0.62963**2 * (0.111111 * (0.592593 + 0.5) ** 2 + 0.203704 * (0.407407 + 0.5) ** 2)
    variance = (agreed + apart - (0.37037 - 0.5 * 0.62963) ** 2) / (54 * 0.25)
    width = 1.959964 * math.sqrt(variance)
    assert kappa(Pairs(20, 5, 10, 15))[1:] == pytest.approx((0.37037 - width, 0.37037 + width), abs=2e-4)


def test_nothing_known_and_nothing_but_one_word() -> None:
    assert kappa(Pairs()).value == 0.0
    assert kappa(Pairs()).low < -0.9
    assert kappa(Pairs(80, 0, 0, 0)).value == 0.0, "who always says pass agrees by chance"
    assert kappa(Pairs(80, 0, 0, 0)).low < 0
    assert kappa(Pairs(25, 0, 0, 25)).value == 1.0
    assert 0.7 < kappa(Pairs(25, 0, 0, 25)).low < 1.0, "full agreement on few turns is not certain"


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=2, max_size=60))
def test_the_value_is_scikit_learns(verdicts: list[tuple[bool, bool]]) -> None:
    one, two = zip(*verdicts, strict=True)
    found = kappa(pairs_of(verdicts))
    if len({*one, *two}) == 1:
        assert found.value == 0.0
    else:
        assert found.value == pytest.approx(cohen_kappa_score(one, two), abs=1e-4)
    assert -1 <= found.low <= found.high <= 1
    turned = kappa(pairs_of([(not a, not b) for a, b in verdicts]))
    assert turned == pytest.approx(found, abs=1e-9), "which word is called pass does not matter"


@pytest.mark.parametrize(("truth", "passes"), [(0.4, 0.5), (0.6, 0.2), (0.8, 0.5)])
def test_the_interval_holds_what_it_promises(truth: float, passes: float) -> None:
    """Simulated: how often the truth lies below the interval's lower end, on which the right to gate rests."""
    draw = random.Random(7)
    chance = passes**2 + (1 - passes) ** 2
    agreed = truth * (1 - chance) + chance
    apart = (1 - agreed) / 2
    cells = [passes - apart, apart, apart, 1 - passes - apart]
    inside = above = 0
    for _ in range(1500):
        drawn = draw.choices(range(4), cells, k=60)
        found = kappa(Pairs(*(drawn.count(cell) for cell in range(4))))
        inside += found.low <= truth <= found.high
        above += found.low > truth
    assert inside / 1500 > 0.93
    assert above / 1500 < 0.035


def test_a_good_judge_may_gate() -> None:
    found = standing(GOOD)
    assert found.may_gate
    assert found.reasons == ()
    assert found.kappa.low > 0.7


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"pairs": Pairs(20, 0, 0, 20)}, "40 turns were judged by people too in the last 30 days; 50 are needed"),
        (
            {"pairs": Pairs(20, 0, 0, 20), "expired": 70},
            "its agreement has expired: 70 are older); 50 are needed",
        ),
        ({"pairs": Pairs(40, 15, 15, 30)}, "is not shown to reach 0.4: kappa 0.39 ("),
        ({"pairs": Pairs(100, 0, 0, 0)}, "kappa 0.00"),
        ({"abstained": Rate(30, 100)}, "it abstained from 30% of what it was asked; at most 20% passes"),
        ({"position": Rate(10, 40)}, "changed its mind with the order of the answers in 25% of 40 probes"),
        ({"verbosity": Rate(6, 40)}, "preferred the same answer with padding in 15% of 40 probes"),
        ({"verbosity": Rate(0, 5)}, "5 verbosity probes in the last 30 days; 20 are needed"),
        ({"position": Rate()}, "0 position probes"),
    ],
)
def test_what_costs_the_right(changed: dict[str, object], reason: str) -> None:
    found = standing(replace(GOOD, **changed))  # type: ignore[arg-type]
    assert not found.may_gate
    assert any(reason in one for one in found.reasons), found.reasons
    assert len(found.reasons) == 1


def test_an_unknown_judge_has_no_right_and_a_floor_is_as_set() -> None:
    assert len(standing(Tally("j")).reasons) == 3
    assert not standing(GOOD, Floor(kappa=0.9)).may_gate
    assert standing(Tally("j", Pairs(3, 0, 0, 3)), Floor(kappa=0, pairs=5, probes=0)).may_gate


def test_a_judge_that_gets_worse_loses_its_right() -> None:
    """From one label to the next: agreement of 95 % becomes that of a coin."""
    draw, verdicts = random.Random(3), []
    for _ in range(100):
        person = draw.random() < 0.5
        verdicts.append((person == (draw.random() < 0.95), person))
    assert standing(replace(GOOD, pairs=pairs_of(verdicts))).may_gate
    lost = 0
    while standing(replace(GOOD, pairs=pairs_of(verdicts[-100:]))).may_gate:
        verdicts.append((draw.random() < 0.5, draw.random() < 0.5))
        lost += 1
    assert lost < 70


def test_kappa_is_a_plain_tuple() -> None:
    assert Kappa(0.5, 0.4, 0.6) == (0.5, 0.4, 0.6)
