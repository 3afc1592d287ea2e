"""Conversations with a verdict, from ``../shared/data``: what the dissatisfaction model is fitted and tested on."""

from __future__ import annotations

import gzip
import json
import math
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track

from connectors.embeddings import Meaning
from processors.conversation import heard_of
from processors.dissatisfaction import BY_MEANING, POLARITY, Heard, features_of
from processors.likeness import Likeness

DATA = Path(__file__).parent.parent.parent.parent / "shared" / "data"
TRAJECTORIES = ("tau_bench_v1_airline_gpt4o", "tau2_airline", "tau2_retail", "tau2_telecom")
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Judged:
    """A conversation: what was heard, by place the share of dissatisfaction (0 to 1), and what it belongs to.

    ``group``: what must not be on both sides of a split. ``kind``: what a model may not have seen (a system, a domain).
    """

    heard: list[Heard]
    verdicts: dict[int, float]
    group: str
    kind: str

    @property
    def half(self) -> int:
        """0 or 1, for ever the same."""
        return zlib.crc32(self.group.encode()) % 2


def rows_of(name: str) -> Iterator[dict[str, Any]]:
    with gzip.open(DATA / name, "rt", encoding="utf-8") as lines:
        yield from map(json.loads, lines)


def breakdowns() -> list[Judged]:
    """DBDC3: a message's verdict is the vote on the system turn before it (X 1, T 1, O 0: the share of votes)."""
    return [_breakdown(row) for row in rows_of("breakdown_dbdc3/dbdc3_en_dev.jsonl.gz")]


def _breakdown(row: dict[str, Any]) -> Judged:
    verdicts: dict[int, float] = {}
    place, votes = 0, Counter[str]()
    for message in row["messages"]:
        if message["role"] == "user":
            if votes:
                verdicts[place] = 1.0 - votes["O"] / votes.total()
            place, votes = place + 1, Counter[str]()
        elif message["labels"]:
            votes = Counter(label["breakdown"] for label in message["labels"])
    return Judged(heard_of(row["messages"]), verdicts, row["conversation_id"], row["system"])


def trajectories() -> list[Judged]:
    """tau-bench and tau2-bench: the verdict on the last message is the conversation's: 1 without the reward."""
    found: list[Judged] = []
    for name in TRAJECTORIES:
        for row in rows_of(f"agent_trajectories/{name}.jsonl.gz"):
            heard = heard_of([one for one in row["messages"] if one["role"] != "user" or one.get("content")])
            if heard:
                group = f"{row['domain']}/{row['task_id']}"
                found.append(Judged(heard, {len(heard) - 1: float(row["reward"] < 0.5)}, group, row["domain"]))
    return found


def measured(judged: list[Judged], alike: Likeness) -> list[Floats]:
    """Every conversation's features, a row for each message; a feature that is not measured is left out."""
    names = names_of(alike)
    found: list[Floats] = []
    for one in track(judged, f"features by {alike.name}", console=Console(stderr=True), transient=True):
        if isinstance(alike, Meaning):
            alike.prepare([text for heard in one.heard for text in (heard.text, heard.answer) if text])
        found.append(np.array([[row[name] for name in names] for row in features_of(one.heard, alike)]))
    return found


def names_of(alike: Likeness) -> list[str]:
    return [name for name in POLARITY if alike.meaning or name not in BY_MEANING]


class Set:
    """Messages with a verdict: ``x`` features, ``y`` verdicts (0 or 1), ``lengths``, ``kind`` and ``half``, row by row.

    ``lengths`` are those of the message and of the answer before it, and the number of messages so far; ``whole``: the
    number of messages and of characters of the conversation.
    """

    def __init__(self, judged: list[Judged], alike: Likeness) -> None:
        places = [(n, place) for n, one in enumerate(judged) for place in one.verdicts]
        self.names, self.rows = names_of(alike), measured(judged, alike)
        self.x: Floats = np.array([self.rows[n][place] for n, place in places])
        self.y: Floats = np.array([float(judged[n].verdicts[place] > 0.5) for n, place in places])
        self.lengths: Floats = np.array([_lengths(judged[n].heard[place], place) for n, place in places])
        self.whole: Floats = np.array([_size(judged[n]) for n, _ in places])
        self.kind = np.array([judged[n].kind for n, _ in places])
        self.group = np.array([judged[n].group for n, _ in places])
        self.half = np.array([judged[n].half for n, _ in places])


def _lengths(one: Heard, place: int) -> list[float]:
    return [math.log1p(len(one.text)), math.log1p(len(one.answer)), math.log1p(place)]


def _size(judged: Judged) -> list[float]:
    characters = sum(len(one.text) + len(one.answer) for one in judged.heard)
    return [math.log1p(len(judged.heard)), math.log1p(characters)]
