"""The daily cycle of a failure rate: how much worse or better each hour of the day is than the mean.

Failures and values of each hour are counted, as four characters an hour (``data["h"]``, 96 in all). Once an hour it
is measured how much the hours differ beyond chance (``data["w"]``: so many values of the mean are mixed into every
hour; the method of moments of a Beta-binomial), so that a stream without a cycle is left alone. Counts are halved when
they are full: a cycle that changes is followed.
"""

from __future__ import annotations

from typing import Any

CALM = 2.0
"""Evidence up to which values teach the hours: a rise that is under way does not."""
DAY = 24
_DIGITS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
_VALUE = {digit: place for place, digit in enumerate(_DIGITS)}
_FULL = 2_000
_FLAT = 10**6
_LEAST = 20


def ratio(data: dict[str, Any], hour: int) -> float:
    """The rate of this hour divided by the mean rate."""
    failures, count = _counts(data["h"], hour)
    if data["w"] >= _FLAT or not data["p"]:
        return 1.0
    return (failures / data["p"] + data["w"]) / (count + data["w"])


def learn(data: dict[str, Any], value: int, hour: int) -> None:
    """Count one value; when the hour is a new one, look at them all.

    >>> data = {}
    >>> for day in range(10):
    ...     for hour in range(24):
    ...         for n in range(100):
    ...             learn(data, int(n < (15 if hour < 12 else 5)), hour)
    >>> round(ratio(data, 3), 1), round(ratio(data, 20), 1), len(data["h"])
    (1.5, 0.5, 96)
    """
    if "h" not in data:
        data.update(h=_DIGITS[0] * 4 * DAY, w=_FLAT, p=0.0, o=hour)
    if hour != data["o"]:
        _compare(data)
        data["o"] = hour
    failures, count = _counts(data["h"], hour)
    failures, count = failures + value, count + 1
    if count > _FULL:
        failures, count = failures // 2, count // 2
    text = data["h"]
    data["h"] = text[: 4 * hour] + _written(failures) + _written(count) + text[4 * hour + 4 :]


def _compare(data: dict[str, Any]) -> None:
    pairs = [_counts(data["h"], hour) for hour in range(DAY)]
    failures, count = sum(pair[0] for pair in pairs), sum(pair[1] for pair in pairs)
    rate = failures / count if count else 0.0
    used = [pair for pair in pairs if pair[1] >= _LEAST]
    chance = rate * (1.0 - rate)
    if chance <= 0.0 or len(used) < DAY // 2:
        data.update(w=_FLAT, p=0.0)
        return
    beyond = sum((f - n * rate) ** 2 / (n * chance) - 1.0 for f, n in used) / sum(n for _, n in used)
    data["p"] = round(rate, 6)
    data["w"] = _FLAT if beyond <= 1.0 / _FLAT else min(round(1.0 / beyond), _FLAT)


def _counts(text: str, hour: int) -> tuple[int, int]:
    a, b, c, d = text[4 * hour : 4 * hour + 4]
    return _VALUE[a] * 64 + _VALUE[b], _VALUE[c] * 64 + _VALUE[d]


def _written(number: int) -> str:
    return _DIGITS[number // 64] + _DIGITS[number % 64]
