"""A static embedding, distilled from MiniLM: a text is the weighted mean of vectors of its word pieces, at once.

``distil`` runs every piece of MiniLM's vocabulary through it by itself, once, keeps the ``DIMENSION`` main directions,
half whitened, and weighs each piece by how rare it is. A text then costs a look-up for each of its pieces: about a
hundredth of what MiniLM costs, and most of what it knows of single words, nothing of their order.

Methods: model2vec (Minish, 2024) for the distillation; Arora, Liang and Ma, "A simple but tough-to-beat baseline for
sentence embeddings" (ICLR 2017) for the weights, with Zipf's law in place of counts: the vocabulary is in the order of
frequency.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeAlias, cast

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from connectors.embeddings import F32, TEXT, MiniLM, clean, read_tokenizer, unit, unreadable
from connectors.models import MANIFEST, MINILM, Asset, File, Found, check, digest, placed

DIMENSION = 256
VERSION = "1"
NAME = f"static-minilm-{DIMENSION}"
WEIGHTS, TOKENIZER = "model.safetensors", "tokenizer.json"
FIRST, WORDS = 999, 1996
"""Ids of the first piece that is no sign of the model's own, and of the first word: from there by frequency."""
HALF = 90.0
"""The rank of the word that weighs half of a rare one."""
AT, APART = 0.54, 0.1
"""The likeness from which a message rephrases another, and under which messages are about something else."""
BATCH = 300

Array: TypeAlias = NDArray[Any]
Progress = Callable[[int, int], None]
"""Called with the pieces so far and the pieces in all."""


class Static:
    """The embedder that ``distil`` wrote into ``folder``. Raises Refused when it is not there, or not whole."""

    name = f"{NAME}-{VERSION}"
    dimension = DIMENSION

    def __init__(self, folder: Path) -> None:
        try:
            self._pieces = load_file(folder / WEIGHTS)["pieces"]
        except (OSError, SafetensorError, KeyError) as error:
            raise unreadable(folder / WEIGHTS, error) from error
        self._tokenizer = read_tokenizer(folder / TOKENIZER)
        self._tokenizer.no_truncation()

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """See ``connectors.embeddings.Embedder``; a text without any known piece becomes the first unit vector."""
        out = np.zeros((len(texts), DIMENSION), F32)
        bodies = [clean(text[:TEXT]) for text in texts]
        for row, found in zip(out, self._tokenizer.encode_batch(bodies, add_special_tokens=False), strict=True):
            if found.ids:
                self._pieces[found.ids].mean(axis=0, dtype=F32, out=row)
        return unit(out)


def distil(minilm: Path, folder: Path, progress: Progress | None = None) -> Path:
    """Make the embedding from MiniLM's files and put it into ``folder``; what is there and whole is left alone.

    The files appear whole or not at all. On one core about a minute. Raises Refused when MiniLM cannot be read or the
    disk is full.
    """
    target = folder / NAME
    if not wrong(folder):
        return target
    tokenizer = minilm / TOKENIZER
    model = MiniLM(minilm)
    ids = range(FIRST, read_tokenizer(tokenizer).get_vocab_size())
    rows = vectors(model, ids, progress)
    pieces = np.zeros((ids.stop, DIMENSION), np.float16)
    pieces[FIRST:] = reduced(rows) * weights(ids)[:, None]
    with placed(folder, NAME, 2 * pieces.nbytes) as stage:
        save_file({"pieces": pieces}, stage / WEIGHTS)
        (stage / TOKENIZER).write_bytes(tokenizer.read_bytes())
        (stage / MANIFEST).write_text(json.dumps(_manifest(stage), indent=2) + "\n")
    return target


def vectors(model: MiniLM, ids: Sequence[int], progress: Progress | None = None) -> Array:
    """MiniLM's unit rows of pieces that stand alone between its own two signs."""
    found: list[Array] = []
    for place in range(0, len(ids), BATCH):
        found.append(model.rows([[101, one, 102] for one in ids[place : place + BATCH]]))
        if progress is not None:
            progress(min(place + BATCH, len(ids)), len(ids))
    return np.concatenate(found)


def reduced(rows: Array) -> Array:
    """The main directions of the rows, each divided by the root of its spread; signs are settled."""
    centred = rows.astype(np.float64) - rows.mean(axis=0, dtype=np.float64)
    spread, directions = np.linalg.eigh(centred.T @ centred / len(rows))
    directions, spread = directions[:, ::-1][:, :DIMENSION], spread[::-1][:DIMENSION]
    largest = directions[np.abs(directions).argmax(axis=0), np.arange(directions.shape[1])]
    return centred @ (directions * np.sign(largest)) / np.maximum(spread, 1e-9) ** 0.25


def weights(ids: Sequence[int]) -> Array:
    """How much each piece counts in its text: from 0 for what is in every text to 1 for what is rare."""
    rank = np.maximum(np.asarray(ids, dtype=np.float64) - WORDS + 1.0, 1.0)
    return rank / (rank + HALF)


def look(folder: Path) -> Found:
    """Whether the embedding is there, by its manifest alone."""
    manifest = _read(folder / NAME / MANIFEST)
    if manifest is None:
        return Found(NAME, "missing", "run `driftwheel models fetch`")
    if _origin(manifest) != (VERSION, _weights_of(MINILM)):
        return Found(NAME, "other version", f"{folder / NAME}: run `driftwheel models fetch`")
    return Found(NAME, "ready", str(folder / NAME))


def wrong(folder: Path) -> list[str]:
    """What is wrong with the embedding in ``folder``, one sentence each; empty when all is well."""
    found, manifest = look(folder), _read(folder / NAME / MANIFEST)
    if found.state != "ready" or manifest is None:
        return [f"{NAME} is {found.state}: {found.detail}"]
    hashes = cast("dict[str, str]", manifest["sha256"])
    files = [File(name, 0, hashes.get(name, "")) for name in (WEIGHTS, TOKENIZER)]
    return [bad for one in files if (bad := check(one, folder / NAME / one.name))]


def _manifest(stage: Path) -> dict[str, Any]:
    hashes = {name: digest(stage / name) for name in (WEIGHTS, TOKENIZER)}
    return {"name": NAME, "version": VERSION, "distilled_from": _weights_of(MINILM), "sha256": hashes}


def _weights_of(asset: Asset) -> str:
    return next(file.sha256 for file in asset.files if file.name == WEIGHTS)


def _origin(manifest: dict[str, Any]) -> tuple[Any, Any]:
    return manifest.get("version"), manifest.get("distilled_from")


def _read(path: Path) -> dict[str, Any] | None:
    try:
        return cast("dict[str, Any]", json.loads(path.read_text()))
    except (OSError, ValueError):
        return None
