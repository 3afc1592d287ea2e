"""The continuous detectors on the Numenta Anomaly Benchmark, by its own scoring, in one pass and without labels.

``python benchmarks/drift/nab.py`` reads ``../shared/data/drift_nab`` (half of the series of each category) and prints
the score of the standard profile for each detector, with the one threshold for all series that is best (as NAB
chooses it), beside windowed Gaussian, written anew after NAB's, on the same series. ``command``: what ``driftwheel
drift`` alarms at fixed budgets, without a choice of threshold. Every score is told for all series, for those of the
categories whose series chose the settings (``CHOSE``), and for the others.

Scoring, after Lavin and Ahmad, "Evaluating real-time anomaly detection algorithms" (2015) and NAB 1.1: of the
detections in a window only the earliest counts, by a sigmoid of its place; every detection outside of a window costs
0.11, less when it comes shortly after one; a window that is missed costs 1; the first 15% of a series (750 records at
most) do not count. 0 is a detector that finds nothing, 100 one that finds every window at its start.
"""

from __future__ import annotations

import gzip
import json
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent.parent))

import numpy as np
from numpy.typing import NDArray

from processors import tails
from processors.watch import Watch, WatchSettings

DATA = Path(__file__).parent.parent.parent.parent / "shared" / "data" / "drift_nab" / "nab.jsonl.gz"
FALSE, PROBATION, LONGEST = 0.11, 0.15, 5_000
OUTSIDE, IGNORED = -1, -2
CHOSE = ("realAWSCloudwatch", "realTraffic", "artificialNoAnomaly")
PUBLISHED = {
    "ARTime": 74.9, "Numenta HTM": 70.5, "CAD OSE": 69.9, "KNN-CAD": 58.0, "relative entropy": 54.6,
    "random cut forest": 51.7, "windowed Gaussian": 39.6, "Bayesian changepoint": 17.7, "random": 11.0, "null": 0.0,
}  # fmt: skip
Floats = NDArray[np.float64]
Detector = Callable[[Floats], Floats]


@dataclass(frozen=True)
class Series:
    """One series, and its windows as places of their first and last record."""

    name: str
    values: Floats
    windows: tuple[tuple[int, int], ...]


def read() -> Iterator[Series]:
    with gzip.open(DATA, "rt", encoding="utf-8") as lines:
        for line in lines:
            row = json.loads(line)
            place = {time: n for n, time in enumerate(row["timestamps"])}
            windows = tuple((place[a.partition(".")[0]], place[b.partition(".")[0]]) for a, b in row["anomaly_windows"])
            yield Series(row["series"], np.array(row["values"], dtype=float), windows)


def sigmoid(position: float) -> float:
    """What a detection is worth: 1 far before the right edge of a window, 0 at it, -1 far behind."""
    return -1.0 if position > 3.0 else 2.0 / (1.0 + math.exp(5.0 * position)) - 1.0


def worth(series: Series) -> tuple[Floats, NDArray[np.int64]]:
    """What a detection at each record adds, and in which window it lies (OUTSIDE, IGNORED)."""
    count = len(series.values)
    gain, window = np.full(count, -FALSE), np.full(count, OUTSIDE)
    for number, (first, last) in enumerate(series.windows):
        width = last - first + 1
        for place in range(first, last + 1):
            gain[place] = sigmoid(-(last - place + 1) / width) / sigmoid(-1.0)
            window[place] = number
        after = series.windows[number + 1][0] if number + 1 < len(series.windows) else count
        for place in range(last + 1, after):
            gain[place] = FALSE * sigmoid((place - last) / (width - 1))
    window[: math.floor(PROBATION * min(count, LONGEST))] = IGNORED
    return gain, window


def score(corpus: Sequence[Series], found: Sequence[Floats]) -> tuple[float, float]:
    """The best score over all thresholds, and that threshold; ``found`` holds the anomaly scores of each series."""
    points: list[tuple[float, float, tuple[int, int]]] = []
    windows: set[tuple[int, int]] = set()
    for number, (series, scores) in enumerate(zip(corpus, found, strict=True)):
        gain, window = worth(series)
        for value, more, where in zip(scores.tolist(), gain.tolist(), window.tolist(), strict=True):
            if where != IGNORED:
                points.append((value, more, (number, where)))
                windows |= {(number, where)} if where != OUTSIDE else set()
    points.sort(key=lambda point: -point[0])
    total = best = -float(len(windows))
    threshold, earned = math.inf, dict.fromkeys(windows, -1.0)
    for place, (value, more, where) in enumerate(points):
        if where[1] == OUTSIDE:
            total += more
        elif more > earned[where]:
            total += more - earned[where]
            earned[where] = more
        last = place + 1 == len(points) or points[place + 1][0] != value
        if last and total > best:
            best, threshold = total, value
    return 100.0 * (best + len(windows)) / (2.0 * len(windows)), threshold


def half(corpus: Sequence[Series], found: Sequence[Floats], threshold: float, *, chose: bool) -> float:
    """The score at this threshold of the series that chose the settings, or of the others."""
    mine = [place for place, one in enumerate(corpus) if one.name.startswith(CHOSE) == chose]
    cut = [np.where(found[place] >= threshold, 1.0, -math.inf) for place in mine]
    return score([corpus[place] for place in mine], cut)[0]


def windowed_gaussian(values: Floats, size: int = 6_400, step: int = 100) -> Floats:
    """How improbable each value is for a normal distribution over the window before it."""
    out, begin = np.zeros(len(values)), 0
    mean, deviation = 0.0, 1.0
    for place, value in enumerate(values.tolist()):
        if place:
            out[place] = 1.0 - 0.5 * math.erfc(abs(value - mean) / deviation / math.sqrt(2.0))
        full = place >= size
        if not full or (place - size) % step == step - 1:
            begin = place - size + 1 if full else 0
            mean, deviation = float(values[begin : place + 1].mean()), float(values[begin : place + 1].std()) or 1e-6
    return out


def by_tails(values: Floats) -> Floats:
    data = tails.fresh()
    return np.array([tails.update(data, value) for value in values.tolist()])


def by_command(budget: float, levels: tuple[str, ...] = ("alarm",)) -> Detector:
    """1 where ``driftwheel drift`` alarms (or warns)."""

    def detect(values: Floats) -> Floats:
        watch = Watch(WatchSettings(budget=budget), by_cohort=False)
        return np.array([float(any(f.level in levels for f in watch.take(value))) for value in values.tolist()])

    return detect


def main() -> None:
    """See the module."""
    if not DATA.is_file():
        sys.exit(f"{DATA} is not there: this benchmark needs the shared data beside the repository")
    corpus = list(read())
    detectors: dict[str, Detector] = {"windowed Gaussian": windowed_gaussian, "tails (best threshold)": by_tails}
    for budget in (1.0, 10.0, 100.0):
        detectors[f"command, budget {budget:g}"] = by_command(budget)
    detectors["the same at 1, warnings too"] = by_command(1.0, ("warn", "alarm"))
    records, windows = sum(len(one.values) for one in corpus), sum(len(one.windows) for one in corpus)
    print(f"{len(corpus)} series, {records} records, {windows} windows")
    for name, detect in detectors.items():
        found = [detect(series.values) for series in corpus]
        value, threshold = score(corpus, found)
        halves = " and ".join(f"{half(corpus, found, threshold, chose=chose):.1f}" for chose in (True, False))
        raised = sum(int((one >= threshold).sum()) for one in found) if math.isfinite(threshold) else 0
        print(f"{name:27} {value:5.1f} ({halves})  threshold {threshold:.3g}, {raised} detections", flush=True)
    print("published, all 58 series: " + ", ".join(f"{name} {value}" for name, value in PUBLISHED.items()))


if __name__ == "__main__":
    main()
