"""Sealed payloads: AES-256-GCM under a key of the tenant's own, bound to tenant, name and time.

A sealed payload says in the clear whose it is and since when; both are authenticated, as is the name it is kept under,
so that no payload can be passed off as another's, as another tenant's, or as a younger one.

    version (1 byte) | key's mark (8) | micros since 1970 (8) | length of the tenant (2) | tenant | nonce (12) | sealed

AES-GCM: NIST SP 800-38D. A tenant's key is HMAC-SHA256 of its name under the master key.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import struct
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from schemas.errors import Refused

VERSION = 2
NONCE = 12
TAG = 16
_FIXED = struct.Struct(">B8sQH")
LONGEST = _FIXED.size + 0xFFFF
"""No head is longer, in bytes."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Head(NamedTuple):
    """What a sealed payload says in the clear; ``size`` bytes of it are not the payload's."""

    mark: bytes
    since: datetime
    tenant: str
    size: int


def head_of(sealed: bytes) -> Head | None:
    """The head of a sealed payload, of which the first ``LONGEST`` bytes are enough; None when it is none."""
    if len(sealed) < _FIXED.size:
        return None
    version, mark, since, length = _FIXED.unpack_from(sealed)
    end = _FIXED.size + length
    if version != VERSION or len(sealed) < end:
        return None
    try:
        return Head(mark, _EPOCH + timedelta(microseconds=since), sealed[_FIXED.size : end].decode(), end + NONCE + TAG)
    except (UnicodeDecodeError, OverflowError):
        return None


class Sealer:
    """Seals and opens; ``master`` is secret bytes. Whoever lacks them reads tenants, times and sizes alone."""

    def __init__(self, master: bytes) -> None:
        self._master = master

    def seal(self, name: str, tenant: str, payload: bytes, now: datetime) -> bytes:
        """A payload that ``open`` gives back under the same name alone."""
        key, owner = self._key(tenant), tenant.encode("utf-8", "replace")[:0xFFFF]
        head = _FIXED.pack(VERSION, _mark(key), (now - _EPOCH) // timedelta(microseconds=1), len(owner)) + owner
        nonce = os.urandom(NONCE)
        return head + nonce + AESGCM(key).encrypt(nonce, payload, head + name.encode())

    def open(self, name: str, sealed: bytes) -> bytes:
        """The payload. Refused, with the way out, when its key is another or it is damaged."""
        head = head_of(sealed)
        if head is None:
            raise Refused(f"{name} in the quarantine is damaged, or was sealed by another version of Driftwheel")
        key = self._key(head.tenant)
        if not hmac.compare_digest(head.mark, _mark(key)):
            raise Refused(f"{name} in the quarantine was sealed under another key: set redact.key to the one before")
        end = head.size - NONCE - TAG
        try:
            return AESGCM(key).decrypt(sealed[end : end + NONCE], sealed[end + NONCE :], sealed[:end] + name.encode())
        except (InvalidTag, ValueError) as error:
            raise Refused(f"{name} in the quarantine is damaged, or is not the payload of this letter") from error

    def _key(self, tenant: str) -> bytes:
        return hmac.new(self._master, b"quarantine\0" + tenant.encode("utf-8", "replace"), hashlib.sha256).digest()


def _mark(key: bytes) -> bytes:
    """Tells keys apart without telling them."""
    return hashlib.sha256(b"driftwheel quarantine\0" + key).digest()[:8]
