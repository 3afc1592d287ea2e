"""Sentence embeddings on a CPU, without torch.

Models behind one protocol: ``MiniLM`` runs all-MiniLM-L6-v2 in numpy from its published weights; what is made of it,
many times as fast, is in ``connectors.static_embeddings``; ``HashedNgrams`` needs no model at all and is the
fallback (it sees spelling, not meaning: on CLINC150 its AUC for same-intent pairs is about .88 against .98 and .94).
``load_embedder`` picks MiniLM or the fallback; ``Cached`` remembers the last texts of any. Every row that comes out has
length one, so that a dot product is a cosine.
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Protocol, TypeAlias
from zlib import crc32

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file
from scipy.special import erf
from threadpoolctl import ThreadpoolController
from tokenizers import Tokenizer

from schemas.errors import Refused

F32 = np.float32
Array: TypeAlias = NDArray[np.float32]

MAX_TOKENS = 128
TEXT = 2_000
"""Characters of a text that can matter to ``MAX_TOKENS`` tokens."""
BATCH_TOKENS = 1024
LAYERS, HEADS, WIDTH = 6, 12, 384
PROJECTIONS = ("query", "key", "value")


class Embedder(Protocol):
    """Texts in, unit vectors out.

    ``embed`` returns an array of shape (number of texts, ``dimension``), in the order of the texts, each row
    of Euclidean length 1. The same text gives the same row (to about 1e-6, whatever it is batched with). Any
    string is accepted, empty ones and lone surrogates too. Safe to call from several threads.
    """

    @property
    def name(self) -> str:
        """Stable identity of the model; vectors of different names must never be compared."""
        ...

    @property
    def dimension(self) -> int:
        """Length of every row."""
        ...

    def embed(self, texts: Sequence[str]) -> Array:
        """One unit row for each text."""
        ...


def load_embedder(folder: Path | None, threads: int = 1) -> Embedder:
    """MiniLM from ``folder``, or the model-free fallback when no folder is named.

    Raises ``Refused`` when a folder is named and holds no complete model: a silent fallback would make
    vectors that do not compare with those already stored.
    """
    return HashedNgrams() if folder is None else MiniLM(folder, threads)


def clean(text: str) -> str:
    """The text with lone surrogates, which no tokenizer takes, replaced by question marks."""
    return text.encode("utf-8", "replace").decode("utf-8")


class HashedNgrams:
    """Character 3- to 5-grams of words, hashed into 2,048 signed buckets: stateless and deterministic."""

    name = "hashed-char-3-5-2048"
    dimension = 2048

    def embed(self, texts: Sequence[str]) -> Array:
        """See ``Embedder.embed``; a text without any n-gram becomes the first unit vector."""
        rows = np.zeros((len(texts), self.dimension), F32)
        for row, text in zip(rows, texts, strict=True):
            hashes = np.fromiter((crc32(gram.encode()) for gram in ngrams(clean(text))), np.uint32)
            np.add.at(row, hashes % self.dimension, np.where(hashes >> 31, F32(1), F32(-1)))
        return unit(np.sign(rows) * np.log1p(np.abs(rows)))


def ngrams(text: str) -> Iterator[str]:
    """Runs of 3, 4 and 5 characters of each lower-case word with a space on either side.

    >>> list(ngrams("Hi"))
    [' hi', 'hi ', ' hi ']
    """
    for word in text.lower().split():
        padded = f" {word} "
        for size in range(3, 6):
            for start in range(len(padded) - size + 1):
                yield padded[start : start + size]


def unit(rows: Array) -> Array:
    """Rows scaled to length one; a row of zeros becomes the first unit vector."""
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    empty = norms[:, 0] == 0
    out = (rows / np.where(norms == 0, 1, norms)).astype(F32)
    out[empty, 0] = 1
    return out


class MiniLM:
    """all-MiniLM-L6-v2: six transformer layers, mean pooling, cut at 128 tokens.

    ``folder`` holds ``model.safetensors`` and ``tokenizer.json``. BLAS is held to ``threads`` while it runs,
    so that a process which also serves requests keeps its other cores.
    """

    name = "all-minilm-l6-v2"
    dimension = WIDTH

    def __init__(self, folder: Path, threads: int = 1) -> None:
        self._weights = fuse(read_weights(folder / "model.safetensors"))
        self._tokenizer = read_tokenizer(folder / "tokenizer.json")
        self._threads = threads
        self._blas = ThreadpoolController()

    def embed(self, texts: Sequence[str]) -> Array:
        """See ``Embedder.embed``. Speed: about 200 short texts a second on one core."""
        ids = [row.ids for row in self._tokenizer.encode_batch([clean(text) for text in texts])]
        return self.rows(ids)

    def rows(self, ids: Sequence[list[int]]) -> Array:
        """Unit rows of lists of token ids, none of them empty."""
        out = np.zeros((len(ids), WIDTH), F32)
        with self._blas.limit(limits=self._threads, user_api="blas"):
            for batch in batches([len(row) for row in ids]):
                out[batch] = self._forward([ids[i] for i in batch])
        return out

    def _forward(self, ids: list[list[int]]) -> Array:
        """Unit rows of one padded batch of token ids."""
        w = self._weights
        longest = max(map(len, ids))
        tokens = np.array([row + [0] * (longest - len(row)) for row in ids])
        mask = np.array([[1.0] * len(row) + [0.0] * (longest - len(row)) for row in ids], F32)
        h = w["embeddings.word_embeddings.weight"][tokens] + w["embeddings.positions"][:longest]
        h = self._norm(h, "embeddings.LayerNorm")
        for layer in range(LAYERS):
            h = self._layer(h, (mask - 1)[:, None, None, :] * F32(1e9), f"encoder.layer.{layer}.")
        return unit((h * mask[..., None]).sum(1) / mask.sum(1, keepdims=True))

    def _layer(self, h: Array, bias: Array, prefix: str) -> Array:
        """Self-attention and feed-forward, each with its residual and norm."""
        context = self._attend(h, bias, prefix)
        h = self._norm(
            h + self._linear(context, prefix + "attention.output.dense"),
            prefix + "attention.output.LayerNorm",
        )
        inner = self._linear(h, prefix + "intermediate.dense")
        inner *= F32(0.5) * (1 + erf(inner * F32(np.sqrt(0.5))))
        return self._norm(h + self._linear(inner, prefix + "output.dense"), prefix + "output.LayerNorm")

    def _attend(self, h: Array, bias: Array, prefix: str) -> Array:
        """Scaled dot-product attention of all heads; ``bias`` hides the padding."""
        count, longest, _ = h.shape
        parts = self._linear(h, prefix + "attention.qkv").reshape(count, longest, 3, HEADS, WIDTH // HEADS)
        q, k, v = parts.transpose(2, 0, 3, 1, 4)
        scores = q @ k.transpose(0, 1, 3, 2) / F32(np.sqrt(WIDTH // HEADS)) + bias
        scores -= scores.max(-1, keepdims=True)
        np.exp(scores, out=scores)
        scores /= scores.sum(-1, keepdims=True)
        return (scores @ v).transpose(0, 2, 1, 3).reshape(count, longest, WIDTH)

    def _linear(self, x: Array, name: str) -> Array:
        rows = x.reshape(-1, x.shape[-1]) @ self._weights[name + ".weight"]
        rows += self._weights[name + ".bias"]
        return rows.reshape(*x.shape[:-1], -1)

    def _norm(self, x: Array, name: str) -> Array:
        x = x - x.mean(-1, keepdims=True)
        x /= np.sqrt(np.square(x).mean(-1, keepdims=True) + F32(1e-12))
        x *= self._weights[name + ".weight"]
        x += self._weights[name + ".bias"]
        return x


def batches(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Indices in groups of similar length, each at most ``BATCH_TOKENS`` when padded."""
    group: list[int] = []
    for i in sorted(range(len(lengths)), key=lengths.__getitem__):
        if group and lengths[i] * (len(group) + 1) > BATCH_TOKENS:
            yield group
            group = []
        group.append(i)
    if group:
        yield group


def read_weights(path: Path) -> dict[str, Array]:
    """The tensors of a file, as float32."""
    try:
        return {name: value.astype(F32) for name, value in load_file(path).items()}
    except (OSError, SafetensorError) as error:
        raise unreadable(path, error) from error


def read_tokenizer(path: Path) -> Tokenizer:
    """The tokenizer of a file, cutting at 128 tokens and padding nothing."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise unreadable(path, error) from error
    tokenizer = Tokenizer.from_str(text)
    tokenizer.enable_truncation(MAX_TOKENS)
    tokenizer.no_padding()
    return tokenizer


def unreadable(path: Path, error: Exception) -> Refused:
    """The one message for a model folder that is not whole."""
    return Refused(f"cannot read the embedding model file {path}: {error}; get it with `driftwheel models fetch`")


def fuse(weights: dict[str, Array]) -> dict[str, Array]:
    """The weights laid out for the forward pass: matrices transposed, query, key and value side by side."""
    out = {name: value for name, value in weights.items() if value.ndim == 1}
    name = "embeddings.word_embeddings.weight"
    out[name] = weights[name]
    out["embeddings.positions"] = (
        weights["embeddings.position_embeddings.weight"] + weights["embeddings.token_type_embeddings.weight"][0]
    )
    for layer in range(LAYERS):
        prefix = f"encoder.layer.{layer}."
        for dense in ("attention.output.dense", "intermediate.dense", "output.dense"):
            out[f"{prefix}{dense}.weight"] = np.ascontiguousarray(weights[f"{prefix}{dense}.weight"].T)
        for kind, axis in (("weight", 1), ("bias", 0)):
            parts = [weights[f"{prefix}attention.self.{part}.{kind}"].T for part in PROJECTIONS]
            out[f"{prefix}attention.qkv.{kind}"] = np.concatenate(parts, axis=axis)
    return out


class Cached:
    """The last ``size`` distinct texts of an embedder are remembered, by digest: no text is kept.

    Bounded (about ``size`` x ``dimension`` x 4 bytes) and safe to share between threads; two that miss the
    same text at once both compute it, and agree.
    """

    def __init__(self, embedder: Embedder, size: int) -> None:
        self.name = embedder.name
        self.dimension = embedder.dimension
        self._embedder = embedder
        self._size = size
        self._rows: OrderedDict[bytes, Array] = OrderedDict()
        self._lock = threading.Lock()

    def embed(self, texts: Sequence[str]) -> Array:
        """See ``Embedder.embed``; only texts not seen lately reach the model, each once."""
        keys = [hashlib.blake2b(clean(text).encode(), digest_size=16).digest() for text in texts]
        rows = self._recall(keys)
        missing = {key: text for key, text in zip(keys, texts, strict=True) if key not in rows}
        if missing:
            fresh = dict(zip(missing, self._embedder.embed(list(missing.values())), strict=True))
            self._remember(fresh)
            rows |= fresh
        return np.stack([rows[key] for key in keys]) if keys else np.zeros((0, self.dimension), F32)

    def _recall(self, keys: list[bytes]) -> dict[bytes, Array]:
        with self._lock:
            found = {key: self._rows[key] for key in keys if key in self._rows}
            for key in found:
                self._rows.move_to_end(key)
        return found

    def _remember(self, fresh: dict[bytes, Array]) -> None:
        with self._lock:
            self._rows.update(fresh)
            while len(self._rows) > self._size:
                self._rows.popitem(last=False)


class Deferred:
    """An embedder that is made when it is first asked: a process that never asks pays nothing."""

    def __init__(self, name: str, dimension: int, make: Callable[[], Embedder]) -> None:
        self.name, self.dimension = name, dimension
        self._make = make
        self._made: Embedder | None = None
        self._lock = threading.Lock()

    def embed(self, texts: Sequence[str]) -> Array:
        """See ``Embedder.embed``. Raises Refused when the weights are gone or damaged."""
        with self._lock:
            self._made = self._made or self._make()
        return self._made.embed(texts)


class Meaning:
    """A ``Likeness`` (``processors.likeness``): the cosine of an embedder's rows; by default as MiniLM's are read.

    Every text is embedded by itself, so that the same two texts always give the same number on one machine.
    """

    meaning = True

    def __init__(self, embedder: Embedder, at: float = 0.6, apart: float = 0.3) -> None:
        self.name, self.at, self.apart = embedder.name, at, apart
        self._embedder = embedder

    def prepare(self, texts: Sequence[str]) -> None:
        """Embed many texts at once, for a ``Cached`` embedder to remember: faster than one by one."""
        self._embedder.embed([text[:TEXT] for text in texts])

    def __call__(self, first: str, second: str) -> float:
        """The cosine of the two texts, to four digits."""
        one, two = (self._embedder.embed([text[:TEXT]])[0] for text in (first, second))
        return round(float(one @ two), 4)


class MeaningVectors:
    """``processors.vectors.Vectors`` of an embedder."""

    meaning = True

    def __init__(self, embedder: Embedder, near: float = 0.42) -> None:
        self.name, self.near = embedder.name, near
        self._embedder = embedder

    def __call__(self, text: str) -> Array:
        """The text's row."""
        return self._embedder.embed([text[:TEXT]])[0]
