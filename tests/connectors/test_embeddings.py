from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from connectors.embeddings import Cached, Deferred, HashedNgrams, Meaning, MiniLM, batches, load_embedder
from schemas.errors import Refused
from tests.models import minilm_folder

ODD = ["", " ", "\ud800 lone", "x" * 20_000, "日本語", "\x00", "👩‍👩‍👧"]
ALIKE = ["I want to book a flight to Paris", "Please reserve me a plane ticket to Paris"]
OTHER = "What is my account balance?"


@pytest.fixture(scope="module")
def minilm() -> MiniLM:
    return MiniLM(minilm_folder())


class Counting:
    """A two-dimensional embedder that says what it was asked for."""

    name = "counting"
    dimension = 2

    def __init__(self) -> None:
        self.asked: list[str] = []

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        self.asked += texts
        return np.array([[len(text), 1] for text in texts], np.float32)


def test_minilm_knows_meaning(minilm: MiniLM) -> None:
    first, second, third = minilm.embed([*ALIKE, OTHER])
    assert first @ second > 0.7
    assert first @ third < 0.3


def test_minilm_agrees_with_the_reference(minilm: MiniLM) -> None:
    """Numbers of the published PyTorch model for this sentence (first five dimensions)."""
    row = minilm.embed(["This is an example sentence"])[0]
    np.testing.assert_allclose(row[:5], [0.0676569, 0.0634959, 0.0487131, 0.0793049, 0.0374480], atol=1e-4)


def test_minilm_rows_do_not_depend_on_their_batch(minilm: MiniLM) -> None:
    texts = [*ALIKE, OTHER, *ODD, "a much longer text " * 20]
    together = minilm.embed(texts)
    alone = np.concatenate([minilm.embed([text]) for text in texts])
    np.testing.assert_allclose(together, alone, atol=2e-6)


@pytest.mark.parametrize("kind", ["minilm", "hashed"])
def test_any_text_gives_a_unit_row(kind: str, request: pytest.FixtureRequest) -> None:
    embedder = request.getfixturevalue("minilm") if kind == "minilm" else HashedNgrams()
    rows = embedder.embed(ODD)
    assert rows.shape == (len(ODD), embedder.dimension)
    assert rows.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)
    assert embedder.embed([]).shape == (0, embedder.dimension)


def test_hashed_sees_spelling() -> None:
    embedder = HashedNgrams()
    first, second, third = embedder.embed(["reset my password", "password reset please", OTHER])
    assert first @ second > 0.5 > first @ third
    np.testing.assert_array_equal(embedder.embed([OTHER]), HashedNgrams().embed([OTHER]))


@given(st.text())
@settings(max_examples=30, deadline=None)
def test_hashed_takes_anything(text: str) -> None:
    assert np.isfinite(HashedNgrams().embed([text])).all()


@given(st.lists(st.integers(1, 128), max_size=80))
def test_batches_hold_every_index_once_within_the_budget(lengths: list[int]) -> None:
    groups = list(batches(lengths))
    assert sorted(i for group in groups for i in group) == list(range(len(lengths)))
    assert all(max(lengths[i] for i in group) * len(group) <= 1024 for group in groups)


def test_cache_asks_only_for_what_is_new_and_stays_bounded() -> None:
    inner = Counting()
    cached = Cached(inner, size=2)
    first = cached.embed(["a", "bb", "a"])
    assert inner.asked == ["a", "bb"]
    assert first[:, 0].tolist() == [1, 2, 1]
    cached.embed(["a"])
    cached.embed(["ccc"])  # pushes out bb, the one not used for longest
    assert cached.embed(["a", "bb"])[:, 0].tolist() == [1, 2]
    assert inner.asked == ["a", "bb", "ccc", "bb"]
    assert cached.embed([]).shape == (0, 2)


def test_cache_holds_no_text() -> None:
    cached = Cached(Counting(), size=9)
    cached.embed(["a secret"])
    assert "secret" not in repr(vars(cached))


def test_no_folder_means_the_fallback_and_a_bad_folder_is_refused(tmp_path: Path) -> None:
    assert load_embedder(None).name == "hashed-char-3-5-2048"
    with pytest.raises(Refused, match=r"model\.safetensors.*driftwheel models fetch"):
        load_embedder(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"nonsense")
    with pytest.raises(Refused, match="driftwheel models fetch"):
        load_embedder(tmp_path)


def test_meaning_is_the_same_number_for_the_same_texts(minilm: MiniLM) -> None:
    alike, prepared = Meaning(minilm), Meaning(Cached(minilm, 10))
    prepared.prepare([*ALIKE, OTHER])
    assert alike(*ALIKE) == alike(*ALIKE) == prepared(*ALIKE) > alike.at
    assert alike(ALIKE[0], OTHER) == prepared(ALIKE[0], OTHER) < 0.3


def test_an_embedder_is_made_when_it_is_first_asked() -> None:
    made: list[Counting] = []

    def make() -> Counting:
        made.append(Counting())
        return made[0]

    deferred = Deferred("counting", 2, make)
    assert (made, deferred.name, deferred.dimension) == ([], "counting", 2)
    deferred.embed(["a"])
    deferred.embed(["b"])
    assert [one.asked for one in made] == [["a", "b"]]
