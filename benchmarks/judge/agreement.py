"""Does the machinery of agreement hold on real people, and does its interval hold what it promises.

``python benchmarks/judge/agreement.py [--seed N]``. No language model takes part: raters of ConvAbuse stand for judge
and person. Their severity is made pass (1, none) and fail (-1 to -3, abuse of some degree); ambiguous and list-valued
labels, and later labels of the same annotator, are left out.

1. Every pair of raters with at least 50 items in common: kappa with interval, ours beside scikit-learn's value.
2. Coverage on real people: for the pair with most items in common, 60 of its items are drawn again and again; how often
   does the interval hold the kappa of all of them. Beside it the plain interval of Fleiss, Cohen and Everitt.
3. Coverage by simulation, over kappa and shares of passes: the worst that was found.
4. A judge that gets worse: how many labels does it take until the right to gate is gone.
"""

from __future__ import annotations

import argparse
import gzip
import itertools
import json
import math
import random
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent.parent))

from sklearn.metrics import cohen_kappa_score

from processors.agreement import Kappa, Pairs, Rate, Tally, _estimate, kappa, pairs_of, standing

DATA = Path(__file__).parent.parent.parent.parent / "shared" / "data" / "annotators_convabuse" / "convabuse.jsonl.gz"
DRAWN, TIMES = 60, 4_000
Two = list[tuple[bool, bool]]


def raters() -> dict[str, dict[str, bool]]:
    """By annotator, by item: whether it is no abuse."""
    found: dict[str, dict[str, bool]] = {}
    with gzip.open(DATA, "rt", encoding="utf-8") as file:
        for line in file:
            row = json.loads(line)
            for label in row["labels"]:
                severity = label["severity"]
                if isinstance(severity, int) and severity != 0:
                    found.setdefault(label["annotator"], {}).setdefault(row["item_id"], severity > 0)
    return found


def plain(pairs: Pairs) -> Kappa:
    """The interval as published, without anything added."""
    value, variance = _estimate(pairs)
    width = 1.959964 * math.sqrt(variance)
    return Kappa(value, value - width, value + width)


def coverage(
    draw: Callable[[], Pairs], truth: float, interval: Callable[[Pairs], Kappa], times: int
) -> tuple[float, float]:
    """How often the truth is inside, and how often it is below the lower end."""
    found = [interval(draw()) for _ in range(times)]
    inside = sum(one.low <= truth <= one.high for one in found)
    return inside / times, sum(one.low > truth for one in found) / times


def shown(two: tuple[float, float]) -> str:
    return f"holds {two[0]:.1%}, too high {two[1]:.1%}"


def real(rng: random.Random) -> None:
    by_rater = raters()
    common: list[tuple[int, str, str, Two]] = []
    for one, two in itertools.combinations(sorted(by_rater), 2):
        both = sorted(by_rater[one].keys() & by_rater[two].keys())
        common.append((len(both), one, two, [(by_rater[one][item], by_rater[two][item]) for item in both]))
    print("raters          items  kappa  interval        scikit-learn")
    for count, one, two, verdicts in sorted(common, reverse=True):
        if count < 50:
            continue
        found = kappa(pairs_of(verdicts))
        other = cohen_kappa_score(*zip(*verdicts, strict=True))
        assert abs(other - found.value) < 1e-4
        names = f"{one[9:]:>3} and {two[9:]:>3}"
        print(f"{names} {count:11} {found.value:6.3f}  {found.low:.3f} to {found.high:.3f}  {other:.4f}")
    count, one, two, most = max(common)
    truth = kappa(pairs_of(most)).value
    for name, interval in (("ours", kappa), ("plain", plain)):
        drawn = coverage(lambda: pairs_of(rng.choices(most, k=DRAWN)), truth, interval, TIMES)
        print(f"{DRAWN} of the {count} items of {one} and {two} (kappa {truth:.3f}), {name}: {shown(drawn)}")


def cells(truth: float, judge: float, person: float) -> list[float] | None:
    """The joint chances of two verdicts with this kappa and these shares of passes; None when there are none."""
    by_chance = judge * person + (1 - judge) * (1 - person)
    agreed = truth * (1 - by_chance) + by_chance
    both = (agreed - (1 - judge - person)) / 2
    found = [both, judge - both, person - both, 1 - judge - person + both]
    return found if min(found) >= 0 else None


def simulated(rng: random.Random) -> None:
    worst: dict[str, list[tuple[float, float, str]]] = {"ours": [], "plain": []}
    shares = ((0.5, 0.5), (0.8, 0.8), (0.9, 0.9), (0.7, 0.85))
    for truth, (judge, person), n in itertools.product((0.2, 0.4, 0.6, 0.8), shares, (50, 100, 300)):
        chances = cells(truth, judge, person)
        if chances is None:
            continue

        def draw(chances: Sequence[float] = chances, n: int = n) -> Pairs:
            drawn = rng.choices(range(4), chances, k=n)
            return Pairs(*(drawn.count(cell) for cell in range(4)))

        for name, interval in (("ours", kappa), ("plain", plain)):
            inside, above = coverage(draw, truth, interval, TIMES // 4)
            worst[name].append((inside, above, f"kappa {truth}, passes {judge} and {person}, {n} turns"))
    for name, found in worst.items():
        least, most = min(found), max(found, key=lambda one: one[1])
        print(f"{name}: {len(found)} settings, holds {least[0]:.1%} at worst ({least[2]})")
        print(f"{name}: too high {most[1]:.1%} at most ({most[2]})")


def worse(rng: random.Random) -> None:
    """A judge that agrees in 95 % of a sliding window of 100 labels and then throws coins, or is 20 points worse."""
    for name, later in (("a coin", 0.5), ("right in 75 %", 0.75), ("right in 95 % (control)", 0.95)):
        lost: list[int] = []
        for _ in range(100):
            said: Two = []
            for number in range(500):
                person = rng.random() < 0.5
                said.append((person == (rng.random() < (0.95 if number < 100 else later)), person))
                if number < 100:
                    continue
                told = Tally("j", pairs_of(said[-100:]), 0, Rate(0, 100), Rate(0, 40), Rate(0, 40))
                if not standing(told).may_gate:
                    lost.append(number - 99)
                    break
        half = f"half of them after {sorted(lost)[len(lost) // 2]} labels, all after {max(lost)}" if lost else "none"
        print(f"a judge that becomes {name}: {len(lost)} of 100 lose the right within 400 labels; {half}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=11)
    rng = random.Random(parser.parse_args().seed)
    real(rng)
    simulated(rng)
    worse(rng)


if __name__ == "__main__":
    main()
