"""The embedding that is distilled from MiniLM: it knows words, is the same every time, and is there whole or not."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from connectors import models, static_embeddings
from connectors.embeddings import MeaningVectors, MiniLM
from connectors.models import MANIFEST
from connectors.static_embeddings import (
    DIMENSION,
    NAME,
    WORDS,
    Static,
    distil,
    look,
    reduced,
    vectors,
    weights,
    wrong,
)
from driftwheel.config import Config
from driftwheel.pipeline import embedder, likeness
from driftwheel.pipeline import vectors as chosen
from processors.likeness import LETTERS
from processors.vectors import SPELLING
from schemas.errors import Refused
from tests.models import minilm_folder, static_folder

ALIKE = ["I want to book a flight to Paris", "Please reserve me a plane ticket to Paris"]
OTHER = "What is my account balance?"


def full(_path: Path) -> SimpleNamespace:
    return SimpleNamespace(free=1)


@pytest.fixture(scope="module")
def static() -> Static:
    return Static(static_folder())


def test_it_knows_words(static: Static) -> None:
    first, second, third = static.embed([*ALIKE, OTHER])
    assert first @ second > 0.5 > 0.2 > first @ third
    car, automobile, banana = static.embed(["car", "automobile", "banana"])
    assert car @ automobile > 0.5 > car @ banana


def test_small_words_count_for_little_and_order_for_nothing(static: Static) -> None:
    one, two, three = static.embed(["the vpn of the office", "office vpn", "the of the"])
    assert one @ two > 0.9 > one @ three
    np.testing.assert_allclose(static.embed(["vpn office"]), static.embed(["office vpn"]), atol=1e-6)


def test_any_text_gives_a_unit_row(static: Static) -> None:
    odd = ["", " ", "\ud800 lone", "x" * 20_000, "日本語", "\x00", "👩‍👩‍👧"]
    rows = static.embed(odd)
    assert rows.shape == (len(odd), DIMENSION)
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)
    np.testing.assert_array_equal(rows, np.concatenate([static.embed([text]) for text in odd]))
    assert static.embed([]).shape == (0, DIMENSION)


def test_what_was_distilled_is_what_distilling_gives(static: Static) -> None:
    """Of some words, with the directions that these words have: the same twice, and close to MiniLM's likeness."""
    ids = range(WORDS, WORDS + 300)
    model, seen = MiniLM(minilm_folder()), list[tuple[int, int]]()
    rows = vectors(model, ids, lambda done, total: seen.append((done, total)))
    assert seen == [(300, 300)]
    np.testing.assert_allclose(rows, vectors(model, ids), atol=1e-6)
    small = reduced(rows)
    np.testing.assert_array_equal(small, reduced(rows))
    assert small.shape == (300, DIMENSION)
    centred = rows - rows.mean(axis=0)
    assert np.corrcoef((centred @ centred.T).ravel(), (small @ small.T).ravel())[0, 1] > 0.7


def test_rare_words_weigh_more() -> None:
    found = weights([999, WORDS, WORDS + 89, 30_000])
    assert found[0] == found[1] < 0.02
    assert found[2] == 0.5
    assert found[3] > 0.99


def test_it_is_made_once_and_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []

    def few(model: object, ids: range, progress: object) -> np.ndarray:
        del model, progress
        made.append(len(ids))
        return np.random.default_rng(1).normal(size=(len(ids), 384)).astype(np.float32)

    monkeypatch.setattr(static_embeddings, "vectors", few)
    assert look(tmp_path).state == "missing"
    place = distil(minilm_folder(), tmp_path)
    assert (look(tmp_path).state, wrong(tmp_path), [one.name for one in tmp_path.iterdir()]) == ("ready", [], [NAME])
    distil(minilm_folder(), tmp_path)
    assert made == [30_522 - 999], "what is there and whole is left alone"
    (place / "model.safetensors").write_bytes(b"damaged")
    assert len(wrong(tmp_path)) == 1
    with pytest.raises(Refused, match="driftwheel models fetch"):
        Static(place)
    manifest = json.loads((place / MANIFEST).read_text())
    (place / MANIFEST).write_text(json.dumps(manifest | {"distilled_from": "other weights"}))
    assert look(tmp_path).state == "other version"
    monkeypatch.setattr(models.shutil, "disk_usage", full)
    with pytest.raises(Refused, match="free some space"):
        distil(minilm_folder(), tmp_path)


def test_stages_use_what_the_settings_say(tmp_path: Path) -> None:
    here = static_folder().parent
    by_default = Config.model_validate({"models": {"folder": here}})
    assert (likeness(by_default).name, chosen(by_default).name) == (Static.name, Static.name)
    assert isinstance(chosen(by_default), MeaningVectors)
    better = Config.model_validate({"models": {"folder": here, "embedding": "minilm"}})
    assert likeness(better).name == MiniLM.name
    for settings in ({"folder": here, "embedding": "none"}, {"folder": tmp_path}):
        config = Config.model_validate({"models": settings})
        assert (likeness(config), chosen(config), embedder(config)) == (LETTERS, SPELLING, None)
