"""Embeddings beside each other: how well they tell texts of one meaning from others, and what a text costs.

``python benchmarks/embeddings.py`` measures MiniLM, what was distilled from it, and hashed n-grams, on two sets of
``../shared/data``. CLINC150 (1,500 of its test utterances): AUC of pairs of one intent against all other pairs. CANARD:
questions and their rewrites against the next question's rewrite, by dialogue: the likeness from which a message
rephrases another is chosen on one half of the dialogues (at most 5% false) and reported on the
other, for the pairs that letters do not decide; AUC over all pairs of that half.
"""

from __future__ import annotations

import argparse
import gzip
import json
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from connectors.embeddings import Embedder, HashedNgrams, MiniLM
from connectors.static_embeddings import Static
from driftwheel.config import load
from driftwheel.weights import minilm_folder, static_folder
from processors.text import similarity

DATA = Path(__file__).parent.parent.parent / "shared" / "data"
SEED, LETTERS_AT, FLOOR = 71_000, 0.5, 0.05
Pairs = list[tuple[str, str, bool]]
Numbers = NDArray[np.float64]
MODELS: dict[str, Callable[[], Embedder]] = {
    "static": lambda: Static(static_folder(load())),
    "hashed": HashedNgrams,
    "minilm": lambda: MiniLM(minilm_folder(load())),
}


def rows(name: str) -> list[dict[str, Any]]:
    with gzip.open(DATA / name, "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def intents(count: int) -> tuple[list[str], list[str]]:
    """Utterances of the test split, and the intent of each."""
    every = [row for row in rows("intent_clinc150/clinc150.jsonl.gz") if not row["oos"] and row["split"] == "test"]
    chosen = np.random.default_rng(SEED).choice(len(every), count, replace=False)
    return [every[place]["text"] for place in chosen], [every[place]["intent"] for place in chosen]


def rephrasals() -> tuple[Pairs, Pairs]:
    """Pairs of the two halves of the dialogues: whether the second text asks what the first does."""
    dialogues: dict[str, list[dict[str, Any]]] = {}
    for row in rows("rephrase_canard/canard_dev_half.jsonl.gz"):
        dialogues.setdefault(row["dialog_id"], []).append(row)
    halves: tuple[Pairs, Pairs] = ([], [])
    for place, name in enumerate(sorted(dialogues)):
        asked = sorted(dialogues[name], key=lambda row: row["question_no"])
        halves[place % 2].extend((one["question"], one["rewrite"], True) for one in asked if not same(one))
        halves[place % 2].extend((one["question"], two["rewrite"], False) for one, two in pairwise(asked))
    return halves


def same(row: dict[str, Any]) -> bool:
    return row["question"].lower().strip(" ?") == row["rewrite"].lower().strip(" ?")


def cosines(model: Embedder, pairs: Pairs) -> Numbers:
    first, second = model.embed([pair[0] for pair in pairs]), model.embed([pair[1] for pair in pairs])
    return np.einsum("ij,ij->i", first, second).astype(np.float64)


def rates(values: Numbers, truth: NDArray[np.bool_], at: float) -> tuple[float, float]:
    """Of rephrasals and of others, the share at or above a likeness."""
    return float((values[truth] >= at).mean()), float((values[~truth] >= at).mean())


def hard(pairs: Pairs) -> Pairs:
    """Those that letters do not decide."""
    return [pair for pair in pairs if similarity(pair[0], pair[1]) < LETTERS_AT]


def chosen(model: Embedder, pairs: Pairs) -> float:
    """The least likeness at which at most ``FLOOR`` of the others are taken for rephrasals."""
    values, truth = cosines(model, pairs), np.array([pair[2] for pair in pairs])
    found = [(rates(values, truth, at), at) for at in np.arange(0.2, 0.95, 0.01)]
    return round(float(min(at for (_, false), at in found if false <= FLOOR)), 2)


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="*", choices=MODELS, default=[*MODELS])
    parser.add_argument("--texts", type=int, default=1_500)
    args = parser.parse_args()
    texts, names = intents(args.texts)
    upper = np.triu_indices(len(texts), 1)
    alike = (np.array(names)[:, None] == np.array(names)[None, :])[upper]
    learn, test = rephrasals()
    for name in args.models:
        model = MODELS[name]()
        begun = time.process_time()
        vectors = np.concatenate([model.embed([text]) for text in texts])
        spent = (time.process_time() - begun) / len(texts) * 1e6
        values, truth = cosines(model, test), np.array([pair[2] for pair in test])
        at, rest = chosen(model, hard(learn)), hard(test)
        found, false = rates(cosines(model, rest), np.array([pair[2] for pair in rest]), at)
        other = rates((vectors @ vectors.T)[upper].astype(np.float64), alike, at)
        print(json.dumps({
            "model": name, "micros_a_text": round(spent),
            "clinc_auc": round(float(roc_auc_score(alike, (vectors @ vectors.T)[upper])), 4),
            "canard_auc": round(float(roc_auc_score(truth, values)), 4),
            "at": at, "hard_found": round(found, 3), "hard_false": round(false, 3),
            "clinc_found": round(other[0], 3), "clinc_false": round(other[1], 5),
        }), flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
