"""``driftwheel deadletters``: list, show and replay what could not be processed, on either engine."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import typer
from rich.console import Console
from rich.progress import Progress

from driftwheel.api import Table, plain
from driftwheel.config import Config
from driftwheel.desk import open_letters
from driftwheel.letters import LetterFilter, Letters, letters_of
from driftwheel.tables import show, show_mapping
from schemas.errors import UsageError

CHUNK = 50
"""Messages that are replayed at a time, between two steps of the progress bar."""
SHORT = 12
"""So much of an id is shown to people; commands take the beginning of an id for the whole."""
_COLUMNS = ("event_id", "event_time", "tenant", "agent", "stage", "topic", "reason", "items", "state", "replayed_time")
_TIMES = ("event_time", "replayed_time", "oldest", "newest")
_COUNTED = ("tenant", "stage", "topic", "reason", "letters", "items", "oldest", "newest")


def list_letters(config: Config, chosen: LetterFilter, *, summary: bool, as_json: bool) -> None:
    """Print letters, or how many there are of each reason."""
    with open_letters(config) as letters:
        found = letters.counts(chosen) if summary else letters.find(chosen)
    if as_json:
        _print_json(found)
        return
    columns = _COUNTED if summary else _COLUMNS
    show(Table(list(columns), [[_cell(name, row[name]) for name in columns] for row in found]))


def _cell(name: str, value: Any) -> Any:
    value = plain(value)
    if name == "event_id":
        return value[:SHORT]
    return value[:19].replace("T", " ") if value and name in _TIMES else value


def show_letter(config: Config, name: str, *, as_json: bool) -> None:
    """Print all that is known of one letter. The payload is never shown."""
    with open_letters(config) as letters:
        found = letters.show(name)
    show_mapping({key: "" if value is None else value for key, value in plain(found).items()}, as_json=as_json)


def replay_letters(
    config: Config, ids: Sequence[str], chosen: LetterFilter, *, again: bool, dry_run: bool, yes: bool, as_json: bool
) -> int:
    """Append the letters' messages once more, after a question. Returns the exit code: 1 when one could not be."""
    with open_letters(config) as letters:
        plan = plain(letters.plan(ids, chosen, again))
        if not as_json:
            _print_plan(plan, dry_run)
        if dry_run:
            done: dict[str, Any] = {"messages": 0, "replayed": [], "left_out": plan["left_out"]}
        else:
            if plan["messages"] and not yes:
                _confirm(len(plan["messages"]))
            done = _replay(letters, plan, again)
    if as_json:
        _print_json({"planned": plan["messages"], **done} if dry_run else done)
    elif not dry_run:
        _print_done(done, len(plan["left_out"]))
    return 1 if len(done["left_out"]) > len(plan["left_out"]) or (ids and plan["left_out"]) else 0


def _confirm(messages: int) -> None:
    try:
        typer.confirm(f"Append {messages} message(s) again?", abort=True, err=True)
    except typer.Abort as error:
        raise UsageError("nothing was replayed; --yes replays without asking") from error


def _replay(letters: Letters, plan: Mapping[str, Any], again: bool) -> dict[str, Any]:
    """The plan, some messages at a time, with a progress bar on standard error."""
    done: dict[str, Any] = {"messages": 0, "replayed": [], "left_out": list(plan["left_out"])}
    messages = plan["messages"]
    with Progress(console=Console(stderr=True), transient=True, disable=not messages) as progress:
        task = progress.add_task("replay", total=len(messages))
        for chunk in _chunks(messages):
            part = letters.replay(letters_of({"messages": chunk}), again)
            done["messages"] += part["messages"]
            done["replayed"] += part["replayed"]
            done["left_out"] += part["left_out"]
            progress.advance(task, len(chunk))
    return done


def _chunks(messages: Sequence[Any]) -> Iterator[Sequence[Any]]:
    for at in range(0, len(messages), CHUNK):
        yield messages[at : at + CHUNK]


def _print_plan(plan: Mapping[str, Any], dry_run: bool) -> None:
    by_topic: dict[str, int] = {}
    for message in plan["messages"]:
        by_topic[message["topic"]] = by_topic.get(message["topic"], 0) + 1
    what = ", ".join(f"{count} of {topic}" for topic, count in sorted(by_topic.items()))
    letters = len(letters_of(plan))
    verb = "would be" if dry_run else "will be"
    typer.echo(f"{letters} dead letters; {len(plan['messages'])} messages {verb} appended again: {what or 'none'}")
    _print_left_out(plan["left_out"])


def _print_left_out(left_out: Sequence[Mapping[str, str]]) -> None:
    reasons: dict[str, list[str]] = {}
    for one in left_out:
        reasons.setdefault(one["why"].replace(one["event_id"], "the payload"), []).append(one["event_id"])
    for why, ids in reasons.items():
        more = f" and {len(ids) - 3} more" if len(ids) > 3 else ""
        typer.echo(f"left out: {', '.join(one[:SHORT] for one in ids[:3])}{more}: {why}")


def _print_done(done: Mapping[str, Any], before: int) -> None:
    typer.echo(f"replayed {len(done['replayed'])} dead letters, {done['messages']} messages; see: deadletters list")
    _print_left_out(done["left_out"][before:])


def _print_json(value: Any) -> None:
    typer.echo(json.dumps(plain(value), indent=2))
