"""Private counts: the noise is as large as it says, one person hardly shows, and the controls do."""

from __future__ import annotations

import math
from collections import Counter

import pytest

from driftwheel.private_counts import Counted, Privacy, private_counts, threshold, with_threshold
from schemas.errors import UsageError

DRAWS = 6000


def draws(items: int, marked: int, privacy: Privacy) -> list[Counted]:
    """Independent results for one group with these true counts."""
    found = private_counts({f"group {n}": (items, marked) for n in range(DRAWS)}, privacy)
    return list(found.values())


@pytest.mark.parametrize("epsilon", [0.1, 1.0, 20.0])
def test_the_noise_is_as_large_as_it_says(epsilon: float) -> None:
    privacy = Privacy(epsilon, 1e-3, 2)
    found = draws(1_000_000, 500_000, privacy)
    assert len(found) == DRAWS
    for values in ([one.items - 1_000_000 for one in found], [one.marked - 500_000 for one in found]):
        a = math.exp(-1 / privacy.scale)
        expected = 2 * a / (1 - a * a)  # of |X| for discrete Laplace noise of this scale
        spread = sum(abs(value) for value in values) / DRAWS
        error = math.sqrt(2 * privacy.scale**2) / math.sqrt(DRAWS)
        assert abs(spread - expected) < 5 * error, (spread, expected)
        assert abs(sum(values) / DRAWS) < 5 * error, "it leans to no side"


def most(first: list[int], second: list[int], bins: int) -> float:
    """The largest ratio between the odds of falling into a bin that both fall into often."""
    low, high = sorted([*first, *second])[len(first) // 50], sorted([*first, *second])[-len(first) // 50]
    width = max(1, (high - low) // bins)
    one, two = (Counter((value - low) // width for value in values) for values in (first, second))
    both = [place for place in one if one[place] > DRAWS / 40 and two[place] > DRAWS / 40]
    assert len(both) > 3
    return max(max(one[place] / two[place], two[place] / one[place]) for place in both)


def test_one_person_changes_the_odds_by_no_more_than_was_promised() -> None:
    privacy = Privacy(2.0, 1e-3, 3)
    without = [one.items for one in draws(1_000, 400, privacy)]
    bound = math.exp(privacy.epsilon / 2)  # the items' share
    sampling = 1 + 5 * math.sqrt(2 / (DRAWS / 40))
    beside = most(without, [one.items for one in draws(1_000 + privacy.bound, 400, privacy)], 12)
    assert beside < bound * sampling
    assert beside > 1.5, "and it does change them: the measure can tell"
    marked = most(
        [one.marked for one in draws(100_000, 400, privacy)],
        [one.marked for one in draws(100_000, 400 + privacy.bound, privacy)],
        12,
    )
    assert marked < bound * sampling


def test_a_person_who_is_not_bounded_shows() -> None:
    """The control: whoever counts four times as often as was bounded breaks the promise, and the measure sees it."""
    privacy = Privacy(2.0, 1e-3, 3)
    without = [one.items for one in draws(1_000, 400, privacy)]
    more = [one.items for one in draws(1_000 + 4 * privacy.bound, 400, privacy)]
    low = sorted(without)[DRAWS // 2]
    share = [sum(value > low + 4 * privacy.bound for value in values) / DRAWS for values in (more, without)]
    assert share[0] / share[1] > 2 * math.exp(privacy.epsilon / 2)


@pytest.mark.parametrize(("epsilon", "bound"), [(2.0, 1), (1.0, 3), (50.0, 1)])
def test_a_group_of_one_person_is_seen_with_the_odds_of_delta(epsilon: float, bound: int) -> None:
    privacy, many = Privacy(epsilon, 5e-3, bound), 10 * DRAWS
    shown = private_counts({f"group {n}": (bound, 1) for n in range(many)}, privacy)
    assert len(shown) / many <= privacy.delta / bound + 5 * math.sqrt(privacy.delta / many)
    far = threshold(privacy) + math.ceil(40 * privacy.scale)  # noise takes as much away once in 10^17 draws
    assert len(draws(far, 1, privacy)) == DRAWS, "large ones are all there"


def test_opendp_shows_what_equals_its_threshold() -> None:
    """Why one is added. When this fails, OpenDP has mended it, and the one can go."""
    privacy, many = Privacy(2.0, 5e-3, 1), 10 * DRAWS
    told = with_threshold(privacy, threshold(privacy) - 1)
    assert told.map((1, 1, 1))[1] <= privacy.delta
    assert len(told({f"group {n}": 1 for n in range(many)})) / many > 2 * privacy.delta


def test_less_delta_or_epsilon_takes_more_people() -> None:
    assert threshold(Privacy(1, 1e-6, 3)) > threshold(Privacy(1, 1e-4, 3)) > threshold(Privacy(5, 1e-4, 3))
    assert threshold(Privacy(1, 1e-6, 6)) > threshold(Privacy(1, 1e-6, 3))


def test_numbers_stay_within_reason() -> None:
    privacy = Privacy(0.5, 1e-3, 3)
    for one in draws(2 * threshold(privacy), 0, privacy):
        assert 0 <= one.marked <= one.items
        assert one.items >= threshold(privacy)
    assert private_counts({}, privacy) == {}
    assert private_counts({"rare": (1, 1)}, Privacy(50, 1e-9, 1)) == {}


@pytest.mark.parametrize(
    ("values", "problem"),
    [((0, 1e-6, 1), "--epsilon"), ((math.inf, 1e-6, 1), "--epsilon"), ((1, 0.5, 1), "--delta"), ((1, 0, 1), "--delta"),
     ((1, 1e-6, 0), "--max-turns")],
)  # fmt: skip
def test_what_cannot_be_asked(values: tuple[float, float, int], problem: str) -> None:
    with pytest.raises(UsageError, match=problem):
        Privacy(*values)
