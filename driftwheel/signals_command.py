"""``driftwheel signals``: recorded conversations to implicit signals and P(dissatisfied), message by message.

The functions are those of the ``assemble`` stage; nothing is stored or sent. Lines are read and written one by one, so
that a file may be larger than memory; the output is there whole or not at all.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from connectors.embeddings import Cached, Meaning, MiniLM
from driftwheel.config import Config
from driftwheel.files import placed_lines, writing
from driftwheel.weights import minilm_folder
from processors.assemble import AssembleSettings
from processors.conversation import Conversation, conversation_of
from processors.dissatisfaction import Heard, coefficients, features_of, probability
from processors.likeness import LETTERS, Likeness
from processors.reactions import Reaction, ReactionRules, Said, abandoned, gap_between, pace, reactions, said
from schemas.errors import Invalid, Refused, UsageError

CACHED = 20_000
"""Texts whose vectors are remembered."""
_CONTEXT = 4
GAP = AssembleSettings().gap
"""Seconds of silence that end a window of a conversation."""


@dataclass(frozen=True, slots=True)
class Row:
    """One message of the user. ``turn`` counts the user's messages from 0."""

    conversation_id: str | int
    turn: int
    signals: tuple[Reaction, ...]
    p_dissatisfied: float

    def line(self) -> str:
        """As one line of JSON."""
        signals = [{"name": one.name, "score": one.weight} for one in self.signals]
        return json.dumps(
            {
                "conversation_id": self.conversation_id,
                "turn": self.turn,
                "signals": signals,
                "p_dissatisfied": round(self.p_dissatisfied, 6),
            }
        )


def signals_file(config: Config, source: str, target: str, console: Console, *, model: bool = True) -> int:
    """Read conversations from one file, write a line for each message of a user to another; returns how many.

    UsageError names the line and the field that cannot be read; then nothing is written.
    """
    alike = likeness_of(config, console) if model else LETTERS
    written = 0
    with writing(target) as out, _progress(console) as bars:
        task = bars.add_task("conversations", done=0)
        for number, conversation in enumerate(_conversations(source), 1):
            for row in rows_of(conversation, alike):
                out.write(row.line() + "\n")
                written += 1
            bars.update(task, done=number)
    return written


def likeness_of(config: Config, console: Console) -> Likeness:
    """Likeness by meaning when the model is there; else by letters, and a word on why."""
    try:
        return Meaning(Cached(MiniLM(minilm_folder(config)), CACHED))
    except Refused as error:
        console.print(f"comparing texts by letters: {error}", style="dim", highlight=False, soft_wrap=True)
        return LETTERS


def rows_of(conversation: Conversation, alike: Likeness = LETTERS) -> Iterator[Row]:
    """A row for each message of the user, in order. One without text says nothing new: it keeps the probability."""
    spoken = [place for place, one in enumerate(conversation.heard) if one.text.strip()]
    heard = [conversation.heard[place] for place in spoken]
    if isinstance(alike, Meaning):
        alike.prepare([text for one in heard for text in (one.text, one.answer) if text])
    weights = coefficients(alike.meaning)
    found = [probability(features, weights) for features in features_of(heard, alike)]
    signals = _signals(heard, conversation.last_word, alike)
    known = {place: (made, p) for place, made, p in zip(spoken, signals, found, strict=True)}
    p = probability({}, weights)
    for place in range(len(conversation.heard)):
        made, p = known.get(place, ([], p))
        yield Row(conversation.conversation_id, place, tuple(made), p)


def _signals(heard: Sequence[Heard], last_word: str, alike: Likeness) -> list[list[Reaction]]:
    """What each message says about the answer before it; the last also, whether its answer was left without a word."""
    rules = ReactionRules()
    answers = [*[one.answer for one in heard[1:]], last_word][: len(heard)]
    exchanges = [said(one.text, answer, one.at, one.at) for one, answer in zip(heard, answers, strict=True)]
    found: list[list[Reaction]] = []
    paces: list[float] = []
    for place, now in enumerate(exchanges):
        earlier = exchanges[max(place - _CONTEXT, 0) : place]
        gap = gap_between(earlier[-1], now) if earlier else None
        if gap is not None and gap > GAP:
            found[-1] += [one for one in (abandoned(earlier[-1], gap),) if one is not None]
            earlier = []
        found.append(list(reactions(earlier, _with(now, paces), rules, alike)) if earlier else [])
        took = pace(earlier[-1], now) if earlier else None
        paces += [] if took is None else [took]
    left = abandoned(exchanges[-1]) if exchanges and last_word else None
    if left is not None:
        found[-1].append(left)
    return found


def _with(one: Said, paces: Sequence[float]) -> Said:
    return Said(one.text, one.asks, one.length, one.start, one.end, one.id, tuple(paces))


def _conversations(source: str) -> Iterator[Conversation]:
    return (_conversation(line, place) for line, place in placed_lines(source))


def _conversation(line: str, place: str) -> Conversation:
    try:
        return conversation_of(json.loads(line))
    except Invalid as error:
        raise UsageError(f"{place}: {error.detail}") from error
    except ValueError as error:
        raise UsageError(f"{place}: no JSON: {error}") from error
    except RecursionError as error:
        raise UsageError(f"{place}: JSON that is nested too deeply") from error


def _progress(console: Console) -> Progress:
    columns = (SpinnerColumn(), TextColumn("{task.fields[done]} conversations"), TimeElapsedColumn())
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
