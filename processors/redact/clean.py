"""Drafts to clean records: everything textual of a batch is looked at together, masked, and checked once more."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

from processors.redact.detect import Detector, Find, Finds, Query, base64_text, detector_for
from processors.redact.documents import Leaf, rewrite
from processors.redact.drafts import Draft
from processors.redact.keys import type_of
from processors.redact.mask import Masker, leak, spread, survivor, values
from processors.redact.otlp import KEPT_ATTRIBUTE
from processors.redact.policy import Policy, Purpose, policies_of
from processors.redact.settings import RedactSettings, keyed, subject_hash, tenant_key
from schemas.errors import Invalid
from schemas.events import Clean, Label, Redaction

_OPAQUE = re.compile(r"[0-9a-f]{32}(?:\.[0-9a-f]{16})?")
_CODE = re.compile(r"[\w.:@/\-]+")
_LIST = "words of lists"


class _Words(NamedTuple):
    """What one part of a draft says. ``key`` is what it is called, when its name may tell its type."""

    text: str
    key: str
    prose: bool


class _Part(NamedTuple):
    """One text of a draft, and where it belongs."""

    section: str
    name: str
    words: _Words


class _Masked(NamedTuple):
    """The same, clean."""

    section: str
    name: str
    text: str


class Cleaner:
    """Makes clean records of drafts, each by its tenant's policy. ``detector`` stands in for those of the policies."""

    def __init__(self, settings: RedactSettings, detector: Detector | None = None) -> None:
        self._settings, self._detector = settings, detector
        self._policies = policies_of(settings)

    def may_store(self, draft: Draft) -> bool:
        """Whether a record may be stored, by its own word or its tenant's policy."""
        return draft.store if draft.store is not None else self._policies.of(draft.tenant).store == "assumed"

    def clean(self, drafts: Sequence[Draft]) -> list[Clean | Invalid]:
        """A clean record for each draft; Invalid in place of one that cannot be proved clean.

        Reasons: ``text_too_long``, ``redaction_failed``, ``redaction_timeout``, ``redaction_leak``. Details name
        fields and types, never text.
        """
        of = [self._policies.of(draft.tenant) for draft in drafts]
        out: list[Clean | Invalid | None] = [None] * len(drafts)
        for policy in dict.fromkeys(of):
            places = [place for place, one in enumerate(of) if one == policy]
            for place, record in zip(places, self._clean([drafts[n] for n in places], policy), strict=True):
                out[place] = record
        return [record for record in out if record is not None]

    def _clean(self, drafts: Sequence[Draft], policy: Policy) -> list[Clean | Invalid]:
        parts = [list(_parts(draft, policy)) for draft in drafts]
        detector = self._detector or detector_for(self._settings, policy)
        seen = Seen(policy, detector, {part.words for some in parts for part in some}, self._settings.max_text)
        known: dict[tuple[str, str], dict[str, str]] = {}
        for draft, some in zip(drafts, parts, strict=True):
            known.setdefault(draft.group, {}).update(seen.known([part.words for part in some]))
        return [self._cleaned(draft, some, seen, known[draft.group]) for draft, some in zip(drafts, parts, strict=True)]

    def _cleaned(self, draft: Draft, parts: Sequence[_Part], seen: Seen, known: dict[str, str]) -> Clean | Invalid:
        long = next((part for part in parts if len(part.words.text) > self._settings.max_text), None)
        if long is not None:
            return Invalid(
                "text_too_long",
                f"field {long.section}: {len(long.words.text)} characters, the limit is {self._settings.max_text} "
                "(setting stages.redact.max_text)",
            )
        failed = next((f for part in parts if (f := seen.failure(part.words)) is not None), None)
        return failed or self._masked(draft, parts, seen, known)

    def _masked(self, draft: Draft, parts: Sequence[_Part], seen: Seen, known: dict[str, str]) -> Clean | Invalid:
        key, policy = tenant_key(self._settings.key, draft.tenant), seen.policy
        ids = {name: _opaque(key, value, seen.leak) for name, value in draft.ids.items()}
        masker = Masker(key, ids["session_id"] or draft.facts.get("trace_id", ids.get("trace_id", "")), policy)
        counts: dict[str, int] = {}

        def mask(leaf: Leaf) -> str:
            return masker.mask(leaf.text, [*seen.finds[leaf], *spread(leaf.text, known)], counts) if leaf.text else ""

        def clean(words: _Words) -> str:
            plain = seen.unmasked(words, known)
            return rewrite(*words, mask) if plain is None else plain

        masked = [_Masked(part.section, part.name, clean(part.words)) for part in parts]
        for part in masked:
            proof = masker.proof(part.text)
            entity = seen.leak(proof) or (survivor([proof], known) if known else "")
            if entity:
                return Invalid("redaction_leak", f"field {part.section}: {entity} left after masking")
        return self._record(draft, masked, ids, subject_hash(key, draft.user), Redaction(
            policy_version=policy.version, detector=policy.detector, counts=dict(sorted(counts.items())),
        ))  # fmt: skip

    def _record(
        self, draft: Draft, parts: Sequence[_Masked], ids: dict[str, str], subject: str, envelope: Redaction
    ) -> Clean:
        body: dict[str, Any] = {part.section: part.text for part in parts if not part.name}
        names = {part.name: part.text for part in parts if part.section == "attribute names"}
        lists = {part.name: part.text for part in parts if part.section == _LIST}
        body |= {name: [lists[f"{name} {place}"] for place in range(len(texts))] for name, texts in draft.lists.items()}
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
                "subject_hash": subject,
                "event_time": draft.event_time,
                "redaction": envelope,
                "consent_train": _allowed(draft.train, self._policies.of(draft.tenant).train),
                "consent_evaluate": _allowed(draft.evaluate, self._policies.of(draft.tenant).evaluate),
            }
        )


def _allowed(said: bool | None, policy: Purpose) -> bool:
    return policy != "never" and (said if said is not None else policy == "assumed")


class Seen:
    """What one policy's detector found in all texts of a batch, each looked at once. It holds raw text: let go of it.

    ``finds``: by leaf, all of it when its key says so. ``leak``: see ``mask.leak``; of a text that stands in many
    records it is looked for once. Texts of more than ``limit`` characters are not looked at.
    """

    def __init__(self, policy: Policy, detector: Detector, words: Collection[_Words], limit: int) -> None:
        self.policy = policy
        self.leak = cache(leak)
        self._leaves: dict[_Words, list[Leaf]] = {}
        self._plain: dict[_Words, str] = {}
        for one in words:
            self._leaves[one] = leaves = list[Leaf]()
            self._plain[one] = rewrite(*one, lambda leaf, to=leaves: _note(leaf, to)) if len(one.text) <= limit else ""
        asked = {leaf for leaves in self._leaves.values() for leaf in leaves}
        queries = sorted({Query(leaf.text, leaf.names) for leaf in asked})
        found = dict(zip(queries, detector.find(queries), strict=True))
        self.finds: dict[Leaf, Finds] = {}
        self._failed: dict[Leaf, Invalid] = {}
        for leaf in asked:
            some = found[Query(leaf.text, leaf.names)]
            if isinstance(some, Invalid):
                self._failed[leaf], some = some, ()
            self.finds[leaf] = _whole(leaf, detector) or some
        self._quiet = {one for one, leaves in self._leaves.items() if not any(self.finds[leaf] for leaf in leaves)}

    def failure(self, words: _Words) -> Invalid | None:
        """Why a text could not be looked at, if so."""
        return next((self._failed[leaf] for leaf in self._leaves[words] if leaf in self._failed), None)

    def unmasked(self, words: _Words, known: Mapping[str, str]) -> str | None:
        """The text as it may go on when there is nothing to mask; None when there may be."""
        return self._plain[words] if not known and words in self._quiet else None

    def known(self, parts: Iterable[_Words]) -> dict[str, str]:
        """Values that must go wherever else they stand: finds, and first and last names that stand in a row."""
        known: dict[str, str] = {}
        before = ""
        for leaf in (leaf for words in parts for leaf in self._leaves[words]):
            if self.finds[leaf]:
                known |= values(leaf.text, self.finds[leaf])
            if leaf.key:
                named = leaf.text if leaf.text.isalpha() and type_of(leaf.key, leaf.text) == "PERSON" else ""
                if named and before:
                    known[f"{before} {named}"] = "PERSON"
                before = named
        return {value: entity for value, entity in known.items() if not self.policy.allows(value)}


def _note(leaf: Leaf, to: list[Leaf]) -> str:
    if leaf.text:
        to.append(leaf)
    return leaf.text


def _whole(leaf: Leaf, detector: Detector) -> Finds:
    entity = detector.type_of(leaf.key, leaf.text) if leaf.key else ""
    return (Find(0, len(leaf.text), entity, 0.95),) if entity else ()


@cache
def cleaner_for(settings: RedactSettings) -> Cleaner:
    """The process's cleaner for these settings."""
    return Cleaner(settings)


def _parts(draft: Draft, policy: Policy) -> Iterator[_Part]:
    yield _Part("agent", "", _Words(draft.agent, "", False))
    for name, text in draft.words.items():
        yield _Part(name, "", _Words(text, "", False))
    for name, texts in draft.lists.items():
        for place, text in enumerate(texts):
            yield _Part(_LIST, f"{name} {place}", _Words(text, "", False))
    for name, text in draft.texts.items():
        yield _Part(name, "", _Words("" if name in policy.drop_fields else text, "", True))
    for name, text in draft.attributes.items():
        if policy.keeps(name):
            yield _Part("attribute names", name, _Words(name, "", False))
            yield _Part("attributes", name, _Words(text, name, False))


def _opaque(key: bytes, value: str, look: Callable[[str], str] = leak) -> str:
    """An id as it is, or its keyed hash when it is a person's own number, address or name."""
    if not value or _OPAQUE.fullmatch(value):
        return value
    wrapped = len(value) >= 16 and base64_text(value) is not None
    if _CODE.fullmatch(value) and not wrapped and not look(value):
        return value
    return f"h-{keyed(key, 'id', value)[:24]}"
