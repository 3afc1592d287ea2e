"""Sealed payloads as reviewers see them: what there is, one of them opened, released through redaction, or destroyed.

What a payload is about is in its dead letter; a release is that letter's replay (``driftwheel.deadletters``). Whoever
opens, releases or destroys stands in the audit log first.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

from connectors.quarantine import Held
from driftwheel.audit import Audit
from driftwheel.deadletters import Behind, DeadLetters
from driftwheel.letters import MAX_LETTERS, LetterFilter, Letters, filter_of
from schemas.errors import UsageError

VERBS = ("find", "show", "reveal", "purge", "release")
"""What the running product's API can be asked of its vault."""
_TOLD = ("agent", "stage", "topic", "reason", "detail", "items", "event_time", "state", "replayed_time")


class Vault(Protocol):
    """The sealed payloads of one installation, whoever answers. ``who``: the operating system's user who asks."""

    @property
    def letters(self) -> Letters:
        """The dead letters, which release payloads."""
        ...

    def find(self, chosen: LetterFilter) -> list[dict[str, Any]]:
        """Payloads, those that will be purged soonest first: ``name``, ``tenant``, ``size``, ``until``, their letter's.

        A payload whose letter never came, or has left the store, has no ``reason``: it is there when ``chosen`` asks
        for no more than a tenant.
        """
        ...

    def show(self, name: str) -> dict[str, Any]:
        """One payload, by its name or the beginning of it: all but its text. UsageError: none, or more than one."""
        ...

    def reveal(self, name: str, who: str) -> bytes:
        """A payload, opened. Raises Refused when it cannot be, or cannot be written down."""
        ...

    def purge(self, names: Sequence[str], who: str) -> list[str]:
        """Destroy payloads by their whole names; returns those that were there."""
        ...

    def note_release(self, names: Sequence[str], who: str) -> None:
        """Write down that payloads are about to be released."""
        ...


class OwnVault:
    """See ``Vault``: over the store and the quarantine that this process has open."""

    def __init__(self, letters: DeadLetters, behind: Callable[[], Behind], audit: Audit) -> None:
        self._letters, self._behind, self._audit = letters, behind, audit

    @property
    def letters(self) -> Letters:
        """See Vault."""
        return self._letters

    def find(self, chosen: LetterFilter) -> list[dict[str, Any]]:
        """See Vault."""
        held = [one for one in self._behind().payloads.held() if chosen.tenant in ("", one.tenant)]
        known = {row["event_id"]: row for row in self._letters.find(replace(chosen, limit=MAX_LETTERS))}
        alone = chosen == LetterFilter(tenant=chosen.tenant, limit=chosen.limit)
        shown = [_told(one, known.get(one.name, {})) for one in held if alone or one.name in known]
        return sorted(shown, key=lambda row: (row["until"], row["name"]))[: chosen.limit]

    def show(self, name: str) -> dict[str, Any]:
        """See Vault."""
        held = self._one(name)
        rows = [row for row in self._letters.find(LetterFilter(tenant=held.tenant)) if row["event_id"] == held.name]
        return _told(held, rows[0] if rows else {})

    def _one(self, name: str) -> Held:
        found = [one for one in self._behind().payloads.held() if name and one.name.startswith(name)]
        if len(found) != 1:
            problem = "more than one sealed payload has a name" if found else "no sealed payload has a name"
            raise UsageError(f"{problem} that begins {name!r}; see: driftwheel quarantine list")
        return found[0]

    def reveal(self, name: str, who: str) -> bytes:
        """See Vault."""
        held = self._one(name)
        payload = self._behind().payloads.read(held.name)
        self._audit.note("reveal", who, [held.name])
        return payload

    def purge(self, names: Sequence[str], who: str) -> list[str]:
        """See Vault."""
        there = {one.name for one in self._behind().payloads.held()}
        chosen = [name for name in names if name in there]
        self._audit.note("purge", who, chosen)
        return [name for name in chosen if self._behind().payloads.delete(name)]

    def note_release(self, names: Sequence[str], who: str) -> None:
        """See Vault."""
        self._audit.note("release", who, names)


def _told(held: Held, letter: Mapping[str, Any]) -> dict[str, Any]:
    about = {name: letter.get(name, "") for name in _TOLD}
    return {"name": held.name, "tenant": held.tenant, "size": held.size, "until": held.until, **about}


def answer(vault: Vault, verb: str, body: Mapping[str, Any]) -> dict[str, Any]:
    """What the API says to one of ``VERBS``: ``names``, ``filter`` and ``who`` of the body are its arguments."""
    names, who = [str(name) for name in body.get("names", [])], str(body.get("who", ""))
    if verb == "find":
        texts = {str(name): str(value) for name, value in body.get("filter", {}).items()}
        return {"payloads": vault.find(filter_of(texts))}
    if verb == "show":
        return vault.show(names[0] if names else "")
    if verb == "reveal":
        return {"payload": base64.b64encode(vault.reveal(names[0] if names else "", who)).decode()}
    if verb == "purge":
        return {"purged": vault.purge(names, who)}
    vault.note_release(names, who)
    return {}


class RemoteVault:
    """The running product's vault, by its API. See ``Vault``; ``ask`` takes a path and a body."""

    def __init__(self, ask: Callable[[str, dict[str, Any]], dict[str, Any]], letters: Letters) -> None:
        self._ask, self._letters = ask, letters

    @property
    def letters(self) -> Letters:
        """See Vault."""
        return self._letters

    def find(self, chosen: LetterFilter) -> list[dict[str, Any]]:
        """See Vault."""
        return self._ask("/v1/quarantine/find", {"filter": chosen.texts()})["payloads"]

    def show(self, name: str) -> dict[str, Any]:
        """See Vault."""
        return self._ask("/v1/quarantine/show", {"names": [name]})

    def reveal(self, name: str, who: str) -> bytes:
        """See Vault."""
        return base64.b64decode(self._ask("/v1/quarantine/reveal", {"names": [name], "who": who})["payload"])

    def purge(self, names: Sequence[str], who: str) -> list[str]:
        """See Vault."""
        return self._ask("/v1/quarantine/purge", {"names": list(names), "who": who})["purged"]

    def note_release(self, names: Sequence[str], who: str) -> None:
        """See Vault."""
        self._ask("/v1/quarantine/release", {"names": list(names), "who": who})
