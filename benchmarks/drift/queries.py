"""Queries about new subjects: how soon MMD finds them, by embeddings of CLINC150, without labels.

``python benchmarks/drift/queries.py`` embeds 24 utterances of each of the 150 intents (``../shared/data``; ``--model``:
the static embedding, MiniLM or hashed n-grams), draws streams of 140 intents, and after 3,000 queries 30% (or 10%) of
ten others. The threshold is chosen on other stable streams for about one false alarm per 100,000.
"""

from __future__ import annotations

import argparse
import gzip
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent.parent))

import numpy as np
from numpy.typing import NDArray

from benchmarks.drift.streams import told
from connectors.embeddings import Embedder, HashedNgrams, MiniLM
from connectors.static_embeddings import Static
from driftwheel.config import load
from driftwheel.weights import minilm_folder, static_folder
from processors.detect_drift import DriftSettings
from processors.mmd import Mmd, features, fresh, update

DATA = Path(__file__).parent.parent.parent.parent / "shared" / "data" / "intent_clinc150" / "clinc150.jsonl.gz"
SEED, EACH, CHANGE, HORIZON, NEW = 53_000, 24, 3_000, 3_000, 10
Rows = NDArray[np.int8]
MODELS: dict[str, Callable[[], Embedder]] = {
    "static": lambda: Static(static_folder(load())),
    "minilm": lambda: MiniLM(minilm_folder(load())),
    "hashed": HashedNgrams,
}


def embedded(model: Embedder) -> tuple[Rows, NDArray[np.int64]]:
    """Features of the utterances, and the number of the intent of each."""
    by_intent: dict[str, list[str]] = {}
    with gzip.open(DATA, "rt", encoding="utf-8") as lines:
        for row in map(json.loads, lines):
            if not row["oos"] and row["split"] == "train":
                by_intent.setdefault(row["intent"], []).append(row["text"])
    texts = [text for intent in sorted(by_intent) for text in by_intent[intent][:EACH]]
    rows = [features(model.embed(texts[place : place + 64])) for place in range(0, len(texts), 64)]
    return np.concatenate(rows), np.repeat(np.arange(len(by_intent)), EACH)


def stream(rows: Rows, intents: NDArray[np.int64], seed: int, length: int, share: float) -> Rows:
    """Queries with a share of new intents after the change."""
    chance = np.random.default_rng(seed)
    new = chance.choice(intents.max() + 1, NEW, replace=False)
    fresh_ones = np.isin(intents, new)
    old, other = np.flatnonzero(~fresh_ones), np.flatnonzero(fresh_ones)
    shifted = (np.arange(length) >= CHANGE) & (chance.random(length) < share)
    return rows[np.where(shifted, chance.choice(other, length), chance.choice(old, length))]


def statistics(values: Rows, mmd: Mmd) -> list[float]:
    data = fresh()
    return [update(data, value, mmd) for value in values]


def limits(rows: Rows, intents: NDArray[np.int64], mmd: Mmd, streams: int, length: int) -> tuple[float, float]:
    """What stable streams exceed about once and ten times in 100,000 queries, each excursion counted once."""
    peaks: list[float] = []
    for seed in range(streams):
        found = statistics(stream(rows, intents, SEED + 500 + seed, length, 0.0), mmd)
        peaks += [max(found[place : place + mmd.newest * 2]) for place in range(mmd.reference, length, mmd.newest * 2)]
    peaks.sort(reverse=True)
    once = max(round(streams * (length - mmd.reference) / 1e5), 1)
    return peaks[once - 1], peaks[10 * once - 1]


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", choices=MODELS, default="static")
    parser.add_argument("--runs", type=int, default=50)
    parser.add_argument("--stable", type=int, default=30, help="streams of 10,000 stable queries")
    args = parser.parse_args()
    rows, intents = embedded(MODELS[args.model]())
    mmd = DriftSettings().queries
    begun = time.process_time()
    bar, warn = limits(rows, intents, mmd, args.stable, 10_000)
    spent = (time.process_time() - begun) / (args.stable * 10_000) * 1e6
    bars = {"model": args.model, "threshold": round(bar, 3), "warning": round(warn, 3)}
    print(json.dumps({**bars, "stable": args.stable * 10_000, "micros_an_update": round(spent, 1)}), flush=True)
    for share in (0.3, 0.1):
        delays: list[float | None] = []
        for run in range(args.runs):
            found = statistics(stream(rows, intents, SEED + run, CHANGE + HORIZON, share), mmd)
            places = [place for place, value in enumerate(found) if value > bar]
            early = bool(places) and places[0] < CHANGE
            delays.append(None if early else float(places[0] - CHANGE + 1) if places else float("inf"))
        print(json.dumps({"new": share, **told(delays, HORIZON)}), flush=True)


if __name__ == "__main__":
    main()
