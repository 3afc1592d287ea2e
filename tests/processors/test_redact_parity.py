"""Presidio's own findings, at its own scores, whatever is left out on the way."""

from __future__ import annotations

from typing import Any

import pytest
import tldextract
from presidio_analyzer import AnalyzerEngine
from presidio_analyzer.nlp_engine import NlpEngineProvider

from processors.redact.detect import Find
from processors.redact.lemmas import Lemmas
from processors.redact.models import loaded
from processors.redact.parity import ParityDetector
from processors.redact.settings import MODEL, RedactSettings
from schemas.errors import Refused

TEXTS = [
    "Here's my SSN: 308-63-0237",
    "308-63-0237",
    "My name is Maria Keller and my phone is 212-555-0199, call me on Friday",
    "write to maria.keller@example.com or see https://example.com/path",
    "card 4111 1111 1111 1111, iban DE89370400440532013000, from 192.0.2.7",
    "no digits, no marks, in Berlin with Siobhan",
    "bitcoin 1BvBMSEYstWetqTFn5Au4m4GFg7xJaNVN2, passport 912803456, license H1234567",
    "the routing number is 021000021 and the bank account 945456787654",
    "",
    "the order 1999523885 was cancelled",
    'states: [{"status": "cancelled", "id": "2125550199"}]',
    "he is saving account 945456787654 for later",
    "driving with H1234567 through the united states of 912803456",
    "naïve café owner Zoë Müller-Lüdenscheidt moved to Tromsø on 12/05/1988",
]


@pytest.fixture(scope="module")
def detector() -> ParityDetector:
    return ParityDetector(RedactSettings())


@pytest.fixture(scope="module")
def presidio() -> AnalyzerEngine:
    tldextract.extract = tldextract.TLDExtract(suffix_list_urls=(), cache_dir=None)
    models = [{"lang_code": "en", "model_name": MODEL}]
    engine = NlpEngineProvider(nlp_configuration={"nlp_engine_name": "spacy", "models": models}).create_engine()
    return AnalyzerEngine(nlp_engine=engine, supported_languages=["en"])


def test_the_findings_are_presidios(detector: ParityDetector, presidio: AnalyzerEngine) -> None:
    wanted = [
        sorted(Find(one.start, one.end, one.entity_type, one.score) for one in presidio.analyze(text, language="en"))
        for text in TEXTS
    ]
    assert sum(map(len, wanted)) > 15
    assert detector.find(TEXTS) == wanted
    assert detector.find(TEXTS[::-1]) == wanted[::-1], "the second time from the cache"


SAID = [
    "There ain't a better one, let's go: I'm gonna be there, y'all.",
    "Let us see what there is; let him go there. There are others, there're more and there.",
    "let 's gon na c'm on y all got ta",
    "\n\n  The leaves left; she leaves.\t\tGots and got gets, left leaves",
]


def test_lemmas_are_those_of_the_pipeline(monkeypatch: pytest.MonkeyPatch) -> None:
    nlp = loaded(MODEL, (), ("tagger", "attribute_ruler", "lemmatizer"))
    parts, texts = dict(nlp.components), [*TEXTS, *SAID, *(f"{one} {other}" for one in SAID for other in TEXTS)]

    def lemmas(doc: Any) -> list[str]:
        for name in ("tagger", "attribute_ruler", "lemmatizer"):
            doc = parts[name](doc)
        return [token.lemma_ for token in doc]

    wanted = [lemmas(doc) for doc in nlp.pipe(texts)]
    ours = Lemmas(nlp)
    assert [ours.of(doc) for doc in nlp.pipe(texts)] == wanted
    monkeypatch.setattr("processors.redact.lemmas.MAX_KEPT", 10)
    assert [ours.of(doc) for doc in nlp.pipe(texts[::-1])] == wanted[::-1], "while what was kept is let go of"
    units = [ours._units(parts["tagger"](doc)) for doc in nlp.pipe(texts)]
    alone = [[lemma for unit in some for row in unit for lemma in ours._found([(row,)])[0]] for some in units]
    assert alone != wanted, "some patterns take two tokens"


def test_context_matters(detector: ParityDetector) -> None:
    told, bare = detector.find(TEXTS[:2])
    assert max(one.score for one in told) > max(one.score for one in bare)


def test_context_is_in_lemmas_not_in_words(detector: ParityDetector) -> None:
    """ "cancelled" holds "cell", which would speak for a telephone number; its lemma "cancel" does not."""
    finds = detector.find(["it was cancelled 2125550199", "my cell is 2125550199"])
    other, told = [[one.score for one in some if one.entity == "PHONE_NUMBER"] for some in finds]
    assert other < told


def test_the_cache_is_bounded_and_holds_no_text() -> None:
    small = ParityDetector(RedactSettings(cache=2))
    first = small.find(TEXTS)
    assert len(small._cache) == 2
    assert "Maria" not in repr(small._cache)
    assert small.find(TEXTS) == first


def test_a_model_that_is_not_there() -> None:
    with pytest.raises(Refused, match="en_core_web_huge is not installed"):
        ParityDetector(RedactSettings(model="en_core_web_huge"))
