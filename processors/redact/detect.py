"""Detection: Presidio's spaCy engine for names, its stock patterns, our rules, and what is wrapped in encodings.

Texts of a whole batch are looked at together, each distinct text once: a bounded cache holds the finds of a text, as
offsets under a keyed hash, so that the history which agents repeat costs nothing and no text is kept. Long texts go
through in pieces that overlap. Nothing here uses the network: the e-mail rule is our own because Presidio's asks the
public suffix list, and a model that is not installed is refused, not downloaded.

Fails closed: a text whose detection fails or runs out of time yields Invalid in place of finds.
"""

from __future__ import annotations

import base64
import hashlib
import re
import unicodedata
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache
from ipaddress import IPv4Address, IPv6Address
from typing import Any, NamedTuple

import regex
import spacy
from presidio_analyzer import PatternRecognizer
from presidio_analyzer.nlp_engine import NerModelConfiguration, SpacyNlpEngine
from presidio_analyzer.predefined_recognizers import (
    CreditCardRecognizer,
    CryptoRecognizer,
    IbanRecognizer,
    IpRecognizer,
    UsSsnRecognizer,
)

from processors.redact.blocks import blocks
from processors.redact.keys import fills, type_of, words_of
from processors.redact.models import loaded, one_thread
from processors.redact.neural import TYPES, is_neural, recogniser
from processors.redact.papers import PAPERS
from processors.redact.phones import FastPhoneRecognizer
from processors.redact.places import PLACES
from processors.redact.policy import Custom, Policy, base_policy
from processors.redact.rules import RULES, SECRETS, Rule
from processors.redact.settings import RedactSettings
from processors.redact.stock import digits_in, may_find
from processors.redact.things import is_thing
from schemas.errors import Invalid

PIECE = 8_000
OVERLAP = 200
BATCH = 64
TIMEOUT = 10.0
"""Seconds after which one pattern on one piece counts as failed: a safety net, hundreds of times the usual."""

FAILURES = (ValueError, RuntimeError, TypeError, LookupError, ArithmeticError, AttributeError)
"""What a detector may raise on a text that it cannot digest."""

_IGNORED = [
    "CARDINAL", "DATE", "TIME", "EVENT", "LANGUAGE", "LAW", "MONEY", "ORDINAL", "PERCENT", "PRODUCT", "QUANTITY",
    "WORK_OF_ART", "MISC",
]  # fmt: skip
_UNUSED = ("tagger", "attribute_ruler", "lemmatizer", "parser", "senter")
_STOCK = (CreditCardRecognizer, CryptoRecognizer, IbanRecognizer, IpRecognizer, UsSsnRecognizer)
_NO_PHONE = re.compile(
    r"(?<=[A-Za-z]-)(?:\d{1,2}-){1,2}20\d\d[01]\d[0-3]\d(?!\d|-\d)"
    r"|(?<![\d.])\d\.\d{5,}(?!\d|\.\d)|(?<![\w.+\-])1[4-9]\d{8}(?![\w\-]|\.\d)"
)
"""The end of a model's name, as in ``sonnet-4-5-20250929``, a share like 0.48583701, seconds since 1970."""
_PHONE_GATE = re.compile(r"(?:\d[^\d\n]{0,4}){6}\d")
_JSON_PAIR = re.compile(
    r"""["']([A-Za-z_][\w \-]{1,30})\\?["']\s*:\s*(?:\\?"((?:[^"\\]|\\[^"])+)|'([^'\n]+)'|(\d{4,}))"""
)
_ATTRIBUTE = re.compile(
    r"""(?<![\w.])([A-Za-z_][\w\-]{1,30})=(?:"([^"\n]{2,200})"|'([^'\n]{2,200})'|([^\s"',;&)\]}]{2,80}))"""
)
_LINE = re.compile(r"^[ \t]*(?:[-*] )?([A-Za-z_][\w \-]{1,30}):[ \t]+([^\s\"'{\[<][^\n\"{\[<]{1,80})$", re.MULTILINE)
_ELEMENT = re.compile(r"<([A-Za-z_][\w\-]{1,30})>([^<>\n]{2,200})</\1>")
_NOBODY = frozenset(str(address) for address in (
    IPv4Address(0), IPv4Address(2**32 - 1), IPv4Address("127.0.0.1"), IPv6Address(0), IPv6Address(1),
))  # fmt: skip
_BASE64 = re.compile(r"(?<![A-Za-z0-9+/=_\-])[A-Za-z0-9+/_\-]{20,}={0,2}")
_PERCENT = re.compile(r"[\w.~+\-]*(?:%[0-9A-Fa-f]{2}[\w.~+\-]*)+")
_ESCAPE = re.compile(r"%([0-9A-Fa-f]{2})")
_CHARACTER = re.compile(r"\\u[0-9a-fA-F]{4}|.", re.DOTALL)
_INVISIBLE = {0x200B, 0x200C, 0x200D, 0x2060, 0xFEFF, 0xAD}
_DOES = {"is", "was", "are", "were", "has", "had", "will", "says", "said", "does", "did", "and", "or", "'s", "charged"}
_ACRONYM = re.compile(r"[A-Z0-9&/.\-]{1,6}s?")
_PERSONAL = re.compile(r"[^\W\d_][\w.'\u2019\-]*(?: [^\W\d_][\w.'\u2019\-]*){1,3}")
_NAME_EDGE = re.compile(r"^(?:the|a|an|my|our) |(?:'s|\u2019s|[\s.,:;!?()\"'\u2019]+)$", re.IGNORECASE)


class Find(NamedTuple):
    """Personal data at ``start`` to ``end`` of a text."""

    start: int
    end: int
    entity: str
    score: float


class Query(NamedTuple):
    """A text to look at. ``names`` False: machine text, where a model that knows sentences only guesses."""

    text: str
    names: bool = True


Finds = tuple[Find, ...]


class LeanEngine(SpacyNlpEngine):
    """Presidio's spaCy engine with the entity recogniser alone; never downloads."""

    engine_name = "driftwheel_lean_spacy"

    def load(self) -> None:
        """Load the models; Refused when one is not installed."""
        self.nlp = {model["lang_code"]: _names_only(model["model_name"]) for model in self.models}


def _names_only(name: str) -> Any:
    own_vectors = name.startswith("en_core_web_") and not name.startswith("en_core_web_trf")
    return loaded(name, (*_UNUSED, "tok2vec") if own_vectors else _UNUSED)


class Detector:
    """Finds personal data in texts. Holds a cache; one for each policy and process (see ``detector_for``)."""

    def __init__(self, settings: RedactSettings, policy: Policy | None = None) -> None:
        self._settings, self._policy = settings, policy or base_policy(settings)
        self._entities = frozenset(self._policy.entities)
        self._rules = [
            *SECRETS,
            *RULES,
            *PAPERS,
            *PLACES,
            *(_rule_of(one) for one in self._policy.custom if one.pattern),
        ]
        self._keys = {"".join(words_of(key)): one.entity for one in self._policy.custom for key in one.keys}
        spacy_models = [(language, model) for language, model in self._policy.models if not is_neural(model)]
        self._neural = [recogniser(model) for _, model in self._policy.models if is_neural(model)]
        self._languages = [language for language, _ in spacy_models]
        self._engine = LeanEngine(
            models=[{"lang_code": language, "model_name": model} for language, model in spacy_models],
            ner_model_configuration=NerModelConfiguration(
                model_to_presidio_entity_mapping=TYPES, labels_to_ignore=_IGNORED, low_score_entity_names=[]
            ),
        )
        if spacy_models:
            self._engine.load()
        self._stock = [(one, rule) for kind in _STOCK for one in [kind()] for rule in _stock_rules(one)]
        self._phones = FastPhoneRecognizer(settings.key)
        self._cache: OrderedDict[bytes, Finds] = OrderedDict()
        self._cache_key = _policy_digest(settings, self._policy)

    def find(self, queries: Sequence[Query]) -> list[Finds | Invalid]:
        """What is in each text, by start; finds may overlap. Invalid for a text that could not be looked at."""
        pieces = [list(_pieces(query)) for query in queries]
        keys = [[self._key(piece) for _, piece in some] for some in pieces]
        missing: dict[bytes, Query] = {}
        known: dict[bytes, Finds | Invalid] = {}
        for key, piece in (
            (k, p) for some, ks in zip(pieces, keys, strict=True) for k, (_, p) in zip(ks, some, strict=True)
        ):
            if key in self._cache:
                self._cache.move_to_end(key)
                known[key] = self._cache[key]
            else:
                missing[key] = piece
        known |= self._detect(missing)
        return [
            self._joined(query, [(start, known[key]) for (start, _), key in zip(some, ks, strict=True)])
            for query, some, ks in zip(queries, pieces, keys, strict=True)
        ]

    def _key(self, piece: Query) -> bytes:
        body = b"n" if piece.names else b"m"
        return hashlib.blake2b(body + piece.text.encode(), key=self._cache_key, digest_size=16).digest()

    def _joined(self, query: Query, parts: list[tuple[int, Finds | Invalid]]) -> Finds | Invalid:
        out: set[Find] = set()
        for start, finds in parts:
            if isinstance(finds, Invalid):
                return finds
            out |= {Find(f.start + start, f.end + start, f.entity, f.score) for f in finds}
        if len(parts) > 1:
            out |= {f for rule in SECRETS for f in _matches(rule, query.text) if self._wanted(f)}
        return tuple(sorted(out))

    def _detect(self, missing: dict[bytes, Query]) -> dict[bytes, Finds | Invalid]:
        named = self._names([query.text for query in missing.values() if query.names])
        out: dict[bytes, Finds | Invalid] = {}
        for key, query in missing.items():
            names = named[query.text] if query.names else ()
            found = names if isinstance(names, Invalid) else _guarded(lambda q=query: self._patterns(q.text))
            if isinstance(found, Invalid) or isinstance(names, Invalid):
                out[key] = found
                continue
            out[key] = self._cache[key] = tuple(sorted({*filter(self._wanted, (*names, *found))}))
        while len(self._cache) > self._settings.cache:
            self._cache.popitem(last=False)
        return out

    def _wanted(self, find: Find) -> bool:
        return find.entity in self._entities and find.score >= self._policy.threshold

    def _names(self, texts: Sequence[str]) -> dict[str, Finds | Invalid]:
        """The recogniser's finds; a text that breaks the batch is found by going one by one."""
        by_length = sorted(set(texts), key=lambda text: (len(text), text))
        whole = _guarded(lambda: self._recognised(by_length))
        if not isinstance(whole, Invalid):
            return dict(zip(by_length, whole, strict=True))
        alone = {text: _guarded(lambda t=text: self._recognised([t])) for text in by_length}
        return {text: found if isinstance(found, Invalid) else found[0] for text, found in alone.items()}

    def _recognised(self, texts: Sequence[str]) -> list[Finds]:
        out: list[Finds] = [()] * len(texts)
        for language in self._languages:
            with one_thread():
                batch = self._engine.process_batch(list(texts), language=language, batch_size=BATCH)
                found = [tuple(_plausible(one[1].entities, one[1].scores)) for one in batch]
            out = [(*before, *more) for before, more in zip(out, found, strict=True)]
        for recognise in self._neural:
            told = [[Find(o.start, o.end, o.entity_type, o.score) for o in recognise(text)] for text in texts]
            found = [tuple(_named(text, some)) for text, some in zip(texts, told, strict=True)]
            out = [(*before, *more) for before, more in zip(out, found, strict=True)]
        return out

    def _patterns(self, text: str, depth: int = 0) -> Finds:
        out = [*self._plain(text), *self._by_key(text)]
        normal = _normalised(text)
        if normal is not None:
            flat, back = normal
            out += [Find(back[f.start][0], back[f.end - 1][1], f.entity, f.score) for f in self._plain(flat)]
        if depth == 0:
            out += self._wrapped(text)
        return tuple(out)

    def _plain(self, text: str) -> Iterator[Find]:
        digits = any(c.isdigit() for c in text)
        low = text.lower()
        for rule in self._rules:
            if rule.may_match(low, digits):
                yield from _matches(rule, text)
        if digits:
            yield from _addresses(text)
            yield from self._presidio(text)

    def _presidio(self, text: str) -> Iterator[Find]:
        digits = digits_in(text)
        for recognizer, rule in self._stock:
            if may_find(recognizer.name, text, digits):
                yield from (_validated(recognizer, f, text) for f in _matches(rule, text))
        if _PHONE_GATE.search(text):
            others = {match.span() for match in _NO_PHONE.finditer(text)}
            for result in self._phones.analyze(text, ["PHONE_NUMBER"]):
                if (result.start, result.end) in others:
                    continue
                yield Find(result.start, result.end, "PHONE_NUMBER", result.score)

    def type_of(self, key: str, value: str) -> str:
        """The type of personal data that a value under a key is, by the policy's keys and our own; '' for none."""
        entity = self._keys.get("".join(words_of(key)), "") or type_of(key, value)
        return entity if entity in self._entities else ""

    def _by_key(self, text: str) -> Iterator[Find]:
        """Values of JSON, attributes, elements, or of what looks like them, whose key says what they are."""
        for mark, pattern in ((":", _JSON_PAIR), ("=", _ATTRIBUTE), ("</", _ELEMENT)):
            for match in pattern.finditer(text) if mark in text else ():
                group = next(n for n in range(2, len(match.groups()) + 1) if match.group(n) is not None)
                entity = self.type_of(match.group(1), match.group(group))
                if entity:
                    yield Find(match.start(group), match.end(group), entity, 0.95)
        for match in _LINE.finditer(text) if ":" in text else ():
            entity = self.type_of(match.group(1), match.group(2))
            if entity and fills(entity, match.group(2)):
                yield Find(match.start(2), match.end(2), entity, 0.8)

    def _wrapped(self, text: str) -> Iterator[Find]:
        """Percent-encoded and base64 pieces that hold personal data when they are decoded."""
        for match, plain in _decoded(text):
            named = self._names([plain])[plain]
            if isinstance(named, Invalid) or any(self._wanted(f) for f in (*self._patterns(plain, 1), *named)):
                yield Find(match.start(), match.end(), "ENCODED", 0.9)


@cache
def detector_for(settings: RedactSettings, policy: Policy | None = None) -> Detector:
    """The process's detector for these settings and policy; models are loaded on first use, once for all."""
    return Detector(settings, policy)


def _rule_of(custom: Custom) -> Rule:
    return Rule(custom.entity, _compiled(custom.pattern, regex.IGNORECASE | regex.MULTILINE), custom.score)


def _stock_rules(one: PatternRecognizer) -> list[Rule]:
    return [
        Rule(one.supported_entities[0], _compiled(pattern.regex, one.global_regex_flags), pattern.score)
        for pattern in one.patterns
    ]


def _policy_digest(settings: RedactSettings, policy: Policy) -> bytes:
    parts = (policy, spacy.about.__version__)
    rules = [(rule.entity, rule.pattern.pattern, rule.score) for rule in (*SECRETS, *RULES, *PAPERS, *PLACES)]
    return hashlib.blake2b(repr((parts, rules)).encode(), key=settings.key[:64], digest_size=32).digest()


def _guarded(look: Callable[[], Any]) -> Any:
    try:
        return look()
    except TimeoutError:
        return Invalid("redaction_timeout", f"a pattern took more than {TIMEOUT:g} s")
    except FAILURES as error:
        return Invalid("redaction_failed", f"the detector raised {type(error).__name__}")


def _matches(rule: Rule, text: str) -> Iterator[Find]:
    for match in rule.pattern.finditer(text, timeout=TIMEOUT):
        if match.end() > match.start() and (rule.valid is None or rule.valid(match.group())):
            yield Find(match.start(), match.end(), rule.entity, rule.score)


@cache
def _compiled(pattern: str, flags: int) -> Any:
    return regex.compile(pattern, flags)


def _validated(recognizer: PatternRecognizer, find: Find, text: str) -> Find:
    """Presidio's own rule: a check that holds makes a match certain, one that fails makes it nothing."""
    value = text[find.start : find.end]
    if value in _NOBODY:
        return find._replace(score=0.0)
    valid = recognizer.validate_result(value)
    score = find.score if valid is None else float(valid)
    return find._replace(score=0.0 if recognizer.invalidate_result(value) else score)


def _plausible(entities: Iterable[Any], scores: Iterable[float]) -> Iterator[Find]:
    """Names as people write them: no digits, no code, no acronyms that any office has."""
    for entity, score in zip(entities, scores, strict=True):
        start, end = entity.start_char, entity.end_char
        text = entity.text
        while (edge := _NAME_EDGE.search(text)) and len(edge.group()) < len(text):
            start, end = (start + edge.end(), end) if edge.start() == 0 else (start, end - len(edge.group()))
            text = text[edge.end() :] if edge.start() == 0 else text[: edge.start()]
        common = text.islower() and any(token.is_stop for token in entity)
        if _is_name(text, entity.label_) and not common and not is_thing(text) and not _begins(entity):
            yield Find(start, end, entity.label_, score)


def _named(text: str, finds: Iterable[Find]) -> Iterator[Find]:
    """Those finds that can be names."""
    for find in finds:
        value = text[find.start : find.end]
        if _is_name(value, find.entity) and not is_thing(value):
            yield find


def _begins(entity: Any) -> bool:
    """Whether an entity is one word that has its capital from the beginning of the text: ``Convert 100 dollars``."""
    if entity.start > 0 or len(entity) > 1 or len(entity.doc) < 2:
        return False
    after = entity.doc[1].text
    return after.isdigit() or (entity.label_ == "ORGANIZATION" and after.islower() and after not in _DOES)


def _is_name(text: str, label: str) -> bool:
    if len(text) < 2 or not any(c.isalpha() for c in text) or any(c in "<>_{}[]=@#" for c in text):
        return False
    if "://" in text or " -" in text:
        return False
    if label != "PERSON":
        return not text.islower() and not _ACRONYM.fullmatch(text)
    return not any(c.isdigit() for c in text) and (" " in text or not text.islower()) and not text.isupper()


def _pieces(query: Query) -> Iterator[tuple[int, Query]]:
    """A text in pieces near 8 KB, cut at line ends or spaces, each with a little of the next."""
    text, start = query.text, 0
    while len(text) - start > PIECE:
        cut = max(text.rfind("\n", start + PIECE // 2, start + PIECE), 0)
        cut = cut or max(text.rfind(" ", start + PIECE // 2, start + PIECE), 0) or start + PIECE - 1
        yield start, Query(text[start : cut + 1 + OVERLAP], query.names)
        start = cut + 1
    yield start, Query(text[start:], query.names)


def _addresses(text: str) -> Iterator[Find]:
    for block in blocks(text):
        yield Find(block.start, block.end, "ADDRESS", 0.9)
        for start, end in block.above:
            yield Find(start, end, "PERSON" if _PERSONAL.fullmatch(text[start:end]) else "ORGANIZATION", 0.5)


def _normalised(text: str) -> tuple[str, list[tuple[int, int]]] | None:
    """The text made plain, and where each character was; None when nothing changes.

    Plain: no compatibility forms, no digits of other scripts, nothing invisible, no escapes of JSON (four digits).
    """
    if text.isascii() and "\\u" not in text:
        return None
    out: list[str] = []
    back: list[tuple[int, int]] = []
    for match in _CHARACTER.finditer(text):
        char = match.group()
        char = chr(int(char[2:], 16)) if len(char) > 1 else char
        plain = "" if ord(char) in _INVISIBLE else _plain_char(char)
        out.append(plain)
        back += [match.span()] * len(plain)
    flat = "".join(out)
    return None if flat == text else (flat, back)


def _plain_char(char: str) -> str:
    digit = unicodedata.digit(char, None)
    return unicodedata.normalize("NFKC", char) if digit is None else str(digit)


def _decoded(text: str) -> Iterator[tuple[re.Match[str], str]]:
    if "%" in text:
        for match in _PERCENT.finditer(text):
            raw = _ESCAPE.sub(lambda m: chr(int(m.group(1), 16)), match.group())
            plain = raw.encode("latin-1", "replace").decode("utf-8", "replace").replace("+", " ")
            yield match, plain
    for match in _BASE64.finditer(text):
        plain = base64_text(match.group())
        if plain is not None:
            yield match, plain


def base64_text(token: str) -> str | None:
    """The text that a token is in base64, either alphabet; None when it is none."""
    body = token.rstrip("=").replace("-", "+").replace("_", "/")
    try:
        plain = base64.b64decode(body + "=" * (-len(body) % 4), validate=True).decode("utf-8")
    except ValueError:  # also of what is not base64, or not UTF-8 within
        return None
    return plain if plain.replace("\n", " ").isprintable() else None
