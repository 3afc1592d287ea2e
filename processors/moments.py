"""Instants as whole microseconds since 1970: what keyed state holds, since JSON has no time."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from schemas.avro_writer import micros_of
from schemas.events import EPOCH

micros = micros_of
"""Microseconds since 1970."""
LAST = datetime(9999, 12, 31, tzinfo=UTC)
"""No timer is set beyond this day, whatever a producer's clock says."""
_LAST = micros(LAST)


def moment(value: int) -> datetime:
    """The instant of so many microseconds since 1970, at most ``LAST``.

    >>> micros(moment(12345))
    12345
    """
    return EPOCH + timedelta(0, 0, value if value < _LAST else _LAST)


def seconds(value: float) -> int:
    """A duration in seconds as microseconds."""
    return round(value * 1_000_000)
