"""Single texts, redacted as the stage would: for files of texts, and to try a policy out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from processors.redact.detect import Find, Query, detector_for
from processors.redact.documents import may_name
from processors.redact.mask import Masker, leak, survivor, values
from processors.redact.parity import parity_detector
from processors.redact.policy import Policy
from processors.redact.settings import RedactSettings, tenant_key
from schemas.errors import Invalid


@dataclass(frozen=True, slots=True)
class Redacted:
    """A clean text, and what was replaced: places in the text that was given, in characters."""

    text: str
    findings: tuple[Find, ...]


class TextRedactor:
    """Redacts texts by one policy. ``tenant`` chooses the key of placeholders.

    ``parity``: what Presidio finds by itself, and nothing else, is replaced; nothing is proved then.
    """

    def __init__(
        self, settings: RedactSettings, policy: Policy, tenant: str = "default", *, parity: bool = False
    ) -> None:
        self._settings, self._policy, self._parity = settings, policy, parity
        self._key = tenant_key(settings.key, tenant)

    def redact(self, texts: Sequence[tuple[str, str]]) -> list[Redacted | Invalid]:
        """Pairs of session and text, each redacted alone; Invalid for what cannot be proved clean, as in the stage."""
        if self._parity:
            return self._as_presidio(texts)
        found = detector_for(self._settings, self._policy).find([Query(text, may_name(text)) for _, text in texts])
        return [
            finds if isinstance(finds, Invalid) else self._redacted(session, text, finds)
            for (session, text), finds in zip(texts, found, strict=True)
        ]

    def _as_presidio(self, texts: Sequence[tuple[str, str]]) -> list[Redacted | Invalid]:
        out: list[Redacted | Invalid] = []
        seen = parity_detector(self._settings).find([text for _, text in texts])
        for (session, text), found in zip(texts, seen, strict=True):
            finds = [find for find in found if find.score >= self._policy.threshold]
            out.append(Redacted(Masker(self._key, session, self._policy).mask(text, finds, {}), tuple(finds)))
        return out

    def _redacted(self, session: str, text: str, finds: tuple[Find, ...]) -> Redacted | Invalid:
        if len(text) > self._settings.max_text:
            return Invalid("text_too_long", f"{len(text)} characters, the limit is {self._settings.max_text}")
        masker = Masker(self._key, session, self._policy)
        clean = masker.mask(text, finds, {})
        known = {value: entity for value, entity in values(text, finds).items() if not self._policy.allows(value)}
        proof = masker.proof(clean)
        left = leak(proof) or survivor([proof], known)
        if left:
            return Invalid("redaction_leak", f"{left} left after masking")
        return Redacted(clean, tuple(masker.wanted(text, finds)))
