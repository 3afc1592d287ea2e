"""The gate: may a candidate go on, judged on rows that neither it nor the incumbent learnt from.

Rows whose answer only a judging model gave count when that judge has the right to gate (``processors.agreement``);
those of any other judge are left out, and it is said why. Then four questions, all of which must be answered yes:

1. Are there enough rows? Too few refuse.
2. Is it better on the labelled rows? Exact McNemar test, one-sided: among rows that exactly one of the two got
   right, the candidate's share is tested against one half (McNemar 1947; exact form, binomial).
3. Is it no worse on the golden rows? Refused when it is worse by more than ``golden_margin`` and the losses exceed
   the wins beyond the noise of so few rows (one-sided exact p below ``golden_noise``).
4. Is it no worse on any label? As 3, per label with enough rows, ``slice_margin`` and ``slice_noise`` (divided by
   the number of slices looked at).

Simulated in the tests: labels without meaning pass in less than 1 run of 100; an equally good candidate is refused
by question 3 in less than 1 of 10, one that is 20 points worse on the golden rows in more than 8 of 10.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from scipy.special import bdtrc

from processors.agreement import Standing


@dataclass(frozen=True, slots=True)
class GateSettings:
    """``alpha`` of question 2; margins are differences of accuracy, noises are levels of p (see the module)."""

    alpha: float = 0.005
    min_rows: int = 20
    min_golden: int = 10
    golden_margin: float = 0.03
    golden_noise: float = 0.05
    slice_rows: int = 20
    slice_margin: float = 0.1
    slice_noise: float = 0.05


@dataclass(frozen=True, slots=True)
class Paired:
    """One row answered by both; ``golden`` rows guard what used to work, the others show what must improve.

    ``judge``: the id of the judge that alone said what was expected; '' for people.
    """

    expected: str
    candidate: str
    incumbent: str
    golden: bool = False
    judge: str = ""

    @property
    def won(self) -> bool:
        """Only the candidate is right."""
        return self.candidate == self.expected != self.incumbent

    @property
    def lost(self) -> bool:
        """Only the incumbent is right."""
        return self.incumbent == self.expected != self.candidate


@dataclass(frozen=True, slots=True)
class Verdict:
    """The decision with its numbers: the fields of an Evaluation record. ``reasons`` says why in plain words."""

    rows: int
    candidate_accuracy: float
    incumbent_accuracy: float
    wins: int
    losses: int
    p_value: float
    passed: bool
    reasons: list[str]
    slices: dict[str, float] = field(default_factory=dict[str, float])


def p_better(better: int, worse: int) -> float:
    """One-sided exact p of so many more ``better`` than ``worse`` rows by chance; 1 without any.

    >>> round(p_better(9, 1), 4)
    0.0107
    """
    total = better + worse
    return float(bdtrc(better - 1, total, 0.5)) if better else 1.0


def judge(
    every: Sequence[Paired], settings: GateSettings | None = None, standings: Mapping[str, Standing] | None = None
) -> Verdict:
    """Pass or refuse. Deterministic; the order of rows does not matter. ``standings``: how judges stand, by id."""
    chosen = settings or GateSettings()
    without_right = _without_right(every, standings or {})
    rows = [row for row in every if row.judge not in without_right]
    fresh, golden = [row for row in rows if not row.golden], [row for row in rows if row.golden]
    wins, losses, _ = _tally(fresh)
    p_value = p_better(wins, losses)
    refusals = [
        *_too_few(fresh, golden, chosen),
        *_not_better(wins, losses, p_value, chosen),
        *_golden_worse(golden, chosen),
        *_slices_worse(rows, chosen),
    ]
    candidate, incumbent = _accuracy(fresh)
    good = f"right on {candidate:.1%} of {len(fresh)} labelled rows, before {incumbent:.1%}"
    good += f" ({wins} rows won, {losses} lost, p = {p_value:.2g}); no worse on {len(golden)} golden rows"
    return Verdict(
        rows=len(rows),
        candidate_accuracy=candidate,
        incumbent_accuracy=incumbent,
        wins=wins,
        losses=losses,
        p_value=p_value,
        passed=not refusals,
        reasons=[*(refusals or [good]), *without_right.values()],
        slices=_shown(rows, golden, chosen),
    )


def _without_right(rows: Sequence[Paired], standings: Mapping[str, Standing]) -> dict[str, str]:
    """Judges of rows that may not gate, each with a sentence that says so."""
    counts = Counter(row.judge for row in rows if row.judge)
    told: dict[str, str] = {}
    for judge_id, count in sorted(counts.items()):
        found = standings.get(judge_id)
        if found is None or not found.may_gate:
            why = "; ".join(found.reasons) if found else "nobody has compared it with people"
            told[judge_id] = f"{count} rows were left out: the judge {judge_id} has no right to gate: {why}"
    return told


def _too_few(fresh: Sequence[Paired], golden: Sequence[Paired], settings: GateSettings) -> Iterator[str]:
    if len(fresh) < settings.min_rows:
        yield f"{len(fresh)} labelled test rows are too few to judge by: {settings.min_rows} are needed"
    if len(golden) < settings.min_golden:
        yield f"{len(golden)} golden rows are too few to judge by: {settings.min_golden} are needed"


def _not_better(wins: int, losses: int, p_value: float, settings: GateSettings) -> Iterator[str]:
    if p_value > settings.alpha:
        found = f"{wins} rows won, {losses} lost, p = {p_value:.2g}"
        yield f"not shown to be better on the labelled rows: {found}; at most {settings.alpha:g} passes"


def _golden_worse(golden: Sequence[Paired], settings: GateSettings) -> Iterator[str]:
    wins, losses, change = _tally(golden)
    noise = p_better(losses, wins)
    if change < -settings.golden_margin and noise < settings.golden_noise:
        found = f"{-change:.1%} of {len(golden)} rows ({wins} won, {losses} lost)"
        yield f"worse on the golden rows by {found}; the margin is {settings.golden_margin:.0%}"


def _slices_worse(rows: Sequence[Paired], settings: GateSettings) -> Iterator[str]:
    slices = _slices(rows, settings)
    for label, part in slices.items():
        wins, losses, change = _tally(part)
        if change < -settings.slice_margin and p_better(losses, wins) < settings.slice_noise / len(slices):
            found = f"{-change:.1%} of {len(part)} rows ({wins} won, {losses} lost)"
            yield f"worse on rows whose answer is {label!r} by {found}; the margin is {settings.slice_margin:.0%}"


def _slices(rows: Sequence[Paired], settings: GateSettings) -> dict[str, list[Paired]]:
    by_label: dict[str, list[Paired]] = {}
    for row in rows:
        by_label.setdefault(row.expected, []).append(row)
    return {label: part for label, part in sorted(by_label.items()) if len(part) >= settings.slice_rows}


def _shown(rows: Sequence[Paired], golden: Sequence[Paired], settings: GateSettings) -> dict[str, float]:
    shown = {f"label:{label}": round(_tally(part)[2], 6) for label, part in _slices(rows, settings).items()}
    return {"golden": round(_tally(golden)[2], 6), **shown} if golden else shown


def _tally(rows: Sequence[Paired]) -> tuple[int, int, float]:
    """Rows won, rows lost, and the change of accuracy."""
    wins, losses = sum(row.won for row in rows), sum(row.lost for row in rows)
    return wins, losses, (wins - losses) / len(rows) if rows else 0.0


def _accuracy(rows: Sequence[Paired]) -> tuple[float, float]:
    total = max(len(rows), 1)
    right = sum(row.candidate == row.expected for row in rows), sum(row.incumbent == row.expected for row in rows)
    return round(right[0] / total, 6), round(right[1] / total, 6)
