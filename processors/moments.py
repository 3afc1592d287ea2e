"""Instants as whole microseconds since 1970: what keyed state holds, since JSON has no time."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from schemas.events import EPOCH

_MICRO = timedelta(microseconds=1)
LAST = datetime(9999, 12, 31, tzinfo=UTC)
"""No timer is set beyond this day, whatever a producer's clock says."""


def micros(time: datetime) -> int:
    """Microseconds since 1970.

    >>> micros(moment(12345))
    12345
    """
    return (time - EPOCH) // _MICRO


def moment(value: int) -> datetime:
    """The instant of so many microseconds since 1970, at most ``LAST``."""
    return EPOCH + min(value, micros(LAST)) * _MICRO


def seconds(value: float) -> int:
    """A duration in seconds as microseconds."""
    return round(value * 1_000_000)
