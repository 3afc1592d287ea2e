"""How often attribution names the cause of an injected fault: ``python benchmarks/attribution/measure.py [--each N]``.

Cross-validated by form: a form is either trained on or tested on, so what counts is a way of failing that the model has
never seen. Beside it the rules alone, and a control with shuffled labels, which has to fail. The last table is of forms
that were written after rules and model were done (``held_out.py``), by the model that is shipped.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent.parent))

import numpy as np
from rich.console import Console

from benchmarks.attribution.faults import FORMS
from benchmarks.attribution.held_out import HELD_OUT
from benchmarks.attribution.train import Floats, Row, chances, left_out, rows_of, temperature_of
from processors.cause_model import ABSTAIN, LOW, default
from processors.causes import CAUSES, first, rules
from schemas.events import Cause

UNKNOWN = "unknown"


def by_rules(rows: Sequence[Row]) -> list[str]:
    """What the rules say alone: the first that decides."""
    found = [first(rules(one.case, LOW)) for one in rows]
    return [one.cause if one else UNKNOWN for one in found]


def told(p: Floats, under: float = 0.0) -> list[str]:
    """The likeliest cause of each row, ``unknown`` where it is less likely than ``under``."""
    return [CAUSES[int(line.argmax())] if line.max() >= under else UNKNOWN for line in p]


def macro_f1(truth: Sequence[str], said: Sequence[str]) -> float:
    """The mean over causes of F1; ``unknown`` finds nothing and is never right."""
    scores: list[float] = []
    for cause in CAUSES:
        hit = sum(t == s == cause for t, s in zip(truth, said, strict=True))
        of = sum(t == cause for t in truth) + sum(s == cause for s in said)
        scores.append(2.0 * hit / of if of else 0.0)
    return float(np.mean(scores))


def calibration(truth: Sequence[str], p: Floats, bins: int = 10) -> float:
    """The expected calibration error of the likeliest cause."""
    sure, right = p.max(axis=1), np.array([t == s for t, s in zip(truth, told(p), strict=True)])
    place = np.minimum((sure * bins).astype(int), bins - 1)
    gaps = [abs(sure[place == b].mean() - right[place == b].mean()) * (place == b).mean() for b in set(place.tolist())]
    return float(sum(gaps))


def confusion(truth: Sequence[str], said: Sequence[str]) -> str:
    """A table: a line for each true cause, a column for each that was told."""
    names = [*CAUSES, UNKNOWN]
    lines = [f"| cause | {' | '.join(names)} |", f"|---|{'---:|' * len(names)}"]
    for cause in CAUSES:
        counts = [sum(t == cause and s == name for t, s in zip(truth, said, strict=True)) for name in names]
        lines.append(f"| {cause} | {' | '.join(map(str, counts))} |")
    return "\n".join(lines)


def report(console: Console, title: str, truth: Sequence[str], p: Floats, rules_say: Sequence[str]) -> None:
    """The numbers of one set."""
    careful = told(p, ABSTAIN)
    sure = [(t, s) for t, s in zip(truth, careful, strict=True) if s != UNKNOWN]
    right = sum(t == s for t, s in sure) / max(len(sure), 1)
    console.print(f"{title}: {len(truth)} stories", highlight=False)
    console.print(f"  macro-F1 {macro_f1(truth, told(p)):.3f}, rules alone {macro_f1(truth, rules_say):.3f}")
    console.print(
        f"  abstaining under {ABSTAIN}: macro-F1 {macro_f1(truth, careful):.3f}, tells {len(sure) / len(truth):.3f},"
    )
    console.print(f"  of those right {right:.3f}; calibration error {calibration(truth, p):.3f}")
    console.print(confusion(truth, careful), highlight=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--each", type=int, default=20)
    parser.add_argument("--seed", type=int, default=2026)
    options = parser.parse_args()
    console = Console(width=120)
    rows = rows_of(FORMS, options.each, options.seed)
    truth: list[Cause] = [one.cause for one in rows]
    p = left_out(rows, FORMS)
    heat = temperature_of(p, truth)
    p = np.power(p, 1.0 / heat)
    p /= p.sum(axis=1, keepdims=True)
    report(console, f"By form, left out (temperature {heat:.2f})", truth, p, by_rules(rows))
    missed = sorted({(one.form, s) for one, s in zip(rows, told(p), strict=True) if s != one.cause})
    console.print(f"  forms with misses: {', '.join(f'{form} as {said}' for form, said in missed)}")
    mixed = random.Random(options.seed).sample(truth, len(truth))
    console.print(f"  control, shuffled labels: macro-F1 {macro_f1(truth, told(left_out(rows, FORMS, mixed))):.3f}")
    late = rows_of(HELD_OUT, options.each, options.seed)
    shipped = np.array([chances(one.case, default()) for one in late])
    report(console, "Forms written afterwards, the shipped model", [one.cause for one in late], shipped, by_rules(late))
    missed = sorted({(one.form, s) for one, s in zip(late, told(shipped), strict=True) if s != one.cause})
    console.print(f"  forms with misses: {', '.join(f'{form} as {said}' for form, said in missed)}")


if __name__ == "__main__":
    main()
