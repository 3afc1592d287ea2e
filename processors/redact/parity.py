"""Presidio's own findings, exactly, at a multiple of its speed: for those whose policies were tuned on them.

The same recognisers, contexts and scores as ``AnalyzerEngine`` with its defaults. What is left out cannot change a
find: lemmas serve context words alone, which here are the lower-cased tokens; a recogniser whose patterns all hold a
digit, an ``@`` or a dot is not asked about a text without one. Texts go through spaCy in batches. The parser stays,
since its sentences bound names. Nothing goes online.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from functools import cache
from typing import Any

import spacy
import tldextract
from presidio_analyzer import AnalyzerEngine, EntityRecognizer, RecognizerResult
from presidio_analyzer.nlp_engine import NerModelConfiguration, NlpArtifacts, SpacyNlpEngine
from presidio_analyzer.predefined_recognizers import EmailRecognizer

from processors.redact.detect import BATCH, Find
from processors.redact.settings import RedactSettings
from schemas.errors import Refused

_NEEDS = {
    "@": ("EmailRecognizer",),
    ".": ("UrlRecognizer",),
    "digit": (
        "CreditCardRecognizer", "DateRecognizer", "IbanRecognizer", "NhsRecognizer", "PhoneRecognizer",
        "UsBankRecognizer", "UsItinRecognizer", "UsPassportRecognizer", "UsSsnRecognizer",
    ),
}  # fmt: skip
_UNUSED = ["tagger", "attribute_ruler", "lemmatizer"]


@cache
def parity_detector(settings: RedactSettings) -> ParityDetector:
    """The process's detector for these settings."""
    return ParityDetector(settings)


class _Engine(SpacyNlpEngine):
    """Presidio's spaCy engine without lemmas; never downloads."""

    engine_name = "driftwheel_parity_spacy"

    def load(self) -> None:
        """Load the model; Refused when it is not installed."""
        try:
            self.nlp = {m["lang_code"]: spacy.load(m["model_name"], exclude=_UNUSED) for m in self.models}
        except OSError as error:
            raise Refused(f"the model {self.models[0]['model_name']} is not installed") from error

    def _doc_to_nlp_artifact(self, doc: Any, language: str) -> NlpArtifacts:
        found = super()._doc_to_nlp_artifact(doc, language)
        words = [token.lower_ for token in doc]
        return NlpArtifacts(found.entities, found.tokens, found.tokens_indices, words, self, language, found.scores)


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
        self._recognizers = [_Mail() if isinstance(one, EmailRecognizer) else one for one in found]
        self._entities = list({entity for one in self._recognizers for entity in one.supported_entities})

    def find(self, texts: Sequence[str]) -> list[list[Find]]:
        """What Presidio finds in each text, by start; a text that was seen before costs nothing."""
        keys = [
            hashlib.blake2b(text.encode("utf-8", "replace"), key=self._key, digest_size=16).digest() for text in texts
        ]
        found = {key: self._cache[key] for key in keys if key in self._cache}
        missing = {key: text for key, text in zip(keys, texts, strict=True) if key not in found}
        asked = sorted(missing.items(), key=lambda item: (len(item[1]), item[1]))
        batch = self._engine.process_batch([text for _, text in asked], language="en", batch_size=BATCH)
        for (key, text), told in zip(asked, batch, strict=True):
            found[key] = self._cache[key] = self._one(text, told[1])
        while len(self._cache) > self._size:
            self._cache.popitem(last=False)
        return [found[key] for key in keys]

    def _hash(self, text: str) -> bytes:
        return hashlib.blake2b(text.encode("utf-8", "replace"), key=self._key, digest_size=16).digest()

    def _one(self, text: str, artifacts: NlpArtifacts) -> list[Find]:
        has = {"@": "@" in text, ".": "." in text, "digit": any(char.isdigit() for char in text)}
        idle = {name for mark, names in _NEEDS.items() if not has[mark] for name in names}
        results: list[RecognizerResult] = []
        for recognizer in self._recognizers:
            if recognizer.name not in idle:
                some = recognizer.analyze(text=text, entities=self._entities, nlp_artifacts=artifacts) or []
                for one in some:
                    one.recognition_metadata.setdefault(RecognizerResult.RECOGNIZER_IDENTIFIER_KEY, recognizer.id)
                    one.recognition_metadata.setdefault(RecognizerResult.RECOGNIZER_NAME_KEY, recognizer.name)
                results += some
        if results:
            enhance = self._analyzer.context_aware_enhancer.enhance_using_context
            results = enhance(text=text, raw_results=results, nlp_artifacts=artifacts, recognizers=self._recognizers)
        kept = EntityRecognizer.remove_duplicates([one for one in results if one.score > 0])
        return sorted(Find(one.start, one.end, one.entity_type, one.score) for one in kept)
