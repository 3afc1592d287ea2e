"""Where tests find the real embedding model, fetched once and never inside a test run."""

from __future__ import annotations

from pathlib import Path

import platformdirs
import pytest

from connectors import static_embeddings
from connectors.models import MINILM, look


def minilm_folder() -> Path:
    """The folder of MiniLM on this machine; skips the test when it was never fetched."""
    folder = platformdirs.user_data_path("driftwheel") / "models"
    if look(MINILM, folder).state != "ready":
        pytest.skip(f"no {MINILM.name} in {folder}: run `driftwheel models fetch`")
    return folder / MINILM.name


def static_folder() -> Path:
    """The folder of the static embedding on this machine; skips the test when it was never distilled."""
    folder = platformdirs.user_data_path("driftwheel") / "models"
    if static_embeddings.look(folder).state != "ready":
        pytest.skip(f"no {static_embeddings.NAME} in {folder}: run `driftwheel models fetch`")
    return folder / static_embeddings.NAME
