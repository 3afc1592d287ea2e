"""What the local NeMo is told when it starts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

BASE = "local/minilm"
"""The target and config that are there from the start, built from ``Settings.labels``."""


@dataclass(frozen=True)
class Settings:
    """All settings; sizes in bytes.

    ``model_folder`` holds MiniLM's files; without it the model-free embedder is used, which is good for tests
    of the wire and poor at meaning. ``labels`` maps the base model's labels to one-line descriptions. ``token``,
    when set, must come as a bearer token with every request except the health checks.
    """

    data_dir: Path
    model_folder: Path | None = None
    labels: Mapping[str, str] = field(default_factory=dict[str, str])
    token: str | None = None
    lfs_threshold: int = 1 << 20
    max_body: int = 64 << 20
    max_file: int = 1 << 30
    cache_size: int = 20_000
    shadow_queue: int = 256
    pairs_kept: int = 10_000
