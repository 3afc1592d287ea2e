"""``driftwheel deadletters``: list, show and replay what could not be processed, on either engine."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
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
_TIMES = ("event_time", "replayed_time", "oldest", "newest", "until")
_COUNTED = ("tenant", "stage", "topic", "reason", "letters", "items", "oldest", "newest")


def list_letters(config: Config, chosen: LetterFilter, *, summary: bool, as_json: bool) -> None:
    """Print letters, or how many there are of each reason."""
    with open_letters(config) as letters:
        found = letters.counts(chosen) if summary else letters.find(chosen)
    if as_json:
        print_json(found)
        return
    columns = _COUNTED if summary else _COLUMNS
    show(Table(list(columns), [[cell(name, row[name]) for name in columns] for row in found]))


def cell(name: str, value: Any) -> Any:
    """A value as people read it: the beginning of an id, times to the second."""
    value = plain(value)
    if name in {"event_id", "name"}:
        return value[:SHORT]
    return value[:19].replace("T", " ") if value and name in _TIMES else value


def show_letter(config: Config, name: str, *, as_json: bool) -> None:
    """Print all that is known of one letter. The payload is never shown."""
    with open_letters(config) as letters:
        found = letters.show(name)
    show_mapping({key: "" if value is None else value for key, value in plain(found).items()}, as_json=as_json)


@dataclass(frozen=True, slots=True)
class How:
    """How a replay is asked for, and what is told of it. ``before``: called with the letters of every append."""

    again: bool = False
    dry_run: bool = False
    yes: bool = False
    as_json: bool = False
    before: Callable[[Sequence[str]], None] = lambda _: None


def replay_letters(config: Config, ids: Sequence[str], chosen: LetterFilter, how: How) -> int:
    """Append the letters' messages once more, after a question. Returns the exit code: 1 when one could not be."""
    with open_letters(config) as letters:
        return replay_from(letters, ids, chosen, how)


def replay_from(letters: Letters, ids: Sequence[str], chosen: LetterFilter, how: How) -> int:
    """``replay_letters`` of letters that are open already."""
    plan = plain(letters.plan(ids, chosen, how.again))
    if not how.as_json:
        _print_plan(plan, how.dry_run)
    if how.dry_run:
        done: dict[str, Any] = {"messages": 0, "replayed": [], "left_out": plan["left_out"]}
    else:
        if plan["messages"] and not how.yes:
            confirm(f"Append {len(plan['messages'])} message(s) again?", "nothing was replayed; --yes replays")
        done = _replay(letters, plan, how)
    if how.as_json:
        print_json({"planned": plan["messages"], **done} if how.dry_run else done)
    elif not how.dry_run:
        _print_done(done, len(plan["left_out"]))
    return 1 if len(done["left_out"]) > len(plan["left_out"]) or (ids and plan["left_out"]) else 0


def confirm(question: str, otherwise: str) -> None:
    """Ask on standard error. UsageError when the answer is no, or nobody answers."""
    try:
        typer.confirm(question, abort=True, err=True)
    except typer.Abort as error:
        raise UsageError(f"{otherwise} without asking") from error


def _replay(letters: Letters, plan: Mapping[str, Any], how: How) -> dict[str, Any]:
    """The plan, some messages at a time, with a progress bar on standard error."""
    done: dict[str, Any] = {"messages": 0, "replayed": [], "left_out": list(plan["left_out"])}
    messages = plan["messages"]
    with Progress(console=Console(stderr=True), transient=True, disable=not messages) as progress:
        task = progress.add_task("replay", total=len(messages))
        for chunk in _chunks(messages):
            ids = letters_of({"messages": chunk})
            how.before(ids)
            part = letters.replay(ids, how.again)
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


def print_json(value: Any) -> None:
    """Print a value as JSON."""
    typer.echo(json.dumps(plain(value), indent=2))
