"""Drafts to clean records: everything textual of a batch is looked at together, masked, and checked once more."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any, NamedTuple

from processors.redact.detect import Detector, Find, Finds, Query, detector_for
from processors.redact.documents import Leaf, rewrite
from processors.redact.drafts import Draft
from processors.redact.keys import type_of
from processors.redact.mask import Masker, leak, spread, survivor, values
from processors.redact.otlp import KEPT_ATTRIBUTE
from processors.redact.settings import RedactSettings, keyed, subject_hash, tenant_key
from schemas.errors import Invalid
from schemas.events import Clean, Label, Redaction

_OPAQUE = re.compile(r"[0-9a-f]{32}(?:\.[0-9a-f]{16})?")
_CODE = re.compile(r"[\w.:@/\-]+")


class _Part(NamedTuple):
    """One text of a draft. ``key`` is what it is called, when its name may tell its type."""

    section: str
    name: str
    key: str
    text: str
    prose: bool


class Cleaner:
    """Makes clean records of drafts with one detector and one policy."""

    def __init__(self, settings: RedactSettings, detector: Detector | None = None) -> None:
        self._settings = settings
        self._detector = detector or detector_for(settings)

    def clean(self, drafts: Sequence[Draft]) -> list[Clean | Invalid]:
        """A clean record for each draft; Invalid in place of one that cannot be proved clean.

        Reasons: ``text_too_long``, ``redaction_failed``, ``redaction_timeout``, ``redaction_leak``. Details name
        fields and types, never text.
        """
        parts = [list(_parts(draft)) for draft in drafts]
        asked = {leaf for some in parts for leaf in self._leaves(some)}
        queries = sorted({Query(leaf.text, leaf.names) for leaf in asked})
        found = dict(zip(queries, self._detector.find(queries), strict=True))
        known: dict[tuple[str, str], dict[str, str]] = {}
        for draft, some in zip(drafts, parts, strict=True):
            known.setdefault(draft.group, {}).update(_known(self._leaves(some), found))
        return [
            self._cleaned(draft, some, found, known[draft.group]) for draft, some in zip(drafts, parts, strict=True)
        ]

    def _leaves(self, parts: Sequence[_Part]) -> list[Leaf]:
        leaves: list[Leaf] = []

        def note(leaf: Leaf) -> str:
            if leaf.text:
                leaves.append(leaf)
            return leaf.text

        for part in parts:
            if len(part.text) <= self._settings.max_text:
                rewrite(part.text, part.key, part.prose, note)
        return leaves

    def _cleaned(
        self, draft: Draft, parts: Sequence[_Part], found: dict[Query, Finds | Invalid], known: dict[str, str]
    ) -> Clean | Invalid:
        long = next((part for part in parts if len(part.text) > self._settings.max_text), None)
        if long is not None:
            return Invalid(
                "text_too_long",
                f"field {long.section}: {len(long.text)} characters, the limit is {self._settings.max_text} "
                "(setting stages.redact.max_text)",
            )
        leaves = self._leaves(parts)
        failed = next((f for leaf in leaves if isinstance(f := found[Query(leaf.text, leaf.names)], Invalid)), None)
        return failed or self._masked(draft, parts, {leaf: _finds(leaf, found) for leaf in leaves}, known)

    def _masked(
        self, draft: Draft, parts: Sequence[_Part], finds: dict[Leaf, Finds], known: dict[str, str]
    ) -> Clean | Invalid:
        key = tenant_key(self._settings.key, draft.tenant)
        ids = {name: _opaque(key, value) for name, value in draft.ids.items()}
        masker = Masker(key, ids["session_id"] or draft.facts.get("trace_id", ""))
        counts: dict[str, int] = {}

        def mask(leaf: Leaf) -> str:
            if not leaf.text:
                return ""
            return masker.mask(leaf.text, [*finds[leaf], *spread(leaf.text, known)], counts)

        masked = [part._replace(text=rewrite(part.text, part.key, part.prose, mask)) for part in parts]
        for part in masked:
            entity = leak(part.text) or survivor([part.text], known)
            if entity:
                return Invalid("redaction_leak", f"field {part.section}: {entity} left after masking")
        return self._record(draft, masked, ids, key, counts)

    def _record(
        self, draft: Draft, parts: Sequence[_Part], ids: dict[str, str], key: bytes, counts: dict[str, int]
    ) -> Clean:
        body: dict[str, Any] = {part.section: part.text for part in parts if not part.name}
        names = {part.name: part.text for part in parts if part.section == "attribute names"}
        kept = {names[part.name]: part.text[:KEPT_ATTRIBUTE] for part in parts if part.section == "attributes"}
        if issubclass(draft.kind, Label):
            ids = {name: value for name, value in ids.items() if name != "session_id"}
        elif kept or draft.attributes:
            body["attributes"] = kept
        return draft.kind.model_validate(
            {**draft.facts, **ids, **body}
            | {
                "event_id": draft.event_id,
                "tenant": draft.tenant,
                "subject_hash": subject_hash(key, draft.user),
                "event_time": draft.event_time,
                "redaction": Redaction(
                    policy_version=self._settings.policy_version,
                    detector=self._settings.detector,
                    counts=dict(sorted(counts.items())),
                ),
                "consent_train": not self._settings.require_consent if draft.train is None else draft.train,
            }
        )


@cache
def cleaner_for(settings: RedactSettings) -> Cleaner:
    """The process's cleaner for these settings."""
    return Cleaner(settings)


def _parts(draft: Draft) -> Iterator[_Part]:
    yield _Part("agent", "", "", draft.agent, False)
    for name, text in draft.words.items():
        yield _Part(name, "", "", text, False)
    for name, text in draft.texts.items():
        yield _Part(name, "", "", text, True)
    for name, text in draft.attributes.items():
        yield _Part("attribute names", name, "", name, False)
        yield _Part("attributes", name, name, text, False)


def _known(leaves: Sequence[Leaf], found: dict[Query, Finds | Invalid]) -> dict[str, str]:
    """Values that must go wherever else they stand: what was found, and first and last names that stand in a row."""
    known: dict[str, str] = {}
    before = ""
    for leaf in leaves:
        known |= values(leaf.text, _finds(leaf, found))
        named = leaf.text if leaf.key and leaf.text.isalpha() and type_of(leaf.key, leaf.text) == "PERSON" else ""
        if named and before:
            known[f"{before} {named}"] = "PERSON"
        before = named if leaf.key else before
    return known


def _finds(leaf: Leaf, found: dict[Query, Finds | Invalid]) -> Finds:
    entity = type_of(leaf.key, leaf.text) if leaf.key else ""
    if entity:
        return (Find(0, len(leaf.text), entity, 0.95),)
    some = found[Query(leaf.text, leaf.names)]
    return () if isinstance(some, Invalid) else some


def _opaque(key: bytes, value: str) -> str:
    """An id as it is, or its keyed hash when it is a person's own number, address or name."""
    if not value or _OPAQUE.fullmatch(value) or (_CODE.fullmatch(value) and not leak(value)):
        return value
    return f"h-{keyed(key, 'id', value)[:24]}"
