"""Clusters of texts: does one pass find the intents, what does a text cost, how large does the state become.

``python benchmarks/clusters/intents.py`` draws 15 of the 150 intents of CLINC150 (``../shared/data``, its test split:
thresholds were chosen on the training split), 30 utterances of each (``--split train``: 100) in a random order, and
groups them one by one: ``processors.groups`` by the static embedding and by spelling, river's TextClust as the study of
methods set it, and as a control the words of all texts shuffled among them. ARI is the adjusted Rand index (1: the
intents, 0: chance) of the clusters that the store shows at the end, merged ones followed. ``--sizes``: cost and state.
"""

from __future__ import annotations

import argparse
import gzip
import json
import random
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent.parent))

import numpy as np
from river.cluster import TextClust
from river.feature_extraction import BagOfWords
from sklearn.metrics import adjusted_rand_score

from connectors.embeddings import MeaningVectors
from connectors.static_embeddings import Static
from driftwheel.config import load
from driftwheel.weights import static_folder
from processors.cluster import Cluster, ClusterSettings
from processors.groups import Group, GroupRules, join, merge, name_of
from processors.state import KeyState
from processors.vectors import SPELLING, Vectors

DATA = Path(__file__).parent.parent.parent.parent / "shared" / "data" / "intent_clinc150" / "clinc150.jsonl.gz"
SEED, INTENTS = 93_000, 15


def utterances(split: str) -> dict[str, list[str]]:
    """The texts of each intent."""
    found: dict[str, list[str]] = {}
    with gzip.open(DATA, "rt", encoding="utf-8") as lines:
        for row in map(json.loads, lines):
            if not row["oos"] and row["split"] == split:
                found.setdefault(row["intent"], []).append(row["text"])
    return found


def drawn(texts: dict[str, list[str]], seed: int, intents: int) -> tuple[list[str], list[str]]:
    """The texts of some intents in a random order, and the intent of each."""
    chance = random.Random(seed)
    pairs = [(text, intent) for intent in chance.sample(sorted(texts), intents) for text in texts[intent]]
    chance.shuffle(pairs)
    return [text for text, _ in pairs], [intent for _, intent in pairs]


def shuffled(texts: list[str], seed: int) -> list[str]:
    """The control: texts as long as these, of the same words, which say nothing any more."""
    words = [word for text in texts for word in text.split()]
    random.Random(seed).shuffle(words)
    left = iter(words)
    return [" ".join(next(left) for _ in text.split()) for text in texts]


def grouped(texts: list[str], vectors: Vectors) -> tuple[list[str], dict[str, Group]]:
    """The group of each text at the end of one pass, and the groups."""
    settings = ClusterSettings()
    rules = GroupRules(vectors.near, settings.merge_at, settings.clusters)
    groups: dict[str, Group] = {}
    found: list[str] = []
    into: dict[str, str] = {}
    for place, text in enumerate(texts):
        name = join(groups, str(place), vectors(text), text, str(place), 0, rules)
        name, gone = merge(groups, name, rules)
        into |= dict.fromkeys(gone, name)
        found.append(name)
    return [into.get(name, name) for name in found], groups


def text_clust(texts: list[str]) -> list[str]:
    """river's, as in the study of methods."""
    model: Any = BagOfWords(lowercase=True, ngram_range=(1, 1)) | TextClust(
        radius=0.75, fading_factor=1e-4, tgap=200, num_macro=INTENTS, real_time_fading=False
    )
    found: list[str] = []
    for text in texts:
        model.learn_one(text)
        found.append(str(model.predict_one(text)))
    return found


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--split", choices=("train", "test"), default="test")
    parser.add_argument("--runs", type=int, default=10, help="sets of 15 intents")
    parser.add_argument("--sizes", type=int, nargs="*", default=[1_000, 10_000])
    args = parser.parse_args()
    texts = utterances(args.split)
    static = MeaningVectors(Static(static_folder(load())))
    ways: dict[str, Callable[[list[str]], list[str]]] = {
        "static": lambda some: grouped(some, static)[0],
        "spelling": lambda some: grouped(some, SPELLING)[0],
        "river TextClust": text_clust,
    }
    for name, way in ways.items():
        real, control, spent = [], [], 0.0
        for run in range(args.runs):
            some, intents = drawn(texts, SEED + run, INTENTS)
            begun = time.process_time()
            real.append(adjusted_rand_score(intents, way(some)))
            spent += (time.process_time() - begun) / len(some)
            control.append(adjusted_rand_score(intents, way(shuffled(some, run))))
        shown = {"mean": np.mean(real), "least": min(real), "most": max(real), "shuffled": max(control)}
        micros = round(spent / args.runs * 1e6)
        print(json.dumps({"way": name, **{k: round(float(v), 3) for k, v in shown.items()}, "micros_a_text": micros}))
    several(utterances("train"), args.sizes, static)


def several(texts: dict[str, list[str]], sizes: list[int], static: Vectors) -> None:
    """Cost and state for texts of all intents, most of which never fit."""
    every, _ = drawn(texts, SEED, len(texts))
    for size in sizes:
        begun = time.process_time()
        _, groups = grouped(every[:size], static)
        spent = (time.process_time() - begun) / size * 1e6
        state = len(KeyState({"groups": groups}).dump())
        largest = sorted(groups, key=lambda name: -groups[name]["n"])[:5]
        print(json.dumps({
            "texts": size, "micros_a_text": round(spent), "groups": len(groups), "state_bytes": state,
            "stage": Cluster.name, "largest": [name_of(groups, name) for name in largest],
        }))  # fmt: skip


if __name__ == "__main__":
    main()
