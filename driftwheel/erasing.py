"""What can be asked about erasures, in plain values: by whoever has the store, or by the running product's API."""

from __future__ import annotations

from typing import Any, Protocol

STATES = ("open", "requested", "running", "done")
"""``open``: not done yet."""


class Erasing(Protocol):
    """The erasures of one installation, whoever answers."""

    @property
    def goes_on(self) -> bool:
        """Whether somebody works on what is not done when ``request`` has returned."""
        ...

    def plan(self, tenant: str, user_id: str) -> dict[str, Any]:
        """What an erasure would reach, without changing anything: ``found`` by place, dataset versions and models."""
        ...

    def request(self, tenant: str, user_id: str, by: str) -> dict[str, Any]:
        """Ask for an erasure; on return the request is durable. As ``show`` has it.

        The same person again is the same request, unless it is done and new data has come.
        """
        ...

    def show(self, name: str) -> dict[str, Any]:
        """One erasure by its id, or the beginning of it, with its state, counts and obligations.

        Raises UsageError when there is none, or more than one.
        """
        ...

    def find(self, tenant: str, state: str) -> list[dict[str, Any]]:
        """Erasures, the newest first. Raises UsageError for a state that there is not."""
        ...
