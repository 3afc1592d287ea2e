"""``driftwheel quarantine``: list, show, release and purge sealed payloads, on either engine."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import partial
from typing import Any

import typer

from driftwheel.api import Table, plain
from driftwheel.audit import os_user
from driftwheel.config import Config
from driftwheel.deadletters_command import How, cell, confirm, print_json, replay_from
from driftwheel.desk import open_vault
from driftwheel.files import writing_private
from driftwheel.letters import LetterFilter
from driftwheel.tables import show, show_mapping
from driftwheel.vault import Vault
from schemas.errors import UsageError

_COLUMNS = ("name", "tenant", "agent", "topic", "reason", "size", "until", "state")
_CONTROL = {code: "\ufffd" for code in range(0x20) if chr(code) not in "\t\n"} | {0x7F: "\ufffd"}


def list_payloads(config: Config, chosen: LetterFilter, *, as_json: bool) -> None:
    """Print what lies sealed, those that will be purged soonest first."""
    with open_vault(config) as vault:
        found = vault.find(chosen)
    if as_json:
        print_json(found)
        return
    show(Table(list(_COLUMNS), [[cell(name, row[name]) for name in _COLUMNS] for row in found]))


def show_payload(config: Config, name: str, *, reveal: bool, target: str, as_json: bool) -> None:
    """Print all but the payload's text; ``reveal`` opens it: to the terminal, or into a file of the owner's alone."""
    with open_vault(config) as vault:
        found = plain(vault.show(name))
        payload = vault.reveal(found["name"], os_user()) if reveal else b""
    if not reveal:
        show_mapping(found, as_json=as_json)
    elif target == "-":
        _print_payload(payload)
    else:
        with writing_private(target) as file:
            file.write(payload)
        typer.echo(f"{target}: {len(payload)} bytes of personal data; delete it when you are done", err=True)


def _print_payload(payload: bytes) -> None:
    """As it is into a pipe; on a terminal without what would steer it."""
    if sys.stdout.isatty():
        typer.echo(payload.decode("utf-8", "replace").translate(_CONTROL))
    else:
        sys.stdout.buffer.write(payload)
        sys.stdout.flush()


def release_payloads(config: Config, names: Sequence[str], chosen: LetterFilter, how: How) -> int:
    """Send payloads through redaction once more, after a question. Returns the exit code: 1 when one could not be."""
    with open_vault(config) as vault:
        found = _chosen(vault, names, chosen)
        if not names:
            found = [row for row in found if row["state"] == "open" or (how.again and row["state"] != "settled")]
        bare = [row["name"] for row in found if not row["topic"]]
        if bare and names:
            raise UsageError(f"{bare[0]} has no dead letter in the store, so nobody knows where it goes: purge it")
        ids = [row["name"] for row in found if row["topic"]]
        if not ids:
            _print_none(how)
            return 0
        noted = How(how.again, how.dry_run, how.yes, how.as_json, partial(vault.note_release, who=os_user()))
        return replay_from(vault.letters, ids, chosen, noted)


def _print_none(how: How) -> None:
    if how.as_json:
        print_json({"messages": 0, "replayed": [], "left_out": []})
    else:
        typer.echo("no sealed payload is open; --again releases once more what was released before")


def purge_payloads(config: Config, names: Sequence[str], chosen: LetterFilter, *, yes: bool, as_json: bool) -> int:
    """Destroy payloads, after a question. Returns the exit code: 1 when one was gone already."""
    with open_vault(config) as vault:
        wanted = [row["name"] for row in _chosen(vault, names, chosen)]
        if wanted and not yes:
            confirm(f"Destroy {len(wanted)} payload(s) for good?", "nothing was purged; --yes purges")
        gone = vault.purge(wanted, os_user()) if wanted else []
    if as_json:
        print_json({"purged": gone})
    else:
        typer.echo(f"purged {len(gone)} sealed payloads; their letters stay: driftwheel deadletters list")
    return 0 if len(gone) == len(wanted) else 1


def _chosen(vault: Vault, names: Sequence[str], chosen: LetterFilter) -> list[dict[str, Any]]:
    return [plain(vault.show(name)) for name in dict.fromkeys(names)] if names else plain(vault.find(chosen))
