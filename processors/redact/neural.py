"""Names by models beside spaCy's: GLiNER's and token classifiers of transformers, from folders that are there already.

``gliner:FOLDER`` and ``transformers:FOLDER`` in place of a spaCy package need the library of that name, which brings
torch and is not installed with Driftwheel. Nothing is downloaded. Texts go through in pieces that overlap, as these
models see a few hundred words at a time. What a model raises is raised: a text that it cannot read is not passed on.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from presidio_analyzer import RecognizerResult
from presidio_analyzer.chunkers import CharacterBasedTextChunker

from processors.redact import models
from schemas.errors import Refused

Predict = Callable[[str], list[RecognizerResult]]

_PIECE, _OVERLAP = 900, 150
_FLOOR = 0.3
"""What a model is less sure of is not told; a policy's threshold comes on top."""
_ASKED = {
    "person": "PERSON", "organization": "ORGANIZATION", "location": "LOCATION",
    "nationality, religious or political group": "NRP",
}  # fmt: skip
"""What GLiNER is asked for, and the types that those are."""
TYPES = {
    "PER": "PERSON", "PERSON": "PERSON", "ORG": "ORGANIZATION", "ORGANIZATION": "ORGANIZATION", "LOC": "LOCATION",
    "LOCATION": "LOCATION", "GPE": "LOCATION", "FAC": "LOCATION", "NORP": "NRP",
}  # fmt: skip
"""What models call names, and the types that those are; of token classifiers nothing else counts."""


def is_neural(model: str) -> bool:
    """Whether a model's name says that it is not a spaCy package."""
    kind, colon, _ = model.partition(":")
    return bool(colon) and kind in _MAKERS


def shown(model: str) -> str:
    """A model's name without where it lies on this machine.

    >>> shown("gliner:/srv/models/pii-v1"), shown("en_core_web_lg")
    ('gliner:pii-v1', 'en_core_web_lg')
    """
    kind, _, folder = model.partition(":")
    return f"{kind}:{Path(folder).name}" if is_neural(model) else model


def lacking(model: str) -> str:
    """Why a model cannot be used on this machine, as far as it is seen without loading it; '' where it may be."""
    kind, _, folder = model.partition(":")
    if not is_neural(model):
        return models.lacking(model)
    if not folder or not Path(folder).is_dir():
        return f"{model}: {folder or 'no folder'} is not there: put the model's files into a folder and name it"
    there = bool(sys.modules.get(kind)) or find_spec(kind) is not None
    return "" if there else f"{model} needs a library that is not installed: pip install {kind}"


@cache
def recogniser(model: str) -> Predict:
    """What finds names in a text, by start. Raises Refused where the folder or the library is not there."""
    if reason := lacking(model):
        raise Refused(reason)
    kind, _, folder = model.partition(":")
    try:
        predict = _MAKERS[kind](importlib.import_module(kind), folder)
    except (ImportError, OSError, ValueError, KeyError, RuntimeError) as error:
        raise Refused(f"{model} cannot be loaded: {str(error).partition(chr(10))[0]}") from error
    chunker = CharacterBasedTextChunker(chunk_size=_PIECE, chunk_overlap=_OVERLAP)

    def find(text: str) -> list[RecognizerResult]:
        found = chunker.predict_with_chunking(text, predict) if text.strip() else []
        return sorted(found, key=lambda one: (one.start, one.end))

    return find


def _gliner(library: Any, folder: str) -> Predict:
    model: Any = library.GLiNER.from_pretrained(folder, local_files_only=True)

    def predict(text: str) -> list[RecognizerResult]:
        found: list[dict[str, Any]] = model.predict_entities(text, [*_ASKED], flat_ner=True, threshold=_FLOOR)
        return [_result(_ASKED[one["label"]], one) for one in found]

    return predict


def _transformers(library: Any, folder: str) -> Predict:
    pipeline: Any = library.pipeline(
        "token-classification", model=folder, tokenizer=folder, aggregation_strategy="simple", device=-1
    )

    def predict(text: str) -> list[RecognizerResult]:
        found: list[dict[str, Any]] = pipeline(text)
        typed = ((TYPES.get(one["entity_group"].upper(), ""), one) for one in found)
        return [_result(entity, one) for entity, one in typed if entity and one["score"] >= _FLOOR]

    return predict


def _result(entity: str, found: dict[str, Any]) -> RecognizerResult:
    return RecognizerResult(entity, found["start"], found["end"], float(found["score"]))


_MAKERS: dict[str, Callable[[Any, str], Predict]] = {"gliner": _gliner, "transformers": _transformers}
