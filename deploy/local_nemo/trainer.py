"""One training run, in a process of its own: low priority, one thread, so that serving goes on undisturbed."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_limits

from connectors.embeddings import Array, Embedder, load_embedder
from deploy.local_nemo.classifier import Epoch, Examples, Recipe, fit, save_head, widen, zero_shot
from deploy.local_nemo.rows import pairs, parse_rows
from deploy.local_nemo.storage import write_whole
from schemas.errors import DriftwheelError

Message = tuple[str, object]
"""``("epoch", Epoch)`` any number of times, then one ``("completed", sha256)`` or ``("failed", reason)``."""


@dataclass(frozen=True)
class Run:
    """All a run needs: files by their name in the dataset, the base's labels, the recipe, where to write."""

    train: Mapping[str, Path]
    val: Mapping[str, Path]
    descriptions: Mapping[str, str]
    recipe: Recipe
    model_folder: Path | None
    output: Path


@dataclass(frozen=True)
class Read:
    """The rows of some files: vectors and labels."""

    rows: Array
    labels: list[str]

    def examples(self, order: tuple[str, ...]) -> Examples:
        """With the labels as indices into ``order``."""
        index = {label: i for i, label in enumerate(order)}
        return Examples(self.rows, np.array([index[label] for label in self.labels], np.int64))


def run(job: Run, pipe: Connection) -> None:
    """The process: train, write ``job.output``, and tell of it on ``pipe``. Ends when nobody listens any more."""
    os.nice(10)
    try:
        with threadpool_limits(1):
            pipe.send(("completed", train(job, lambda epoch: pipe.send(("epoch", epoch)))))
    except BrokenPipeError:
        return
    except (DriftwheelError, OSError) as error:
        pipe.send(("failed", str(error)))


def train(job: Run, report: Callable[[Epoch], None]) -> str:
    """Read, embed, fit, write; the sha256 of the model file."""
    embedder = load_embedder(job.model_folder)
    seen, held = read(job.train, embedder), read(job.val, embedder)
    base = zero_shot(widen(job.descriptions, seen.labels + held.labels), embedder)
    return save_head(fit(base, seen.examples(base.labels), held.examples(base.labels), job.recipe, report), job.output)


def read(files: Mapping[str, Path], embedder: Embedder) -> Read:
    """All rows of all files, in order."""
    parts = [embed_file(name, path, embedder) for name, path in files.items()]
    rows = np.concatenate([part.rows for part in parts]) if parts else np.zeros((0, embedder.dimension), np.float32)
    return Read(rows, [label for part in parts for label in part.labels])


def embed_file(name: str, path: Path, embedder: Embedder) -> Read:
    """One file's rows. Its vectors are kept beside it, because the same file is trained on again and again."""
    found = list(pairs(name, parse_rows(name, path.read_bytes())))
    kept = path.with_name(f"{path.name}.{embedder.name}.npy")
    if kept.exists():
        return Read(np.load(kept), [label for _, label in found])
    rows = embedder.embed([text for text, _ in found])
    out = io.BytesIO()
    np.save(out, rows)
    write_whole(kept, out.getvalue())
    if not path.exists():  # the file was erased meanwhile: so must be what came of it
        kept.unlink(missing_ok=True)
    return Read(rows, [label for _, label in found])
