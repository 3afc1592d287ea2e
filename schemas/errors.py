"""Every failure Driftwheel raises on purpose, and what follows from it.

    DriftwheelError
    ├── Reject       slow down: nothing was taken, the caller keeps the data and comes back later (HTTP 503)
    ├── Invalid      this record can never be processed: it becomes a dead letter and is not retried
    ├── Retry        the world is away for a moment: the same call will work later, nothing was changed
    ├── UsageError   the caller asked for something that cannot be: bad option, missing column (exit code 2)
    └── Refused      a system said no for good: wrong version, wrong credentials, port in use (exit code 1)

Anything else that is raised is a defect and ends the process on purpose, so that the log redelivers.
"""

from __future__ import annotations


class DriftwheelError(Exception):
    """The root; its text is written for the person who has to act on it."""


class Reject(DriftwheelError):
    """Back-pressure: come back after ``retry_after`` seconds; nothing was accepted."""

    def __init__(self, message: str, retry_after: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class Invalid(DriftwheelError):
    """A record that can never be processed. ``reason`` is a short, stable word for counting."""

    def __init__(self, reason: str, detail: str = "", items: int = 1) -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason
        self.detail = detail
        self.items = items

    def __reduce__(self) -> tuple[type[Invalid], tuple[str, str, int]]:
        """Worker processes hand failures back whole."""
        return type(self), (self.reason, self.detail, self.items)


class Retry(DriftwheelError):
    """A dependency is away; trying again later is safe and right."""


class UsageError(DriftwheelError):
    """What was asked for cannot be; the text says what can."""


class Refused(DriftwheelError):
    """A final no from this machine or another system; the text says how to mend it."""
