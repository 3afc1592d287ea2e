"""Presidio's own findings, exactly, at a multiple of its speed: for those whose policies were tuned on them.

The same recognisers, contexts and scores as ``AnalyzerEngine`` with its defaults. What is left out cannot change a
find: a recogniser whose patterns all hold some digits, an ``@`` or a dot is not asked about a text without, and words
are led back to their lemmas, which serve context alone, only where a find has a use for context. Texts go through
spaCy in batches. The parser stays, since its sentences bound names. Nothing goes online.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from functools import cache
from typing import Any

import tldextract
from presidio_analyzer import AnalyzerEngine, EntityRecognizer, PatternRecognizer, RecognizerResult
from presidio_analyzer.nlp_engine import NerModelConfiguration, NlpArtifacts, SpacyNlpEngine
from presidio_analyzer.predefined_recognizers import EmailRecognizer, PhoneRecognizer

from processors.redact.detect import BATCH, Find
from processors.redact.lemmas import PARTS, Lemmas
from processors.redact.models import loaded, one_thread
from processors.redact.phones import FastPhoneRecognizer
from processors.redact.settings import RedactSettings
from processors.redact.stock import digits_in, may_find

_ID = RecognizerResult.RECOGNIZER_IDENTIFIER_KEY


@cache
def parity_detector(settings: RedactSettings) -> ParityDetector:
    """The process's detector for these settings."""
    return ParityDetector(settings)


class _Engine(SpacyNlpEngine):
    """Presidio's spaCy engine, with lemmas on demand; never downloads."""

    engine_name = "driftwheel_parity_spacy"

    def load(self) -> None:
        """Load the model; Refused when it is not installed."""
        self.nlp = {model["lang_code"]: loaded(model["model_name"], (), PARTS) for model in self.models}
        self._lemmas = {language: Lemmas(nlp) for language, nlp in self.nlp.items()}

    def _doc_to_nlp_artifact(self, doc: Any, language: str) -> NlpArtifacts:
        entities, scores = self._get_updated_entities(list(doc.ents), self._get_scores_for_entities(doc))
        return NlpArtifacts(entities, doc, [], [], None, language, scores)  # pyright: ignore[reportArgumentType]

    def lemmatised(self, artifacts: NlpArtifacts, language: str) -> NlpArtifacts:
        """The same with lemmas and keywords, as context needs them: tokens as texts, keywords as a set."""
        doc = artifacts.tokens
        lemmas, tokens = self._lemmas[language].of(doc), list(doc)
        full = NlpArtifacts(
            artifacts.entities, doc, [token.idx for token in tokens], lemmas, self, language, artifacts.scores
        )
        full.tokens, full.keywords = [token.text for token in tokens], set(full.keywords)  # pyright: ignore[reportAttributeAccessIssue] looked up, never changed
        return full


class _Mail(EmailRecognizer):
    """Presidio's rule for mail addresses with the list of domains that came with it."""

    def validate_result(self, pattern_text: str) -> bool:
        return bool(_domains()(pattern_text).fqdn)


@cache
def _domains() -> tldextract.TLDExtract:
    return tldextract.TLDExtract(suffix_list_urls=(), cache_dir=None)


class ParityDetector:
    """Presidio's findings with the settings' model. One per process: it holds the model, and what it found.

    Finds are kept as offsets under a keyed hash, never with their text.
    """

    def __init__(self, settings: RedactSettings) -> None:
        self._cache: OrderedDict[bytes, list[Find]] = OrderedDict()
        self._size, self._key, model = settings.cache, settings.key[:64], settings.model
        self._engine = _Engine([{"lang_code": "en", "model_name": model}], NerModelConfiguration())
        self._engine.load()
        self._analyzer = AnalyzerEngine(nlp_engine=self._engine, supported_languages=["en"])
        found: list[EntityRecognizer] = self._analyzer.registry.get_recognizers(language="en", all_fields=True)
        self._recognizers = [self._ours(one) for one in found]
        self._contextual = {one.id for one in self._recognizers if one.context}
        self._entities = list({entity for one in self._recognizers for entity in one.supported_entities})
        self._warm()

    def _warm(self) -> None:
        """Patterns are compiled and lists are read when they are first asked for: not in the middle of a batch."""
        for one in self._recognizers:
            if isinstance(one, PatternRecognizer):
                one.analyze("", self._entities)
        _domains()("example.com")

    def _ours(self, one: EntityRecognizer) -> EntityRecognizer:
        if isinstance(one, PhoneRecognizer):
            return FastPhoneRecognizer(self._key, context=one.context)
        return _Mail() if isinstance(one, EmailRecognizer) else one

    def find(self, texts: Sequence[str]) -> list[list[Find]]:
        """What Presidio finds in each text, by start; a text that was seen before costs nothing."""
        keys = [self._hash(text) for text in texts]
        found = {key: self._cache[key] for key in keys if key in self._cache}
        missing = {key: text for key, text in zip(keys, texts, strict=True) if key not in found}
        asked = sorted(missing.items(), key=lambda item: (len(item[1]), item[1]))
        with one_thread():
            batch = self._engine.process_batch([text for _, text in asked], language="en", batch_size=BATCH)
            for (key, text), told in zip(asked, batch, strict=True):
                found[key] = self._cache[key] = self._one(text, told[1])
        while len(self._cache) > self._size:
            self._cache.popitem(last=False)
        return [found[key] for key in keys]

    def _hash(self, text: str) -> bytes:
        return hashlib.blake2b(text.encode("utf-8", "replace"), key=self._key, digest_size=16).digest()

    def _one(self, text: str, artifacts: NlpArtifacts) -> list[Find]:
        results = self._raw(text, artifacts)
        near = [one for one in results if one.recognition_metadata[_ID] in self._contextual]
        if near:
            enhance = self._analyzer.context_aware_enhancer.enhance_using_context
            full = self._engine.lemmatised(artifacts, "en")
            told = iter(enhance(text=text, raw_results=near, nlp_artifacts=full, recognizers=self._recognizers))
            results = [next(told) if one.recognition_metadata[_ID] in self._contextual else one for one in results]
        kept = EntityRecognizer.remove_duplicates([one for one in results if one.score > 0])
        return sorted(Find(one.start, one.end, one.entity_type, one.score) for one in kept)

    def _raw(self, text: str, artifacts: NlpArtifacts) -> list[RecognizerResult]:
        """What every recogniser finds by itself."""
        digits = digits_in(text)
        results: list[RecognizerResult] = []
        for recognizer in self._recognizers:
            if may_find(recognizer.name, text, digits):
                some = recognizer.analyze(text=text, entities=self._entities, nlp_artifacts=artifacts) or []
                for one in some:
                    one.recognition_metadata.setdefault(_ID, recognizer.id)
                    one.recognition_metadata.setdefault(RecognizerResult.RECOGNIZER_NAME_KEY, recognizer.name)
                results += some
        return results
