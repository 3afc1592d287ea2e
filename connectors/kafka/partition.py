"""Which partition a key belongs to: Kafka's default partitioner, murmur2 (Austin Appleby's hash, 32 bits).

librdkafka calls it ``murmur2_random``, and it chooses by the record's key. Where the key has another use (what
compaction replaces by) or the partition must be known, it is worked out here.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from schemas.topics import BY_NAME

_MASK = 0xFFFFFFFF
_SEED = 0x9747B28C
_M = 0x5BD1E995


def murmur2(data: bytes) -> int:
    """The hash, unsigned, as in Kafka's Java client.

    >>> [murmur2(text) for text in (b"21", b"foobar", b"abc")]
    [3321034988, 3504634814, 479470107]
    """
    h = (_SEED ^ len(data)) & _MASK
    whole = len(data) & ~3
    for at in range(0, whole, 4):
        k = int.from_bytes(data[at : at + 4], "little") * _M & _MASK
        k = (k ^ k >> 24) * _M & _MASK
        h = (h * _M & _MASK) ^ k
    if len(data) > whole:
        h = (h ^ int.from_bytes(data[whole:], "little")) * _M & _MASK
    h = (h ^ h >> 13) * _M & _MASK
    return h ^ h >> 15


@lru_cache(8192)
def partition_of(key: str, partitions: int) -> int:
    """The partition of a key, the same as any Kafka client's that hashes by murmur2."""
    return (murmur2(key.encode("utf-8", "replace")) & 0x7FFFFFFF) % partitions


def copies(topic: str, message: dict[str, Any], partitions: int) -> list[dict[str, Any]]:
    """What to produce of a message: itself, or where the topic is broadcast a copy for every partition."""
    known = BY_NAME.get(topic)
    if known is None or not known.broadcast:
        return [message]
    return [message | {"partition": number} for number in range(partitions)]
